//! The specification read directly: slow, and sharing nothing with the compiler but the
//! model. Tests compare the two.

mod party;
mod ruling;
mod service;

use std::net::IpAddr;

pub use party::Party;
pub use ruling::{Reason, Ruling};
pub use service::{front, resolve};

use crate::ids::RuleName;
use crate::model::{
    Action, Cluster, ClusterPolicy, Direction, Name, Namespace, Peer, Peers, Pod, PolicyKey, PortMatch,
    Ports, Protocol, Tier,
};

/// A new connection as it arrives at the subject or its peer.
#[derive(Clone, Copy)]
struct Asked<'a> {
    cluster: &'a Cluster,
    direction: Direction,
    subject: Party<'a>,
    peer: Party<'a>,
    protocol: u8,
    port: u16,
}

/// What the policies of `subject` say about a flow with `peer` in a direction.
/// `protocol` is the number of the IP header, `port` the destination's after the
/// translation of Services (host byte order).
pub fn rule(
    cluster: &Cluster,
    direction: Direction,
    subject: Party<'_>,
    peer: Party<'_>,
    protocol: u8,
    port: u16,
) -> Ruling {
    let asked = Asked { cluster, direction, subject, peer, protocol, port };
    let mut ruling = Ruling::by(Reason::NoPolicy);
    let Party::Pod { namespace, pod, .. } = subject else { return ruling };
    let Some(content) = cluster.namespaces.get(namespace) else { return ruling };
    let to_own_node = direction == Direction::Egress && subject.runs_on(cluster, &peer);
    if content.labels.is_none() && asked.depends_on_namespace(pod) {
        return Ruling::by(if to_own_node { Reason::OwnNode } else { Reason::UnknownNamespace });
    }
    if let Some(reason) = asked.tier(Tier::Admin, content, pod, &mut ruling.passed_by) {
        return Ruling { reason, ..ruling };
    }
    let allowed = asked.network_policies(namespace, content, pod, &mut ruling.isolated_by);
    if !ruling.isolated_by.is_empty() {
        ruling.reason = match allowed {
            _ if to_own_node => Reason::OwnNode,
            Some(rule) => Reason::Accepted(rule),
            None => Reason::Isolated,
        };
        return ruling;
    }
    if let Some(reason) = asked.tier(Tier::Baseline, content, pod, &mut ruling.passed_by) {
        ruling.reason = reason;
    }
    ruling
}

