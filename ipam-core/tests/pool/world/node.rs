//! The node's side: the agent's loop over the pool, in simulated time, with
//! the laws checked at every step.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipam_core::{
    Action, Asked, EniId, Failure, Grant, Identity, Intent, Now, Owner, Phase, PoolState, Refusal, Reply,
    SandboxKey, Saved, Targets, Truth, Waiter, plan, tags,
};

use super::cloud::Cloud;
use super::millis;
use super::others::Stranger;
use super::watch::Watch;

struct Running {
    intent: Intent,
    effect_at: Now,
    reply_at: Now,
    outcome: Option<Result<Reply, Failure>>,
}

/// What a restart finds of the last process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remains {
    /// The checkpoint, the journal, the pods.
    Everything,
    /// The journal and the pods' veth pairs, but no checkpoint.
    NoCheckpoint,
    /// The journal: the kernel booted anew and every pod is gone.
    Rebooted,
}

/// A node with its agent.
pub(crate) struct Node {
    pub(crate) cloud: Cloud,
    pub(crate) targets: Targets,
    pub(crate) state: PoolState,
    /// `MANAGE_UNTAGGED_ENI`, from the next start on.
    pub(crate) manage_untagged: bool,
    pub(crate) now: Now,
    /// Latency of a call, half of it before its effect.
    pub(crate) latency: Duration,
    /// How long after an attach the kernel shows the link.
    pub(crate) link_delay: Duration,
    pub(crate) refused: Vec<(SandboxKey, Refusal)>,
    pub(crate) waits: Vec<Duration>,
    /// Pods that have been told their address, across restarts.
    pub(crate) holders: BTreeMap<SandboxKey, Grant>,
    /// Those whose veth pair is wired.
    wired: BTreeSet<SandboxKey>,
    /// Wired pods that a restart without a checkpoint has still to take over.
    orphans: BTreeSet<SandboxKey>,
    pub(crate) watch: Watch,
    running: Vec<Running>,
    links: Vec<(Now, ipam_core::MacAddr)>,
    saved: Saved,
    starts: u64,
    dice: u64,
    /// Actions begun since the list was last cleared.
    pub(crate) begun: Vec<Action>,
}

