//! One pod's transaction: lease, attach, release, each safe to repeat and to be cut off at any point.
//!
//! This module stands above the pool, host networking and the datapath, which never call each other; it
//! reaches them through the three ports below, so that its order of steps is tested without a kernel.
//!
//! | cut off | what is left | who takes it away |
//! |---|---|---|
//! | while an ADD waits for an address | nothing | the wait ends with the connection |
//! | between lease and attach | a provisional lease | the connection's end, or a restart |
//! | inside attach | routes or a filter of a link whose other end is down | undo in reverse, or the DEL that follows |
//! | between attach and reply | a whole endpoint | the DEL that the runtime sends for a failed ADD |
//! | no DEL ever comes | a lease whose link went with its namespace | [`Endpoints::give_back_orphans`] |
//! | inside DEL or GC | a lease whose link is deleted | the repeated DEL, the next GC, a restart, or as above |
//!
//! A start begins with what stands on the node: pods that run and have no lease get one ([`claim`]), then every
//! lease whose link is there becomes an endpoint again.

pub mod claim;
pub mod cni_cache;
mod orphans;
mod registry;
mod restore;
mod slots;
#[cfg(test)]
pub(crate) mod tests;
mod transaction;

use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use rpc::{PodRef, Refusal, SandboxKey};

pub use claim::{Claim, Record, Standing};
pub use registry::{EndpointView, Phase};
pub use restore::Recovered;
pub use slots::{MAX_SLOT, Slot};
pub use transaction::{Asked, Endpoints, Provisional, Shape, SharedEndpoints};

/// An address that the pool gave, and where its traffic leaves the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The pod's address.
    pub address: IpAddr,
    /// The routing table of its ENI; 254 (main) for the primary one. None while that ENI is not known.
    pub table: Option<u32>,
    /// The ENI, for people.
    pub eni: String,
}

/// A lease that outlived the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surviving {
    /// Whose it is.
    pub key: SandboxKey,
    /// The pod, where the runtime named one.
    pub pod: Option<PodRef>,
    /// What was given.
    pub grant: Grant,
    /// The host end's name; `None` for a lease that was never attached.
    pub host_ifname: Option<String>,
    /// The host end's MAC, for a lease that was made of what stood on the node; else it follows from the key.
    pub host_mac: Option<[u8; 6]>,
}

/// What became of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adopted {
    /// EC2 has the address on an ENI of ours: it is a lease as any other.
    Confirmed,
    /// EC2 has not: it is a lease that is reported, and its address is never given to another.
    Unconfirmed,
    /// The sandbox or the address has a lease already.
    Taken,
}

/// The pool, as a transaction needs it.
pub trait Addresses: Send + Sync + 'static {
    /// An address for `key`, waited for until `deadline`; the same one when asked again. Dropping the future
    /// gives up the place in the queue.
    fn lease(
        &self,
        key: &SandboxKey,
        pod: Option<&PodRef>,
        deadline: Instant,
    ) -> impl Future<Output = Result<Grant, Refusal>> + Send;
    /// The lease is in use behind `host_ifname`.
    fn commit(&self, key: &SandboxKey, host_ifname: &str)
    -> impl Future<Output = Result<(), Refusal>> + Send;
    /// The pod has its address now, and policy is in force: whoever else wants to know may be told. Does not wait.
    fn announce(&self, _pod: &PodRef, _address: IpAddr) {}
    /// The pod's sandbox is gone: what [`Addresses::announce`] told holds no more. Does not wait.
    fn withdraw(&self, _pod: &PodRef, _address: IpAddr) {}
    /// Gives the address back; nothing happens where there is none.
    fn release(&self, key: &SandboxKey) -> impl Future<Output = Result<(), Refusal>> + Send;
    /// Everything that is leased.
    fn surviving(&self) -> impl Future<Output = Vec<Surviving>> + Send;
    /// Makes a lease of a pod that runs without one.
    fn adopt(&self, claim: &Claim) -> impl Future<Output = Result<Adopted, Refusal>> + Send;
    /// Every pod that runs has a lease now; a process that ended before this looks at the node again.
    fn adopted(&self) -> impl Future<Output = Result<(), Refusal>> + Send;
}

