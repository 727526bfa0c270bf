//! The loop over all that happens.

use std::time::Duration;

use ipam_core::{InstanceId, InstanceLimits, Now, Operation, Refusal};

use super::account::Account;
use super::agent::{Agent, Host};
use super::latency::Latencies;
use super::ledger::{Figures, OpCount};
use super::pods::{Pod, PodState};
use super::shell::{Event, News, NodeId, Shell};

/// Somebody who acts on what happens to pods: a controller that replaces them,
/// or the Kubernetes API telling agents what it knows.
pub trait Driver {
    /// Something happened. May add and end pods, and tell agents.
    fn hear(
        &mut self,
        news: News,
        shell: &mut Shell,
        agents: &mut [Box<dyn Agent>],
        touched: &mut Vec<NodeId>,
    );
}

/// A world of nodes, each with an agent.
pub struct World {
    shell: Shell,
    agents: Vec<Box<dyn Agent>>,
    driver: Option<Box<dyn Driver>>,
    booted: usize,
}

impl World {
    /// An empty world: every draw follows from `seed`; the one subnet has
    /// `addresses` addresses.
    pub fn new(seed: u64, latencies: Latencies, account: Account, addresses: u32) -> Self {
        Self {
            shell: Shell::new(seed, latencies, account, addresses),
            agents: Vec::new(),
            driver: None,
            booted: 0,
        }
    }

    /// Which typed refusals the scenario itself causes; no other is excused.
    pub fn excuse(&mut self, caused: fn(&Refusal) -> bool) {
        self.shell.caused = caused;
    }

    /// A node of `limits`, whose agent `make` builds for its instance. It
    /// boots when time next passes.
    pub fn add_node(
        &mut self,
        limits: InstanceLimits,
        cooldown: Duration,
        make: impl FnOnce(InstanceId, &ipam_core::EniRecord) -> Box<dyn Agent>,
    ) -> Option<NodeId> {
        let now = self.shell.now();
        let instance = self.shell.cloud.launch(limits, now).ok()?;
        let node = self.shell.add_node(cooldown);
        let primary = self.shell.cloud.enis_of(node).next()?.clone();
        self.agents.push(make(instance, &primary));
        Some(node)
    }

    /// Who acts on what happens to pods.
    pub fn drive(&mut self, driver: Box<dyn Driver>) {
        self.driver = Some(driver);
    }

    /// Cloud, pods and clock.
    pub fn shell(&mut self) -> &mut Shell {
        &mut self.shell
    }

    /// The agent of a node.
    pub fn agent(&mut self, node: NodeId) -> Option<&mut Box<dyn Agent>> {
        self.agents.get_mut(node.0)
    }

    /// Everything up to and with `end` happens.
    pub fn run_until(&mut self, end: Now) {
        for node in self.booted..self.agents.len() {
            self.agents[node].boot(&mut Host { node: NodeId(node), shell: &mut self.shell });
        }
        self.booted = self.agents.len();
        let mut touched = Vec::new();
        while let Some(at) = self.shell.queue.next_at().filter(|at| *at <= end) {
            self.shell.now = self.shell.now.max(at);
            self.shell.note_start();
            while let Some(event) = self.shell.queue.pop_due(at) {
                self.happen(event, &mut touched);
            }
            self.tell_news(&mut touched);
            touched.sort_unstable();
            touched.dedup();
            for node in touched.drain(..) {
                self.agents[node.0].step(&mut Host { node, shell: &mut self.shell });
            }
            // What the steps brought about is told at once; who is touched by
            // that looks again within the same instant.
            self.tell_news(&mut touched);
            for node in std::mem::take(&mut touched) {
                self.agents[node.0].step(&mut Host { node, shell: &mut self.shell });
            }
        }
        self.shell.now = end;
    }

    fn tell_news(&mut self, touched: &mut Vec<NodeId>) {
        let Some(driver) = &mut self.driver else {
            self.shell.news.clear();
            return;
        };
        for news in std::mem::take(&mut self.shell.news) {
            driver.hear(news, &mut self.shell, &mut self.agents, touched);
        }
    }

    fn happen(&mut self, event: Event, touched: &mut Vec<NodeId>) {
        let shell = &mut self.shell;
        match event {
            Event::Wake { node, stamp } => {
                if shell.is_current(node, stamp) {
                    self.agents[node.0].wake(&mut Host { node, shell });
                    touched.push(node);
                }
            }
            Event::Effect { ticket } => shell.take_effect(ticket),
            Event::Reply { ticket } => {
                if let Some(call) = shell.calls.remove(&ticket) {
                    let node = call.node;
                    self.agents[node.0].replied(ticket, call.answer, &mut Host { node, shell });
                    touched.push(node);
                }
            }
            Event::Link { node, mac } => {
                shell.linked(node, mac);
                self.agents[node.0].link_up(mac, &mut Host { node, shell });
                touched.push(node);
            }
            Event::Arrive { pod } => {
                let (node, is_served) = shell.arrive(pod);
                let mut host = Host { node, shell };
                self.agents[node.0].told(&mut host);
                if is_served {
                    self.agents[node.0].add(pod, &mut host);
                }
                touched.push(node);
            }
            Event::Tell { node } => {
                self.agents[node.0].told(&mut Host { node, shell });
                touched.push(node);
            }
            Event::End { pod } => {
                if let Some(node) = shell.end(pod) {
                    let mut host = Host { node, shell };
                    self.agents[node.0].del(pod, &mut host);
                    self.agents[node.0].told(&mut host);
                    touched.push(node);
                }
            }
            Event::Restart { node } => {
                shell.stop(node);
                self.agents[node.0].restart(&mut Host { node, shell });
                touched.push(node);
            }
            Event::Look => shell.news.push(News::Look),
            Event::Script(what) => what(shell),
        }
    }