impl Node {
    pub(crate) fn new(cloud: Cloud, targets: Targets) -> Self {
        let identity = Identity { instance: cloud.instance.clone(), manage_untagged: false };
        let mut node = Self {
            state: PoolState::new(identity, "start-0"),
            cloud,
            targets,
            manage_untagged: false,
            now: Now::from_millis(1_000_000),
            latency: millis(300),
            link_delay: millis(2000),
            refused: Vec::new(),
            waits: Vec::new(),
            holders: BTreeMap::new(),
            wired: BTreeSet::new(),
            orphans: BTreeSet::new(),
            watch: Watch::default(),
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
                assert!(
                    told.is_none_or(|told| told == grant.address),
                    "law 1: another answer for the same sandbox"
                );
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
        if self.state.commit(&Self::key(number), "eni0") {
            self.wired.insert(Self::key(number));
        }
        self.step();
    }

    /// It goes away.
    pub(crate) fn del(&mut self, number: u32) {
        let key = Self::key(number);
        let lease = self.state.release(&key, &self.targets, self.now);
        self.holders.remove(&key);
        self.wired.remove(&key);
        self.orphans.remove(&key);
        if let Some(lease) = lease
            && lease.host_ifname.is_some()
        {
            self.watch.released(lease.address, self.now + self.targets.cooldown);
        }
        self.step();
    }

    /// The agent dies without warning, and starts again.
    pub(crate) fn crash(&mut self) {
        self.restart(Remains::Everything);
    }

    /// The agent dies and starts again with what `remains`. Calls that EC2 has
    /// not executed yet never happen; those it has are lost to the agent.
    pub(crate) fn restart(&mut self, remains: Remains) {
        self.starts += 1;
        let identity =
            Identity { instance: self.cloud.instance.clone(), manage_untagged: self.manage_untagged };
        let mut state = PoolState::new(identity, format!("start-{}", self.starts));
        match remains {
            Remains::Everything => state.restore(self.saved.clone()),
            Remains::NoCheckpoint => {
                // A pod that was not wired yet begins again.
                self.holders.retain(|key, _| self.wired.contains(key));
                self.orphans = self.wired.clone();
            }
            Remains::Rebooted => {
                self.holders.clear();
                self.wired.clear();
                self.orphans.clear();
            }
        }
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
        self.watch.restarted(remains != Remains::Everything);
        self.step();
    }

    /// A stranger appears on the instance.
    pub(crate) fn appear(&mut self, stranger: Stranger) {
        if let Some(id) = self.cloud.appear(stranger, self.now) {
            let record = self.cloud.enis().find(|eni| eni.id == id).expect("just made").clone();
            self.watch.strangers.insert(id, record);
        }
    }

    /// Somebody detaches one of our ENIs, and perhaps deletes it.
    pub(crate) fn tear_off(&mut self, number: usize, delete: bool) {
        if let Some(id) = self.secondary(number) {
            self.watch.torn_off(id.clone(), self.now);
            if let Some(eni) = self.cloud.enis().find(|eni| eni.id == id) {
                self.links.retain(|(_, mac)| *mac != eni.mac);
                self.state.set_link(eni.mac, false);
            }
            self.cloud.tear_off(&id, delete, self.now);
        }
    }

    /// An operator takes one of our ENIs away from us.
    pub(crate) fn disown(&mut self, number: usize) {
        if let Some(id) = self.secondary(number) {
            self.cloud.tag(&id, tags::NO_MANAGE, "true", self.now);
        }
    }

    /// The next describe leaves one of our ENIs out.
    pub(crate) fn omit(&mut self, number: usize) {
        self.cloud.omitted = self.secondary(number);
    }

    pub(crate) fn secondary(&self, number: usize) -> Option<EniId> {
        let ours: Vec<&EniId> = self
            .cloud
            .enis()
            .filter(|eni| eni.attachment.as_ref().is_some_and(|at| at.device_index > 0))
            .filter(|eni| !self.watch.strangers.contains_key(&eni.id))
            .map(|eni| &eni.id)
            .collect();
        ours.get(number % ours.len().max(1)).map(|id| (*id).clone())
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
            self.watch.told(&self.state, &running.intent, &outcome, now);
            self.state.complete(running.intent.id, outcome, &self.targets, now, dice);
        }
        self.wire_again();
        let (up, later): (Vec<_>, Vec<_>) = self.links.drain(..).partition(|(at, _)| *at <= now);
        self.links = later;
        for (_, mac) in up {
            self.state.set_link(mac, true);
        }
        // The kernel loses the link with the attachment.
        self.cloud.settle(now);
        for eni in self.cloud.enis().filter(|eni| eni.attachment.is_none()) {
            self.state.set_link(eni.mac, false);
        }
        if matches!(self.state.truth(), Truth::Ec2 { .. }) {
            self.take_over();
        }
    }

    /// An ENI that the pool had forgotten, and EC2 shows again, has its routes
    /// laid anew: the agent does so for each that comes into the pool's view.
    fn wire_again(&mut self) {
        let attached = |mac| self.cloud.enis().any(|eni| eni.mac == mac && eni.attachment.is_some());
        let unwired: Vec<_> = self
            .state
            .enis()
            .filter(|eni| eni.owner == Owner::Ours && eni.is_attached() && !self.state.is_linked(eni))
            .map(|eni| eni.mac)
            .filter(|mac| attached(*mac) && !self.links.iter().any(|(_, coming)| coming == mac))
            .collect();
        self.links.extend(unwired.into_iter().map(|mac| (self.now + self.link_delay, mac)));
    }

    /// Pods whose veth pairs stand are taken over with their addresses.
    fn take_over(&mut self) {
        for key in std::mem::take(&mut self.orphans) {
            let address = self.holders[&key].address;
            if !self.state.adopt(key.clone(), None, address, Some("eni0".to_owned()), self.now) {
                // Its address is not EC2's any more: it runs, cut off.
                self.holders.remove(&key);
                self.wired.remove(&key);
            }
        }
    }

