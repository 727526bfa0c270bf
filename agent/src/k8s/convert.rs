//! From objects as they come to the model of policy-core.

use std::net::IpAddr;
use std::sync::Arc;

use policy_core::model::{
    Backends, ContainerPort, Labels, NAMESPACE_NAME_LABEL, Node, Pod, PodState, Policy, Protocol, Selector,
    Service, ServiceBackend, ServicePort, TargetPort,
};
use policy_core::parse::{
    RawBlock, RawPeer, RawPolicy, RawPort, RawPortValue, RawRequirement, RawRule, RawSelector, parse_policy,
};
use policy_core::{Finding, FindingReason, ObjectKind};

use super::announce;
use super::intern::Interner;
use super::object::{
    IntOrString, LabelSelector, NamespaceLite, NodeAddress, Peer, PeerNodeLite, PodLite, PodStatus,
    PolicyLite, PolicyPort, Port, ServiceLite, SliceLite,
};

/// Of what was written in an annotation no more characters are repeated.
const LONGEST_QUOTE: usize = 64;

/// Whether a pod object is worth keeping, and what of it. Pods of other nodes matter
/// only while they have an address of their own; those of this node always do.
pub(super) fn pod(interner: &mut Interner, lite: &PodLite, node: &str) -> Option<Pod> {
    let local = lite.spec.node_name.is_empty() || lite.spec.node_name == node;
    let mut state = match lite.status.phase.as_str() {
        "Succeeded" | "Failed" => PodState::Completed,
        _ if lite.metadata.deletion_timestamp.is_some() => PodState::Terminating,
        _ => PodState::Live,
    };
    let mut addresses = status_addresses(&lite.status);
    if addresses.is_empty() && state != PodState::Completed {
        addresses = told_addresses(lite);
        if !addresses.is_empty() {
            state = PodState::Announced;
        }
    }
    let host_network = lite.spec.host_network;
    // One on its node's network is no peer, but it may stand behind a Service.
    let reachable = state != PodState::Completed && !addresses.is_empty();
    if !(reachable || local && !lite.spec.node_name.is_empty()) {
        return None;
    }
    // Sidecars are init containers that are restarted.
    let sidecars = lite
        .spec
        .init_containers
        .iter()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports: Vec<ContainerPort> = lite
        .spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| &container.ports)
        .filter_map(|port| container_port(interner, port))
        .collect();
    // Only of this node's pods is the UID ever asked for.
    let uid = match (&lite.metadata.annotations.mirror, local) {
        (Some(mirror), true) => mirror.as_str().into(),
        (None, true) => lite.metadata.uid.as_str().into(),
        (_, false) => interner.name(""),
    };
    Some(Pod {
        uid,
        labels: interner.labels(&lite.metadata.labels),
        addresses: addresses.into(),
        ports: interner.ports(ports),
        node: (!lite.spec.node_name.is_empty()).then(|| interner.name(&lite.spec.node_name)),
        state,
        host_network,
        audit: local && is_audited(lite) == Some(true),
    })
}

/// The addresses of a pod's status, sorted.
fn status_addresses(status: &PodStatus) -> Vec<IpAddr> {
    let written = status.pod_ips.iter().map(|one| one.ip.as_str()).chain([status.pod_ip.as_str()]);
    sorted(written.filter_map(|text| text.parse().ok()).collect())
}

/// Those that the agent of a pod's node told in a condition of its own; they count until the kubelet has written some.
fn told_addresses(lite: &PodLite) -> Vec<IpAddr> {
    match lite.spec.node_name.is_empty() {
        true => Vec::new(),
        false => sorted(announce::addresses(&lite.status.conditions)),
    }
}

/// Whether a pod has addresses, by either.
pub(super) fn is_addressed(lite: &PodLite) -> bool {
    !status_addresses(&lite.status).is_empty() || !told_addresses(lite).is_empty()
}

