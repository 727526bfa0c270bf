//! Random clusters of a small vocabulary, so that labels, addresses and ports meet.

mod cluster_policy;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use policy_core::model::{
    Backends, Cluster, ContainerPort, Labels, LocalNode, Name, Namespace, Pod, PodState, Protocol, Selector,
    Service, ServiceBackend, ServicePort, TargetPort,
};
use policy_core::parse::{
    RawBlock, RawClusterPolicy, RawPeer, RawPolicy, RawPort, RawPortValue, RawRequirement, RawRule,
    RawSelector, parse_cluster_policy, parse_policy,
};
use policy_core::{LocalPod, PodIdentity};
use proptest::prelude::*;

/// The address of this node.
pub(crate) const NODE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 1, 254));

/// The address of another.
pub(crate) const OTHER_NODE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 1, 253));

const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const PODS: usize = 8;
const POLICIES: usize = 6;
const CLUSTER_POLICIES: usize = 4;
const SERVICES: usize = 3;

/// How many places a world has; each has a bit of its own in [`blend`].
pub(crate) const PLACES: usize = NAMESPACES.len() + PODS + POLICIES + SERVICES + CLUSTER_POLICIES + 2;

/// Everything that a cluster is made of, by place, so that two can be blended.
#[derive(Clone, Debug)]
pub(crate) struct World {
    namespaces: Vec<Option<BTreeMap<String, String>>>,
    pods: Vec<Option<(String, Pod)>>,
    policies: Vec<Option<RawPolicy>>,
    services: Vec<Option<(String, Service)>>,
    cluster_policies: Vec<Option<RawClusterPolicy>>,
    nodes: Vec<Option<BTreeMap<String, String>>>,
}

/// Two worlds.
pub(crate) fn worlds() -> impl Strategy<Value = (World, World)> {
    (world(), world())
}

/// Of each place what the one or the other has, by the bits of `picks`.
pub(crate) fn blend(one: &World, other: &World, picks: u64) -> World {
    let mut bit = 0;
    let mut pick = || {
        bit += 1;
        picks >> (bit % 64) & 1 == 0
    };
    fn mix<T: Clone>(one: &[T], other: &[T], pick: &mut impl FnMut() -> bool) -> Vec<T> {
        one.iter().zip(other).map(|(a, b)| if pick() { a.clone() } else { b.clone() }).collect()
    }
    World {
        namespaces: mix(&one.namespaces, &other.namespaces, &mut pick),
        pods: mix(&one.pods, &other.pods, &mut pick),
        policies: mix(&one.policies, &other.policies, &mut pick),
        services: mix(&one.services, &other.services, &mut pick),
        cluster_policies: mix(&one.cluster_policies, &other.cluster_policies, &mut pick),
        nodes: mix(&one.nodes, &other.nodes, &mut pick),
    }
}

/// Pods of the even places are on this node.
pub(crate) fn local(cluster: &Cluster) -> Vec<LocalPod> {
    let mut list = Vec::new();
    for (namespace, name, pod) in cluster.pods() {
        let place: u32 = name.trim_start_matches('p').parse().expect("names are p0 to p7");
        let here = pod.node.as_ref() == Some(&cluster.node.name);
        if here && pod.counts() {
            list.push(LocalPod {
                slot: place + 1,
                sandbox: format!("{namespace}/{name}").into(),
                identity: Some(PodIdentity {
                    namespace: Name::clone(namespace),
                    name: Name::clone(name),
                    uid: None,
                }),
                addresses: pod.addresses.to_vec(),
            });
        }
    }
    list
}

impl World {
    pub(crate) fn cluster(&self) -> Cluster {
        let mut cluster =
            Cluster { node: LocalNode { name: "here".into(), addresses: vec![NODE] }, ..Cluster::default() };
        for (name, labels) in NAMESPACES.iter().zip(&self.namespaces) {
            // One without labels is there only if something is in it.
            let Some(labels) = labels else { continue };
            let pairs = labels.iter().map(|(k, v)| (k.as_str(), v.as_str()));
            let content = Namespace::with_labels(name, pairs);
            cluster.namespaces.insert((*name).into(), Arc::new(content));
        }
        for (place, slot) in self.pods.iter().enumerate() {
            if let Some((namespace, pod)) = slot {
                let content = cluster.namespace_mut(&namespace.as_str().into());
                content.pods.insert(format!("p{place}").into(), Arc::new(pod.clone()));
            }
        }
        for raw in self.policies.iter().flatten() {
            let content = cluster.namespace_mut(&raw.namespace.as_str().into());
            content.policies.insert(raw.name.as_str().into(), Arc::new(parse_policy(raw).0));
        }
        for raw in self.cluster_policies.iter().flatten() {
            let policy = Arc::new(parse_cluster_policy(raw).0);
            cluster.cluster_policies.insert(raw.name.as_str().into(), policy);
        }
        let nodes = cluster_policy::nodes(&self.nodes);
        cluster.nodes = nodes.into_iter().map(|(name, node)| (name.into(), node)).collect();
        for (place, slot) in self.services.iter().enumerate() {
            if let Some((namespace, service)) = slot {
                let content = cluster.namespace_mut(&namespace.as_str().into());
                content.services.insert(format!("s{place}").into(), Arc::new(service.clone()));
            }
        }
        cluster
    }
}

