//! Where Services lead.

use std::net::IpAddr;

use super::party::Party;
use super::ruling::{Reason, Ruling};
use super::{rule, speaks_of};
use crate::model::{Backends, Cluster, Direction, Protocol, ServicePort, TargetPort, is_link_local};

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

/// What denies `from` a flow to the external address of a Service as such, whatever the
/// Service leads to: who may write a Service chose the address. `front` is who has it
/// without the Service. None: it is no such address, or nothing denies it. Isolation by
/// NetworkPolicies alone does where `front` is a pod, or the policies name its address.
pub fn front(
    cluster: &Cluster,
    from: Party<'_>,
    front: Party<'_>,
    protocol: Protocol,
    port: u16,
) -> Option<Ruling> {
    let address = front.address();
    let mut services = cluster.namespaces.values().flat_map(|content| content.services.values());
    let external = services.any(|service| {
        let at = |entry: &ServicePort| entry.port == port && entry.protocol == protocol;
        service.external.contains(&address)
            && service.addresses.contains(&address)
            && service.ports.iter().any(at)
    });
    let ruling = rule(cluster, Direction::Egress, from, front, protocol.number(), port);
    if !external || ruling.allows() {
        return None;
    }
    let counts = ruling.reason != Reason::Isolated
        || matches!(front, Party::Pod { .. })
        || is_link_local(address)
        || speaks_of(cluster, from, front);
    counts.then_some(ruling)
}
