//! The NetworkPolicy specification read directly: slow, and sharing nothing with the
//! compiler but the model. Tests compare the two.

use std::net::IpAddr;

use crate::model::{
    Backends, Cluster, Direction, Name, Peer, Peers, Pod, PolicyKey, PortMatch, Ports, Protocol, TargetPort,
};

/// One end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party<'a> {
    /// A pod that policy knows, reached by one of its addresses.
    Pod {
        /// Its namespace.
        namespace: &'a Name,
        /// Its name.
        name: &'a Name,
        /// Its content.
        pod: &'a Pod,
        /// The address.
        address: IpAddr,
    },
    /// Any other address.
    Outside(IpAddr),
}

impl<'a> Party<'a> {
    /// Who has an address.
    pub fn at(cluster: &'a Cluster, address: IpAddr) -> Self {
        match cluster.owner(address) {
            Some((namespace, name, pod)) => Self::Pod { namespace, name, pod, address },
            None => Self::Outside(address),
        }
    }

    /// The address.
    pub fn address(&self) -> IpAddr {
        match self {
            Self::Pod { address, .. } | Self::Outside(address) => *address,
        }
    }
}

/// What one direction says to a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// The policies that isolate the pod in this direction, by name.
    pub isolated_by: Vec<PolicyKey>,
    /// The first rule that allows the flow: its policy and its place there.
    pub allowed_by: Option<(PolicyKey, u32)>,
}

impl Ruling {
    /// Whether the flow passes in this direction.
    pub fn allows(&self) -> bool {
        self.isolated_by.is_empty() || self.allowed_by.is_some()
    }
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
    let mut ruling = Ruling { isolated_by: Vec::new(), allowed_by: None };
    let Party::Pod { namespace, pod, .. } = subject else { return ruling };
    let Some(content) = cluster.namespaces.get(namespace) else { return ruling };
    for (name, policy) in &content.policies {
        let Some(rules) = policy.rules(direction) else { continue };
        if !policy.subject.matches(&pod.labels) {
            continue;
        }
        let key = PolicyKey { namespace: namespace.clone(), name: name.clone() };
        // The port is always one of the destination.
        let target = match direction {
            Direction::Ingress => subject,
            Direction::Egress => peer,
        };
        for (rule, index) in rules.iter().zip(0_u32..) {
            if ruling.allowed_by.is_none()
                && reaches(cluster, &rule.peers, peer)
                && opens(&rule.ports, target, protocol, port)
            {
                ruling.allowed_by = Some((key.clone(), index));
            }
        }
        ruling.isolated_by.push(key);
    }
    ruling
}

fn reaches(cluster: &Cluster, peers: &Peers, party: Party<'_>) -> bool {
    let Peers::Only(list) = peers else { return true };
    list.iter().any(|peer| match (peer, party) {
        (Peer::Block(block), _) => block.contains(party.address()),
        (Peer::Pods { .. }, Party::Outside(_)) => false,
        (Peer::Pods { namespaces, pods }, Party::Pod { namespace, pod, .. }) => {
            let labels = cluster.namespaces.get(namespace).and_then(|n| n.labels.as_deref());
            namespaces.matches(namespace, labels) && pods.matches(&pod.labels)
        }
    })
}

fn opens(ports: &Ports, target: Party<'_>, protocol: u8, port: u16) -> bool {
    let Ports::Only(list) = ports else { return true };
    let Some(spoken) = Protocol::from_number(protocol) else { return false };
    list.iter().any(|entry| match entry {
        PortMatch::Numbers(range) => range.contains(spoken, port),
        PortMatch::Named { protocol, name } => {
            *protocol == spoken
                && match target {
                    Party::Pod { pod, .. } => pod.named_port(name, spoken).contains(&port),
                    Party::Outside(_) => false,
                }
        }
    })
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

/// Where a Service's address, port and protocol (or a node's, by a node port or host
/// port) lead: addresses and ports of backends. None: nothing translates it.
pub fn resolve(
    cluster: &Cluster,
    address: IpAddr,
    protocol: Protocol,
    port: u16,
) -> Option<Vec<(IpAddr, u16)>> {
    let mut found: Option<Vec<(IpAddr, u16)>> = None;
    if cluster.node.addresses.contains(&address) {
        let here = cluster.pods().filter(|(_, _, pod)| pod.node.as_ref() == Some(&cluster.node.name));
        for (_, _, pod) in here.filter(|(_, _, pod)| pod.counts()) {
            for open in pod.ports.iter().filter(|p| p.protocol == protocol && p.host_port == Some(port)) {
                let same = pod.addresses.iter().find(|a| a.is_ipv4() == address.is_ipv4());
                found.get_or_insert_default().extend(same.map(|inner| (*inner, open.port)));
            }
        }
    }
    for content in cluster.namespaces.values() {
        for service in content.services.values() {
            for entry in &service.ports {
                let front = service.addresses.contains(&address) && entry.port == port;
                let node = cluster.node.addresses.contains(&address) && entry.node_port == Some(port);
                if !(front || node) || entry.protocol != protocol {
                    continue;
                }
                let list = found.get_or_insert_default();
                match &service.backends {
                    Backends::Listed(backends) => list.extend(
                        backends
                            .iter()
                            .filter(|b| b.port_name == entry.name && b.protocol == protocol)
                            .filter(|b| b.address.is_ipv4() == address.is_ipv4())
                            .map(|b| (b.address, b.port)),
                    ),
                    Backends::Pods(selector) => {
                        for pod in content.pods.values() {
                            if !pod.serves() || !selector.matches(&pod.labels) {
                                continue;
                            }
                            let number = match &entry.target {
                                TargetPort::Number(number) => Some(*number),
                                TargetPort::Named(name) => pod
                                    .ports
                                    .iter()
                                    .find(|p| p.name.as_ref() == Some(name) && p.protocol == protocol)
                                    .map(|p| p.port),
                            };
                            let same = pod.addresses.iter().find(|a| a.is_ipv4() == address.is_ipv4());
                            list.extend(same.copied().zip(number));
                        }
                    }
                }
            }
        }
    }
    found
}