fn world() -> impl Strategy<Value = World> {
    (
        prop::collection::vec(prop::option::weighted(0.9, labels()), NAMESPACES.len()),
        (0..PODS).map(|place| prop::option::weighted(0.9, pod(place))).collect::<Vec<_>>(),
        (0..POLICIES).map(|place| prop::option::weighted(0.7, policy(place))).collect::<Vec<_>>(),
        (0..SERVICES).map(|place| prop::option::weighted(0.8, service(place))).collect::<Vec<_>>(),
        (0..CLUSTER_POLICIES)
            .map(|place| prop::option::weighted(0.5, cluster_policy::cluster_policy(place)))
            .collect::<Vec<_>>(),
        cluster_policy::node_labels(),
    )
        .prop_map(|(namespaces, pods, policies, services, cluster_policies, nodes)| World {
            namespaces,
            pods,
            policies,
            services,
            cluster_policies,
            nodes,
        })
}

fn namespace() -> impl Strategy<Value = String> {
    prop::sample::select(NAMESPACES.to_vec()).prop_map(str::to_owned)
}

fn key() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["app", "tier"]).prop_map(str::to_owned)
}

fn value() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", ""]).prop_map(str::to_owned)
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    prop::collection::btree_map(key(), value(), 0..3)
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop::sample::select(Protocol::ALL.to_vec())
}

fn port_name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["web", "dns"]).prop_map(str::to_owned)
}

fn port() -> impl Strategy<Value = u16> {
    prop::sample::select(vec![80_u16, 81, 443, 8080, 65535])
}

fn container_port() -> impl Strategy<Value = ContainerPort> {
    (prop::option::of(port_name()), protocol(), port(), prop::option::weighted(0.1, port())).prop_map(
        |(name, protocol, port, host_port)| ContainerPort {
            name: name.map(|name| name.as_str().into()),
            protocol,
            port,
            host_port,
        },
    )
}

fn pod(place: usize) -> impl Strategy<Value = (String, Pod)> {
    // Each place has a namespace of its own, so that a blend never has a pod twice.
    let home = NAMESPACES[place % NAMESPACES.len()].to_owned();
    let state = prop::sample::select(vec![
        PodState::Live,
        PodState::Live,
        PodState::Live,
        PodState::Terminating,
        PodState::Completed,
    ]);
    // Two addresses for each place, one shared with the next: addresses are used again.
    let low = prop::sample::select(vec![place, place + 1]);
    let ports = prop::collection::vec(container_port(), 0..4);
    (labels(), ports, state, low, any::<bool>(), prop::bool::weighted(0.1)).prop_map(
        move |(labels, ports, state, low, dual, host_network)| {
            let low = u8::try_from(low).expect("few");
            let v4 = IpAddr::from([10, 0, low % 2, low]);
            let v6 = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, u16::from(low % 2), u16::from(low)]);
            let addresses = match (host_network, dual) {
                (true, _) => vec![NODE],
                (false, true) => vec![v4, v6],
                (false, false) => vec![v4],
            };
            let labels: Labels = labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            let pod = Pod {
                uid: format!("uid{place}").into(),
                labels: Arc::new(labels),
                addresses: addresses.into(),
                ports: ports.into(),
                node: Some(if place.is_multiple_of(2) { "here" } else { "there" }.into()),
                state,
                host_network,
                audit: false,
            };
            (home.clone(), pod)
        },
    )
}

fn requirement() -> impl Strategy<Value = RawRequirement> {
    let operator = prop::sample::select(vec!["In", "NotIn", "Exists", "DoesNotExist"]);
    (key(), operator, prop::collection::vec(value(), 1..3)).prop_map(|(key, operator, values)| {
        let values = if operator.ends_with("In") { values } else { vec![] };
        RawRequirement { key, operator: operator.to_owned(), values }
    })
}

fn selector() -> impl Strategy<Value = RawSelector> {
    (prop::collection::btree_map(key(), value(), 0..2), prop::collection::vec(requirement(), 0..2))
        .prop_map(|(match_labels, match_expressions)| RawSelector { match_labels, match_expressions })
}

