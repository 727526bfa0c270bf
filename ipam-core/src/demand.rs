//! Leases: asked for, waited for, given, released.

use std::net::IpAddr;
use std::time::Duration;

use crate::eni::{Eni, Owner};
use crate::lease::{Grant, Lease, PodRef, SandboxKey};
use crate::refusal::Refusal;
use crate::state::{PoolState, SurplusWindow, Truth};
use crate::targets::{Growth, Targets};
use crate::{EniId, Now};

/// An ADD that waits for an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Waiter {
    /// Whose it will be.
    pub key: SandboxKey,
    /// The pod, where it is known.
    pub pod: Option<PodRef>,
    /// When it began to wait.
    pub since: Now,
    /// When it is refused.
    pub deadline: Now,
}

/// The answer to a request for a lease.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Asked {
    /// Given before; the same answer again.
    Known(Grant),
    /// Queued: [`PoolState::serve`] gives what there is, first come first.
    Queued,
    /// The sandbox has a lease whose ENI is gone.
    Lost {
        /// The address that it had.
        address: IpAddr,
    },
}

/// A waiter that has its address now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Served {
    /// Whose it is.
    pub key: SandboxKey,
    /// What it got.
    pub grant: Grant,
    /// How long it waited.
    pub waited: Duration,
}

/// A waiter whose deadline has passed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expired {
    /// Whose it is.
    pub key: SandboxKey,
    /// The pod, where it is known.
    pub pod: Option<PodRef>,
    /// Why there was no address for it.
    pub reason: Refusal,
}

impl PoolState {
    /// A sandbox asks for an address. Repeated, it gets the same answer.
    pub fn ask(&mut self, waiter: Waiter) -> Asked {
        if let Some(lease) = self.leases.get(&waiter.key) {
            return match self.grant(lease) {
                Some(grant) => Asked::Known(grant),
                None => Asked::Lost { address: lease.address },
            };
        }
        match self.waiters.iter_mut().find(|known| known.key == waiter.key) {
            // A retry keeps its place in the queue.
            Some(known) => known.deadline = known.deadline.max(waiter.deadline),
            None => self.waiters.push_back(waiter),
        }
        Asked::Queued
    }

    /// Gives free addresses to those who wait, first come first. The caller
    /// writes the checkpoint before it tells anyone.
    pub fn serve(&mut self, targets: &Targets, now: Now) -> Vec<Served> {
        let mut served = Vec::new();
        while let Some(waiter) = self.waiters.front() {
            // Taken over from the last agent while its pod asked again.
            if let Some(grant) = self.leases.get(&waiter.key).and_then(|lease| self.grant(lease)) {
                served.push(Served { key: waiter.key.clone(), grant, waited: now.since(waiter.since) });
                self.waiters.pop_front();
                continue;
            }
            if self.leases.len() >= targets.max_pods as usize {
                break;
            }
            let Some((eni, address)) = self.best_free(targets, now) else {
                break;
            };
            let waited = now.since(waiter.since);
            let lease = Lease {
                key: waiter.key.clone(),
                pod: waiter.pod.clone(),
                address,
                eni,
                since: now,
                host_ifname: None,
                history_known: true,
            };
            // A leasable ENI is attached, so it has a grant.
            let Some(grant) = self.grant(&lease) else {
                break;
            };
            served.push(Served { key: lease.key.clone(), grant, waited });
            self.holders.insert(address, lease.key.clone());
            self.leases.insert(lease.key.clone(), lease);
            self.waiters.pop_front();
        }
        served
    }

    /// The pod is attached: the lease is no longer provisional. Returns false
    /// for a lease that is not known (the plugin begins again).
    pub fn commit(&mut self, key: &SandboxKey, host_ifname: &str) -> bool {
        match self.leases.get_mut(key) {
            Some(lease) => {
                lease.host_ifname = Some(host_ifname.to_owned());
                true
            }
            None => false,
        }
    }

    /// Takes the lease back, or the request out of the queue. The address
    /// cools down, unless it certainly never reached the wire.
    pub fn release(&mut self, key: &SandboxKey, targets: &Targets, now: Now) -> Option<Lease> {
        self.waiters.retain(|waiter| waiter.key != *key);
        let lease = self.leases.remove(key)?;
        self.holders.remove(&lease.address);
        if lease.host_ifname.is_some() || !lease.history_known {
            let until = now + targets.cooldown;
            if until > now {
                self.cooling.insert(lease.address, until);
            }
        }
        Some(lease)
    }

    /// Puts a lease in that another agent gave (a node that is taken over).
    /// Returns false when the address or the key is taken, or EC2 has not put
    /// the address on an ENI of ours.
    pub fn adopt(
        &mut self,
        key: SandboxKey,
        pod: Option<PodRef>,
        address: IpAddr,
        host_ifname: Option<String>,
        now: Now,
    ) -> bool {
        if self.leases.contains_key(&key) || self.holders.contains_key(&address) {
            return false;
        }
        let Some(eni) = self.enis.values().find(|eni| eni.carries(address) && eni.attachment.is_some())
        else {
            return false;
        };
        let lease = Lease {
            key: key.clone(),
            pod,
            address,
            eni: eni.id.clone(),
            since: now,
            host_ifname,
            history_known: false,
        };
        self.cooling.remove(&address);
        self.holders.insert(address, key.clone());
        self.leases.insert(key, lease);
        true
    }

