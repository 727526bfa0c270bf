//! The node's side: the agent's loop over the pool, in simulated time, with
//! the laws checked at every step.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ipam_core::{
    Action, Asked, Failure, Grant, Identity, Intent, Now, Operation, Phase, PoolState, Refusal, Reply,
    SandboxKey, Saved, Targets, Waiter, plan,
};

use super::cloud::Cloud;
use super::millis;

struct Running {
    intent: Intent,
    effect_at: Now,
    reply_at: Now,
    outcome: Option<Result<Reply, Failure>>,
}

/// A node with its agent.
pub(crate) struct Node {
    pub(crate) cloud: Cloud,
    pub(crate) targets: Targets,
    pub(crate) state: PoolState,
    pub(crate) now: Now,
    /// Latency of a call, half of it before its effect.
    pub(crate) latency: Duration,
    /// How long after an attach the kernel shows the link.
    pub(crate) link_delay: Duration,
    pub(crate) refused: Vec<(SandboxKey, Refusal)>,
    pub(crate) waits: Vec<Duration>,
    /// Pods that have been told their address, across restarts.
    pub(crate) holders: BTreeMap<SandboxKey, Grant>,
    /// Until when an address that was in use rests.
    released: BTreeMap<IpAddr, Now>,
    running: Vec<Running>,
    links: Vec<(Now, ipam_core::MacAddr)>,
    saved: Saved,
    starts: u64,
    dice: u64,
    /// Actions begun since the counter was last cleared.
    pub(crate) begun: Vec<Action>,
}

impl Node {
    pub(crate) fn new(cloud: Cloud, targets: Targets) -> Self {
        let identity = Identity { instance: cloud.instance.clone(), manage_untagged: false };
        let mut node = Self {
            state: PoolState::new(identity, "start-0"),
            cloud,
            targets,
            now: Now::from_millis(1_000_000),
            latency: millis(300),
            link_delay: millis(2000),
            refused: Vec::new(),
            waits: Vec::new(),
            holders: BTreeMap::new(),
            released: BTreeMap::new(),
            running: Vec::new(),
            links: Vec::new(),
            saved: Saved::default(),
            starts: 0,
            dice: 1,
            begun: Vec::new(),
        };
        node.step();
        node
    }

    pub(crate) fn key(number: u32) -> SandboxKey {
        SandboxKey {
            network: "aws-cni".to_owned(),
            container_id: format!("pod-{number}"),
            ifname: "eth0".to_owned(),
        }
    }

