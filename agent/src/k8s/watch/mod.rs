//! A watch that does not end: list, follow, and whatever an API server does between.
//!
//! Beyond what a plain watcher does, and each seen with a real server: a version that is
//! too old is told as HTTP 410 or as an ERROR event, and both list anew; every request has a
//! deadline, and a stream that says nothing for longer than the server itself would keep it
//! open is taken for dead; a server that refuses streaming lists gets ordinary ones; a
//! version of the future (an API restored from a backup) is silent for ever, so a watch that
//! was silent many times over lists anew.

mod backoff;
mod watcher;

use std::time::Duration;

use crate::k8s::error::ErrorClass;

pub(super) use watcher::{Sink, Watcher};

/// What a watch tells.
#[derive(Clone, Debug)]
pub(super) enum Change<T> {
    /// A list begins; what it does not mention is gone at its end.
    Begins,
    /// An object of the list.
    Listed(T),
    /// The list is whole.
    Complete,
    /// An object came or changed.
    Applied(T),
    /// An object went.
    Deleted(T),
}

/// How patient watches are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchPace {
    /// For the beginning of an answer, and for each page of a list.
    pub request: Duration,
    /// How long the server is asked to keep a watch open. A stream that is silent for this
    /// and `margin` is dead.
    pub watch: Duration,
    /// What the server may need to end a watch.
    pub margin: Duration,
    /// For the next object of a streaming list.
    pub initial: Duration,
    /// The first wait after a failure.
    pub backoff_min: Duration,
    /// The longest wait after failures.
    pub backoff_max: Duration,
    /// After this many watches in a row that told nothing, list anew.
    pub silent_watches: u32,
}

impl Default for WatchPace {
    fn default() -> Self {
        Self {
            request: Duration::from_secs(30),
            // A dead stream means stale policy until it is noticed; each node has half a dozen
            // watches, and opening one costs the server next to nothing.
            watch: Duration::from_secs(180),
            margin: Duration::from_secs(5),
            initial: Duration::from_secs(30),
            backoff_min: Duration::from_millis(200),
            backoff_max: Duration::from_secs(30),
            silent_watches: 10,
        }
    }
}

/// How a watch fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchStatus {
    /// The kind that is watched, in plural.
    pub kind: &'static str,
    /// Whether a whole list was seen since the start.
    pub synced: bool,
    /// Whether the API says that it has no such kind, where it need not have it.
    pub missing: bool,
    /// Lists begun.
    pub lists: u64,
    /// Watches opened.
    pub watches: u64,
    /// Failures.
    pub failures: u64,
    /// The last failure, until something succeeds.
    pub failing: Option<String>,
    /// What could be done about it.
    pub class: Option<ErrorClass>,
}