    /// Lets time pass: ends cooldowns, refuses those who waited too long, and
    /// keeps the clocks that damp growth and shrinking. To be called before
    /// [`Self::serve`] and [`crate::plan()`].
    pub fn settle(&mut self, targets: &Targets, now: Now) -> Vec<Expired> {
        self.cooling.retain(|_, until| *until > now);
        self.gone.retain(|_, until| *until > now);
        self.buried.retain(|_, until| *until > now);
        self.backoffs.retain(|_, backoff| {
            // A pause that ended is remembered a while, so that the next
            // failure continues its growth.
            now.since(backoff.until) < Duration::from_secs(60)
        });

        self.subnets.values_mut().for_each(|subnet| subnet.settle(now));

        // A create in a subnet that no longer serves is not repeated: should it
        // have been made, the next describe shows it, and it is given up.
        let (kept, dropped): (Vec<_>, Vec<_>) = std::mem::take(&mut self.unresolved)
            .into_iter()
            .partition(|create| self.subnet_serves(&create.spec.subnet, targets));
        self.unresolved = kept;
        if !dropped.is_empty() {
            self.resync_at(now + targets.timing.lag);
        }

        let expired: std::collections::VecDeque<Waiter> = {
            let (late, rest) = self.waiters.drain(..).partition(|waiter| waiter.deadline <= now);
            self.waiters = rest;
            late
        };
        let expired = expired
            .into_iter()
            .map(|waiter| Expired {
                reason: Refusal::of_wait(self, targets, waiter.since, now),
                key: waiter.key,
                pod: waiter.pod,
            })
            .collect();

        self.recount_announced();
        let counts = self.counts(targets, now);
        let sizing = self.sizing(targets, now);
        let unmet = counts.demand() > counts.free + counts.pending;
        self.demand_since = match (unmet, self.demand_since) {
            (true, None) => Some(self.waiters.front().map_or(now, |waiter| waiter.since).min(now)),
            (true, since) => since,
            (false, _) => None,
        };
        self.short_since = match (sizing.missing > 0, self.short_since) {
            (true, None) => Some(now),
            (true, since) => since,
            (false, _) => None,
        };
        self.note_shortage(now);
        let quiet = self.waiters.is_empty()
            && counts.pending == 0
            && matches!(self.truth, Truth::Ec2 { .. })
            && targets.growth == Growth::Normal;
        self.surplus = match (quiet && sizing.surplus > 0, self.surplus.take()) {
            (true, None) => Some(SurplusWindow::new(now, sizing.surplus)),
            (true, Some(mut window)) => {
                window.note(now, sizing.surplus, targets.timing.shrink_after);
                Some(window)
            }
            (false, _) => None,
        };
        expired
    }

    /// The free address to lease next: on the primary ENI (it can never be
    /// given back), then the fullest one; in the fullest prefix that has been
    /// begun, then among the single addresses, then in an untouched prefix.
    /// Where no prefixes are asked for (any more), single addresses go first,
    /// so that prefixes drain.
    fn best_free(&self, targets: &Targets, now: Now) -> Option<(EniId, IpAddr)> {
        let unused =
            |address: &IpAddr| !self.holders.contains_key(address) && !self.is_cooling(*address, now);
        let mut enis: Vec<(&Eni, u32)> = self
            .enis
            .values()
            .filter(|eni| self.is_leasable(eni, targets))
            .map(|eni| (eni, self.leased_on(eni)))
            .collect();
        enis.sort_by_key(|(eni, leased)| {
            let device = eni.attachment.as_ref().map_or(u32::MAX, |at| at.device_index);
            (eni.owner != Owner::Primary, std::cmp::Reverse(*leased), device)
        });
        for (eni, _) in enis {
            let free = |address: &IpAddr| unused(address) && !eni.is_suspect(*address);
            let single = eni.singles.keys().copied().find(|address| free(address));
            let prefix = eni
                .prefixes
                .keys()
                .filter_map(|prefix| {
                    let first = crate::eni::block(*prefix).find(|address| free(address))?;
                    let leased = self.holders.keys().filter(|address| prefix.contains(**address)).count();
                    Some((leased, first))
                })
                // The first of the fullest, so that equal ones are not all begun.
                .rev()
                .max_by_key(|(leased, _)| *leased);
            let best = match (prefix, single) {
                (Some((leased, address)), _) if leased > 0 && targets.asks_prefixes() => Some(address),
                (_, Some(address)) => Some(address),
                (Some((_, address)), None) => Some(address),
                (None, None) => None,
            };
            if let Some(address) = best {
                return Some((eni.id.clone(), address));
            }
        }
        None
    }
}
