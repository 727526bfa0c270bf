//! What is counted, for every agent in the same way.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use ipam_core::{Now, Operation};
use serde::Serialize;

use super::pods::PodId;

/// Calls of one operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpCount {
    /// All, refused ones included.
    pub calls: u64,
    /// Refused by a token bucket.
    pub throttled: u64,
}

/// Which part of a pod's wait a call can be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// An assign.
    Assign,
    /// From the begin of a create until EC2 has answered the attach and the
    /// kernel shows the link.
    Attach,
}

/// What happened in a world.
#[derive(Clone, Debug)]
pub struct Ledger {
    /// Calls are counted from here on: the first arrival.
    pub(crate) from: Option<Now>,
    pub(crate) calls: BTreeMap<Operation, OpCount>,
    pub(crate) periodic: u64,
    pub(crate) failed_adds: u64,
    pub(crate) refused_adds: u64,
    /// Pods of which some ADD failed, and of which some was refused.
    pub(crate) failed_pods: HashSet<PodId>,
    pub(crate) refused_pods: HashSet<PodId>,
    /// Every reason that ended an ADD, and how often.
    pub(crate) reasons: BTreeMap<String, u64>,
    pub(crate) released_while_cooling: u64,
    pub(crate) reused_while_cooling: u64,
    /// The longest of each kind, from the first arrival on.
    pub(crate) longest_assign: Duration,
    pub(crate) longest_attach: Duration,
    /// Breaches of what no agent may do: an address twice, or one that EC2
    /// does not have there.
    pub(crate) breaches: Vec<String>,
    holders: HashMap<IpAddr, PodId>,
    rests_until: HashMap<IpAddr, Now>,
}

impl Ledger {
    pub(crate) fn new() -> Self {
        Self {
            from: None,
            calls: BTreeMap::new(),
            periodic: 0,
            failed_adds: 0,
            refused_adds: 0,
            failed_pods: HashSet::new(),
            refused_pods: HashSet::new(),
            reasons: BTreeMap::new(),
            released_while_cooling: 0,
            reused_while_cooling: 0,
            longest_assign: Duration::ZERO,
            longest_attach: Duration::ZERO,
            breaches: Vec::new(),
            holders: HashMap::new(),
            rests_until: HashMap::new(),
        }
    }

    /// Counts anew from `now` on; who has which address is not forgotten.
    pub(crate) fn begin_at(&mut self, now: Now) {
        let holders = std::mem::take(&mut self.holders);
        let rests_until = std::mem::take(&mut self.rests_until);
        let breaches = std::mem::take(&mut self.breaches);
        *self = Self { from: Some(now), holders, rests_until, breaches, ..Self::new() };
    }

    pub(crate) fn counts_at(&self, now: Now) -> bool {
        self.from.is_some_and(|from| from <= now)
    }

    pub(crate) fn called(&mut self, operation: Operation, periodic: bool, now: Now) {
        if !self.counts_at(now) {
        } else if periodic {
            self.periodic += 1;
        } else {
            self.calls.entry(operation).or_default().calls += 1;
        }
    }

    pub(crate) fn throttled(&mut self, operation: Operation, now: Now) {
        if self.counts_at(now) {
            self.calls.entry(operation).or_default().throttled += 1;
        }
    }

    /// An ADD of `pod` ended without an address; `is_caused`: for a reason that
    /// the scenario itself causes.
    pub(crate) fn turned_away(&mut self, pod: PodId, reason: &str, is_caused: bool) {
        *self.reasons.entry(reason.to_owned()).or_default() += 1;
        if is_caused {
            self.refused_adds += 1;
            self.refused_pods.insert(pod);
        } else {
            self.failed_adds += 1;
            self.failed_pods.insert(pod);
        }
    }

    pub(crate) fn lasted(&mut self, phase: Phase, time: Duration, now: Now) {
        if self.counts_at(now) {
            let longest = match phase {
                Phase::Assign => &mut self.longest_assign,
                Phase::Attach => &mut self.longest_attach,
            };
            *longest = (*longest).max(time);
        }
    }

    pub(crate) fn placed(&mut self, pod: PodId, address: IpAddr, now: Now) {
        if let Some(other) = self.holders.insert(address, pod) {
            self.breaches.push(format!("{address} given to pod {} while pod {} has it", pod.0, other.0));
        }
        if self.rests_until.get(&address).is_some_and(|until| now < *until) {
            self.reused_while_cooling += 1;
        }
    }

    pub(crate) fn released(&mut self, address: IpAddr, cooldown: Duration, now: Now) {
        self.holders.remove(&address);
        self.rests_until.insert(address, now + cooldown);
    }

    /// An agent gives addresses back to EC2 now.
    pub(crate) fn given_back(&mut self, addresses: &[IpAddr], now: Now) {
        for address in addresses {
            if let Some(pod) = self.holders.get(address) {
                self.breaches.push(format!("{address} given back while pod {} has it", pod.0));
            }
            if self.rests_until.get(address).is_some_and(|until| now < *until) {
                self.released_while_cooling += 1;
            }
        }
    }

    /// Addresses in the hands of pods.
    pub(crate) fn held(&self) -> usize {
        self.holders.len()
    }
}

/// The figures of one agent in one scenario.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Figures {
    /// ADDs that ended without an address, but for `refused_adds`.
    pub failed_adds: u64,
    /// ADDs ended with a typed reason that the scenario itself causes.
    pub refused_adds: u64,
    /// EC2 calls from the first arrival on, without periodic reads.
    pub ec2_calls: u64,
    /// Those of them that change something, or tried to.
    pub mutating_calls: u64,
    /// Those of them that a token bucket refused.
    pub throttled_calls: u64,
    /// Median of the time from a pod's first ADD to its address.
    pub wait_p50_s: f64,
    /// 99th percentile of it; a pod that never got one counts until the end.
    pub wait_p99_s: f64,
    /// From the first arrival until 99 of 100 pods have had an address;
    /// nothing when that never came.
    pub time_to_99_s: Option<f64>,
    /// Addresses that EC2 holds for the nodes and no pod has, at the end.
    pub idle_addresses: u64,
    /// Addresses given back to EC2 before their cooldown was over.
    pub released_while_cooling: u64,
    /// Addresses leased again before their cooldown was over.
    pub reused_while_cooling: u64,
}
