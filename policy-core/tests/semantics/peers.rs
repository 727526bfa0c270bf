//! Whom a rule lets in or out to.

use serde_json::{Value, json};

use super::scene::{InDenied, OutDenied, Passes, Scene};

fn ingress(rules: Value) -> Value {
    json!({ "ingress": rules })
}

fn egress(rules: Value) -> Value {
    json!({ "policyTypes": ["Egress"], "egress": rules })
}

#[test]
fn missing_or_empty_peers_are_any_peer() {
    for rule in [json!({ "ports": [{ "port": 80 }] }), json!({ "from": [], "ports": [{ "port": 80 }] })] {
        Scene::new().policy("x/p", ingress(json!([rule]))).check(&[
            ("y/a", "x/a", "TCP/80", Passes),
            ("198.51.100.1", "x/a", "TCP/80", Passes),
            ("2001:db8::1", "x/a 6", "TCP/80", Passes),
            ("y/a", "x/a", "TCP/81", InDenied),
        ]);
    }
    Scene::new()
        .policy("x/p", ingress(json!([{ "from": [{ "podSelector": {} }], "ports": [{ "port": 80 }] }])))
        .check(&[
            ("x/b", "x/a", "TCP/80", Passes),
            ("y/a", "x/a", "TCP/80", InDenied),
            ("198.51.100.1", "x/a", "TCP/80", InDenied),
        ]);
}

#[test]
fn an_empty_rule_allows_everything() {
    Scene::new().policy("x/in", ingress(json!([{}]))).policy("x/out", egress(json!([{}]))).check(&[
        ("y/a", "x/a", "ICMP", Passes),
        ("198.51.100.1", "x/a", "50", Passes),
        ("x/a", "198.51.100.1", "SCTP/7", Passes),
    ]);
}

#[test]
fn an_empty_peer_matches_nothing() {
    let scene = Scene::new().policy("x/p", ingress(json!([{ "from": [{}] }])));
    assert_eq!(scene.found(), ["spec.ingress[0].from[0] InvalidPeer"]);
    scene.check(&[("x/b", "x/a", "TCP/80", InDenied), ("198.51.100.1", "x/a", "TCP/80", InDenied)]);
}

#[test]
fn pod_selectors_are_for_the_own_namespace_and_combine_with_namespace_selectors() {
    let pods = json!({ "matchLabels": { "pod": "a" } });
    let space = json!({ "matchLabels": { "ns": "y" } });
    let check = |peers: Value, expected: [bool; 5]| {
        let met = |passes| if passes { Passes } else { InDenied };
        let [own_a, own_b, y_a, y_b, z_a] = expected.map(met);
        Scene::new().policy("x/p", ingress(json!([{ "from": peers }]))).check(&[
            ("x/a", "x/c", "TCP/80", own_a),
            ("x/b", "x/c", "TCP/80", own_b),
            ("y/a", "x/c", "TCP/80", y_a),
            ("y/b", "x/c", "TCP/80", y_b),
            ("z/a", "x/c", "TCP/80", z_a),
            ("198.51.100.1", "x/c", "TCP/80", InDenied),
        ]);
    };
    check(json!([{ "podSelector": pods }]), [true, false, false, false, false]);
    check(json!([{ "namespaceSelector": space }]), [false, false, true, true, false]);
    check(json!([{ "podSelector": pods, "namespaceSelector": space }]), [false, false, true, false, false]);
    check(json!([{ "podSelector": pods }, { "namespaceSelector": space }]), [true, false, true, true, false]);
    check(json!([{ "podSelector": {} }]), [true, true, false, false, false]);
    check(json!([{ "namespaceSelector": {} }]), [true, true, true, true, true]);
    check(json!([{ "podSelector": pods, "namespaceSelector": {} }]), [true, false, true, false, true]);
}

#[test]
fn operators_match_objects_that_lack_the_key() {
    let by = |operator: &str, values: Value| {
        let one = json!({ "key": "env", "operator": operator, "values": values });
        ingress(json!([{ "from": [{ "namespaceSelector": { "matchExpressions": [one] } }] }]))
    };
    let scene = |spec: Value| {
        Scene::new().namespace("y", &[("env", "prod")]).namespace("z", &[("env", "")]).policy("x/p", spec)
    };
    let check = |spec: Value, expected: [bool; 3]| {
        let met = |passes| if passes { Passes } else { InDenied };
        let [none, prod, empty] = expected.map(met);
        scene(spec).check(&[
            ("x/b", "x/a", "TCP/80", none),
            ("y/a", "x/a", "TCP/80", prod),
            ("z/a", "x/a", "TCP/80", empty),
        ]);
    };
    check(by("NotIn", json!(["prod"])), [true, false, true]);
    check(by("DoesNotExist", json!([])), [true, false, false]);
    check(by("Exists", json!([])), [false, true, true]);
    check(by("In", json!(["prod", "test"])), [false, true, false]);
    check(
        ingress(json!([{ "from": [{ "namespaceSelector": { "matchLabels": { "env": "" } } }] }])),
        [false, false, true],
    );
}