    fn dice(&mut self) -> f64 {
        self.dice = self.dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A pod arrives.
    pub(crate) fn add(&mut self, number: u32) {
        let waiter = Waiter {
            key: Self::key(number),
            pod: None,
            since: self.now,
            deadline: self.now + self.targets.lease_patience(),
        };
        match self.state.ask(waiter) {
            Asked::Known(grant) => {
                let told = self.holders.get(&Self::key(number)).map(|known| known.address);
                assert!(told.is_none_or(|told| told == grant.address), "another answer for the same sandbox");
                self.holders.insert(Self::key(number), grant);
            }
            Asked::Queued | Asked::Lost { .. } => {}
        }
    }

    /// Many arrive at once, and the node looks at them.
    pub(crate) fn burst(&mut self, numbers: impl Iterator<Item = u32>) {
        numbers.for_each(|number| self.add(number));
        self.step();
    }

    /// Its veth pair is wired.
    pub(crate) fn commit(&mut self, number: u32) {
        self.state.commit(&Self::key(number), "eni0");
        self.step();
    }

    /// It goes away.
    pub(crate) fn del(&mut self, number: u32) {
        let key = Self::key(number);
        let lease = self.state.release(&key, &self.targets, self.now);
        self.holders.remove(&key);
        if let Some(lease) = lease
            && lease.host_ifname.is_some()
        {
            self.released.insert(lease.address, self.now + self.targets.cooldown);
        }
        self.step();
    }

    /// The agent dies without warning, and starts again. Calls that EC2 has
    /// not executed yet never happen; those it has are lost to the agent.
    pub(crate) fn crash(&mut self) {
        self.starts += 1;
        let identity = Identity { instance: self.cloud.instance.clone(), manage_untagged: false };
        let mut state = PoolState::new(identity, format!("start-{}", self.starts));
        state.restore(self.saved.clone());
        for running in std::mem::take(&mut self.running) {
            // The journal holds every change that was begun and not ended.
            if running.intent.action.operation().is_mutating() {
                state.recover(running.intent.action, &self.targets, self.now);
            }
        }
        self.links.clear();
        for eni in self.cloud.enis().filter(|eni| eni.attachment.is_some()) {
            state.set_link(eni.mac, true);
        }
        self.state = state;
        self.step();
    }

    /// Passes `span` of time, event by event.
    pub(crate) fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let wake = plan(&self.state, &self.targets, self.now).wake_at;
            let events = self
                .running
                .iter()
                .map(|running| if running.outcome.is_some() { running.reply_at } else { running.effect_at });
            let links = self.links.iter().map(|(at, _)| *at);
            let next = events.chain(links).chain(wake).filter(|at| *at > self.now).min();
            let due_now = self.running.iter().any(|running| {
                running.reply_at <= self.now || running.outcome.is_none() && running.effect_at <= self.now
            });
            match next {
                _ if due_now => {}
                Some(at) if at <= end => self.now = at,
                _ => {
                    self.now = end;
                    self.step();
                    return;
                }
            }
            self.happen();
            self.step();
        }
    }

    /// What EC2 and the kernel do now.
    fn happen(&mut self) {
        let now = self.now;
        for running in &mut self.running {
            if running.outcome.is_none() && running.effect_at <= now {
                running.outcome = Some(self.cloud.call(&running.intent.action, now));
                if let Action::Attach { eni, .. } = &running.intent.action
                    && let Some(eni) = self.cloud.enis().find(|known| known.id == *eni)
                    && eni.attachment.is_some()
                {
                    self.links.push((now + self.link_delay, eni.mac));
                }
            }
        }
        let (done, rest): (Vec<Running>, Vec<Running>) =
            self.running.drain(..).partition(|running| running.outcome.is_some() && running.reply_at <= now);
        self.running = rest;
        for running in done {
            let dice = self.dice();
            let outcome = running.outcome.expect("partitioned by it");
            self.state.complete(running.intent.id, outcome, &self.targets, now, dice);
        }
        let (up, later): (Vec<_>, Vec<_>) = self.links.drain(..).partition(|(at, _)| *at <= now);
        self.links = later;
        for (_, mac) in up {
            self.state.set_link(mac, true);
        }
    }

    /// The agent's loop, once.
    pub(crate) fn step(&mut self) {
        let expired = self.state.settle(&self.targets, self.now);
        self.refused.extend(expired.into_iter().map(|expired| (expired.key, expired.reason)));
        let served = self.state.serve(&self.targets, self.now);
        self.saved = self.state.save();
        for served in served {
            self.check_grant(&served.key, &served.grant);
            self.waits.push(served.waited);
            self.holders.insert(served.key, served.grant);
        }
        self.state.settle(&self.targets, self.now);
        let planned = plan(&self.state, &self.targets, self.now);
        self.check_plan(&planned.actions);
        for action in planned.actions {
            self.check_action(&action);
            let intent = self.state.begin(action.clone(), &self.targets, self.now);
            self.begun.push(action);
            self.running.push(Running {
                effect_at: self.now + self.latency / 2,
                reply_at: self.now + self.latency,
                intent,
                outcome: None,
            });
        }
    }

    /// Laws 1, 2 and 3: one holder, on an ENI, and never before the cooldown.
    fn check_grant(&self, key: &SandboxKey, grant: &Grant) {
        for (other, held) in &self.holders {
            assert!(
                other == key || held.address != grant.address,
                "{} has {} already",
                other.container_id,
                grant.address
            );
        }
        assert!(self.cloud.has(grant.address), "EC2 does not have {} on this instance", grant.address);
        if let Some(until) = self.released.get(&grant.address) {
            assert!(self.now >= *until, "{} rests until {until:?}", grant.address);
        }
    }

    /// Laws 4 and 5: never beyond max-pods, one assign for an ENI at a time.
    fn check_plan(&self, actions: &[Action]) {
        let counts = self.state.counts(&self.targets, self.now);
        let asked: u32 = actions
            .iter()
            .filter(|action| !matches!(action, Action::CreateEni { token: Some(_), .. }))
            .map(Action::addresses_asked)
            .sum();
        if asked > 0 {
            // A prefix cannot be cut: its rest is withheld, not leased.
            let rest = if self.targets.asks_prefixes() { 15 } else { 0 };
            let total = counts.leased + counts.free + counts.withheld + counts.pending + asked;
            assert!(
                total <= self.targets.max_pods + rest,
                "{total} addresses for {} pods",
                self.targets.max_pods
            );
        }
        for action in actions.iter().filter(|action| action.operation() == Operation::Assign) {
            let same = |other: &Action| other.operation() == Operation::Assign && other.eni() == action.eni();
            let running = self.running.iter().filter(|running| same(&running.intent.action)).count();
            assert_eq!(actions.iter().filter(|other| same(other)).count() + running, 1, "{action:?}");
        }
    }

    /// Laws 3 and 10: nothing in use or cooling is given back, and nothing of
    /// others is touched.
    fn check_action(&self, action: &Action) {
        if let Some(id) = action.eni() {
            let eni = self.state.enis().find(|eni| eni.id == *id).expect("known");
            assert!(!matches!(eni.owner, ipam_core::Owner::Foreign(_)), "{action:?} on a foreign ENI");
            let is_primary = eni.owner == ipam_core::Owner::Primary;
            assert!(
                !is_primary || matches!(action, Action::Assign { .. } | Action::Unassign { .. }),
                "{action:?}"
            );
        }
        let returned: Vec<IpAddr> = match action {
            Action::Unassign { singles, prefixes, .. } => {
                singles.iter().copied().chain(prefixes.iter().flat_map(|prefix| prefix.iter())).collect()
            }
            Action::Detach { eni, .. } | Action::DeleteEni { eni } => {
                let eni = self.state.enis().find(|known| known.id == *eni).expect("known");
                eni.addresses().collect()
            }
            _ => return,
        };
        for address in returned {
            assert!(
                !self.holders.values().any(|held| held.address == address),
                "{action:?} takes {address} from a pod"
            );
            if let Some(until) = self.released.get(&address) {
                assert!(self.now >= *until, "{action:?} gives back the cooling {address}");
            }
        }
    }

    /// Whether nothing is under way and nothing planned but reading.
    pub(crate) fn is_quiet(&self) -> bool {
        let changes = |action: &Action| action.operation().is_mutating();
        !self.running.iter().any(|running| changes(&running.intent.action))
            && !plan(&self.state, &self.targets, self.now).actions.iter().any(changes)
    }

    /// The pool and EC2 agree: no ENI of ours is loose, no address unknown.
    pub(crate) fn check_agreement(&self) {
        for eni in self.state.enis() {
            assert!(matches!(eni.phase, Phase::Attached { .. }), "{eni:?}");
        }
        for record in self.cloud.enis() {
            let known = self.state.enis().find(|eni| eni.id == record.id);
            let known = known.unwrap_or_else(|| panic!("{} is leaked", record.id));
            let mut singles = record.singles.clone();
            singles.sort();
            assert_eq!(known.singles.keys().copied().collect::<Vec<_>>(), singles);
            let mut prefixes = record.prefixes.clone();
            prefixes.sort();
            assert_eq!(known.prefixes.keys().copied().collect::<Vec<_>>(), prefixes);
            let attachment = record.attachment.as_ref().expect("attached");
            assert!(attachment.delete_on_termination, "{} would outlive the instance", record.id);
        }
    }
}
