//! ClusterNetworkPolicy: subjects, peers, ports and the way through the tiers.

use policy_core::model::{ContainerPort, Protocol, TargetPort};
use policy_core::oracle::Reason;
use policy_core::{Compiler, CompilerOptions, Tables, explain};
use serde_json::{Value, json};

use super::scene::{BothDenied, InDenied, NODE, OutDenied, Passes, Scene, of};

fn spaces(name: &str) -> Value {
    json!({ "matchLabels": { "ns": name } })
}

/// A policy with one rule for one direction, for the pods of x.
pub(super) fn one(tier: &str, word: &str, action: &str, peer: Value, protocols: Value) -> Value {
    let of_peers = if word == "ingress" { "from" } else { "to" };
    let mut rule = json!({ "action": action, of_peers: [peer] });
    if !protocols.is_null() {
        rule["protocols"] = protocols;
    }
    json!({ "tier": tier, "priority": 10, "subject": { "namespaces": spaces("x") }, word: [rule] })
}

fn from_y(tier: &str, action: &str) -> Value {
    one(tier, "ingress", action, json!({ "namespaces": spaces("y") }), json!(null))
}

pub(super) fn to(action: &str, peer: Value) -> Value {
    one("Admin", "egress", action, peer, json!(null))
}

#[test]
fn nothing_is_isolated_by_being_selected() {
    for action in ["Accept", "Deny", "Pass"] {
        for tier in ["Admin", "Baseline"] {
            Scene::new().cluster_policy("p", from_y(tier, action)).check(&[
                ("z/a", "x/a", "TCP/80", Passes),
                ("198.51.100.1", "x/a", "TCP/80", Passes),
                ("x/a", "y/a", "ICMP", Passes),
            ]);
        }
    }
    // Rules for a direction only: the other is none of its business.
    Scene::new().cluster_policy("p", from_y("Admin", "Deny")).check(&[
        ("y/a", "x/a", "TCP/80", InDenied),
        ("y/a", "x/a", "ICMP", InDenied),
        ("x/a", "y/a", "TCP/80", Passes),
        ("y/a 6", "x/a 6", "47", InDenied),
    ]);
}

#[test]
fn subjects_are_namespaces_or_pods_in_namespaces() {
    let deny = |subject: Value| {
        let rule = json!({ "action": "Deny", "from": [{ "namespaces": {} }] });
        json!({ "tier": "Admin", "priority": 0, "subject": subject, "ingress": [rule] })
    };
    let check = |subject: Value, expected: [bool; 3]| {
        let met = |denied| if denied { InDenied } else { Passes };
        let [x_a, x_b, y_a] = expected.map(met);
        Scene::new().cluster_policy("p", deny(subject)).check(&[
            ("z/c", "x/a", "TCP/80", x_a),
            ("z/c", "x/b", "TCP/80", x_b),
            ("z/c", "y/a", "TCP/80", y_a),
        ]);
    };
    let a = json!({ "matchLabels": { "pod": "a" } });
    check(json!({ "namespaces": {} }), [true, true, true]);
    check(json!({ "namespaces": spaces("x") }), [true, true, false]);
    check(json!({ "pods": { "namespaceSelector": spaces("x"), "podSelector": a } }), [true, false, false]);
    check(json!({ "pods": { "namespaceSelector": {}, "podSelector": a } }), [true, false, true]);
    check(json!({ "pods": { "podSelector": {} } }), [true, true, true]);
}

#[test]
fn pods_on_their_nodes_network_are_neither_subjects_nor_peers() {
    Scene::new()
        .pod("y/a", |pod| {
            pod.host_network = true;
            pod.addresses = ["10.9.0.2".parse().expect("an address")].into();
        })
        .cluster_policy("p", from_y("Admin", "Deny"))
        .check(&[("10.9.0.2", "x/a", "TCP/80", Passes), ("y/b", "x/a", "TCP/80", InDenied)]);
}

#[test]
fn networks_hold_for_pods_and_icmp_too() {
    Scene::new()
        .cluster_policy("p", to("Deny", json!({ "networks": ["10.0.2.0/24", "198.51.100.0/24"] })))
        .check(&[
            ("x/a", "y/a", "TCP/80", OutDenied),
            ("x/a", "y/a", "ICMP", OutDenied),
            ("x/a", "198.51.100.9", "ICMP", OutDenied),
            ("x/a", "z/a", "TCP/80", Passes),
            ("x/a", "y/a 6", "TCP/80", Passes),
            ("y/a", "x/a", "TCP/80", Passes),
        ]);
}

