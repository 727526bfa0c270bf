//! What an agent can do and is told.

use std::net::IpAddr;

use ipam_core::{Action, AttachmentId, EniId, Failure, MacAddr, Now, Operation, Refusal, Reply};
use ipnetwork::IpNetwork;

use super::planner::PlannerNode;
use super::pods::PodId;
use super::shell::{NodeId, Shell};

/// The number of a call under way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

/// A call to EC2.
#[derive(Clone, PartialEq, Debug)]
pub enum Request {
    /// One that the pool's planner has a name for.
    Do(Action),
    /// One that only costs a token and time.
    Only(Operation),
}

impl Request {
    /// The call that it makes.
    pub fn operation(&self) -> Operation {
        match self {
            Self::Do(action) => action.operation(),
            Self::Only(operation) => *operation,
        }
    }
}

/// How an ADD ended that got no address.
#[derive(Clone, PartialEq, Debug)]
pub enum Verdict {
    /// At its deadline, with its reason.
    Refused(Refusal),
    /// At once, without one.
    NoAddress,
    /// At once: its sandbox had an address whose ENI is gone.
    Lost,
}

/// An attached ENI as the metadata service lists it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundEni {
    /// Its id.
    pub id: EniId,
    /// Its attachment.
    pub attachment: AttachmentId,
    /// Its secondary addresses and prefixes.
    pub blocks: Vec<IpNetwork>,
}

/// A node's agent.
pub trait Agent {
    /// Its process starts.
    fn boot(&mut self, host: &mut Host<'_>);
    /// Its process dies and starts again; calls under way are not answered.
    fn restart(&mut self, host: &mut Host<'_>);
    /// The kubelet starts a pod.
    fn add(&mut self, pod: PodId, host: &mut Host<'_>);
    /// The Kubernetes API shows something new of the node's pods.
    fn told(&mut self, _host: &mut Host<'_>) {}
    /// A pod is gone, whether it had an address or not.
    fn del(&mut self, pod: PodId, host: &mut Host<'_>);
    /// EC2 answers.
    fn replied(&mut self, ticket: Ticket, answer: Result<Reply, Failure>, host: &mut Host<'_>);
    /// The kernel shows the link of an ENI that was attached.
    fn link_up(&mut self, mac: MacAddr, host: &mut Host<'_>);
    /// Its timer is due.
    fn wake(&mut self, host: &mut Host<'_>);
    /// All that happened at this instant has been told.
    fn step(&mut self, host: &mut Host<'_>);
    /// The product's own agent, for what only it listens to.
    fn as_planner(&mut self) -> Option<&mut PlannerNode> {
        None
    }
}

/// What an agent sees of the world.
pub struct Host<'a> {
    /// Its node.
    pub node: NodeId,
    pub(crate) shell: &'a mut Shell,
}

impl Host<'_> {
    /// The time.
    pub fn now(&self) -> Now {
        self.shell.now()
    }

    /// Begins a call; a periodic read is not counted.
    pub fn call(&mut self, request: Request, periodic: bool) -> Ticket {
        self.shell.call(self.node, request, periodic)
    }

    /// The timer: one for each node, the latest setting holds.
    pub fn wake_at(&mut self, at: Option<Now>) {
        self.shell.wake_at(self.node, at);
    }

    /// A pod has its address.
    pub fn placed(&mut self, pod: PodId, address: IpAddr) {
        self.shell.placed(pod, address);
    }

    /// An ADD ends without one; the kubelet comes again.
    pub fn turned_away(&mut self, pod: PodId, verdict: &Verdict) {
        self.shell.turned_away(pod, verdict);
    }

    /// The agent can serve: pods that came too early come now.
    pub fn ready(&mut self) {
        self.shell.ready(self.node);
    }

    /// Pods bound to this node, each with whether the API shows its address.
    pub fn shown_pods(&self) -> Vec<(PodId, bool)> {
        self.shell.shown_pods(self.node).collect()
    }

    /// Whether the metadata service lists an ENI.
    pub fn imds_lists(&self, eni: &EniId) -> bool {
        self.shell.imds_lists(eni)
    }

    /// Every attached ENI that the metadata service lists.
    pub fn imds_enis(&self) -> Vec<FoundEni> {
        self.shell.imds_enis(self.node)
    }

    /// The lowest device index that no ENI of this node has.
    pub fn free_device_index(&self) -> u32 {
        self.shell.free_device_index(self.node)
    }

    /// The MAC addresses of all attached ENIs but the primary one, as the
    /// kernel shows them.
    pub fn links(&self) -> Vec<MacAddr> {
        self.shell.links(self.node)
    }

    /// Uniform in `[0, 1)`: the next draw of this node.
    pub fn dice(&mut self) -> f64 {
        self.shell.node_dice(self.node)
    }
}
