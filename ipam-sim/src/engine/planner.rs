//! A node of ours: the real planner, driven as the agent's pool task drives it.

use std::collections::HashMap;

use ipam_core::{
    AccountLimits, Action, Asked, Failure, Identity, InstanceId, Intent, Line, Load, MacAddr, Now, Operation,
    PodRef, PoolState, Reply, SandboxKey, Saved, Shape, Targets, Truth, Waiter, plan,
};

use super::agent::{Agent, Host, Request, Ticket, Verdict};
use super::pods::PodId;

/// Nodes of the cluster, as the Kubernetes API says. Of the others none waits:
/// but a node that did not know would have to be careful.
const CLUSTER_NODES: u32 = 5000;

/// How long an agent that starts waits for the API to say who else needs EC2.
const EXPECTATION: std::time::Duration = std::time::Duration::from_secs(5);

/// The last read of a kind.
#[derive(Clone, Copy, Debug)]
struct LastRead {
    at: Now,
    /// Whether something but the passing of time asks for the next one.
    has_cause: bool,
}

/// The agent's pool on one node.
pub struct PlannerNode {
    state: PoolState,
    targets: Targets,
    instance: InstanceId,
    /// Calls under way and their intents.
    running: HashMap<Ticket, Intent>,
    /// The sandbox of each pod's present ADD.
    sandboxes: HashMap<PodId, SandboxKey>,
    pods: HashMap<SandboxKey, PodId>,
    sandbox_count: u64,
    starts: u64,
    /// What the checkpoint holds: written after every change of a lease.
    saved: Saved,
    serving: bool,
    reads: HashMap<Operation, LastRead>,
    /// Who else waits for EC2: in a world of one node, nobody.
    line: Line<InstanceId>,
    /// Where it stands when something is spread over the cluster.
    spread: Option<f64>,
    /// A driver tells what the API shows, this node alone does not know.
    led: bool,
}

impl PlannerNode {
    /// A node that starts with an empty checkpoint.
    pub fn new(instance: InstanceId, targets: Targets) -> Self {
        let mut line = Line::new(AccountLimits::default(), Shape::of(&targets));
        line.set_nodes(CLUSTER_NODES);
        Self {
            state: PoolState::new(identity(&instance), token_seed(&instance, 0)),
            targets,
            instance,
            running: HashMap::new(),
            sandboxes: HashMap::new(),
            pods: HashMap::new(),
            sandbox_count: 0,
            starts: 0,
            saved: Saved::default(),
            serving: false,
            reads: HashMap::new(),
            line,
            spread: None,
            led: false,
        }
    }

    /// The pool, for what the Kubernetes API tells the agent. The node looks
    /// at it again at the end of this instant.
    pub fn pool(&mut self) -> &mut PoolState {
        &mut self.state
    }

    /// From now on a driver tells the pool what the Kubernetes API shows of
    /// this node and of all others, with [`PlannerNode::pod_ref`].
    pub fn follow_driver(&mut self) {
        self.led = true;
        self.state.expect_queue(Now::default() + EXPECTATION);
    }

    /// The name by which the pool knows a pod.
    pub fn pod_ref(pod: PodId) -> PodRef {
        pod_ref(pod)
    }

    /// The pool's targets.
    pub fn targets(&self) -> &Targets {
        &self.targets
    }

    /// Why an ADD could not be answered, for each that waits now.
    pub fn waiting(&self) -> usize {
        self.state.waiters().count()
    }

    fn take(&mut self, key: &SandboxKey) -> Option<PodId> {
        let pod = self.pods.remove(key)?;
        self.sandboxes.remove(&pod);
        Some(pod)
    }

    fn begin(&mut self, action: Action, host: &mut Host<'_>) {
        let now = host.now();
        let periodic = self.is_periodic(&action, now);
        let intent = self.state.begin(action, &self.targets, now);
        if !intent.action.operation().is_mutating() {
            self.reads.insert(intent.action.operation(), LastRead { at: now, has_cause: false });
        }
        let ticket = host.call(Request::Do(intent.action.clone()), periodic);
        self.running.insert(ticket, intent);
    }

    /// A read that nothing has asked for but the clock: as long after the one
    /// before as a reconciliation may come, and no call has failed meanwhile.
    fn is_periodic(&self, action: &Action, now: Now) -> bool {
        let shortest = self.targets.timing.reconcile_every.mul_f64(0.75);
        let last = self.reads.get(&action.operation());
        last.is_some_and(|last| now.since(last.at) >= shortest && !last.has_cause)
    }

    fn reads_have_cause(&mut self) {
        self.reads.values_mut().for_each(|read| read.has_cause = true);
    }