fn block() -> impl Strategy<Value = RawBlock> {
    let v4 = vec!["0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/24", "10.0.1.0/24", "10.0.0.2/31", "10.0.0.4/32"];
    let v6 = vec!["::/0", "fd00::/16", "fd00::1:0/112", "fd00::4/128"];
    any::<bool>()
        .prop_flat_map(move |four| {
            let list = if four { v4.clone() } else { v6.clone() };
            (prop::sample::select(list.clone()), prop::collection::vec(prop::sample::select(list), 0..3))
        })
        .prop_map(|(cidr, except)| RawBlock {
            cidr: cidr.to_owned(),
            except: except.into_iter().map(str::to_owned).collect(),
        })
}

fn peer() -> impl Strategy<Value = RawPeer> {
    prop_oneof![
        (prop::option::of(selector()), prop::option::of(selector())).prop_map(|(pods, namespaces)| RawPeer {
            pod_selector: pods,
            namespace_selector: namespaces,
            ip_block: None
        }),
        block().prop_map(|block| RawPeer { ip_block: Some(block), ..RawPeer::default() }),
    ]
}

fn raw_port() -> impl Strategy<Value = RawPort> {
    let protocol = prop::option::of(protocol().prop_map(|protocol| protocol.to_string()));
    let value = prop_oneof![
        1 => Just(None),
        3 => port().prop_map(|port| Some(RawPortValue::Number(i32::from(port)))),
        2 => port_name().prop_map(|name| Some(RawPortValue::Name(name))),
    ];
    (protocol, value, prop::option::weighted(0.3, port())).prop_map(|(protocol, port, end)| {
        let end_port = match &port {
            Some(RawPortValue::Number(first)) => end.map(i32::from).filter(|end| end >= first),
            _ => None,
        };
        RawPort { protocol, port, end_port }
    })
}

fn rule() -> impl Strategy<Value = RawRule> {
    (prop::collection::vec(peer(), 0..3), prop::collection::vec(raw_port(), 0..3))
        .prop_map(|(peers, ports)| RawRule { peers, ports })
}

fn policy(place: usize) -> impl Strategy<Value = RawPolicy> {
    let types =
        prop::sample::select(vec![vec![], vec!["Ingress"], vec!["Egress"], vec!["Ingress", "Egress"]]);
    let rules = || prop::collection::vec(rule(), 0..3);
    (namespace(), selector(), types, rules(), rules()).prop_map(
        move |(namespace, pod_selector, types, ingress, egress)| RawPolicy {
            namespace,
            name: format!("np{place}"),
            pod_selector,
            policy_types: types.into_iter().map(str::to_owned).collect(),
            ingress,
            egress,
        },
    )
}

fn service(place: usize) -> impl Strategy<Value = (String, Service)> {
    let target = prop_oneof![
        port().prop_map(TargetPort::Number),
        port_name().prop_map(|name| TargetPort::Named(name.as_str().into())),
    ];
    let node_port = prop::option::weighted(0.3, Just(8080_u16));
    let external = vec![
        IpAddr::from([10, 0, 0, 3]),
        IpAddr::from([198, 51, 100, 10]),
        IpAddr::from([169, 254, 169, 254]),
        NODE,
        OTHER_NODE,
    ];
    let external = prop::option::weighted(0.3, prop::sample::select(external));
    (namespace(), backends(), protocol(), port(), target, node_port, external).prop_map(
        move |(namespace, mut backends, protocol, port, target, node_port, external)| {
            let low = u16::try_from(place).expect("few");
            if let Backends::Listed(list) = &mut backends {
                list.iter_mut().for_each(|one| one.protocol = protocol);
            }
            let service = Service {
                addresses: vec![
                    IpAddr::from([10, 100, 0, u8::try_from(low).expect("few")]),
                    IpAddr::from([0xfd10, 0, 0, 0, 0, 0, 0, low + 1]),
                ]
                .into_iter()
                .chain(external)
                .collect(),
                external: external.into_iter().collect(),
                ports: vec![ServicePort { name: "".into(), protocol, port, target, node_port }],
                backends,
            };
            (namespace, service)
        },
    )
}

fn backends() -> impl Strategy<Value = Backends> {
    let selector = prop::collection::btree_map(key(), value(), 0..2);
    let addresses = vec![
        IpAddr::from([10, 0, 0, 2]),
        IpAddr::from([10, 0, 0, 4]),
        IpAddr::from([198, 51, 100, 10]),
        NODE,
    ];
    let one = (prop::sample::select(addresses), port()).prop_map(|(address, port)| ServiceBackend {
        port_name: "".into(),
        protocol: Protocol::Tcp,
        address,
        port,
    });
    prop_oneof![
        3 => selector.prop_map(|pairs| {
            Backends::Pods(Selector::labels(pairs.iter().map(|(k, v)| (k.as_str(), v.as_str()))))
        }),
        1 => prop::collection::vec(one, 0..3).prop_map(Backends::Listed),
    ]
}
