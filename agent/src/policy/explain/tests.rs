use std::net::IpAddr;
use std::sync::Arc;

use policy_core::model::{
    Action, Backends, Cluster, ClusterPolicy, ClusterRule, Labels, LocalNode, Name, Namespace,
    NamespaceMatch, Peer, Peers, Pod, PodState, Policy, PortMatch, PortRange, Ports, Protocol, Rule,
    Selector, Service, ServicePort, Subject, TargetPort, Tier,
};

use super::Question;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn app(name: &str) -> Selector {
    Selector::labels([("app", name)])
}

fn of(namespaces: NamespaceMatch, app_name: &str) -> Peers {
    Peers::Only(vec![Peer::Pods { namespaces, pods: app(app_name) }])
}

fn port(number: u16) -> Ports {
    Ports::Only(vec![PortMatch::Numbers(PortRange { protocol: Protocol::Tcp, first: number, last: number })])
}

fn rule(name: &str, action: Action, peers: Peers) -> ClusterRule {
    ClusterRule { name: Some(name.into()), action, peers, ports: Ports::All }
}

/// `web`, `other` and two `db` in `shop`; `db` hears `web` at 5432, and nothing from `other` whatever else says so.
fn cluster() -> Cluster {
    let mut cluster = Cluster {
        node: LocalNode { name: "node-1".into(), addresses: vec![ip("10.0.0.1"), ip("fd00::1")] },
        ..Cluster::default()
    };
    let shop = cluster.namespace_mut(&"shop".into());
    *shop = Namespace::with_labels::<Name, Name>("shop", []);
    for (name, label, addresses) in [
        ("web", "web", vec![ip("10.0.0.5"), ip("fd00::5")]),
        ("other", "other", vec![ip("10.0.0.6")]),
        ("db-0", "db", vec![ip("10.0.0.7"), ip("fd00::7")]),
        ("db-1", "db", vec![ip("10.0.0.8")]),
        ("new", "new", vec![]),
    ] {
        let labels: Labels = [(Name::from("app"), Name::from(label))].into_iter().collect();
        let pod = Pod {
            uid: name.into(),
            labels: Arc::new(labels),
            addresses: addresses.into(),
            ports: Arc::new([]),
            node: Some("node-1".into()),
            state: PodState::Live,
            host_network: false,
            audit: false,
        };
        shop.pods.insert(name.into(), Arc::new(pod));
    }
    let from_web = Rule { peers: of(NamespaceMatch::Named("shop".into()), "web"), ports: port(5432) };
    let policy = Policy { subject: app("db"), ingress: Some(vec![from_web]), egress: None };
    shop.policies.insert("db".into(), Arc::new(policy));
    let service = Service {
        addresses: vec![ip("172.20.0.7")],
        external: Vec::new(),
        ports: vec![ServicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: 80,
            target: TargetPort::Number(5432),
            node_port: None,
        }],
        backends: Backends::Pods(app("db")),
    };
    shop.services.insert("db".into(), Arc::new(service));
    let everywhere = || NamespaceMatch::Selected(Selector::everything());
    let guard = ClusterPolicy {
        tier: Tier::Admin,
        priority: 10,
        subject: Subject { namespaces: Selector::everything(), pods: app("db") },
        ingress: vec![
            rule("leave-web", Action::Pass, of(everywhere(), "web")),
            rule("no-other", Action::Deny, of(everywhere(), "other")),
        ],
        egress: Vec::new(),
    };
    cluster.cluster_policies.insert("guard".into(), Arc::new(guard));
    cluster
}

fn answer(from: &str, to: &str, port: &str) -> Result<serde_json::Value, String> {
    let fields = [("from", from), ("to", to), ("port", port)];
    let field =
        |name: &str| fields.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
    let cluster = cluster();
    Ok(Question::read(field)?.resolve(&cluster)?.answer(&cluster))
}

