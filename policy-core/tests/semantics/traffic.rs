//! What kind of traffic, whose address, and what changes.

use policy_core::model::{PodState, TargetPort};
use policy_core::{Compiler, CompilerOptions, Tables};
use serde_json::{Value, json};

use super::scene::{InDenied, NODE, OutDenied, Passes, Scene};

fn from_y() -> Value {
    json!({ "ingress": [{ "from": [{ "namespaceSelector": { "matchLabels": { "ns": "y" } } }] }] })
}

fn deny_out() -> Value {
    json!({ "policyTypes": ["Egress"] })
}

#[test]
fn a_pod_cannot_be_cut_off_from_its_own_node() {
    Scene::new().policy("x/p", deny_out()).check(&[
        ("x/a", NODE, "TCP/10250", Passes),
        ("x/a", NODE, "ICMP", Passes),
        ("x/a", "fd09::1", "TCP/80", Passes),
        ("x/a", "10.9.0.2", "TCP/10250", OutDenied),
    ]);
}

#[test]
fn a_pod_on_its_nodes_network_is_neither_subject_nor_pod_peer() {
    let scene = || {
        Scene::new().pod("x/b", |pod| {
            pod.host_network = true;
            pod.addresses = ["10.9.0.2".parse().expect("an address")].into();
        })
    };
    scene().policy("x/p", json!({ "ingress": [{ "from": [{ "podSelector": {} }] }] })).check(&[
        ("10.9.0.2", "x/a", "TCP/80", InDenied),
        ("x/c", "x/a", "TCP/80", Passes),
        ("x/a", "10.9.0.2", "TCP/80", Passes),
    ]);
    scene()
        .policy("x/p", json!({ "ingress": [{ "from": [{ "ipBlock": { "cidr": "10.9.0.0/24" } }] }] }))
        .check(&[("10.9.0.2", "x/a", "TCP/80", Passes), ("x/c", "x/a", "TCP/80", InDenied)]);
}

#[test]
fn a_completed_pod_has_no_address_and_its_address_may_be_anothers() {
    let shared = "10.0.7.7";
    let scene = |first: PodState| {
        Scene::new()
            .pod("y/a", |pod| {
                pod.state = first;
                pod.addresses = [shared.parse().expect("an address")].into();
            })
            .policy("x/p", from_y())
    };
    scene(PodState::Completed).check(&[(shared, "x/a", "TCP/80", InDenied)]);
    scene(PodState::Live).check(&[(shared, "x/a", "TCP/80", Passes)]);
    scene(PodState::Completed)
        .pod("z/a", |pod| pod.addresses = [shared.parse().expect("an address")].into())
        .check(&[(shared, "x/a", "TCP/80", InDenied)]);
    scene(PodState::Completed)
        .pod("y/b", |pod| pod.addresses = [shared.parse().expect("an address")].into())
        .check(&[(shared, "x/a", "TCP/80", Passes)]);
}

#[test]
fn a_terminating_pod_still_counts() {
    Scene::new()
        .pod("y/a", |pod| pod.state = PodState::Terminating)
        .pod("x/b", |pod| pod.state = PodState::Terminating)
        .policy("x/p", from_y())
        .check(&[("y/a", "x/a", "TCP/80", Passes), ("z/a", "x/b", "TCP/80", InDenied)]);
}

#[test]
fn rules_hold_for_both_families() {
    let port = json!({ "ingress": [{ "from": [{ "podSelector": {} }], "ports": [{ "port": 80 }] }] });
    Scene::new().policy("x/p", port).check(&[
        ("x/b", "x/a", "TCP/80", Passes),
        ("x/b 6", "x/a 6", "TCP/80", Passes),
        ("y/b", "x/a", "TCP/80", InDenied),
        ("y/b 6", "x/a 6", "TCP/80", InDenied),
        ("x/b 6", "x/a 6", "ICMP", InDenied),
    ]);
}

