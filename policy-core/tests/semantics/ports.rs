//! On which ports a rule holds.

use policy_core::model::{ContainerPort, Pod, Protocol};
use serde_json::{Value, json};

use super::scene::{InDenied, OutDenied, Passes, Scene};

fn on(ports: Value) -> Value {
    json!({ "ingress": [{ "ports": ports }] })
}

fn declare(pod: &mut Pod, name: &str, protocol: Protocol, port: u16) {
    let mut ports = pod.ports.to_vec();
    ports.push(ContainerPort { name: Some(name.into()), protocol, port, host_port: None });
    pod.ports = ports.into();
}

#[test]
fn missing_or_empty_ports_are_all_ports_of_all_protocols() {
    let from = json!([{ "podSelector": {} }]);
    for rule in [json!({ "from": from }), json!({ "from": from, "ports": [] })] {
        Scene::new().policy("x/p", json!({ "ingress": [rule] })).check(&[
            ("x/b", "x/a", "TCP/1", Passes),
            ("x/b", "x/a", "UDP/65535", Passes),
            ("x/b", "x/a", "ICMP", Passes),
            ("x/b", "x/a 6", "ICMP", Passes),
            ("x/b", "x/a", "47", Passes),
        ]);
    }
}

#[test]
fn listed_ports_are_all_that_is_allowed() {
    Scene::new().policy("x/p", on(json!([{ "port": 80 }, { "protocol": "UDP", "port": 53 }]))).check(&[
        ("y/a", "x/a", "TCP/80", Passes),
        ("y/a", "x/a", "UDP/53", Passes),
        ("y/a", "x/a", "TCP/53", InDenied),
        ("y/a", "x/a", "UDP/80", InDenied),
        ("y/a", "x/a", "ICMP", InDenied),
        ("y/a", "x/a", "47", InDenied),
    ]);
}

#[test]
fn the_protocol_defaults_to_tcp_and_a_missing_port_is_all_of_the_protocol() {
    Scene::new().policy("x/p", on(json!([{}]))).check(&[
        ("y/a", "x/a", "TCP/1", Passes),
        ("y/a", "x/a", "UDP/1", InDenied),
        ("y/a", "x/a", "SCTP/1", InDenied),
    ]);
    Scene::new().policy("x/p", on(json!([{ "protocol": "UDP" }]))).check(&[
        ("y/a", "x/a", "UDP/1", Passes),
        ("y/a", "x/a", "UDP/0", Passes),
        ("y/a", "x/a", "TCP/1", InDenied),
        ("y/a", "x/a", "ICMP", InDenied),
    ]);
}

#[test]
fn sctp_is_not_tcp() {
    Scene::new()
        .policy("x/p", on(json!([{ "protocol": "SCTP", "port": 80 }])))
        .check(&[("y/a", "x/a", "SCTP/80", Passes), ("y/a", "x/a", "TCP/80", InDenied)]);
}

#[test]
fn an_end_port_is_in_the_range() {
    Scene::new().policy("x/p", on(json!([{ "port": 80, "endPort": 83 }]))).check(&[
        ("y/a", "x/a", "TCP/79", InDenied),
        ("y/a", "x/a", "TCP/80", Passes),
        ("y/a", "x/a", "TCP/83", Passes),
        ("y/a", "x/a", "TCP/84", InDenied),
    ]);
    Scene::new()
        .policy("x/p", on(json!([{ "protocol": "SCTP", "port": 1, "endPort": 65535 }])))
        .check(&[("y/a", "x/a", "SCTP/65535", Passes), ("y/a", "x/a", "UDP/7", InDenied)]);
}

