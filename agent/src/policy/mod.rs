//! From a snapshot of the cluster to maps in force: compile → plan → apply, on a thread of its own.
//!
//! One thread owns the compiler, the tables that stand in the maps, and the maps themselves. It takes commands
//! (an endpoint comes, goes; the cluster changed; somebody asks) and does all that wait in one compilation. An
//! endpoint's arrival is answered after its flip and its filters, before the grace period of what it replaced.

mod enforcer;
mod explain;
mod filters;
mod leftover;
mod look;
mod programmed;
mod take_over;
#[cfg(test)]
mod tests;
mod worker;

use std::collections::BTreeSet;
use std::net::IpAddr;

use policy_core::Step;

use crate::endpoint::{HostEnd, Slot};

pub use enforcer::{ClusterSource, Enforcer, PolicyReport};
pub use explain::{Connection, Question, Standing};
pub use look::InForce;
pub use programmed::{Changes, Programmed};

/// A local pod's place in the maps, without its policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// Its place.
    pub slot: Slot,
    /// The link that its filters sit on.
    pub end: HostEnd,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The bandwidth plugin will put an `ingress` qdisc on the link.
    pub egress_shaped: bool,
}

/// What stands on a link.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// Both filters, with the slot of the binding.
    pub ours: bool,
    /// The node agent's filters stand there.
    pub incumbent: bool,
    /// Those of them that run before ours.
    pub ahead: Vec<String>,
    /// What runs before ours and may let packets past them.
    pub foreign: Vec<String>,
}

/// What stands on a link after attaching.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attached {
    /// What runs before ours and may let packets past them.
    pub foreign: Vec<String>,
    /// Ours are tcx links, of whose removal nobody is told.
    pub by_tcx: bool,
}

/// Links on which something changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Touched {
    /// These, by index.
    Links(BTreeSet<u32>),
    /// Perhaps all.
    Any,
}

/// Packets of one direction and reason since the maps were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketCount {
    /// `from_pod` or `to_pod`.
    pub direction: &'static str,
    /// Why they passed or not.
    pub reason: &'static str,
    /// How many.
    pub packets: u64,
    /// Their bytes, link headers included.
    pub bytes: u64,
}

/// What a map or link refused.
pub type KernelError = Box<dyn std::error::Error + Send + Sync>;

/// A step failed part way.
#[derive(Debug)]
pub struct Unfinished {
    /// How many of its entries were carried out, from the first of its list on.
    pub done: usize,
    /// Why the next one was not.
    pub error: KernelError,
}

/// Maps, programs and filters, as the worker needs them.
pub trait Kernel: Send + 'static {
    /// Everything that stands in the maps already, from an agent before this one, and the last epoch that was
    /// ever given on this node.
    ///
    /// # Errors
    ///
    /// Where a map cannot be read.
    fn installed(&mut self) -> Result<(policy_core::Tables, u32), KernelError>;
    /// A slot for a pod that is not there yet: until its sets are written it drops everything.
    ///
    /// # Errors
    ///
    /// Where the map cannot be written.
    fn bind(&mut self, binding: &Binding) -> Result<(), KernelError>;
    /// Empties a slot.
    ///
    /// # Errors
    ///
    /// Where the map cannot be written.
    fn clear(&mut self, slot: u32) -> Result<(), KernelError>;
    /// Carries out one step.
    ///
    /// # Errors
    ///
    /// Where a map is full or cannot be written, with the number of entries that stand.
    fn apply(&mut self, step: &Step) -> Result<(), Unfinished>;
    /// What blocks for a grace period, on whatever thread: programs that ran before it have ended after it.
    fn grace(&self) -> Box<dyn FnMut() -> Result<(), KernelError> + Send>;
    /// Puts both filters on the link, or replaces them in place. With `take_over` those of the node agent go, else they
    /// are foreign.
    ///
    /// # Errors
    ///
    /// Where the link is gone or something else holds the place.
    fn attach(&mut self, binding: &Binding, take_over: bool) -> Result<Attached, KernelError>;
    /// Flows that run through the links of these slots are made known to the maps, to run on until policy changes.
    /// Returns how many were not known.
    ///
    /// # Errors
    ///
    /// Where the kernel does not tell its flows, or the map cannot be written.
    fn inherit(&mut self, slots: &BTreeSet<u32>) -> Result<usize, KernelError>;
    /// What stands on the link.
    ///
    /// # Errors
    ///
    /// Where the kernel cannot be asked.
    fn look(&mut self, binding: &Binding) -> Result<Survey, KernelError>;
    /// Where somebody else changed filters since the last call.
    fn touched(&mut self) -> Touched;
    /// Whether filters that were attached by tcx are the first on the link: cheap enough for every second.
    fn leads(&mut self, ifindex: u32) -> bool;
    /// Removes pins that outlived their links.
    fn tidy(&mut self);
    /// Whether the maps are new: what filters that stand already know of flows is not in them.
    fn is_fresh(&self) -> bool {
        false
    }
    /// Removes pins of agents with older layouts, whose filters are all replaced.
    fn unpin_older(&mut self) {}
    /// Removes pins of the node agent that no link needs.
    fn unpin_incumbent(&mut self);
    /// Whether the link is there.
    fn lives(&mut self, ifindex: u32) -> bool;
    /// Forgets a link. While it is there its filters stay: their slot is empty, so they drop everything. Returns
    /// whether something is left that has to go once the link is gone.
    fn forget(&mut self, ifindex: u32) -> bool;
    /// Links that live and have an endpoint in a slot that is not in `claimed`: pods whose leases were lost.
    ///
    /// # Errors
    ///
    /// Where the maps cannot be read.
    fn unclaimed(&mut self, claimed: &BTreeSet<u32>) -> Result<Vec<String>, KernelError>;
    /// What the maps have for a link: slots, with their endpoints' addresses.
    fn bound_to(&mut self, ifindex: u32) -> Vec<(u32, Vec<IpAddr>)>;
    /// The slot that the link's filters were attached with.
    fn slot_of(&mut self, ifindex: u32) -> Option<Slot>;
    /// Packets by direction and reason.
    fn counters(&mut self) -> Vec<PacketCount>;
}
