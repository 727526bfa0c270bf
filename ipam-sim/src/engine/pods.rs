//! Pods, and the kubelet that starts them.

use std::net::IpAddr;
use std::time::Duration;

use ipam_core::Now;

use super::shell::NodeId;

/// A pod of the world.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PodId(pub usize);

/// Where a pod stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PodState {
    /// Not bound to its node yet.
    Coming,
    /// Bound, without an address.
    Waiting,
    /// It has an address.
    Running(IpAddr),
    /// It is gone.
    Gone,
}

/// One pod.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its node.
    pub node: NodeId,
    /// When its first ADD comes.
    pub arrives: Now,
    /// ADDs so far.
    pub attempts: u32,
    /// Where it stands.
    pub state: PodState,
    /// When it got its address.
    pub placed: Option<Now>,
    /// How long it runs; for ever when there is nothing.
    pub lifetime: Option<Duration>,
}