    /// Calls from the first arrival on, by operation.
    pub fn calls(&self) -> impl Iterator<Item = (Operation, OpCount)> + '_ {
        self.shell.ledger.calls.iter().map(|(operation, count)| (*operation, *count))
    }

    /// Everything is counted from now on, whenever the first pod came; waits
    /// are those of pods that come from now on.
    pub fn count_from_now(&mut self) {
        self.shell.ledger.begin_at(self.shell.now);
    }

    /// ENIs that were attached when the first pod came.
    pub fn enis_at_start(&self) -> u64 {
        self.shell.enis_at_start
    }

    /// Breaches of what no agent may ever do.
    pub fn breaches(&self) -> &[String] {
        &self.shell.ledger.breaches
    }

    /// Every reason that ended an ADD, and how often.
    pub fn reasons(&self) -> impl Iterator<Item = (&str, u64)> {
        self.shell.ledger.reasons.iter().map(|(reason, count)| (reason.as_str(), *count))
    }

    /// The longest assign, and the longest way from a create to a link, that
    /// began after the first arrival.
    pub fn longest(&self) -> (Duration, Duration) {
        (self.shell.ledger.longest_assign, self.shell.ledger.longest_attach)
    }

    /// Waits from each pod's first ADD, rising; until now for those that wait.
    pub fn waits(&self) -> Vec<Duration> {
        let now = self.shell.now;
        let mut waits: Vec<Duration> = self
            .counted_pods()
            .filter(|pod| pod.arrives <= now && (pod.placed.is_some() || pod.state != PodState::Gone))
            .map(|pod| pod.placed.unwrap_or(now).since(pod.arrives))
            .collect();
        waits.sort_unstable();
        waits
    }

    /// From the first arrival until `share` of all pods have had an address;
    /// at once where there are none.
    pub fn time_to(&self, share: f64) -> Option<Duration> {
        let mut placed: Vec<Now> = self.counted_pods().filter_map(|pod| pod.placed).collect();
        placed.sort_unstable();
        let needed = (share * self.counted_pods().count() as f64).ceil() as usize;
        match needed.checked_sub(1) {
            Some(last) => Some(placed.get(last)?.since(self.shell.ledger.from?)),
            None => Some(Duration::ZERO),
        }
    }

    /// Whether every pod has had an address, or has gone without one.
    pub fn all_placed(&self) -> bool {
        self.shell.pods.iter().all(|pod| pod.placed.is_some() || pod.state == PodState::Gone)
    }

    fn counted_pods(&self) -> impl Iterator<Item = &Pod> {
        self.shell.pods.iter().filter(|pod| self.shell.ledger.counts_at(pod.arrives))
    }

    /// Pods that came.
    pub fn pods(&self) -> usize {
        self.shell.pods.len()
    }

    /// The figures up to now, of a fleet: failed and refused pods are counted
    /// there, not their attempts.
    pub fn figures_by_pod(&self) -> Figures {
        let count = |pods: usize| u64::try_from(pods).unwrap_or(u64::MAX);
        Figures {
            failed_adds: count(self.shell.ledger.failed_pods.len()),
            refused_adds: count(self.shell.ledger.refused_pods.len()),
            ..self.figures()
        }
    }

    /// The figures up to now.
    pub fn figures(&self) -> Figures {
        let ledger = &self.shell.ledger;
        let sum = |count: fn(&OpCount) -> u64| ledger.calls.values().map(count).sum::<u64>();
        let waits = self.waits();
        let held: usize =
            (0..self.agents.len()).map(|node| self.shell.cloud.addresses_of(NodeId(node))).sum();
        Figures {
            failed_adds: ledger.failed_adds,
            refused_adds: ledger.refused_adds,
            ec2_calls: sum(|count| count.calls),
            mutating_calls: ledger
                .calls
                .iter()
                .filter(|(operation, _)| operation.is_mutating())
                .map(|(_, count)| count.calls)
                .sum(),
            throttled_calls: sum(|count| count.throttled),
            wait_p50_s: percentile(&waits, 0.5),
            wait_p99_s: percentile(&waits, 0.99),
            time_to_99_s: self.time_to(0.99).map(|time| time.as_secs_f64()),
            idle_addresses: u64::try_from(held.saturating_sub(ledger.held())).unwrap_or(u64::MAX),
            released_while_cooling: ledger.released_while_cooling,
            reused_while_cooling: ledger.reused_while_cooling,
        }
    }
}

/// The smallest time that at least `share` of `sorted` do not exceed, in seconds.
pub(crate) fn percentile(sorted: &[Duration], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64) as usize;
    sorted.get(rank.min(sorted.len().saturating_sub(1))).map_or(0.0, Duration::as_secs_f64)
}
