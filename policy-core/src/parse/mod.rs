//! From objects as they were written to the model: everything is checked here, once.
//!
//! What cannot be understood is closed, never opened: a peer or port that makes no
//! sense matches nothing, a subject that makes no sense is every pod of the namespace
//! with nothing allowed. Each such place is a [`Finding`](crate::Finding); the rest of
//! the policy, and every other policy, is in force as written.

mod block;
mod cluster_peer;
mod cluster_policy;
mod cluster_port;
mod limits;
mod policy;
mod port;
mod raw;
mod raw_cluster;
mod selector;

pub use cluster_policy::parse_cluster_policy;
pub use policy::parse_policy;
pub use raw::{RawBlock, RawPeer, RawPolicy, RawPort, RawPortValue, RawRequirement, RawRule, RawSelector};
pub use raw_cluster::{
    RawClusterPeer, RawClusterPolicy, RawClusterProtocol, RawClusterRule, RawDestinationPort,
    RawNamespacedPod, RawSubject, RawTransport,
};

#[cfg(test)]
mod tests;
