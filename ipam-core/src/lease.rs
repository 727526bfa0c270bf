//! Who has which address.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{EniId, MacAddr, Now};

/// One interface of one sandbox: what a lease is keyed by.
///
/// Never the pod's name: a StatefulSet's new pod meets its predecessor, and
/// the late DEL of the old sandbox must not touch the new one's address.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct SandboxKey {
    /// The CNI network's name.
    pub network: String,
    /// The container runtime's id of the sandbox.
    pub container_id: String,
    /// The interface's name inside the pod.
    pub ifname: String,
}

/// The pod that a sandbox belongs to, as the runtime told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PodRef {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The pod's uid; older runtimes do not tell.
    pub uid: Option<String>,
}

/// An address in the hands of a sandbox.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lease {
    /// Whose it is.
    pub key: SandboxKey,
    /// The pod, where it is known.
    pub pod: Option<PodRef>,
    /// The leased address.
    pub address: IpAddr,
    /// The ENI that carries it.
    pub eni: EniId,
    /// When it was given.
    pub since: Now,
    /// The host end of the veth pair once the pod is attached; `None` while
    /// the lease is provisional.
    pub host_ifname: Option<String>,
    /// Whether this process has seen the lease's whole life. A provisional
    /// lease that came from a file may have reached the wire after all, so
    /// its address cools down when it is released.
    pub history_known: bool,
}

/// What the holder of a lease needs to know to wire it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    /// The leased address.
    pub address: IpAddr,
    /// The ENI that carries it.
    pub eni: EniId,
    /// The ENI's MAC address, by which its link is found in the kernel.
    pub mac: MacAddr,
    /// The ENI's device index on its network card; 0 is the primary ENI.
    pub device_index: u32,
    /// The network card that the ENI is attached to.
    pub network_card: u32,
}