fn sorted(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// What the annotation says; None where it cannot be understood.
fn is_audited(lite: &PodLite) -> Option<bool> {
    match lite.metadata.annotations.policy_audit.as_deref() {
        None | Some("false") => Some(false),
        Some("true") => Some(true),
        Some(_) => None,
    }
}

/// What in a pod of this node could not be taken as written; `audit`: its annotation for audit is heeded.
pub(super) fn pod_finding(lite: &PodLite, node: &str, audit: bool) -> Option<Finding> {
    if lite.spec.node_name != node {
        return None;
    }
    let said = lite.metadata.annotations.policy_audit.as_deref().unwrap_or_default();
    let said: String = said.chars().take(LONGEST_QUOTE).collect();
    let (reason, message) = match is_audited(lite) {
        None => (
            FindingReason::InvalidAnnotation,
            format!("{said:?} is neither \"true\" nor \"false\": policy is enforced for this pod"),
        ),
        Some(true) if !audit => (
            FindingReason::AuditDisabled,
            "pods are not audited on this node, policy is enforced: TIDEPOOL_POLICY_AUDIT is neither annotated \
             nor true"
                .to_owned(),
        ),
        Some(_) => return None,
    };
    Some(Finding {
        kind: ObjectKind::Pod,
        namespace: lite.metadata.namespace.as_str().into(),
        name: lite.metadata.name.as_str().into(),
        path: "metadata.annotations[tidepool.dev/policy-audit]".to_owned(),
        reason,
        message,
    })
}

/// The addresses of a Node object, of every type, sorted: its ports answer on all of them.
pub(super) fn node_addresses(list: &[NodeAddress]) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = list.iter().filter_map(|one| one.address.parse().ok()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// A node as a peer.
pub(super) fn peer_node(interner: &mut Interner, lite: &PeerNodeLite) -> Node {
    Node {
        labels: interner.labels(&lite.metadata.labels),
        addresses: node_addresses(&lite.status.addresses).into(),
    }
}

fn container_port(interner: &mut Interner, port: &Port) -> Option<ContainerPort> {
    Some(ContainerPort {
        name: port.name.as_deref().filter(|name| !name.is_empty()).map(|name| interner.name(name)),
        protocol: protocol(port.protocol.as_deref())?,
        port: port_number(port.container_port)?,
        host_port: port_number(port.host_port),
    })
}

fn protocol(name: Option<&str>) -> Option<Protocol> {
    name.map_or(Some(Protocol::Tcp), Protocol::from_name)
}

fn port_number(number: i64) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port != 0)
}

/// A namespace's labels, with that of its name whatever was written.
pub(super) fn namespace(interner: &mut Interner, lite: &NamespaceLite) -> Arc<Labels> {
    let mut labels = lite.metadata.labels.clone();
    labels.insert(NAMESPACE_NAME_LABEL.to_owned(), lite.metadata.name.clone());
    interner.labels(&labels)
}

/// A policy, and what in it could not be understood.
pub(super) fn policy(lite: &PolicyLite) -> (Policy, Vec<Finding>) {
    let spec = &lite.spec;
    parse_policy(&RawPolicy {
        namespace: lite.metadata.namespace.clone(),
        name: lite.metadata.name.clone(),
        pod_selector: selector(&spec.pod_selector),
        policy_types: spec.policy_types.clone(),
        ingress: spec.ingress.iter().map(|rule| raw_rule(&rule.from, &rule.ports)).collect(),
        egress: spec.egress.iter().map(|rule| raw_rule(&rule.to, &rule.ports)).collect(),
    })
}

fn raw_rule(peers: &[Peer], ports: &[PolicyPort]) -> RawRule {
    RawRule {
        peers: peers
            .iter()
            .map(|peer| RawPeer {
                pod_selector: peer.pod_selector.as_ref().map(selector),
                namespace_selector: peer.namespace_selector.as_ref().map(selector),
                ip_block: peer
                    .ip_block
                    .as_ref()
                    .map(|block| RawBlock { cidr: block.cidr.clone(), except: block.except.clone() }),
            })
            .collect(),
        ports: ports
            .iter()
            .map(|port| RawPort {
                protocol: port.protocol.clone(),
                port: port.port.as_ref().map(|value| match value {
                    IntOrString::Int(number) => RawPortValue::Number(*number),
                    IntOrString::String(name) => RawPortValue::Name(name.clone()),
                }),
                end_port: port.end_port,
            })
            .collect(),
    }
}

