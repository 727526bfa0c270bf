//! Faults that tests switch on, and the register of open watches.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::error::ApiError;
use super::store::Store;

/// Requests to be refused or delayed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FailRule {
    /// Applies to paths that begin so; empty means all.
    pub path: String,
    /// Applies to these verbs (`get`, `list`, `watch`, `create`, `update`,
    /// `patch`, `delete`, `deletecollection`); empty means all.
    pub verbs: Vec<String>,
    /// HTTP status to answer with; `None` only delays.
    pub code: Option<u16>,
    /// Seconds for the `Retry-After` header.
    pub retry_after: Option<u32>,
    /// Waited before the answer.
    pub delay: Duration,
    /// How many requests it applies to.
    pub times: u32,
}

/// How a watch is ended by force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// A clean end of the stream, as when a server shuts down.
    Clean,
    /// The connection breaks in the middle of the body.
    Abort,
}

/// A watch that a client has open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenWatch {
    /// Path and query of the request.
    pub uri: String,
    /// `User-Agent` of the client.
    pub user_agent: String,
}

/// State of the faults of one store.
#[derive(Debug, Default)]
pub(super) struct Faults {
    /// Never held across an await.
    inner: Mutex<Inner>,
    /// True while all watches are held back.
    stalled: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Inner {
    rules: Vec<FailRule>,
    watches: Vec<Registered>,
    next_id: u64,
}

#[derive(Debug)]
struct Registered {
    id: u64,
    watch: OpenWatch,
    /// Tells the stream to end; the stream holds the other end.
    end: watch::Sender<Option<Closing>>,
}

impl Faults {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits and fails as the first rule that matches says.
    ///
    /// # Errors
    /// The failure that a test asked for.
    pub(super) async fn pass(&self, path: &str, verb: &str) -> Result<(), ApiError> {
        let Some(rule) = self.take_rule(path, verb) else { return Ok(()) };
        if !rule.delay.is_zero() {
            tokio::time::sleep(rule.delay).await;
        }
        match rule.code {
            Some(code) => Err(ApiError::injected(code, rule.retry_after)),
            None => Ok(()),
        }
    }

    fn take_rule(&self, path: &str, verb: &str) -> Option<FailRule> {
        let mut inner = self.lock();
        inner.rules.retain(|rule| rule.times > 0);
        let rule = inner.rules.iter_mut().find(|rule| {
            path.starts_with(&rule.path)
                && (rule.verbs.is_empty() || rule.verbs.iter().any(|one| one == verb))
        })?;
        rule.times -= 1;
        Some(rule.clone())
    }

    /// Registers a watch; the receiver says when and how it shall end.
    pub(super) fn register(&self, watch: OpenWatch) -> (u64, watch::Receiver<Option<Closing>>) {
        let mut inner = self.lock();
        inner.next_id += 1;
        let id = inner.next_id;
        let (end, ended) = watch::channel(None);
        inner.watches.push(Registered { id, watch, end });
        (id, ended)
    }

    pub(super) fn unregister(&self, id: u64) {
        self.lock().watches.retain(|watch| watch.id != id);
    }

    pub(super) fn close_watches(&self, path: &str, how: Closing) -> usize {
        let inner = self.lock();
        let mut closed = 0;
        for open in inner.watches.iter().filter(|open| open.watch.uri.starts_with(path)) {
            open.end.send_replace(Some(how));
            closed += 1;
        }
        closed
    }

    pub(super) fn stalled(&self) -> watch::Receiver<bool> {
        self.stalled.subscribe()
    }
}

impl Store {
    /// Refuses or delays the next requests that match, after those of earlier rules.
    pub fn fail_next(&self, rule: FailRule) {
        self.faults().lock().rules.push(rule);
    }

    /// Forgets all rules of [`Store::fail_next`] and ends a stall.
    pub fn clear_faults(&self) {
        self.faults().lock().rules.clear();
        self.stall_watches(false);
    }

    /// Ends the watches whose path begins with `path` (all if it is empty) and
    /// returns how many they were.
    pub fn close_watches(&self, path: &str, how: Closing) -> usize {
        self.faults().close_watches(path, how)
    }

    /// Holds back what all watches would send, until called with `false`.
    pub fn stall_watches(&self, stall: bool) {
        self.faults().stalled.send_replace(stall);
    }

    /// The watches that are open.
    pub fn open_watches(&self) -> Vec<OpenWatch> {
        self.faults().lock().watches.iter().map(|open| open.watch.clone()).collect()
    }
}
