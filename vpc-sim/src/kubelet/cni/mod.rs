//! The runtime's side of the Container Network Interface, by its
//! specification (1.1): network lists, the calls of ADD, DEL and STATUS, and
//! the cache of results.
//!
//! Everything here blocks, and works on the files of the calling thread's mount
//! namespace: it is run on threads inside a node.

mod attachment;
mod cache;
mod exec;
mod list;

pub(crate) use attachment::{Attachment, PodIdentity};
pub(crate) use list::{CONF_DIR, NetworkList, first_list};

use std::path::PathBuf;
use std::time::Duration;

/// A call could not be made, or failed.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    /// A file of a network list or a cached result.
    #[error("{what} {}", path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// A network list that is none.
    #[error("{}: {problem}", path.display())]
    List { path: PathBuf, problem: String },
    /// No directory has such a plugin.
    #[error("failed to find plugin {name:?} in path {searched:?}")]
    NoPlugin { name: String, searched: Vec<PathBuf> },
    /// The plugin could not be run.
    #[error("run plugin {plugin}")]
    Exec {
        plugin: String,
        #[source]
        source: std::io::Error,
    },
    /// The plugin was killed when its time was over.
    #[error("plugin {plugin}: {verb} did not end within {deadline:?}")]
    Deadline { plugin: String, verb: &'static str, deadline: Duration },
    /// The plugin was killed because nobody wants its result any more.
    #[error("plugin {plugin}: {verb} was cancelled")]
    Cancelled { plugin: String, verb: &'static str },
    /// The plugin reported an error.
    #[error("plugin {plugin}: {verb}: {message} (code {code})")]
    Plugin { plugin: String, verb: &'static str, code: u64, message: String },
    /// The plugin printed what is no result.
    #[error("plugin {plugin}: {verb}: no result: {problem}")]
    Result { plugin: String, verb: &'static str, problem: String },
}
