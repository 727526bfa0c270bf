//! Small clusters written down, and what must pass in them: asked of the tables and of
//! the oracle at once.

mod json;

use std::net::IpAddr;
use std::sync::Arc;

use policy_core::model::{
    Backends, Cluster, ContainerPort, Labels, LocalNode, Namespace, Node, Pod, PodState, Protocol, Selector,
    Service, ServicePort, TargetPort,
};
use policy_core::oracle::{self, Party};
use policy_core::parse::{parse_cluster_policy, parse_policy};
use policy_core::{
    Compiler, CompilerOptions, Evaluator, Finding, LocalPod, PodIdentity, Query, Tables, explain,
};
use serde_json::Value;

/// This node, its name and addresses.
pub(crate) const NODE: &str = "10.9.0.1";
const NODE6: &str = "fd09::1";

/// A cluster of nine pods, x/a to z/c, all on this node, each with an address of either
/// family and the ports web (TCP/80), dns (UDP/53) and sig (SCTP/90), and with the label
/// `pod`; namespaces have the label `ns`. Addresses are 10.0.N.M and fd00::N:M, N and M
/// from 1 for x and a.
pub(crate) struct Scene {
    pub(crate) cluster: Cluster,
    pub(crate) findings: Vec<Finding>,
}

/// What a flow meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Met {
    /// It arrives.
    Passes,
    /// The source's rules stop it.
    OutDenied,
    /// The destination's rules stop it.
    InDenied,
    /// Both would.
    BothDenied,
}

pub(crate) use Met::{BothDenied, InDenied, OutDenied, Passes};

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn place(name: &str) -> u8 {
    // x and a are 1.
    let letter = name.bytes().next().expect("a name");
    if letter >= b'x' { letter - b'x' + 1 } else { letter - b'a' + 1 }
}

/// The address of a pod like `x/a`; IPv6 with a `6` behind: `x/a 6`.
pub(crate) fn of(party: &str) -> IpAddr {
    let (name, six) = party.strip_suffix(" 6").map_or((party, false), |name| (name, true));
    let Some((namespace, pod)) = name.split_once('/') else { return address(name) };
    let (space, pod) = (place(namespace), place(pod));
    match six {
        false => IpAddr::from([10, 0, space, pod]),
        true => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, u16::from(space), u16::from(pod)]),
    }
}

impl Scene {
    pub(crate) fn new() -> Self {
        let node = LocalNode { name: "here".into(), addresses: vec![address(NODE), address(NODE6)] };
        let mut cluster = Cluster {
            node,
            service_cidrs: vec!["10.100.0.0/16".parse().expect("a CIDR")],
            ..Cluster::default()
        };
        for namespace in ["x", "y", "z"] {
            let content = Namespace::with_labels(namespace, [("ns", namespace)]);
            cluster.namespaces.insert(namespace.into(), Arc::new(content));
        }
        let mut scene = Self { cluster, findings: Vec::new() };
        for namespace in ["x", "y", "z"] {
            for name in ["a", "b", "c"] {
                let party = format!("{namespace}/{name}");
                let port = |name: &str, protocol, port| ContainerPort {
                    name: Some(name.into()),
                    protocol,
                    port,
                    host_port: None,
                };
                let pod = Pod {
                    uid: party.as_str().into(),
                    labels: Arc::new([("pod", name)].into_iter().collect()),
                    addresses: [of(&party), of(&format!("{party} 6"))].into(),
                    ports: [
                        port("web", Protocol::Tcp, 80),
                        port("dns", Protocol::Udp, 53),
                        port("sig", Protocol::Sctp, 90),
                    ]
                    .into(),
                    node: Some("here".into()),
                    state: PodState::Live,
                    host_network: false,
                    audit: false,
                };
                scene.cluster.namespace_mut(&namespace.into()).pods.insert(name.into(), Arc::new(pod));
            }
        }
        scene
    }

