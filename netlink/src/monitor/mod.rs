//! Being told about changes, instead of asking again and again.

#[cfg(feature = "tokio")]
mod changes;
mod link;

#[cfg(feature = "tokio")]
pub use changes::{Change, Changes, OwnPorts};
pub use link::LinkMonitor;
