//! The laws that hold at every step, checked from outside: against what EC2
//! has, what pods hold, and what the agent has been told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipam_core::{
    Action, Eni, EniId, EniRecord, Failure, FailureClass, Grant, Growth, Intent, Now, Operation, Owner,
    PoolState, Reply, SandboxKey, SubnetId, SubnetQuery, Targets, Truth,
};
use ipnetwork::IpNetwork;

use super::cloud::Cloud;
use super::{millis, secs};

/// A reading this young when a /28 was refused need not be repeated.
const FRESH: Duration = secs(4);

/// What the world remembers of the agent.
#[derive(Default)]
pub(crate) struct Watch {
    /// Until when an address that was in use rests.
    released: BTreeMap<IpAddr, Now>,
    /// Of those, what no process can know of: the checkpoint was lost, and no
    /// describe has shown since then that the instance has the address.
    forgotten: BTreeSet<IpAddr>,
    /// ENIs that somebody else took away, and when.
    torn_off: BTreeMap<EniId, Now>,
    /// When the last describe began that was answered.
    described: Option<Now>,
    /// The last refusal for want of addresses, by subnet.
    refused: BTreeMap<SubnetId, Now>,
    /// The last reading, by subnet.
    read: BTreeMap<SubnetId, Now>,
    /// The last reading of them all.
    discovered: Option<Now>,
    /// The last failure of a call.
    failed: BTreeMap<(Operation, Option<EniId>), (FailureClass, Now)>,
    /// ENIs of others, as they were made.
    pub(super) strangers: BTreeMap<EniId, EniRecord>,
}

/// The least pause after a failure of `class`.
fn least_pause(class: FailureClass) -> Duration {
    match class {
        FailureClass::Exhausted => Duration::ZERO,
        FailureClass::Permission | FailureClass::Config | FailureClass::Bug => secs(5),
        _ => millis(250),
    }
}

impl Watch {
    /// The agent's memory of failures dies with it, and without a checkpoint
    /// that of cooldowns: it rests what EC2 shows it, and no more.
    pub(super) fn restarted(&mut self, amnesia: bool) {
        if amnesia {
            self.forgotten = self.released.keys().copied().collect();
        }
        self.described = None;
        self.refused.clear();
        self.read.clear();
        self.discovered = None;
        self.failed.clear();
    }

    /// ENIs of others that were there before.
    pub(crate) fn strangers(&mut self, records: Vec<EniRecord>) {
        self.strangers.extend(records.into_iter().map(|record| (record.id.clone(), record)));
    }

    pub(super) fn released(&mut self, address: IpAddr, until: Now) {
        self.forgotten.remove(&address);
        self.released.insert(address, until);
    }

    pub(super) fn torn_off(&mut self, eni: EniId, now: Now) {
        self.torn_off.insert(eni, now);
    }

    /// The agent learns how a call ended.
    pub(super) fn told(
        &mut self,
        state: &PoolState,
        intent: &Intent,
        outcome: &Result<Reply, Failure>,
        now: Now,
    ) {
        let operation = intent.action.operation();
        match outcome {
            Ok(reply) => {
                self.failed.retain(|(failed, _), _| *failed != operation);
                match reply {
                    Reply::Enis(records) => {
                        let shown = |address: &IpAddr| {
                            records.iter().any(|eni| is_among(*address, &eni.singles, &eni.prefixes))
                        };
                        self.forgotten.retain(|address| !shown(address));
                        self.described =
                            Some(self.described.map_or(intent.started, |at| at.max(intent.started)));
                    }
                    Reply::Created(EniRecord { singles, prefixes, .. })
                    | Reply::Assigned { singles, prefixes } => self.given_anew(singles, prefixes),
                    _ => {}
                }
            }
            Err(failure) => {
                self.failed.insert((operation, intent.action.eni().cloned()), (failure.class, now));
                if failure.class == FailureClass::Exhausted
                    && let Some(subnet) = subnet_of(state, &intent.action)
                {
                    self.refused.insert(subnet, now);
                }
            }
        }
        let throttled = outcome.as_ref().is_err_and(|failure| failure.class == FailureClass::Throttled);
        if let Action::DescribeSubnets { query } = &intent.action
            && !throttled
        {
            match query {
                SubnetQuery::Ids(ids) => self.read.extend(ids.iter().map(|id| (id.clone(), now))),
                SubnetQuery::Discover { .. } => self.discovered = Some(now),
            }
        }
    }

    /// Somebody else took it off the instance, and nobody remembers that it
    /// was there: it is as new as any.
    fn given_anew(&mut self, singles: &[IpAddr], prefixes: &[IpNetwork]) {
        let anew = |address: &IpAddr| is_among(*address, singles, prefixes);
        self.released.retain(|address, _| !(anew(address) && self.forgotten.contains(address)));
        self.forgotten.retain(|address| !anew(address));
    }

