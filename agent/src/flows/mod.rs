//! Single packets for people: what is denied, and some of what is allowed, with the names of those who talk.
//!
//! The programs write events only while somebody follows, into a ring that has one reader. One task reads it, finds
//! the names, and hands each flow to those who asked for it. What does not fit is counted and told, never waited for:
//! neither the programs nor the thread of policy know whether anybody reads fast enough.

mod directory;
mod filter;
mod flow;
mod hub;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::sync::Arc;

use ebpf_common::abi::Event;
use policy_core::{Cluster, LocalPod, RuleName};

pub use filter::Wish;
pub use flow::{End, Flow, Kind, Protocol, Verdict};
pub use hub::{Flows, Follower, Hub, Told, TooMany};

/// The ring, and the switch that lets the programs write to it.
pub trait Ring: AsFd + Send + 'static {
    /// The next event, if there is one. Never waits.
    fn next_event(&mut self) -> Option<Event>;
    /// Says whether somebody reads, and then that one in so many new allowed flows is told; 0: none of them.
    ///
    /// # Errors
    ///
    /// What the kernel refused.
    fn listen(&mut self, sample: Option<u32>) -> Result<(), String>;
    /// Events that found no room in the ring since the maps were made.
    fn lost(&self) -> u64;
}

/// What is in force: what the numbers of an event stand for.
#[derive(Debug, Clone, Default)]
pub struct InForce {
    /// Those of the rules that were asked for.
    pub rules: BTreeMap<u32, Arc<RuleName>>,
    /// This node's pods by slot.
    pub pods: BTreeMap<u32, LocalPod>,
}

/// Who knows what the numbers and addresses of an event stand for.
pub trait Known: Send + 'static {
    /// The newest snapshot.
    fn cluster(&self) -> Arc<Cluster>;
    /// These rules, and this node's pods.
    fn in_force(&self, rules: BTreeSet<u32>) -> impl Future<Output = InForce> + Send;
}