    fn look(&mut self, host: &mut Host<'_>) {
        let now = host.now();
        for expired in self.state.settle(&self.targets, now) {
            if let Some(pod) = self.take(&expired.key) {
                host.turned_away(pod, &Verdict::Refused(expired.reason));
            }
        }
        let served = self.state.serve(&self.targets, now);
        for served in served {
            self.state.commit(&served.key, "eni");
            if let Some(pod) = self.pods.get(&served.key) {
                host.placed(*pod, served.grant.address);
            }
        }
        self.state.settle(&self.targets, now);
        for action in plan(&self.state, &self.targets, now).actions {
            self.begin(action, host);
        }
        host.wake_at(plan(&self.state, &self.targets, now).wake_at);
        if !self.serving && self.state.truth() != Truth::Unknown {
            self.serving = true;
            self.told(host);
            host.ready();
        }
    }
}

fn identity(instance: &InstanceId) -> Identity {
    Identity { instance: instance.clone(), manage_untagged: false }
}

fn pod_ref(pod: PodId) -> PodRef {
    let name = format!("pod-{}", pod.0);
    PodRef { namespace: "default".to_owned(), uid: Some(name.clone()), name }
}

fn token_seed(instance: &InstanceId, start: u64) -> String {
    format!("{instance}-{start}")
}

impl Agent for PlannerNode {
    fn boot(&mut self, host: &mut Host<'_>) {
        self.told(host);
        self.look(host);
    }

    fn restart(&mut self, host: &mut Host<'_>) {
        // The checkpoint is written before each reply, so it holds this.
        self.saved = self.state.save();
        self.starts += 1;
        self.state = PoolState::new(identity(&self.instance), token_seed(&self.instance, self.starts));
        self.state.restore(std::mem::take(&mut self.saved));
        for (_, intent) in self.running.drain() {
            // The journal holds every change that was begun and not ended.
            if intent.action.operation().is_mutating() {
                self.state.recover(intent.action, &self.targets, host.now());
            }
        }
        for mac in host.links() {
            self.state.set_link(mac, true);
        }
        self.serving = false;
        self.reads_have_cause();
        self.told(host);
        self.look(host);
    }

    fn add(&mut self, pod: PodId, host: &mut Host<'_>) {
        let now = host.now();
        self.sandbox_count += 1;
        let key = SandboxKey {
            network: "aws-cni".to_owned(),
            container_id: format!("{}.{}", pod.0, self.sandbox_count),
            ifname: "eth0".to_owned(),
        };
        let deadline = now + self.targets.lease_patience();
        let waiter = Waiter { key: key.clone(), pod: Some(pod_ref(pod)), since: now, deadline };
        let asked = self.state.ask(waiter);
        match asked {
            Asked::Known(grant) => host.placed(pod, grant.address),
            Asked::Queued => {}
            Asked::Lost { .. } => host.turned_away(pod, &Verdict::Lost),
        }
        self.sandboxes.insert(pod, key.clone());
        self.pods.insert(key, pod);
    }

    fn del(&mut self, pod: PodId, host: &mut Host<'_>) {
        if let Some(key) = self.sandboxes.remove(&pod) {
            self.pods.remove(&key);
            self.state.release(&key, &self.targets, host.now());
        }
    }

    fn told(&mut self, host: &mut Host<'_>) {
        if self.led {
            return;
        }
        let (now, shown) = (host.now(), host.shown_pods());
        let waiting: Vec<PodRef> =
            shown.iter().filter(|(_, addressed)| !addressed).map(|(pod, _)| pod_ref(*pod)).collect();
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let load = Load {
            waiting: count(waiting.len()),
            addressed: count(shown.len() - waiting.len()),
            booting: !self.serving,
        };
        self.line.update(&self.instance, load, now);
        let spread = *self.spread.get_or_insert_with(|| host.dice());
        let queue = self.line.queue(&self.instance, spread, now);
        self.state.queue(queue, now);
        self.state.announce_pods(waiting);
    }

    fn replied(&mut self, ticket: Ticket, answer: Result<Reply, Failure>, host: &mut Host<'_>) {
        let Some(intent) = self.running.remove(&ticket) else {
            return;
        };
        if answer.is_err() {
            self.reads_have_cause();
        }
        let dice = host.dice();
        self.state.complete(intent.id, answer, &self.targets, host.now(), dice);
    }

    fn link_up(&mut self, mac: MacAddr, _host: &mut Host<'_>) {
        self.state.set_link(mac, true);
    }

    fn wake(&mut self, _host: &mut Host<'_>) {}

    fn step(&mut self, host: &mut Host<'_>) {
        self.look(host);
    }

    fn as_planner(&mut self) -> Option<&mut PlannerNode> {
        Some(self)
    }
}