    /// Adds a NetworkPolicy: name and namespace as `x/p`, the spec as it is written.
    pub(crate) fn policy(mut self, name: &str, spec: Value) -> Self {
        let (namespace, name) = name.split_once('/').expect("namespace/name");
        let raw = json::policy(namespace, name, &spec);
        let (policy, findings) = parse_policy(&raw);
        self.findings.extend(findings);
        let content = self.cluster.namespace_mut(&namespace.into());
        content.policies.insert(name.into(), Arc::new(policy));
        self
    }

    /// Adds a ClusterNetworkPolicy, the spec as it is written.
    pub(crate) fn cluster_policy(mut self, name: &str, spec: Value) -> Self {
        let (policy, findings) = parse_cluster_policy(&json::cluster_policy(name, &spec));
        self.findings.extend(findings);
        self.cluster.cluster_policies.insert(name.into(), Arc::new(policy));
        self
    }

    /// Changes a pod.
    pub(crate) fn pod(mut self, party: &str, change: impl FnOnce(&mut Pod)) -> Self {
        let (namespace, name) = party.split_once('/').expect("namespace/name");
        let content = self.cluster.namespace_mut(&namespace.into());
        change(Arc::make_mut(content.pods.get_mut(name).expect("a pod of the scene")));
        self
    }

    /// Sets the labels of a namespace besides that of its name.
    pub(crate) fn namespace(mut self, name: &str, labels: &[(&str, &str)]) -> Self {
        let fresh = Namespace::with_labels(name, labels.iter().copied());
        self.cluster.namespace_mut(&name.into()).labels = fresh.labels;
        self
    }

    /// Adds a Service of a namespace, TCP only: `x/s`, its address, port, the pods' label
    /// `pod` and the target port.
    pub(crate) fn service(
        mut self,
        name: &str,
        front: &str,
        port: u16,
        pod: &str,
        target: TargetPort,
    ) -> Self {
        let (namespace, name) = name.split_once('/').expect("namespace/name");
        let ports =
            vec![ServicePort { name: "".into(), protocol: Protocol::Tcp, port, target, node_port: None }];
        let backends = Backends::Pods(Selector::labels([("pod", pod)]));
        let service = Service { addresses: vec![address(front)], external: Vec::new(), ports, backends };
        let content = self.cluster.namespace_mut(&namespace.into());
        content.services.insert(name.into(), Arc::new(service));
        self
    }

    /// Gives a Service an external address.
    pub(crate) fn external(mut self, name: &str, front: &str) -> Self {
        let (namespace, name) = name.split_once('/').expect("namespace/name");
        let content = self.cluster.namespace_mut(&namespace.into());
        let service = Arc::make_mut(content.services.get_mut(name).expect("a Service of the scene"));
        service.addresses.push(address(front));
        service.external.push(address(front));
        self
    }

    /// Adds a node of the cluster.
    pub(crate) fn node(mut self, name: &str, labels: &[(&str, &str)], addresses: &[&str]) -> Self {
        let labels: Labels = labels.iter().copied().collect();
        let addresses = addresses.iter().map(|text| address(text)).collect();
        self.cluster.nodes.insert(name.into(), Arc::new(Node { labels: Arc::new(labels), addresses }));
        self
    }

    /// The pods that are to be filtered: every one that has a network of its own.
    pub(crate) fn local(&self) -> Vec<LocalPod> {
        let pods = self.cluster.pods().filter(|(_, _, pod)| pod.counts());
        let local = pods.zip(1_u32..).map(|((namespace, name, pod), slot)| LocalPod {
            slot,
            sandbox: format!("{namespace}/{name}").into(),
            identity: Some(PodIdentity { namespace: namespace.clone(), name: name.clone(), uid: None }),
            addresses: pod.addresses.to_vec(),
        });
        local.collect()
    }

    /// Compiles into maps that hold something already.
    pub(crate) fn compile(&self, compiler: &mut Compiler) {
        for step in compiler.update(&self.cluster, &self.local()).steps {
            compiler.record(&step);
        }
    }

