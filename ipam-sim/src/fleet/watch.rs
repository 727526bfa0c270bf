//! What the Kubernetes API shows to every agent of a fleet.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use ipam_core::{AccountLimits, Line, Load, Now, Queue, Shape};

use crate::engine::{Agent, Dice, Driver, News, NodeId, PlannerNode, PodId, Shell, millis};

/// How often an agent tells its pool of what concerns other nodes only.
const ROUND: Duration = secs_of(1);
/// How soon after a change it tells of its own node.
const SOON: Duration = millis(50);
/// When a fresh agent has listed all pods.
pub(super) const LISTED: Duration = millis(300);
/// Readiness is probed every few seconds.
const PROBE: Duration = secs_of(2);
/// A change of a turn that is worth telling, and the part of the wait that is.
const WORTH: Duration = millis(300);
const WORTH_PART: f64 = 0.02;
/// Nodes whose turns are looked up one by one.
const FEW: usize = 20;
/// What draws are for.
const FOR_SPREAD: u64 = 20;

const fn secs_of(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// What an agent is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Knowledge {
    /// Nothing: first calls are blind, refused ones back off.
    Nothing,
    /// Its rank when its own pods are seen, and never again.
    Once,
    /// Its turn, and every change of it: what the product does.
    Turns,
}

/// Something that the API will show.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Shown {
    Ready,
    Bound(usize),
    Addressed(usize),
}

/// The API and all agents' tables: one, since all agents see the same.
pub(super) struct Watch {
    line: Line<u32>,
    knowledge: Knowledge,
    lag: Duration,
    loads: Vec<Load>,
    waiting: Vec<BTreeSet<usize>>,
    coming: BinaryHeap<Reverse<(Now, u32, Shown)>>,
    /// When each agent expects its turn.
    told: Vec<Now>,
    spread: Vec<f64>,
    next_round: Now,
    next_look: Option<Now>,
    listed: bool,
}

impl Watch {
    pub(super) fn new(nodes: u32, limits: AccountLimits, shape: Shape, dice: Dice) -> Self {
        let mut line = Line::new(limits, shape);
        line.set_nodes(nodes);
        let count = nodes as usize;
        Self {
            line,
            knowledge: Knowledge::Turns,
            lag: Duration::ZERO,
            loads: vec![Load { booting: true, ..Load::default() }; count],
            waiting: vec![BTreeSet::new(); count],
            coming: BinaryHeap::new(),
            told: vec![Now::default(); count],
            spread: (0..nodes).map(|node| dice.uniform(&[FOR_SPREAD, u64::from(node)])).collect(),
            next_round: Now::default(),
            next_look: None,
            listed: false,
        }
    }

    /// How much agents are told, and how late.
    pub(super) fn telling(self, knowledge: Knowledge, lag: Duration) -> Self {
        Self { knowledge, lag, ..self }
    }

    /// The pod is bound to its node at `at`.
    pub(super) fn bound(&mut self, node: NodeId, pod: PodId, at: Now) {
        self.show(node, Shown::Bound(pod.0), at + self.lag);
    }

    fn show(&mut self, node: NodeId, what: Shown, at: Now) {
        self.coming.push(Reverse((at, index(node), what)));
    }

    fn look_again(&mut self, shell: &mut Shell) {
        let now = shell.now();
        let next = self.coming.peek().map_or(self.next_round, |Reverse((at, ..))| (*at).min(self.next_round));
        let next = next.max(now + SOON);
        if self.next_look.is_none_or(|set| set <= now || next < set) {
            self.next_look = Some(next);
            shell.look_at(next);
        }
    }

    /// Takes in what the API shows by now; the nodes that it concerns.
    fn take_in(&mut self, now: Now) -> BTreeSet<u32> {
        let mut changed = BTreeSet::new();
        if !std::mem::replace(&mut self.listed, true) {
            changed = (0..).take(self.loads.len()).collect();
        }
        while let Some(Reverse((_, node, what))) =
            self.coming.peek().copied().filter(|Reverse((at, ..))| *at <= now)
        {
            self.coming.pop();
            let (load, waiting) = (&mut self.loads[node as usize], &mut self.waiting[node as usize]);
            match what {
                Shown::Ready => load.booting = false,
                Shown::Bound(pod) => {
                    waiting.insert(pod);
                }
                Shown::Addressed(pod) => {
                    waiting.remove(&pod);
                    load.addressed += 1;
                }
            }
            load.waiting = u32::try_from(waiting.len()).unwrap_or(u32::MAX);
            changed.insert(node);
        }
        for node in &changed {
            self.line.update(node, self.loads[*node as usize], now);
        }
        changed
    }

    fn tell(&mut self, node: u32, queue: Queue, now: Now, pool: &mut PlannerNode) {
        self.told[node as usize] = now + longest(&queue);
        pool.pool().queue(Queue { spread: self.spread[node as usize], ..queue }, now);
    }
}

fn index(node: NodeId) -> u32 {
    u32::try_from(node.0).unwrap_or(u32::MAX)
}

fn longest(queue: &Queue) -> Duration {
    queue.turns.iter().map(|turn| turn.wait).max().unwrap_or_default()
}

impl Driver for Watch {
    fn hear(
        &mut self,
        news: News,
        shell: &mut Shell,
        agents: &mut [Box<dyn Agent>],
        touched: &mut Vec<NodeId>,
    ) {
        if self.knowledge == Knowledge::Nothing {
            return;
        }
        let now = shell.now();
        match news {
            News::Ready(node) => self.show(node, Shown::Ready, now + self.lag + PROBE),
            News::Placed(pod) => {
                if let Some(node) = shell.pod(pod).map(|pod| pod.node) {
                    self.show(node, Shown::Addressed(pod.0), now + self.lag);
                }
            }
            News::Look => {
                let changed = self.take_in(now);
                let round = self.next_round <= now;
                // One walk for all of them is cheaper than one for each.
                let many = round || changed.len() > FEW;
                let queues = if many { self.line.queues(now) } else { BTreeMap::new() };
                for node in &changed {
                    let waiting = &self.waiting[*node as usize];
                    let pods = waiting.iter().map(|pod| PlannerNode::pod_ref(PodId(*pod))).collect();
                    let queue = queues.get(node).copied().unwrap_or_else(|| self.line.queue(node, 0.0, now));
                    if let Some(planner) = agents[*node as usize].as_planner() {
                        planner.pool().announce_pods(pods);
                        self.tell(*node, queue, now, planner);
                        touched.push(NodeId(*node as usize));
                    }
                }
                if round {
                    self.next_round = now + ROUND;
                    for (node, queue) in queues {
                        let (turn, before) = (now + longest(&queue), self.told[node as usize]);
                        let moved = turn.since(before).max(before.since(turn));
                        let worth = WORTH.max(turn.since(now).mul_f64(WORTH_PART));
                        if self.knowledge == Knowledge::Turns
                            && moved > worth
                            && let Some(planner) = agents[node as usize].as_planner()
                        {
                            self.tell(node, queue, now, planner);
                            touched.push(NodeId(node as usize));
                        }
                    }
                }
            }
            News::Arrived(_) | News::Ended(_) => return,
        }
        self.look_again(shell);
    }
}
