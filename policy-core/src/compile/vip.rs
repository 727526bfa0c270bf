//! Where the addresses of Services lead.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::class::Backend;
use crate::finding::{Finding, FindingReason, ObjectKind};
use crate::ids::ClassId;
use crate::model::{Backends, Cluster, Name, Namespace, Pod, Protocol, Service, ServicePort, TargetPort};
use crate::tables::VipAddress;

/// Where one address, port and protocol leads.
#[derive(Debug, Default)]
pub(super) struct Lead<'a> {
    /// The kinds of backends; empty: kube-proxy refuses the connection.
    pub(super) backends: BTreeSet<Backend>,
    /// The Service; None for a host port.
    pub(super) service: Option<(&'a Name, &'a Name)>,
}

/// All addresses of Services, node ports and host ports, with their backends by the
/// class that `class_of` gives an address.
pub(super) fn leads<'a>(
    cluster: &'a Cluster,
    class_of: &dyn Fn(IpAddr) -> ClassId,
    findings: &mut Vec<Finding>,
) -> BTreeMap<VipAddress, Lead<'a>> {
    let mut leads: BTreeMap<VipAddress, Lead<'a>> = BTreeMap::new();
    for (namespace, content) in &cluster.namespaces {
        for (name, service) in &content.services {
            for port in &service.ports {
                let fronts = service.addresses.iter().map(|address| (*address, port.port));
                let node_port = port
                    .node_port
                    .into_iter()
                    .flat_map(|number| cluster.node.addresses.iter().map(move |address| (*address, number)));
                for (address, number) in fronts.chain(node_port) {
                    let key = VipAddress { address, port: number, protocol: port.protocol };
                    let lead = leads.entry(key).or_default();
                    if let Some(other) = lead.service
                        && other != (namespace, name)
                    {
                        findings.push(conflict(namespace, name, other, &key));
                    }
                    lead.service = Some((namespace, name));
                    let found = backends(content, service, port, address.is_ipv4(), class_of);
                    lead.backends.extend(found);
                }
            }
        }
        for (_, pod) in content
            .pods
            .iter()
            .filter(|(_, pod)| pod.counts() && pod.node.as_ref() == Some(&cluster.node.name))
        {
            host_ports(cluster, pod, class_of, &mut leads);
        }
    }
    leads
}

fn backends(
    content: &Namespace,
    service: &Service,
    port: &ServicePort,
    ipv4: bool,
    class_of: &dyn Fn(IpAddr) -> ClassId,
) -> BTreeSet<Backend> {
    let protocol = port.protocol.number();
    let backend = |address: IpAddr, port: u16| Backend { class: class_of(address), protocol, port };
    match &service.backends {
        Backends::Pods(selector) => content
            .pods
            .values()
            .filter(|pod| pod.serves() && selector.matches(&pod.labels))
            .filter_map(|pod| {
                let address = pod.addresses.iter().find(|address| address.is_ipv4() == ipv4)?;
                Some(backend(*address, target(pod, port)?))
            })
            .collect(),
        Backends::Listed(list) => list
            .iter()
            .filter(|one| {
                one.port_name == port.name && one.protocol == port.protocol && one.address.is_ipv4() == ipv4
            })
            .map(|one| backend(one.address, one.port))
            .collect(),
    }
}

/// The port of a pod behind a Service's port: of several containers with a port of
/// that name, the first has it, as the endpoints controller decides too.
pub(crate) fn target(pod: &Pod, port: &ServicePort) -> Option<u16> {
    match &port.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Named(name) => pod
            .ports
            .iter()
            .find(|one| one.protocol == port.protocol && one.name.as_ref() == Some(name))
            .map(|one| one.port),
    }
}

fn host_ports<'a>(
    cluster: &Cluster,
    pod: &Pod,
    class_of: &dyn Fn(IpAddr) -> ClassId,
    leads: &mut BTreeMap<VipAddress, Lead<'a>>,
) {
    for port in pod.ports.iter() {
        let Some(host_port) = port.host_port else { continue };
        for front in &cluster.node.addresses {
            let same_family = |address: &&IpAddr| address.is_ipv4() == front.is_ipv4();
            let Some(address) = pod.addresses.iter().find(same_family) else { continue };
            let protocol: Protocol = port.protocol;
            let key = VipAddress { address: *front, port: host_port, protocol };
            leads.entry(key).or_default().backends.insert(Backend {
                class: class_of(*address),
                protocol: protocol.number(),
                port: port.port,
            });
        }
    }
}

fn conflict(namespace: &Name, name: &Name, other: (&Name, &Name), at: &VipAddress) -> Finding {
    Finding {
        kind: ObjectKind::Service,
        namespace: Name::clone(namespace),
        name: Name::clone(name),
        path: "spec".into(),
        reason: FindingReason::ServiceConflict,
        message: format!(
            "{} {}/{} is also claimed by {}/{}; allowed only where both would be",
            at.address, at.protocol, at.port, other.0, other.1
        ),
    }
}