    /// Fails unless the tables, the oracle and `explain` say this of each flow: from, to,
    /// `TCP/80` or `ICMP`, what it meets.
    #[track_caller]
    pub(crate) fn check(&self, flows: &[(&str, &str, &str, Met)]) {
        for split_namespaces in [0, 1024] {
            let options = CompilerOptions { split_namespaces, ..CompilerOptions::default() };
            let mut compiler = Compiler::new(options, Tables::default());
            self.compile(&mut compiler);
            self.check_tables(compiler.installed(), flows);
        }
    }

    /// The same in tables that are there.
    #[track_caller]
    pub(crate) fn check_tables(&self, tables: &Tables, flows: &[(&str, &str, &str, Met)]) {
        let local = self.local();
        for (from, to, what, expected) in flows {
            let (protocol, port) = spoken(what, of(to).is_ipv4());
            let flow = format!("{from} to {to} {what}");
            let met = |[out, into]: [bool; 2]| match (out, into) {
                (true, true) => Passes,
                (false, true) => OutDenied,
                (true, false) => InDenied,
                (false, false) => BothDenied,
            };
            let evaluator = Evaluator::new(tables);
            let decide = |direction, pod: IpAddr, peer: IpAddr, port: u16| {
                let slot = local.iter().find(|one| one.addresses.contains(&pod)).map(|one| one.slot);
                slot.is_none_or(|slot| {
                    evaluator.decide(&Query { slot, direction, peer, protocol, port }).allowed
                })
            };
            use policy_core::model::Direction::{Egress, Ingress};
            let transport = Protocol::from_number(protocol);
            let behind = transport.and_then(|spoken| oracle::resolve(&self.cluster, of(to), spoken, port));
            let service = behind.is_some();
            let targets = behind.unwrap_or_else(|| vec![(of(to), port)]);
            let out = decide(Egress, of(from), of(to), port);
            let into = targets.iter().all(|(target, port)| decide(Ingress, *target, of(from), *port));
            assert_eq!(met([out, into]), *expected, "{flow}, by the tables");

            let party = |address| match service {
                true => Party::behind(&self.cluster, address),
                false => Party::at(&self.cluster, address),
            };
            let rulings: Vec<_> = targets
                .iter()
                .map(|(target, port)| {
                    let source = Party::at(&self.cluster, of(from));
                    oracle::rulings(&self.cluster, source, party(*target), protocol, *port)
                })
                .collect();
            let [source, direct] = [from, to].map(|end| Party::at(&self.cluster, of(end)));
            let front =
                transport.and_then(|spoken| oracle::front(&self.cluster, source, direct, spoken, port));
            let said = [0, 1]
                .map(|end| rulings.iter().all(|pair| pair[end].allows()) && (end == 1 || front.is_none()));
            assert_eq!(met(said), *expected, "{flow}, by the oracle: {rulings:?}");

            let told = explain(&self.cluster, of(from), of(to), protocol, port);
            let exempt = |one: &[oracle::Ruling; 2]| {
                one.iter()
                    .any(|ruling| matches!(ruling.reason, oracle::Reason::Itself | oracle::Reason::OwnNode))
            };
            let exempt = told.judgements.iter().any(|j| exempt(&[j.egress.clone(), j.ingress.clone()]));
            assert!(exempt || told.allows() == (*expected == Passes), "{flow}, explained: {told}");
        }
    }

    /// The findings as `path reason`, sorted.
    pub(crate) fn found(&self) -> Vec<String> {
        let mut found: Vec<_> =
            self.findings.iter().map(|one| format!("{} {}", one.path, one.reason.as_str())).collect();
        found.sort();
        found
    }
}

fn spoken(what: &str, ipv4: bool) -> (u8, u16) {
    match what.split_once('/') {
        Some((name, port)) => {
            let protocol = Protocol::from_name(name).expect("a protocol");
            (protocol.number(), port.parse().expect("a port"))
        }
        None if what == "ICMP" => (if ipv4 { 1 } else { 58 }, 0),
        None => (what.parse().expect("a protocol's number"), 0),
    }
}