#[test]
fn cluster_ips_are_judged_after_translation() {
    let vip = "10.100.0.7";
    let service = |scene: Scene| scene.service("y/s", vip, 8000, "a", TargetPort::Number(80));
    let to = |peer: Value, port: Value| json!({ "policyTypes": ["Egress"], "egress": [{ "to": [peer], "ports": [port] }] });
    let y = json!({ "namespaceSelector": { "matchLabels": { "ns": "y" } } });
    // The pod's port is meant, not the Service's.
    service(Scene::new().policy("x/p", to(y.clone(), json!({ "port": 80 }))))
        .check(&[("x/a", vip, "TCP/8000", Passes)]);
    service(Scene::new().policy("x/p", to(y.clone(), json!({ "port": 8000 }))))
        .check(&[("x/a", vip, "TCP/8000", OutDenied)]);
    // Blocks are of the pod's address, not of the Service's.
    let block = |cidr: &str| json!({ "ipBlock": { "cidr": cidr } });
    service(Scene::new().policy("x/p", to(block("10.0.2.0/24"), json!({ "port": 80 }))))
        .check(&[("x/a", vip, "TCP/8000", Passes)]);
    service(Scene::new().policy("x/p", to(block("10.100.0.0/16"), json!({}))))
        .check(&[("x/a", vip, "TCP/8000", OutDenied)]);
    // The destination's ingress is asked for the pod's port, too.
    service(Scene::new().policy("y/p", json!({ "ingress": [{ "ports": [{ "port": 8000 }] }] })))
        .check(&[("x/a", vip, "TCP/8000", InDenied)]);
    // Nothing stands at another port of it: closed for those who are isolated.
    service(Scene::new().policy(
        "x/p",
        json!({ "policyTypes": ["Egress"], "egress": [{
        "to": [{ "ipBlock": { "cidr": "10.0.2.0/24" } }],
    }] }),
    ))
    .check(&[("x/a", vip, "TCP/8001", OutDenied)]);
}

#[test]
fn a_named_target_port_is_each_pods_own() {
    let vip = "10.100.0.7";
    let out = |port: Value| json!({ "policyTypes": ["Egress"], "egress": [{ "to": [{ "namespaceSelector": {} }], "ports": [port] }] });
    let scene = |port: Value| {
        Scene::new().service("y/s", vip, 8000, "a", TargetPort::Named("web".into())).policy("x/p", out(port))
    };
    scene(json!({ "port": 80 })).check(&[("x/a", vip, "TCP/8000", Passes)]);
    scene(json!({ "port": "web" })).check(&[("x/a", vip, "TCP/8000", Passes)]);
    scene(json!({ "port": 8000 })).check(&[("x/a", vip, "TCP/8000", OutDenied)]);
}

#[test]
fn a_service_passes_only_if_all_its_backends_would() {
    let vip = "10.100.0.7";
    let out = |ports: Value| json!({ "policyTypes": ["Egress"], "egress": [{ "to": [{ "namespaceSelector": {} }], "ports": ports }] });
    // Two pods of one label behind it, each with another number of the port.
    let scene = |ports: Value| {
        Scene::new()
            .pod("y/b", |pod| {
                pod.labels = std::sync::Arc::new([("pod", "a")].into_iter().collect());
                let mut list = pod.ports.to_vec();
                list[0].port = 8080;
                pod.ports = list.into();
            })
            .service("y/s", vip, 8000, "a", TargetPort::Named("web".into()))
            .policy("x/p", out(ports))
    };
    scene(json!([{ "port": 80 }])).check(&[("x/a", vip, "TCP/8000", OutDenied)]);
    scene(json!([{ "port": 80 }, { "port": 8080 }])).check(&[("x/a", vip, "TCP/8000", Passes)]);
    scene(json!([{ "port": "web" }])).check(&[("x/a", vip, "TCP/8000", Passes)]);
}

#[test]
fn changes_take_effect_without_a_new_start() {
    let mut compiler = Compiler::new(CompilerOptions::default(), Tables::default());
    let mut now = |scene: Scene, met| {
        scene.compile(&mut compiler);
        scene.check_tables(compiler.installed(), &[("y/a", "x/a", "TCP/80", met)]);
    };
    let prod = json!({ "ingress": [{ "from": [{
        "namespaceSelector": { "matchLabels": { "env": "prod" } },
        "podSelector": { "matchLabels": { "role": "client" } },
    }] }], "podSelector": { "matchLabels": { "pod": "a" } } });
    let label = |pod: &mut policy_core::model::Pod, pairs: &[(&str, &str)]| {
        pod.labels = std::sync::Arc::new(pairs.iter().copied().collect());
    };
    let client = |scene: Scene| scene.pod("y/a", |pod| label(pod, &[("role", "client")]));
    now(Scene::new(), Passes);
    now(Scene::new().policy("x/p", prod.clone()), InDenied);
    now(client(Scene::new()).policy("x/p", prod.clone()), InDenied);
    // The peer's namespace gets its label, loses it and gets it again.
    let space = |scene: Scene| client(scene).namespace("y", &[("env", "prod")]).policy("x/p", prod.clone());
    now(space(Scene::new()), Passes);
    now(client(Scene::new()).namespace("y", &[("env", "test")]).policy("x/p", prod.clone()), InDenied);
    now(space(Scene::new()), Passes);
    // The peer loses its label; another address; the target is meant no more.
    now(space(Scene::new()).pod("y/a", |pod| label(pod, &[])), InDenied);
    now(space(Scene::new()).pod("x/a", |pod| label(pod, &[])), Passes);
    now(
        space(Scene::new())
            .pod("y/a", |pod| pod.addresses = ["10.0.2.99".parse().expect("an address")].into()),
        InDenied,
    );
    now(Scene::new(), Passes);
}