#[test]
fn whole_families_as_networks() {
    Scene::new().cluster_policy("p", to("Deny", json!({ "networks": ["0.0.0.0/0"] }))).check(&[
        ("x/a", "y/a", "TCP/80", OutDenied),
        ("x/a", "198.51.100.9", "TCP/80", OutDenied),
        ("x/a", "y/a 6", "TCP/80", Passes),
        ("x/a", "2001:db8::1", "TCP/80", Passes),
    ]);
}

#[test]
fn protocols_are_numbers_ranges_and_names() {
    let deny = |protocols: Value| {
        Scene::new()
            .cluster_policy("p", one("Admin", "ingress", "Deny", json!({ "namespaces": {} }), protocols))
    };
    deny(json!([{ "tcp": { "destinationPort": { "number": 80 } } }])).check(&[
        ("y/a", "x/a", "TCP/80", InDenied),
        ("y/a", "x/a", "TCP/81", Passes),
        ("y/a", "x/a", "UDP/80", Passes),
        ("y/a", "x/a", "ICMP", Passes),
    ]);
    deny(json!([{ "udp": { "destinationPort": { "range": { "start": 50, "end": 60 } } } }])).check(&[
        ("y/a", "x/a", "UDP/49", Passes),
        ("y/a", "x/a", "UDP/50", InDenied),
        ("y/a", "x/a", "UDP/60", InDenied),
        ("y/a", "x/a", "UDP/61", Passes),
    ]);
    deny(json!([{ "sctp": { "destinationPort": { "number": 90 } } }]))
        .check(&[("y/a", "x/a", "SCTP/90", InDenied), ("y/a", "x/a", "TCP/90", Passes)]);
    // A name stands for whatever protocol the container gives it.
    deny(json!([{ "destinationNamedPort": "dns" }]))
        .check(&[("y/a", "x/a", "UDP/53", InDenied), ("y/a", "x/a", "TCP/53", Passes)]);
}

#[test]
fn a_named_port_of_egress_is_the_peers_own() {
    let named = json!([{ "destinationNamedPort": "web" }]);
    let deny = one("Admin", "egress", "Deny", json!({ "namespaces": spaces("y") }), named);
    Scene::new()
        .pod("y/b", |pod| {
            let port = ContainerPort {
                name: Some("web".into()),
                protocol: Protocol::Tcp,
                port: 8080,
                host_port: None,
            };
            pod.ports = [port].into();
        })
        .pod("y/c", |pod| pod.ports = [].into())
        .cluster_policy("p", deny)
        .check(&[
            ("x/a", "y/a", "TCP/80", OutDenied),
            ("x/a", "y/b", "TCP/80", Passes),
            ("x/a", "y/b", "TCP/8080", OutDenied),
            ("x/a", "y/c", "TCP/80", Passes),
            ("x/a", "z/a", "TCP/80", Passes),
        ]);
}

#[test]
fn services_are_judged_by_what_stands_behind_them() {
    let vip = "10.100.0.7";
    let scene = || Scene::new().service("y/s", vip, 8000, "a", TargetPort::Number(80));
    let tcp = |port: u16| json!([{ "tcp": { "destinationPort": { "number": port } } }]);
    let deny = |protocols| one("Admin", "egress", "Deny", json!({ "namespaces": spaces("y") }), protocols);
    scene().cluster_policy("p", deny(tcp(80))).check(&[("x/a", vip, "TCP/8000", OutDenied)]);
    scene().cluster_policy("p", deny(tcp(8000))).check(&[("x/a", vip, "TCP/8000", Passes)]);
    scene()
        .cluster_policy("p", to("Deny", json!({ "networks": ["10.100.0.0/16"] })))
        .check(&[("x/a", vip, "TCP/8000", Passes)]);
}

#[test]
fn an_own_address_by_a_service_is_judged_and_directly_is_not() {
    let deny = one("Admin", "egress", "Deny", json!({ "namespaces": {} }), json!(null));
    let scene = Scene::new()
        .service("x/s", "10.100.0.7", 8000, "a", TargetPort::Number(80))
        .cluster_policy("p", deny);
    let told = |to: &str, port| explain(&scene.cluster, of("x/a"), of(to), 6, port);
    let direct = told("x/a", 80);
    assert!(direct.allows());
    assert_eq!(direct.judgements[0].egress.reason, Reason::Itself);
    let by_service = told("10.100.0.7", 8000);
    assert!(!by_service.allows() && by_service.service, "{by_service}");
    assert_eq!(by_service.judgements[0].ingress.reason, Reason::Itself);
}