    /// What may not be when `key` is told that `grant` is its address.
    pub(super) fn check_grant(
        &self,
        cloud: &Cloud,
        holders: &BTreeMap<SandboxKey, Grant>,
        key: &SandboxKey,
        grant: &Grant,
        now: Now,
    ) {
        for (other, held) in holders {
            assert!(
                other == key || held.address != grant.address,
                "law 1: {} has {} already",
                other.container_id,
                grant.address
            );
        }
        // Somebody took the ENI away, and no describe could have told yet: one
        // that was asked for a lag later, by a cloud that lags itself.
        let unheard = self.torn_off.get(&grant.eni).is_some_and(|at| {
            let heard = *at + secs(60) + secs(60);
            self.described.is_none_or(|described| described < heard)
        });
        assert!(
            unheard || cloud.has(grant.address),
            "law 2: EC2 does not have {} on this instance",
            grant.address
        );
        assert!(
            !self.strangers.contains_key(&grant.eni),
            "law 10: {} is on somebody else's {}",
            grant.address,
            grant.eni
        );
        if let Some(until) = self.released.get(&grant.address) {
            assert!(now >= *until, "law 3: {} rests until {until:?} and is leased at {now:?}", grant.address);
        }
    }

    /// No pod's ENI is forgotten while EC2 has it on this instance, whatever a
    /// describe shows: its routes would go with it.
    pub(super) fn check_pods(&self, cloud: &Cloud, state: &PoolState, holders: &BTreeMap<SandboxKey, Grant>) {
        for (key, held) in holders {
            let attached = |eni: &EniRecord| eni.id == held.eni && eni.attachment.is_some();
            assert!(
                !matches!(state.truth(), Truth::Ec2 { .. })
                    || self.torn_off.contains_key(&held.eni)
                    || !cloud.enis().any(attached)
                    || state.enis().any(|eni| eni.id == held.eni),
                "law 2: {} is forgotten under {}",
                held.eni,
                key.container_id
            );
        }
    }

    /// Best fit, judged by the state before anyone was served.
    pub(super) fn check_fit(before: &PoolState, taken: &[Grant], targets: &Targets, grant: &Grant, now: Now) {
        let used = |address: &IpAddr| {
            taken.iter().any(|other| other.address == *address)
                || before.leases().any(|lease| lease.address == *address)
        };
        let cooling: BTreeSet<IpAddr> =
            before.cooling().filter(|(_, until)| *until > now).map(|(address, _)| address).collect();
        let free = |address: &IpAddr| !used(address) && !cooling.contains(address);
        let leases = |eni: &Eni| {
            before.leases().filter(|lease| lease.eni == eni.id).count()
                + taken.iter().filter(|other| other.eni == eni.id).count()
        };
        let Some(chosen) = before.enis().find(|eni| eni.id == grant.eni) else { return };
        let leasable = |eni: &&Eni| before.serves(eni, targets) && eni.is_attached() && before.is_linked(eni);
        if chosen.owner != Owner::Primary {
            for other in before
                .enis()
                .filter(leasable)
                .filter(|other| other.addresses().any(|a| free(&a) && !other.is_suspect(a)))
            {
                assert!(
                    other.id == chosen.id || other.owner != Owner::Primary && leases(other) <= leases(chosen),
                    "law 6: {} is begun while {} is fuller",
                    chosen.id,
                    other.id
                );
            }
        }
        let of = |prefix: &&IpNetwork| prefix.contains(grant.address);
        let Some(prefix) = chosen.prefixes.keys().find(of) else { return };
        if !prefix.iter().any(|address| used(&address)) {
            for other in chosen.prefixes.keys().filter(|other| *other != prefix) {
                let begun = other.iter().any(|address| used(&address));
                let room = other.iter().any(|address| free(&address) && !chosen.is_suspect(address));
                assert!(!(begun && room), "law 6: {prefix} is begun while {other} has room");
            }
        }
    }