#[test]
fn every_namespace_has_the_label_of_its_name() {
    let name = json!({ "matchLabels": { "kubernetes.io/metadata.name": "y" } });
    // Whatever its labels say.
    Scene::new()
        .namespace("y", &[("kubernetes.io/metadata.name", "z")])
        .policy("x/p", ingress(json!([{ "from": [{ "namespaceSelector": name }] }])))
        .check(&[("y/a", "x/a", "TCP/80", Passes), ("z/a", "x/a", "TCP/80", InDenied)]);
    let others = json!({ "matchExpressions": [
        { "key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["y"] },
    ] });
    Scene::new()
        .policy("x/p", egress(json!([{ "to": [{ "namespaceSelector": others }] }])))
        .check(&[("x/a", "y/a", "TCP/80", OutDenied), ("x/a", "z/a", "TCP/80", Passes)]);
}

#[test]
fn blocks_hold_for_pods_too_and_excepts_only_for_their_own_peer() {
    let block = |cidr: &str, except: Value| json!({ "ipBlock": { "cidr": cidr, "except": except } });
    Scene::new()
        .policy("x/p", egress(json!([{ "to": [block("10.0.2.0/24", json!(["10.0.2.2/32"]))] }])))
        .check(&[
            ("x/a", "y/a", "TCP/80", Passes),
            ("x/a", "y/b", "TCP/80", OutDenied),
            ("x/a", "10.0.2.77", "TCP/80", Passes),
            ("x/a", "z/a", "TCP/80", OutDenied),
            ("x/a", "y/a 6", "TCP/80", OutDenied),
        ]);
    // What one excepts another rule, or another policy, may allow.
    let again = [("x/a", "y/b", "TCP/80", Passes), ("x/a", "y/c", "TCP/80", OutDenied)];
    let hole = block("10.0.2.0/24", json!(["10.0.2.2/31"]));
    let single = block("10.0.2.2/32", json!([]));
    Scene::new().policy("x/p", egress(json!([{ "to": [hole, single] }]))).check(&again);
    Scene::new()
        .policy("x/p", egress(json!([{ "to": [hole] }])))
        .policy("x/q", egress(json!([{ "to": [single] }])))
        .check(&again);
}

#[test]
fn blocks_are_canonical() {
    let to = |cidr: &str| egress(json!([{ "to": [{ "ipBlock": { "cidr": cidr } }] }]));
    for cidr in ["10.0.2.9/24", "::ffff:10.0.2.0/120"] {
        let scene = Scene::new().policy("x/p", to(cidr));
        assert!(scene.findings.is_empty());
        scene.check(&[("x/a", "y/a", "TCP/80", Passes), ("x/a", "z/a", "TCP/80", OutDenied)]);
    }
    Scene::new().policy("x/p", to("0.0.0.0/0")).check(&[
        ("x/a", "198.51.100.1", "TCP/80", Passes),
        ("x/a", "y/a", "TCP/80", Passes),
        ("x/a", "y/a 6", "TCP/80", OutDenied),
        ("x/a", "2001:db8::1", "TCP/80", OutDenied),
    ]);
    Scene::new().policy("x/p", to("::/0")).check(&[
        ("x/a", "198.51.100.1", "TCP/80", OutDenied),
        ("x/a", "2001:db8::1", "TCP/80", Passes),
        ("x/a", "y/a 6", "TCP/80", Passes),
    ]);
}

#[test]
fn a_block_with_a_selector_is_understood_as_neither() {
    let both = json!({ "ipBlock": { "cidr": "0.0.0.0/0" }, "podSelector": {} });
    let scene = Scene::new().policy("x/p", ingress(json!([{ "from": [both] }])));
    assert_eq!(scene.found(), ["spec.ingress[0].from[0] InvalidPeer"]);
    scene.check(&[("x/b", "x/a", "TCP/80", InDenied), ("198.51.100.1", "x/a", "TCP/80", InDenied)]);
}