#[test]
fn ports_that_make_no_sense_match_nothing() {
    let bad = json!([
        { "endPort": 90 },
        { "port": "web", "endPort": 90 },
        { "port": 80, "endPort": 79 },
        { "port": 0 },
        { "port": 80, "protocol": "ICMP" },
    ]);
    let scene = Scene::new().policy("x/p", on(bad));
    assert_eq!(scene.findings.len(), 5);
    scene.check(&[("y/a", "x/a", "TCP/80", InDenied), ("y/a", "x/a", "ICMP", InDenied)]);
}

#[test]
fn a_named_port_of_ingress_is_the_target_pods() {
    Scene::new()
        .pod("x/b", |pod| pod.ports = [].into())
        .pod("x/c", |pod| {
            pod.ports = [].into();
            declare(pod, "web", Protocol::Tcp, 8080);
        })
        .policy("x/p", on(json!([{ "port": "web" }])))
        .check(&[
            ("y/a", "x/a", "TCP/80", Passes),
            ("y/a", "x/a", "TCP/8080", InDenied),
            ("y/a", "x/b", "TCP/80", InDenied),
            ("y/a", "x/c", "TCP/8080", Passes),
            ("y/a", "x/c", "TCP/80", InDenied),
        ]);
}

#[test]
fn a_named_port_matches_name_and_protocol() {
    Scene::new()
        .pod("x/a", |pod| declare(pod, "web", Protocol::Udp, 81))
        .policy("x/p", on(json!([{ "port": "web" }, { "protocol": "UDP", "port": "sig" }])))
        .check(&[
            ("y/a", "x/a", "TCP/80", Passes),
            ("y/a", "x/a", "UDP/81", InDenied),
            ("y/a", "x/a", "UDP/90", InDenied),
            ("y/a", "x/a", "SCTP/90", InDenied),
        ]);
}

#[test]
fn one_name_may_have_two_numbers_in_a_pod() {
    Scene::new()
        .pod("x/a", |pod| declare(pod, "web", Protocol::Tcp, 81))
        .policy("x/p", on(json!([{ "port": "web" }])))
        .check(&[("y/a", "x/a", "TCP/80", Passes), ("y/a", "x/a", "TCP/81", Passes)]);
}

#[test]
fn a_named_port_of_egress_is_the_peer_pods_and_may_differ() {
    let spec = json!({ "policyTypes": ["Egress"], "egress": [{
        "to": [{ "namespaceSelector": {} }, { "ipBlock": { "cidr": "198.51.100.0/24" } }],
        "ports": [{ "port": "web" }],
    }] });
    Scene::new()
        .pod("y/b", |pod| {
            pod.ports = [].into();
            declare(pod, "web", Protocol::Tcp, 8080);
        })
        .pod("y/c", |pod| pod.ports = [].into())
        .policy("x/p", spec)
        .check(&[
            ("x/a", "y/a", "TCP/80", Passes),
            ("x/a", "y/b", "TCP/8080", Passes),
            ("x/a", "y/b", "TCP/80", OutDenied),
            ("x/a", "y/c", "TCP/80", OutDenied),
            // What is no pod has no names.
            ("x/a", "198.51.100.1", "TCP/80", OutDenied),
        ]);
}

#[test]
fn a_named_port_of_egress_to_any_peer_is_any_pods() {
    let spec = json!({ "policyTypes": ["Egress"], "egress": [{ "ports": [{ "port": "web" }] }] });
    Scene::new().policy("x/p", spec).check(&[
        ("x/a", "y/a", "TCP/80", Passes),
        ("x/a", "z/b 6", "TCP/80", Passes),
        ("x/a", "198.51.100.1", "TCP/80", OutDenied),
    ]);
}

#[test]
fn a_sidecars_port_counts() {
    // Sidecars and containers are one list by the time they come here.
    Scene::new()
        .pod("x/a", |pod| declare(pod, "proxy", Protocol::Tcp, 15001))
        .policy("x/p", on(json!([{ "port": "proxy" }])))
        .check(&[("y/a", "x/a", "TCP/15001", Passes), ("y/a", "x/a", "TCP/80", InDenied)]);
}