    /// What a whole plan may not be.
    pub(super) fn check_plan(
        state: &PoolState,
        targets: &Targets,
        running: &[Intent],
        actions: &[Action],
        now: Now,
    ) {
        let counts = state.counts(targets, now);
        let new = |action: &&Action| !matches!(action, Action::CreateEni { token: Some(_), .. });
        let asked: u32 = actions.iter().filter(new).map(Action::addresses_asked).sum();
        if asked > 0 {
            // A prefix cannot be cut: its rest is withheld, not leased.
            let rest = if targets.asks_prefixes() { 15 } else { 0 };
            let total = counts.leased + counts.free + counts.withheld + counts.pending + asked;
            assert!(
                total <= targets.max_pods + rest,
                "law 4: {total} addresses for {} pods",
                targets.max_pods
            );
        }
        for action in actions.iter().filter(|action| action.operation() == Operation::Assign) {
            let same = |other: &Action| other.operation() == Operation::Assign && other.eni() == action.eni();
            let calls = actions.iter().filter(|other| same(other)).count()
                + running.iter().filter(|intent| same(&intent.action)).count();
            assert_eq!(calls, 1, "law 5: more than one assign at a time: {action:?}");
        }
        let creates = |action: &&Action| matches!(action, Action::CreateEni { token: None, .. });
        let creates: Vec<&Action> = actions.iter().filter(creates).collect();
        if creates.is_empty() {
            return;
        }
        let card = targets.limits.default_card;
        let places = state
            .enis()
            .filter(|eni| eni.attachment.as_ref().is_some_and(|attachment| attachment.network_card == card));
        let coming = running
            .iter()
            .filter(|intent| matches!(intent.action, Action::CreateEni { .. } | Action::Attach { .. }));
        let places = places.count() + coming.count() + creates.len();
        assert!(
            places <= targets.eni_limit() as usize,
            "law 10: {places} ENIs where {} can be: {actions:?}",
            targets.eni_limit()
        );
    }

    /// What one action may not be.
    pub(super) fn check_action(&self, state: &PoolState, targets: &Targets, action: &Action, now: Now) {
        let operation = action.operation();
        let gives_back = matches!(action, Action::Unassign { .. } | Action::Detach { .. });
        match targets.growth {
            Growth::None => assert!(!operation.is_mutating(), "growth is forbidden: {action:?}"),
            Growth::DemandOnly => assert!(!gives_back, "a cordoned node gives nothing back: {action:?}"),
            Growth::Normal => {}
        }
        if let Some((class, at)) = self.failed.get(&(operation, action.eni().cloned())) {
            assert!(
                now.since(*at) >= least_pause(*class),
                "law 7: {operation} again {:?} after a failure of class {}",
                now.since(*at),
                class.as_str()
            );
        }
        let repeated = matches!(action, Action::CreateEni { token: Some(_), .. });
        if action.addresses_asked() > 0
            && !repeated
            && let Some(subnet) = subnet_of(state, action)
            && let Some(refused) = self.refused.get(&subnet)
        {
            let read = self.read.get(&subnet).copied().max(self.discovered);
            assert!(
                read.is_some_and(|read| read + FRESH >= *refused),
                "law 7: {subnet} was refused and is asked again without a reading: {action:?}"
            );
        }
        let Some(eni) = action.eni().and_then(|id| state.enis().find(|eni| eni.id == *id)) else {
            assert_eq!(action.eni(), None, "{action:?} on an unknown ENI");
            return;
        };
        assert!(
            !matches!(eni.owner, Owner::Foreign(_)) && !self.strangers.contains_key(&eni.id),
            "law 10: {action:?} on somebody else's ENI"
        );
        let on_primary = matches!(action, Action::Assign { .. } | Action::Unassign { .. });
        assert!(eni.owner != Owner::Primary || on_primary, "law 10: {action:?} on the primary ENI");
        if let Action::SetGroups { groups, .. } = action {
            assert_ne!(*groups, eni.groups, "law 10: groups set without a difference");
        }
    }

    /// Nothing in use or cooling is given back.
    pub(super) fn check_returned(
        &self,
        state: &PoolState,
        holders: &BTreeMap<SandboxKey, Grant>,
        action: &Action,
        now: Now,
    ) {
        let returned: Vec<IpAddr> = match action {
            Action::Unassign { singles, prefixes, .. } => {
                singles.iter().copied().chain(prefixes.iter().flat_map(|prefix| prefix.iter())).collect()
            }
            Action::Detach { eni, .. } | Action::DeleteEni { eni } => {
                // One that somebody else took away serves nobody any more.
                if self.torn_off.contains_key(eni) {
                    return;
                }
                let eni = state.enis().find(|known| known.id == *eni).expect("known");
                eni.addresses().collect()
            }
            _ => return,
        };
        for address in returned {
            assert!(
                !holders.values().any(|held| held.address == address && Some(&held.eni) == action.eni()),
                "law 3: {action:?} takes {address} from a pod"
            );
            if let Some(until) = self.released.get(&address) {
                assert!(now >= *until, "law 3: {action:?} gives back the cooling {address}");
            }
        }
    }
}

fn is_among(address: IpAddr, singles: &[IpAddr], prefixes: &[IpNetwork]) -> bool {
    singles.contains(&address) || prefixes.iter().any(|prefix| prefix.contains(address))
}

fn subnet_of(state: &PoolState, action: &Action) -> Option<SubnetId> {
    match action {
        Action::CreateEni { spec, .. } => Some(spec.subnet.clone()),
        Action::Assign { eni, .. } => {
            state.enis().find(|known| known.id == *eni).map(|eni| eni.subnet.clone())
        }
        _ => None,
    }
}