impl Asked<'_> {
    /// Whether the labels of the pod's namespace would have a say.
    fn depends_on_namespace(&self, pod: &Pod) -> bool {
        self.cluster.cluster_policies.values().any(|policy| {
            !policy.rules(self.direction).is_empty()
                && policy.subject.pods.matches(&pod.labels)
                && !policy.subject.namespaces.is_everything()
        })
    }

    /// What a tier decides; None: nothing, or it passes the flow on.
    fn tier(
        &self,
        tier: Tier,
        content: &Namespace,
        pod: &Pod,
        passed_by: &mut Vec<RuleName>,
    ) -> Option<Reason> {
        let selects = |policy: &ClusterPolicy| {
            let home = content.labels.as_deref().map(|labels| policy.subject.namespaces.matches(labels));
            policy.tier == tier && home.unwrap_or(true) && policy.subject.pods.matches(&pod.labels)
        };
        let mut policies: Vec<_> =
            self.cluster.cluster_policies.iter().filter(|(_, policy)| selects(policy)).collect();
        policies.sort_by(|a, b| a.1.priority.cmp(&b.1.priority).then_with(|| a.0.cmp(b.0)));
        for (policy, content) in policies {
            for (rule, index) in content.rules(self.direction).iter().zip(0_u32..) {
                if !self.reaches(&rule.peers) || !self.opens(&rule.ports) {
                    continue;
                }
                let (policy, name, direction) = (Name::clone(policy), rule.name.clone(), self.direction);
                let named = RuleName::Cluster { tier, policy, direction, index, name };
                match rule.action {
                    Action::Accept => return Some(Reason::Accepted(named)),
                    Action::Deny => return Some(Reason::Denied(named)),
                    Action::Pass => {
                        passed_by.push(named);
                        return None;
                    }
                }
            }
        }
        None
    }

    /// The first rule of the pod's NetworkPolicies that allows the flow; notes those
    /// that isolate it.
    fn network_policies(
        &self,
        namespace: &Name,
        content: &Namespace,
        pod: &Pod,
        isolated_by: &mut Vec<PolicyKey>,
    ) -> Option<RuleName> {
        let mut allowed = None;
        for (name, policy) in &content.policies {
            let Some(rules) = policy.rules(self.direction) else { continue };
            if !policy.subject.matches(&pod.labels) {
                continue;
            }
            let key = PolicyKey { namespace: Name::clone(namespace), name: Name::clone(name) };
            for (rule, index) in rules.iter().zip(0_u32..) {
                if allowed.is_none() && self.reaches(&rule.peers) && self.opens(&rule.ports) {
                    allowed = Some(RuleName::Rule(key.clone(), self.direction, index));
                }
            }
            isolated_by.push(key);
        }
        allowed
    }

    fn reaches(&self, peers: &Peers) -> bool {
        let Peers::Only(list) = peers else { return true };
        list.iter().any(|peer| match (peer, self.peer) {
            (Peer::Block(block), party) => block.contains(party.address()),
            (Peer::Nodes(_), Party::Pod { .. }) => false,
            (Peer::Nodes(selector), Party::Node(address) | Party::Outside(address)) => {
                let mut nodes = self.cluster.nodes.values();
                nodes.any(|node| node.addresses.contains(&address) && selector.matches(&node.labels))
            }
            (Peer::Pods { .. }, Party::Node(_) | Party::Outside(_)) => false,
            (Peer::Pods { namespaces, pods }, Party::Pod { namespace, pod, .. }) => {
                let labels = self.cluster.namespaces.get(namespace).and_then(|n| n.labels.as_deref());
                namespaces.matches(namespace, labels) && pods.matches(&pod.labels)
            }
        })
    }

    /// Whether the destination port is meant: a name is one of the destination's.
    fn opens(&self, ports: &Ports) -> bool {
        let Ports::Only(list) = ports else { return true };
        let target = match self.direction {
            Direction::Ingress => self.subject,
            Direction::Egress => self.peer,
        };
        let Some(spoken) = Protocol::from_number(self.protocol) else { return false };
        list.iter().any(|entry| match entry {
            PortMatch::Numbers(range) => range.contains(spoken, self.port),
            PortMatch::Named { protocol, name } => {
                *protocol == spoken
                    && match target {
                        Party::Pod { pod, .. } => pod.named_port(name, spoken).contains(&self.port),
                        Party::Node(_) | Party::Outside(_) => false,
                    }
            }
        })
    }
}

/// Whether a block or a choice of nodes in the egress policies of `subject` names the
/// address of `peer`, excepted or not.
fn speaks_of(cluster: &Cluster, subject: Party<'_>, peer: Party<'_>) -> bool {
    let Party::Pod { namespace, pod, .. } = subject else { return false };
    let Some(content) = cluster.namespaces.get(namespace) else { return false };
    let address = peer.address();
    let named = |peers: &Peers| match peers {
        Peers::Any => false,
        Peers::Only(list) => list.iter().any(|one| match one {
            Peer::Block(block) => block.cidr.contains(address),
            Peer::Nodes(selector) => cluster
                .nodes
                .values()
                .any(|node| node.addresses.contains(&address) && selector.matches(&node.labels)),
            Peer::Pods { .. } => false,
        }),
    };
    let mut policies = content.policies.values().filter(|policy| policy.subject.matches(&pod.labels));
    let home = |policy: &ClusterPolicy| {
        content.labels.as_deref().is_some_and(|labels| policy.subject.namespaces.matches(labels))
            && policy.subject.pods.matches(&pod.labels)
    };
    let mut tiers = cluster.cluster_policies.values().filter(|policy| home(policy));
    policies.any(|policy| {
        policy.rules(Direction::Egress).unwrap_or_default().iter().any(|rule| named(&rule.peers))
    }) || tiers.any(|policy| policy.rules(Direction::Egress).iter().any(|rule| named(&rule.peers)))
}

/// The rulings at both ends of a flow between addresses, without Services.
pub fn rulings(cluster: &Cluster, from: Party<'_>, to: Party<'_>, protocol: u8, port: u16) -> [Ruling; 2] {
    [
        rule(cluster, Direction::Egress, from, to, protocol, port),
        rule(cluster, Direction::Ingress, to, from, protocol, port),
    ]
}

/// Whether a new flow passes: egress at its source and ingress at its destination.
pub fn allowed(cluster: &Cluster, from: IpAddr, to: IpAddr, protocol: u8, port: u16) -> bool {
    rulings(cluster, Party::at(cluster, from), Party::at(cluster, to), protocol, port)
        .iter()
        .all(Ruling::allows)
}