    /// The agent's loop, once.
    pub(crate) fn step(&mut self) {
        let expired = self.state.settle(&self.targets, self.now);
        self.refused.extend(expired.into_iter().map(|expired| (expired.key, expired.reason)));
        let before = self.state.waiters().next().is_some().then(|| self.state.clone());
        let served = self.state.serve(&self.targets, self.now);
        self.saved = self.state.save();
        let mut taken = Vec::<Grant>::new();
        for served in served {
            self.watch.check_grant(&self.cloud, &self.holders, &served.key, &served.grant, self.now);
            // What a pod had before is its own, however well it fits.
            if let Some(before) = before.as_ref().filter(|before| before.lease_of(&served.key).is_none()) {
                Watch::check_fit(before, &taken, &self.targets, &served.grant, self.now);
            }
            taken.push(served.grant.clone());
            self.waits.push(served.waited);
            self.holders.insert(served.key, served.grant);
        }
        self.check_counts(!taken.is_empty());
        self.watch.check_pods(&self.cloud, &self.state, &self.holders);
        self.state.settle(&self.targets, self.now);
        let planned = plan(&self.state, &self.targets, self.now);
        let running: Vec<Intent> = self.running.iter().map(|running| running.intent.clone()).collect();
        Watch::check_plan(&self.state, &self.targets, &running, &planned.actions, self.now);
        for action in planned.actions {
            self.watch.check_action(&self.state, &self.targets, &action, self.now);
            self.watch.check_returned(&self.state, &self.holders, &action, self.now);
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

    fn check_counts(&self, served: bool) {
        let counts = self.state.counts(&self.targets, self.now);
        let max_pods = self.targets.max_pods;
        assert!(
            counts.leased + counts.free <= max_pods.max(counts.leased)
                && !(served && counts.leased > max_pods),
            "law 4: {counts:?} for {max_pods} pods"
        );
        assert!(
            counts.waiting == 0 || counts.free == 0,
            "law 3: somebody waits and an address is free: {counts:?}"
        );
    }

    /// Whether nothing is under way and nothing planned but reading.
    pub(crate) fn is_quiet(&self) -> bool {
        let changes = |action: &Action| action.operation().is_mutating();
        !self.running.iter().any(|running| changes(&running.intent.action))
            && !plan(&self.state, &self.targets, self.now).actions.iter().any(changes)
    }

    /// The pool and EC2 agree: no ENI of ours is loose, no address unknown,
    /// and nothing of others has been changed.
    pub(crate) fn check_agreement(&self) {
        let foreign = |eni: &ipam_core::Eni| matches!(eni.owner, Owner::Foreign(_));
        for eni in self.state.enis().filter(|eni| !foreign(eni)) {
            assert!(matches!(eni.phase, Phase::Attached { .. }), "law 8: {eni:?}");
        }
        for record in self.cloud.enis() {
            if let Some(stranger) = self.watch.strangers.get(&record.id) {
                assert_eq!(record, stranger, "law 10: somebody else's ENI was changed");
            }
            let known = self.state.enis().find(|eni| eni.id == record.id);
            let known = known.unwrap_or_else(|| panic!("law 8: {} is leaked", record.id));
            if foreign(known) {
                continue;
            }
            let mut singles = record.singles.clone();
            singles.sort();
            assert_eq!(known.singles.keys().copied().collect::<Vec<_>>(), singles, "law 8: {}", record.id);
            let mut prefixes = record.prefixes.clone();
            prefixes.sort();
            assert_eq!(known.prefixes.keys().copied().collect::<Vec<_>>(), prefixes, "law 8: {}", record.id);
            let attachment = record.attachment.as_ref().expect("attached");
            assert!(attachment.delete_on_termination, "law 8: {} would outlive the instance", record.id);
        }
        for stranger in self.watch.strangers.keys() {
            assert!(self.cloud.enis().any(|eni| eni.id == *stranger), "law 10: {stranger} was freed");
        }
    }
}