#[test]
fn the_rule_that_decides_is_named_or_who_isolates() {
    for (from, to, port, text) in [
        (
            "shop/web",
            "shop/db-0",
            "5432/TCP",
            "shop/web (10.0.0.5) → shop/db-0 (10.0.0.7), 5432/TCP: allowed\n\
             \x20 egress  of shop/web: allowed, no policy isolates it\n\
             \x20 ingress of shop/db-0: allowed by shop/db ingress[0]; passed on by Admin guard ingress[0] (leave-web)\n",
        ),
        (
            "shop/other",
            "shop/db-0",
            "5432",
            "shop/other (10.0.0.6) → shop/db-0 (10.0.0.7), 5432/TCP: DENIED\n\
             \x20 egress  of shop/other: allowed, no policy isolates it\n\
             \x20 ingress of shop/db-0: denied by Admin guard ingress[1] (no-other)\n",
        ),
        (
            "198.51.100.1",
            "10.0.0.8",
            "icmp",
            "198.51.100.1 → shop/db-1 (10.0.0.8), ICMP: DENIED\n\
             \x20 egress  of 198.51.100.1: allowed, no policy isolates it\n\
             \x20 ingress of shop/db-1: denied, isolated by shop/db\n",
        ),
        (
            "shop/web",
            "service/shop/db",
            "80/tcp",
            "shop/web (10.0.0.5) → service/shop/db (172.20.0.7), 80/TCP: allowed\n\
             \x20 backend shop/db-0 (10.0.0.7) port 5432: allowed\n\
             \x20 egress  of shop/web: allowed, no policy isolates it\n\
             \x20 ingress of shop/db-0: allowed by shop/db ingress[0]; passed on by Admin guard ingress[0] (leave-web)\n\
             \x20 backend shop/db-1 (10.0.0.8) port 5432: allowed\n\
             \x20 egress  of shop/web: allowed, no policy isolates it\n\
             \x20 ingress of shop/db-1: allowed by shop/db ingress[0]; passed on by Admin guard ingress[0] (leave-web)\n",
        ),
    ] {
        assert_eq!(answer(from, to, port).expect("all are known")["text"], text, "{from} {to} {port}");
    }
    let denied = answer("shop/other", "shop/db-0", "5432").expect("all are known");
    assert_eq!((&denied["policy"], &denied["rule"]), (&"guard".into(), &1.into()));
    let isolated = answer("198.51.100.1", "shop/db-0", "1").expect("all are known");
    assert_eq!((&isolated["policy"], isolated["rule"].is_null()), (&"shop/db".into(), true));
}

#[test]
fn a_pods_own_node_and_itself_are_said() {
    for (from, to, part) in [
        ("node/node-1", "shop/db-0", "ingress of shop/db-0: allowed, it is the pod's own node"),
        ("shop/db-0", "shop/db-0", "allowed, a pod to itself"),
    ] {
        let answer = answer(from, to, "1/TCP").expect("all are known");
        let text = answer["text"].as_str().expect("words");
        assert!(answer["allowed"] == true && text.contains(part), "{text}");
    }
}

#[test]
fn both_ends_are_of_one_family() {
    let six = answer("fd00::5", "shop/db-0", "icmp").expect("both have IPv6");
    assert_eq!((&six["to"]["address"], &six["protocol"]), (&"fd00::7".into(), &"ICMPv6".into()));
    let none = answer("fd00::5", "shop/other", "80").expect_err("other has IPv4 only");
    assert_eq!(none, "fd00::5 and shop/other have no address of the same family");
}

#[test]
fn what_is_not_understood_is_said_by_its_field() {
    for (from, to, port, complaint) in [
        ("db", "shop/db-0", "1", "from: «db» is neither an address, namespace/pod"),
        ("shop/nobody", "shop/db-0", "1", "from: there is no pod shop/nobody"),
        ("shop/web", "shop/new", "1", "to: shop/new has no address yet"),
        ("shop/web", "svc/shop/none", "1", "to: there is no service shop/none"),
        ("shop/web", "node/node-9", "1", "to: the addresses of node node-9 are not known here"),
        ("shop/web", "shop/db-0", "eighty/TCP", "port: «eighty» is not a number"),
        ("shop/web", "shop/db-0", "http", "protocol: «http» is neither"),
        ("shop/web", "shop/db-0", "65536", "port: «65536» is not a number from 0 to 65535"),
    ] {
        let error = answer(from, to, port).expect_err("it is malformed");
        assert!(error.starts_with(complaint), "{error}");
    }
}