/// The host end of one pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostEnd {
    /// Its name.
    pub ifname: String,
    /// Its index in the node's namespace.
    pub ifindex: u32,
    /// Its MAC.
    pub host_mac: [u8; 6],
    /// The MAC of the other end.
    pub pod_mac: [u8; 6],
}

/// Host networking, as a transaction needs it.
pub trait Wiring: Send + Sync + 'static {
    /// Routes and rules for a pod's address.
    fn add_pod(&self, grant: &Grant, end: &HostEnd) -> impl Future<Output = Result<(), Refusal>> + Send;
    /// A pod that was wired before this agent started: what is missing of its wiring is put back, nothing that
    /// stands is touched. Returns the table of its ENI; where the grant does not know it, the one that what the pod
    /// sends is led to.
    fn adopt_pod(&self, grant: &Grant, end: &HostEnd) -> impl Future<Output = Option<u32>> + Send;
    /// What a pod that runs sends leaves by this table from now on.
    fn set_table(&self, address: IpAddr, table: u32) -> impl Future<Output = Result<(), Refusal>> + Send;
    /// Takes them away; nothing happens where there are none.
    fn remove_pod(&self, grant: &Grant, end: &HostEnd) -> impl Future<Output = Result<(), Refusal>> + Send;
    /// Whether this very link is there, whatever its name is by now.
    fn lives(&self, end: &HostEnd) -> impl Future<Output = Result<bool, Refusal>> + Send;
    /// Deletes this very link, whatever its name is by now; nothing happens where it is gone.
    fn unlink(&self, end: &HostEnd) -> impl Future<Output = Result<(), Refusal>> + Send;
    /// Every host end whose name begins with `prefix`, by name.
    fn standing(&self, prefix: &str) -> impl Future<Output = Result<Vec<Standing>, Refusal>> + Send;
    /// The MAC of the pod's end, which is asked for on the link; `None` where nobody answers.
    fn ask_pod_mac(&self, end: &HostEnd, address: IpAddr) -> impl Future<Output = Option<[u8; 6]>> + Send;
}

/// One pod, as filters and policy know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Whose it is.
    pub key: SandboxKey,
    /// Its place in the endpoint map.
    pub slot: Slot,
    /// The pod; without one no policy selects it.
    pub pod: Option<PodRef>,
    /// Its address.
    pub address: IpAddr,
    /// The host end that the filters sit on.
    pub end: HostEnd,
    /// The bandwidth plugin puts an `ingress` qdisc on the host end after us, where clsact would be in its way. Only
    /// known of an ADD that this agent served; else the qdisc that stands tells.
    pub egress_shaped: bool,
}

/// Filters and policy, as a transaction needs them.
pub trait Enforcement: Send + Sync + 'static {
    /// Filters attached and policy in force. Only then may the pod's end come up.
    fn attach(&self, endpoint: Endpoint) -> impl Future<Output = Result<(), Refusal>> + Send;
    /// Forgets an endpoint; its filters go with the link.
    fn detach(&self, endpoint: &Endpoint) -> impl Future<Output = ()> + Send;
    /// The slot that the filters on this link were attached with, where they are there.
    fn slot_of(&self, ifindex: u32) -> impl Future<Output = Option<Slot>> + Send;
    /// The addresses that the filters on this link know, where they are there.
    fn addresses_of(&self, ifindex: u32) -> impl Future<Output = Vec<IpAddr>> + Send;
    /// What stands of a link that belongs to no endpoint is nobody's: nothing passes it.
    fn discard(&self, ifindex: u32) -> impl Future<Output = ()> + Send;
}

/// The three ports together.
pub struct Ports<A, W, E> {
    /// The pool.
    pub addresses: Arc<A>,
    /// Host networking.
    pub wiring: Arc<W>,
    /// Filters and policy.
    pub enforcement: Arc<E>,
}
