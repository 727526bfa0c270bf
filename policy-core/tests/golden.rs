//! One compiled policy as text, to be read in review. `UPDATE_GOLDEN=1` writes it anew.

use std::net::IpAddr;
use std::sync::Arc;

use policy_core::model::{
    Backends, ContainerPort, Labels, LocalNode, Name, Namespace, Pod, PodState, Protocol, Selector, Service,
    ServicePort, TargetPort,
};
use policy_core::parse::{
    RawBlock, RawPeer, RawPolicy, RawPort, RawPortValue, RawRule, RawSelector, parse_policy,
};
use policy_core::{Cluster, Compiler, CompilerOptions, LocalPod, PodIdentity, Tables};

fn labels(pairs: &[(&str, &str)]) -> RawSelector {
    RawSelector {
        match_labels: pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        ..RawSelector::default()
    }
}

fn pod(app: &str, address: [u8; 4], node: &str, port: u16) -> Pod {
    let labels: Labels = [("app", app)].into_iter().collect();
    Pod {
        uid: format!("uid-{app}").into(),
        labels: Arc::new(labels),
        addresses: [IpAddr::from(address)].into(),
        ports: [ContainerPort { name: Some("main".into()), protocol: Protocol::Tcp, port, host_port: None }]
            .into(),
        node: Some(node.into()),
        state: PodState::Live,
        host_network: false,
        audit: false,
    }
}

fn named(protocol: Protocol, name: &str) -> RawPort {
    RawPort {
        protocol: Some(protocol.to_string()),
        port: Some(RawPortValue::Name(name.into())),
        end_port: None,
    }
}

fn numbers(first: i32, last: Option<i32>) -> RawPort {
    RawPort { protocol: None, port: Some(RawPortValue::Number(first)), end_port: last }
}

/// Three tiers in two namespaces, two of the pods on this node.
fn shop() -> Cluster {
    let mut cluster = Cluster {
        node: LocalNode { name: "here".into(), addresses: vec![IpAddr::from([10, 20, 0, 4])] },
        service_cidrs: vec!["10.100.0.0/16".parse().expect("a CIDR")],
        ..Cluster::default()
    };
    let mut shop = Namespace::with_labels("shop", [("team", "one")]);
    let mut data = Namespace::with_labels("data", [("team", "two")]);
    shop.pods.insert("web".into(), Arc::new(pod("web", [10, 20, 0, 10], "here", 8080)));
    shop.pods.insert("api".into(), Arc::new(pod("api", [10, 20, 0, 11], "here", 9090)));
    data.pods.insert("db".into(), Arc::new(pod("db", [10, 20, 16, 12], "there", 5432)));
    data.services.insert(
        "db".into(),
        Arc::new(Service {
            external: Vec::new(),
            addresses: vec![IpAddr::from([10, 100, 0, 7])],
            ports: vec![ServicePort {
                name: "".into(),
                protocol: Protocol::Tcp,
                port: 5432,
                target: TargetPort::Named("main".into()),
                node_port: None,
            }],
            backends: Backends::Pods(Selector::labels([("app", "db")])),
        }),
    );
    let policies = [
        RawPolicy {
            name: "web-in".into(),
            pod_selector: labels(&[("app", "web")]),
            ingress: vec![RawRule {
                peers: vec![RawPeer {
                    ip_block: Some(RawBlock {
                        cidr: "0.0.0.0/0".into(),
                        except: vec!["10.0.0.0/8".into(), "192.0.2.0/24".into()],
                    }),
                    ..RawPeer::default()
                }],
                ports: vec![named(Protocol::Tcp, "main")],
            }],
            ..RawPolicy::default()
        },
        RawPolicy {
            name: "api".into(),
            pod_selector: labels(&[("app", "api")]),
            policy_types: vec!["Ingress".into(), "Egress".into()],
            ingress: vec![
                RawRule {
                    peers: vec![RawPeer {
                        pod_selector: Some(labels(&[("app", "web")])),
                        ..RawPeer::default()
                    }],
                    ports: vec![numbers(9090, None), numbers(9000, Some(9010))],
                },
                RawRule {
                    peers: vec![RawPeer {
                        namespace_selector: Some(labels(&[("team", "two")])),
                        ..RawPeer::default()
                    }],
                    ports: vec![],
                },
            ],
            egress: vec![RawRule {
                peers: vec![RawPeer {
                    namespace_selector: Some(labels(&[("team", "two")])),
                    pod_selector: Some(labels(&[("app", "db")])),
                    ..RawPeer::default()
                }],
                ports: vec![named(Protocol::Tcp, "main")],
            }],
            ..RawPolicy::default()
        },
    ];
    for raw in policies {
        let raw = RawPolicy { namespace: "shop".into(), ..raw };
        let (policy, findings) = parse_policy(&raw);
        assert_eq!(findings, []);
        shop.policies.insert(raw.name.as_str().into(), Arc::new(policy));
    }
    cluster.namespaces.insert("shop".into(), Arc::new(shop));
    cluster.namespaces.insert("data".into(), Arc::new(data));
    cluster
}

fn local(slot: u32, name: &str, address: [u8; 4]) -> LocalPod {
    LocalPod {
        slot,
        sandbox: format!("sandbox-{name}").into(),
        identity: Some(PodIdentity { namespace: "shop".into(), name: Name::from(name), uid: None }),
        addresses: vec![IpAddr::from(address)],
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a golden file is read and, when asked, written")]
fn three_tiers() {
    let local = [
        local(1, "web", [10, 20, 0, 10]),
        local(2, "api", [10, 20, 0, 11]),
        // The API has not told of this one: nothing passes.
        local(3, "ghost", [10, 20, 0, 13]),
    ];
    let mut compiler = Compiler::new(CompilerOptions::default(), Tables::default());
    for step in compiler.update(&shop(), &local).steps {
        compiler.record(&step);
    }
    let text = compiler.to_string();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/three_tiers.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &text).expect("the golden file can be written");
    }
    let golden = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(text, golden, "UPDATE_GOLDEN=1 writes it anew");
}
