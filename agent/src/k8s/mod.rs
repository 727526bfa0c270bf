//! The Kubernetes API: what the agent sees of the cluster, and what it says there.
//!
//! [`start`] watches pods, namespaces, policies of both kinds, Services, hand-written
//! EndpointSlices and this node (all nodes while a policy speaks of them), and keeps what policy needs of them in one table of its own: a few
//! hundred bytes for each pod, with names and label sets shared. Whoever wants to know
//! takes a [`Snapshot`], which costs a pointer, and is told of the next one.
//!
//! Objects are read into small structs of our own ([`object`]); only what is named
//! there is ever kept in memory.

mod announce;
mod cluster_policy;
mod connect;
mod convert;
mod eniconfig;
mod error;
mod event;
mod handle;
mod intern;
mod keep;
mod lease;
mod node;
mod object;
mod start;
mod table;
mod watch;

pub use announce::Announcement;
pub use connect::connect;
pub use eniconfig::{EniConfig, EniConfigWatch, EniConfigs};
pub use error::{Error, ErrorClass};
pub use event::{EventKind, EventObject, EventSpec};
pub use handle::{ClusterHandle, PodError, Snapshot};
pub use lease::{LeaseClient, LeaseState, LeaseWrite};
pub use node::NodeFacts;
pub use start::{Driver, Options, start};
pub use table::{Fleet, Incumbents, Waiting};
pub use watch::{WatchPace, WatchStatus};

#[cfg(test)]
mod tests;