#[test]
fn explain_names_the_rule_the_tier_and_who_passed_it_on() {
    let mut pass = from_y("Admin", "Pass");
    pass["ingress"][0]["name"] = json!("to the owners");
    let scene = Scene::new()
        .cluster_policy("guard", pass)
        .cluster_policy("floor", from_y("Baseline", "Deny"))
        .policy("z/p", json!({ "ingress": [] }));
    let text = |from: &str, to: &str| explain(&scene.cluster, of(from), of(to), 6, 80).to_string();
    assert_eq!(
        text("y/a", "x/a"),
        "to 10.0.1.1 port 80: denied\n  egress: allowed, no policy isolates it\n  ingress: denied by Baseline \
         floor ingress[0]; passed on by Admin guard ingress[0] (to the owners)\n"
    );
    assert!(text("y/a", "z/a").contains("ingress: denied, isolated by z/p"), "{}", text("y/a", "z/a"));
    assert!(text("x/a", NODE).contains("egress: allowed, no policy isolates it"));
    assert!(text(NODE, "x/a").contains("ingress: allowed, it is the pod's own node"));
}

#[test]
fn a_live_change_of_order_priority_or_action_takes_effect() {
    let rules = |first: &str, second: &str| {
        let rule = |action: &str| json!({ "action": action, "from": [{ "namespaces": spaces("y") }] });
        json!({ "tier": "Admin", "priority": 7, "subject": { "namespaces": spaces("x") },
            "ingress": [rule(first), rule(second)] })
    };
    let mut compiler = Compiler::new(CompilerOptions::default(), Tables::default());
    let mut now = |scene: Scene, met| {
        scene.compile(&mut compiler);
        scene.check_tables(
            compiler.installed(),
            &[("y/a", "x/a", "TCP/80", met), ("z/a", "x/a", "TCP/80", Passes)],
        );
    };
    let of_priority = |tier: &str, action: &str, priority: u16| {
        let mut policy = from_y(tier, action);
        policy["priority"] = json!(priority);
        policy
    };
    let deny = || json!({ "ingress": [{ "from": [{ "namespaceSelector": spaces("z") }] }] });
    now(Scene::new().cluster_policy("p", rules("Accept", "Deny")), Passes);
    now(Scene::new().cluster_policy("p", rules("Deny", "Accept")), InDenied);
    now(Scene::new().cluster_policy("p", rules("Pass", "Deny")), Passes);
    now(Scene::new().cluster_policy("p", rules("Pass", "Deny")).policy("x/p", deny()), InDenied);
    now(Scene::new().cluster_policy("p", rules("Accept", "Deny")).policy("x/p", deny()), Passes);
    let two = |first: u16, second: u16| {
        Scene::new()
            .cluster_policy("a", of_priority("Admin", "Accept", first))
            .cluster_policy("b", of_priority("Admin", "Deny", second))
    };
    now(two(1, 2), Passes);
    now(two(2, 1), InDenied);
    now(two(5, 5), Passes);
    now(Scene::new(), Passes);
}

#[test]
fn who_selects_a_pod_of_an_unseen_namespace_is_not_guessed() {
    let scene = |tier: &str| {
        let mut scene = Scene::new().cluster_policy("p", from_y(tier, "Accept"));
        scene.cluster.namespace_mut(&"x".into()).labels = None;
        scene
    };
    for tier in ["Admin", "Baseline"] {
        scene(tier).check(&[("z/a", "x/a", "TCP/80", InDenied), ("x/a", "z/a", "TCP/80", Passes)]);
        let mut closed = scene(tier).cluster_policy("q", to("Deny", json!({ "nodes": {} })));
        closed.cluster.namespace_mut(&"x".into()).labels = None;
        closed.check(&[("x/a", "z/a", "TCP/80", OutDenied), ("x/a", NODE, "TCP/80", Passes)]);
    }
    // One who means every namespace need not know it.
    let mut any = from_y("Admin", "Deny");
    any["subject"] = json!({ "namespaces": {} });
    let mut scene = Scene::new().cluster_policy("p", any);
    scene.cluster.namespace_mut(&"x".into()).labels = None;
    scene.check(&[("z/a", "x/a", "TCP/80", Passes), ("y/a", "x/a", "TCP/80", InDenied)]);
}

#[test]
fn egress_and_ingress_are_asked_each_for_itself() {
    let accept = one("Admin", "egress", "Accept", json!({ "namespaces": {} }), json!(null));
    Scene::new()
        .cluster_policy("out", accept)
        .policy("x/p", json!({ "policyTypes": ["Ingress", "Egress"] }))
        .policy("y/p", json!({}))
        .check(&[
            // Accepted at the source, and still the destination's to decide.
            ("x/a", "y/a", "TCP/80", InDenied),
            ("x/a", "z/a", "TCP/80", Passes),
            ("x/a", "198.51.100.1", "TCP/80", OutDenied),
        ]);
    Scene::new()
        .cluster_policy("in", from_y("Admin", "Deny"))
        .policy("y/p", json!({ "policyTypes": ["Egress"] }))
        .check(&[("y/a", "x/a", "TCP/80", BothDenied)]);
}
