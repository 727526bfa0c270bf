//! Everything of the world but the agents.

use std::collections::HashMap;
use std::time::Duration;

use ipam_core::{EniId, Failure, MacAddr, Now, Operation, Reply};

use super::account::Account;
use super::agent::{Request, Ticket};
use super::clock::Queue;
use super::cloud::Cloud;
use super::dice::Dice;
use super::latency::Latencies;
use super::ledger::Ledger;
use super::pods::{Pod, PodId};

/// A node of the world.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub usize);

/// What is to happen.
pub(crate) enum Event {
    Wake {
        node: NodeId,
        stamp: u64,
    },
    Effect {
        ticket: Ticket,
    },
    Reply {
        ticket: Ticket,
    },
    Link {
        node: NodeId,
        mac: MacAddr,
    },
    Arrive {
        pod: PodId,
    },
    End {
        pod: PodId,
    },
    Restart {
        node: NodeId,
    },
    /// The API shows what changed lately.
    Tell {
        node: NodeId,
    },
    Look,
    Script(Box<dyn FnOnce(&mut Shell)>),
}

/// What a driver hears of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum News {
    /// A pod is bound to its node: its first ADD comes now.
    Arrived(PodId),
    /// A pod has its address.
    Placed(PodId),
    /// A pod is gone.
    Ended(PodId),
    /// A node's agent can serve.
    Ready(NodeId),
    /// The time that the driver asked for.
    Look,
}

/// What draws of the engine are for.
pub(crate) mod draws {
    pub(crate) const KUBELET: u64 = 1;
    pub(crate) const CALL: u64 = 2;
    pub(crate) const LINK: u64 = 3;
    pub(crate) const IMDS: u64 = 4;
    pub(crate) const DETACH: u64 = 5;
    pub(crate) const AGENT: u64 = 6;
}

pub(crate) struct Call {
    pub(crate) node: NodeId,
    pub(crate) request: Request,
    pub(crate) begun: Now,
    pub(crate) latency: Duration,
    pub(crate) answer: Result<Reply, Failure>,
}

pub(crate) struct NodeShell {
    pub(crate) cooldown: Duration,
    pub(super) ready: bool,
    pub(super) parked: Vec<PodId>,
    wake_stamp: u64,
    wake_at: Option<Now>,
    /// Pods bound to it that are not gone.
    pub(super) live: Vec<PodId>,
    /// Calls so far, by operation: each draws its own latency.
    pub(super) calls: [u64; Operation::ALL.len()],
    draws: u64,
    /// When each create began, and for which ENI.
    pub(super) creates: HashMap<EniId, Now>,
    pub(super) linked: Vec<MacAddr>,
}

/// Cloud, pods, clock and counts.
pub struct Shell {
    pub(crate) queue: Queue<Event>,
    pub(crate) now: Now,
    pub(crate) dice: Dice,
    pub(crate) latencies: Latencies,
    /// Token buckets.
    pub account: Account,
    /// The VPC.
    pub cloud: Cloud,
    pub(crate) ledger: Ledger,
    pub(crate) pods: Vec<Pod>,
    pub(crate) nodes: Vec<NodeShell>,
    pub(crate) calls: HashMap<Ticket, Box<Call>>,
    pub(crate) news: Vec<News>,
    /// Which refusals the scenario itself causes.
    pub(crate) caused: fn(&ipam_core::Refusal) -> bool,
    /// ENIs attached when the first pod came.
    pub(crate) enis_at_start: u64,
    started: bool,
    pub(super) next_ticket: u64,
}

impl Shell {
    pub(crate) fn new(seed: u64, latencies: Latencies, account: Account, addresses: u32) -> Self {
        Self {
            queue: Queue::new(),
            now: Now::default(),
            dice: Dice::new(seed),
            cloud: Cloud::new(addresses, latencies.describe_lag),
            latencies,
            account,
            ledger: Ledger::new(),
            pods: Vec::new(),
            nodes: Vec::new(),
            calls: HashMap::new(),
            news: Vec::new(),
            caused: |_| false,
            enis_at_start: 0,
            started: false,
            next_ticket: 0,
        }
    }

    pub(crate) fn add_node(&mut self, cooldown: Duration) -> NodeId {
        self.nodes.push(NodeShell {
            cooldown,
            ready: false,
            parked: Vec::new(),
            wake_stamp: 0,
            wake_at: None,
            live: Vec::new(),
            calls: [0; Operation::ALL.len()],
            draws: 0,
            creates: HashMap::new(),
            linked: Vec::new(),
        });
        NodeId(self.nodes.len() - 1)
    }

    /// The time.
    pub fn now(&self) -> Now {
        self.now
    }

    /// Notes what there is when the first pod comes.
    pub(crate) fn note_start(&mut self) {
        if !self.started && self.ledger.counts_at(self.now) {
            self.started = true;
            self.enis_at_start = (0..self.nodes.len())
                .flat_map(|node| self.cloud.enis_of(NodeId(node)))
                .map(|eni| u64::from(eni.attachment.is_some()))
                .sum();
        }
    }

    /// Something that befalls the cloud at `at`.
    pub fn script(&mut self, at: Now, what: impl FnOnce(&mut Self) + 'static) {
        self.queue.push(at, Event::Script(Box::new(what)));
    }

    /// The agent of `node` is killed and started again at `at`.
    pub fn restart(&mut self, node: NodeId, at: Now) {
        self.queue.push(at, Event::Restart { node });
    }

    /// The driver is called at `at`.
    pub fn look_at(&mut self, at: Now) {
        self.queue.push(at, Event::Look);
    }

    /// Every pod.
    pub fn pods(&self) -> &[Pod] {
        &self.pods
    }

    /// One pod.
    pub fn pod(&self, pod: PodId) -> Option<&Pod> {
        self.pods.get(pod.0)
    }

    /// How many nodes there are.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// A draw in `[0, 1)` that is the same for the same names.
    pub fn draw(&self, names: &[u64]) -> f64 {
        self.dice.uniform(names)
    }

    pub(crate) fn node_dice(&mut self, node: NodeId) -> f64 {
        let shell = &mut self.nodes[node.0];
        shell.draws += 1;
        let number = shell.draws;
        self.dice.uniform(&[draws::AGENT, node.0 as u64, number])
    }

    pub(crate) fn wake_at(&mut self, node: NodeId, at: Option<Now>) {
        let shell = &mut self.nodes[node.0];
        if shell.wake_at == at {
            return;
        }
        shell.wake_at = at;
        shell.wake_stamp += 1;
        if let Some(at) = at {
            let stamp = shell.wake_stamp;
            self.queue.push(at.max(self.now), Event::Wake { node, stamp });
        }
    }

    /// Whether a timer event is the one that was set last.
    pub(crate) fn is_current(&mut self, node: NodeId, stamp: u64) -> bool {
        let shell = &mut self.nodes[node.0];
        let current = shell.wake_stamp == stamp && shell.wake_at.is_some();
        if current {
            shell.wake_at = None;
        }
        current
    }

    /// The agent's process is gone: its calls are not answered to it, and it
    /// serves nobody until it says so.
    pub(crate) fn stop(&mut self, node: NodeId) {
        self.nodes[node.0].ready = false;
        // Calls that have reached EC2 have happened; the others may happen yet.
        self.wake_at(node, None);
    }
}