pub(super) fn selector(lite: &LabelSelector) -> RawSelector {
    RawSelector {
        match_labels: lite.match_labels.clone(),
        match_expressions: lite
            .match_expressions
            .iter()
            .map(|one| RawRequirement {
                key: one.key.clone(),
                operator: one.operator.clone(),
                values: one.values.clone(),
            })
            .collect(),
    }
}

/// The label of Services that kube-proxy leaves to another proxy, whatever its value.
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";

/// A Service; None where it has no address that the node translates. Its listed
/// backends are filled in from the slices.
pub(super) fn service(interner: &mut Interner, lite: &ServiceLite) -> Option<Service> {
    let spec = &lite.spec;
    // Neither those without an address of the cluster nor those that are left to another
    // proxy are translated: what addresses they name besides says nothing then.
    let address = spec.cluster_ips.first().unwrap_or(&spec.cluster_ip);
    let headless = address.parse::<IpAddr>().is_err();
    if spec.kind == "ExternalName" || headless || lite.metadata.labels.contains_key(OTHER_PROXY) {
        return None;
    }
    let balancers = lite
        .status
        .load_balancer
        .ingress
        .iter()
        // With the mode Proxy, traffic goes out to the load balancer.
        .filter(|one| one.ip_mode.as_deref() != Some("Proxy"))
        .map(|one| &one.ip);
    let mut addresses: Vec<IpAddr> = spec
        .cluster_ips
        .iter()
        .chain([&spec.cluster_ip])
        .chain(balancers)
        .filter_map(|text| text.parse().ok())
        .collect();
    let mut external: Vec<IpAddr> = spec
        .external_ips
        .iter()
        .filter_map(|text| text.parse().ok())
        .filter(|address| !addresses.contains(address))
        .collect();
    external.sort_unstable();
    external.dedup();
    addresses.extend(&external);
    addresses.sort_unstable();
    addresses.dedup();
    let ports: Vec<ServicePort> = spec
        .ports
        .iter()
        .filter_map(|port| {
            let number = port_number(port.port)?;
            Some(ServicePort {
                name: interner.name(&port.name),
                protocol: protocol(port.protocol.as_deref())?,
                port: number,
                target: match &port.target_port {
                    Some(IntOrString::Int(target)) if *target != 0 => {
                        TargetPort::Number(port_number(i64::from(*target))?)
                    }
                    Some(IntOrString::String(name)) if !name.is_empty() => {
                        TargetPort::Named(interner.name(name))
                    }
                    _ => TargetPort::Number(number),
                },
                node_port: port_number(port.node_port),
            })
        })
        .collect();
    if addresses.is_empty() || ports.is_empty() {
        return None;
    }
    let backends = if spec.selector.is_empty() {
        Backends::Listed(Vec::new())
    } else {
        let pairs = spec.selector.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        Backends::Pods(Selector::labels(pairs))
    };
    Some(Service { addresses, external, ports, backends })
}

/// The backends that a slice lists.
pub(super) fn slice(interner: &mut Interner, lite: &SliceLite) -> Vec<ServiceBackend> {
    let addresses: Vec<IpAddr> = lite
        .endpoints
        .iter()
        .flat_map(|endpoint| &endpoint.addresses)
        .filter_map(|text| text.parse().ok())
        .collect();
    let mut list = Vec::new();
    for port in &lite.ports {
        let (Some(number), Some(protocol)) =
            (port.port.and_then(port_number), protocol(port.protocol.as_deref()))
        else {
            continue;
        };
        let port_name = interner.name(&port.name);
        list.extend(addresses.iter().map(|address| ServiceBackend {
            port_name: Arc::clone(&port_name),
            protocol,
            address: *address,
            port: number,
        }));
    }
    list
}
