//! Nodes as peers of ClusterNetworkPolicies, the pod's own one among them.

use policy_core::{Compiler, CompilerOptions, Tables};
use serde_json::json;

use super::scene::{NODE, OutDenied, Passes, Scene};
use super::tiers::{one, to};

#[test]
fn nodes_are_chosen_by_their_labels() {
    let scene = || {
        Scene::new()
            .node("here", &[("role", "worker")], &[NODE])
            .node("there", &[("role", "worker"), ("zone", "b")], &["10.9.0.2", "fd09::2"])
            .node("core", &[("role", "control-plane")], &["10.9.0.3"])
    };
    let workers = json!({ "matchLabels": { "role": "worker" } });
    scene().cluster_policy("p", to("Deny", json!({ "nodes": workers }))).check(&[
        ("x/a", "10.9.0.2", "TCP/22", OutDenied),
        ("x/a", "fd09::2", "TCP/22", OutDenied),
        ("x/a", "10.9.0.3", "TCP/6443", Passes),
        // Even the own one: this is no NetworkPolicy.
        ("x/a", NODE, "TCP/10250", OutDenied),
        ("y/a", NODE, "TCP/10250", Passes),
        ("x/a", "y/a", "TCP/80", Passes),
    ]);
    let elsewhere = json!({ "matchExpressions": [{ "key": "zone", "operator": "DoesNotExist" }] });
    scene()
        .cluster_policy("p", to("Deny", json!({ "nodes": elsewhere })))
        .check(&[("x/a", "10.9.0.2", "TCP/22", Passes), ("x/a", "10.9.0.3", "TCP/22", OutDenied)]);
    scene()
        .cluster_policy("p", to("Deny", json!({ "nodes": {} })))
        .check(&[("x/a", "10.9.0.3", "TCP/22", OutDenied), ("x/a", "10.9.0.4", "TCP/22", Passes)]);
}

#[test]
fn the_own_node_is_open_to_network_policies_and_not_to_these() {
    let deny = json!({ "policyTypes": ["Egress"] });
    let network = |tier: &str| {
        let tcp = json!([{ "tcp": { "destinationPort": { "number": 22 } } }]);
        one(tier, "egress", "Deny", json!({ "networks": ["10.9.0.0/24"] }), tcp)
    };
    Scene::new().policy("x/p", deny.clone()).cluster_policy("p", network("Admin")).check(&[
        ("x/a", NODE, "TCP/22", OutDenied),
        ("x/a", NODE, "TCP/10250", Passes),
        ("x/a", "10.9.0.2", "TCP/10250", OutDenied),
    ]);
    // An isolated pod never comes to the Baseline tier, not on the way to its node either.
    Scene::new()
        .policy("x/p", deny)
        .cluster_policy("p", network("Baseline"))
        .check(&[("x/a", NODE, "TCP/22", Passes), ("x/a", "10.9.0.2", "TCP/22", OutDenied)]);
    Scene::new()
        .cluster_policy("p", network("Baseline"))
        .check(&[("x/a", NODE, "TCP/22", OutDenied), ("x/a", NODE, "TCP/10250", Passes)]);
}

#[test]
fn labels_of_nodes_may_come_and_go() {
    let deny = || to("Deny", json!({ "nodes": { "matchLabels": { "closed": "yes" } } }));
    let scene = |labels: &[(&str, &str)]| {
        Scene::new()
            .node("there", labels, &["10.9.0.2"])
            .node("here", labels, &[NODE])
            .cluster_policy("p", deny())
    };
    let mut compiler = Compiler::new(CompilerOptions::default(), Tables::default());
    for (labels, met) in [(&[][..], Passes), (&[("closed", "yes")], OutDenied), (&[("closed", "no")], Passes)]
    {
        let scene = scene(labels);
        scene.compile(&mut compiler);
        scene.check_tables(
            compiler.installed(),
            &[
                ("x/a", "10.9.0.2", "TCP/22", met),
                ("x/a", NODE, "TCP/22", met),
                ("x/a", "y/a", "TCP/22", Passes),
            ],
        );
    }
    let mut without = scene(&[("closed", "yes")]);
    without.cluster.nodes.clear();
    without.compile(&mut compiler);
    without.check_tables(compiler.installed(), &[("x/a", "10.9.0.2", "TCP/22", Passes)]);
}
