//! The kubelet, which starts pods and tries again, and what the Kubernetes API
//! shows of them.

use std::net::IpAddr;
use std::time::Duration;

use ipam_core::Now;

use super::agent::Verdict;
use super::clock::secs;
use super::pods::{Pod, PodId, PodState};
use super::shell::{Event, News, NodeId, Shell, draws};

/// The shortest pause before a kubelet tries a pod again, and how much longer
/// it can be (its back-off with jitter).
const KUBELET_PAUSE_S: (f64, f64) = (10.0, 5.0);
/// How long after an ADD the API shows the pod's address.
const STATUS_LAG: Duration = Duration::from_secs(1);

impl Shell {
    /// A pod that will come to `node` at `at`.
    pub fn add_pod(&mut self, node: NodeId, at: Now, lifetime: Option<Duration>) -> PodId {
        let pod = PodId(self.pods.len());
        self.pods.push(Pod {
            node,
            arrives: at,
            attempts: 0,
            state: PodState::Coming,
            placed: None,
            lifetime,
        });
        self.ledger.from = Some(self.ledger.from.map_or(at, |from| from.min(at)));
        self.queue.push(at, Event::Arrive { pod });
        pod
    }

    /// A pod ends at `at`; without an address by then, it leaves all the same.
    pub fn end_pod(&mut self, pod: PodId, at: Now) {
        self.queue.push(at, Event::End { pod });
    }

    pub(crate) fn placed(&mut self, pod: PodId, address: IpAddr) {
        let now = self.now;
        let known = &mut self.pods[pod.0];
        let node = known.node;
        known.state = PodState::Running(address);
        known.placed = Some(now);
        let lifetime = known.lifetime;
        if !self.cloud.has(node, address) {
            self.ledger.breaches.push(format!("{address} given to pod {} is not on its node at EC2", pod.0));
        }
        self.ledger.placed(pod, address, now);
        self.queue.push(now + STATUS_LAG, Event::Tell { node });
        if let Some(lifetime) = lifetime {
            self.queue.push(now + lifetime, Event::End { pod });
        }
        self.news.push(News::Placed(pod));
    }

    pub(crate) fn turned_away(&mut self, pod: PodId, verdict: &Verdict) {
        let (is_caused, reason) = match verdict {
            Verdict::Refused(reason) => ((self.caused)(reason), reason.as_str()),
            Verdict::NoAddress => (false, "no_address"),
            Verdict::Lost => (false, "eni_lost"),
        };
        self.ledger.turned_away(pod, reason, is_caused);
        let attempts = u64::from(self.pods[pod.0].attempts);
        let jitter = self.dice.uniform(&[draws::KUBELET, pod.0 as u64, attempts]);
        let pause = secs(KUBELET_PAUSE_S.0 + KUBELET_PAUSE_S.1 * jitter);
        self.queue.push(self.now + pause, Event::Arrive { pod });
    }

    /// A pod's ADD comes. Returns its node, and whether the agent gets the ADD.
    pub(crate) fn arrive(&mut self, pod: PodId) -> (NodeId, bool) {
        let known = &mut self.pods[pod.0];
        let node = known.node;
        if known.state == PodState::Coming {
            known.state = PodState::Waiting;
            self.nodes[node.0].live.push(pod);
            self.news.push(News::Arrived(pod));
        } else if known.state != PodState::Waiting {
            return (node, false);
        }
        if !self.nodes[node.0].ready {
            self.nodes[node.0].parked.push(pod);
            return (node, false);
        }
        known.attempts += 1;
        (node, true)
    }

    /// A pod goes. Returns its node if the agent is to be told.
    pub(crate) fn end(&mut self, pod: PodId) -> Option<NodeId> {
        let known = &mut self.pods[pod.0];
        let node = known.node;
        let before = std::mem::replace(&mut known.state, PodState::Gone);
        if before != PodState::Gone {
            self.nodes[node.0].live.retain(|live| *live != pod);
            self.news.push(News::Ended(pod));
        }
        match before {
            PodState::Running(address) => {
                let cooldown = self.nodes[node.0].cooldown;
                self.ledger.released(address, cooldown, self.now);
                Some(node)
            }
            PodState::Waiting => Some(node),
            PodState::Coming | PodState::Gone => None,
        }
    }

    pub(crate) fn ready(&mut self, node: NodeId) {
        let shell = &mut self.nodes[node.0];
        shell.ready = true;
        self.news.push(News::Ready(node));
        for pod in std::mem::take(&mut self.nodes[node.0].parked) {
            self.queue.push(self.now, Event::Arrive { pod });
        }
    }

    /// Pods bound to `node`, as the Kubernetes API shows them: each with
    /// whether it has an address, which is shown a second after the ADD.
    pub fn shown_pods(&self, node: NodeId) -> impl Iterator<Item = (PodId, bool)> {
        let shown = move |placed: Option<Now>| placed.is_some_and(|at| at + STATUS_LAG <= self.now);
        self.nodes[node.0].live.iter().map(move |pod| (*pod, shown(self.pods[pod.0].placed)))
    }
}
