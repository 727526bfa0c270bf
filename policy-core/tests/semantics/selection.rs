//! Which pods a policy applies to, and what it isolates.

use policy_core::parse::{RawPolicy, RawSelector, parse_policy};
use serde_json::json;

use super::scene::{BothDenied, InDenied, OutDenied, Passes, Scene};

#[test]
fn a_policy_applies_in_its_namespace_only_and_an_empty_selector_to_all_pods_there() {
    for spec in [json!({ "podSelector": {} }), json!({})] {
        Scene::new().policy("x/deny", spec).check(&[
            ("y/a", "x/a", "TCP/80", InDenied),
            ("y/a", "x/c", "UDP/53", InDenied),
            ("x/a", "x/b", "SCTP/90", InDenied),
            ("y/a", "x/a 6", "TCP/80", InDenied),
            ("x/a", "y/a", "TCP/80", Passes),
            ("z/a", "y/b", "TCP/80", Passes),
        ]);
    }
}

#[test]
fn isolation_is_per_direction() {
    Scene::new().policy("x/in", json!({ "policyTypes": ["Ingress"] })).check(&[
        ("y/a", "x/a", "TCP/80", InDenied),
        ("x/a", "y/a", "TCP/80", Passes),
        ("x/a", "198.51.100.1", "TCP/443", Passes),
    ]);
    Scene::new().policy("x/out", json!({ "policyTypes": ["Egress"] })).check(&[
        ("y/a", "x/a", "TCP/80", Passes),
        ("x/a", "y/a", "TCP/80", OutDenied),
        ("x/a", "198.51.100.1", "TCP/443", OutDenied),
    ]);
    Scene::new().policy("x/both", json!({ "policyTypes": ["Ingress", "Egress"] })).check(&[
        ("y/a", "x/a", "TCP/80", InDenied),
        ("x/a", "y/a", "TCP/80", OutDenied),
        ("x/a", "x/b", "TCP/80", BothDenied),
    ]);
}

#[test]
fn missing_policy_types_are_ingress_and_egress_only_with_rules_for_it() {
    Scene::new()
        .policy(
            "x/p",
            json!({ "egress": [{ "to": [{ "podSelector": { "matchLabels": { "pod": "b" } } }] }] }),
        )
        .check(&[
            ("y/a", "x/a", "TCP/80", InDenied),
            ("x/a", "y/b", "TCP/80", OutDenied),
            ("x/a", "x/b", "TCP/80", InDenied),
        ]);
    Scene::new().policy("x/p", json!({ "egress": [] })).check(&[("x/a", "y/a", "TCP/80", Passes)]);
}

#[test]
fn no_rules_for_an_isolated_direction_deny_all_of_it() {
    for rules in [json!([]), json!(null)] {
        Scene::new()
            .policy("x/p", json!({ "policyTypes": ["Ingress", "Egress"], "ingress": rules, "egress": rules }))
            .check(&[
                ("y/a", "x/a", "TCP/80", InDenied),
                ("y/a", "x/a", "ICMP", InDenied),
                ("x/a", "y/a", "UDP/53", OutDenied),
                ("x/a", "y/a", "ICMP", OutDenied),
                ("x/a", "y/a", "47", OutDenied),
            ]);
    }
}

#[test]
fn rules_of_a_direction_that_is_no_policy_type_are_ignored() {
    Scene::new()
        .policy("x/p", json!({ "policyTypes": ["Egress"], "ingress": [], "egress": [{}] }))
        .check(&[("y/a", "x/a", "TCP/80", Passes), ("x/a", "y/a", "TCP/80", Passes)]);
    Scene::new()
        .policy("x/p", json!({ "policyTypes": ["Ingress"], "egress": [{ "to": [{ "podSelector": {} }] }] }))
        .check(&[("x/a", "y/a", "TCP/80", Passes), ("y/a", "x/a", "TCP/80", InDenied)]);
}

#[test]
fn policies_and_rules_are_a_union_in_any_order() {
    let from = |pod: &str| json!({ "from": [{ "namespaceSelector": {}, "podSelector": { "matchLabels": { "pod": pod } } }] });
    let flows = [
        ("y/a", "x/a", "TCP/80", Passes),
        ("y/b", "x/a", "TCP/80", Passes),
        ("y/c", "x/a", "TCP/80", InDenied),
    ];
    let deny = json!({});
    Scene::new().policy("x/p", json!({ "ingress": [from("a"), from("b")] })).check(&flows);
    Scene::new().policy("x/p", json!({ "ingress": [from("b"), from("a")] })).check(&flows);
    for names in [["x/1", "x/2", "x/3"], ["x/3", "x/1", "x/2"], ["x/2", "x/3", "x/1"]] {
        Scene::new()
            .policy(names[0], json!({ "ingress": [from("a")] }))
            .policy(names[1], deny.clone())
            .policy(names[2], json!({ "ingress": [from("b")] }))
            .check(&flows);
    }
}

#[test]
fn a_connection_needs_both_ends() {
    Scene::new()
        .policy(
            "x/out",
            json!({ "policyTypes": ["Egress"], "egress": [{ "ports": [{ "port": 80 }, { "port": 81 }] }] }),
        )
        .policy("y/in", json!({ "ingress": [{ "ports": [{ "port": 81 }, { "port": 82 }] }] }))
        .check(&[
            ("x/a", "y/a", "TCP/80", InDenied),
            ("x/a", "y/a", "TCP/81", Passes),
            ("x/a", "y/a", "TCP/82", OutDenied),
            ("x/a", "y/a", "TCP/83", BothDenied),
        ]);
}

#[test]
fn labels_choose_the_subject() {
    let expression = |operator: &str, values: &[&str]| json!({ "podSelector": { "matchExpressions": [{ "key": "pod", "operator": operator, "values": values }] } });
    let denied = |spec, pods: [bool; 3]| {
        let met = |denied| if denied { InDenied } else { Passes };
        Scene::new().policy("x/p", spec).check(&[
            ("y/a", "x/a", "TCP/80", met(pods[0])),
            ("y/a", "x/b", "TCP/80", met(pods[1])),
            ("y/a", "x/c", "TCP/80", met(pods[2])),
        ]);
    };
    denied(json!({ "podSelector": { "matchLabels": { "pod": "b" } } }), [false, true, false]);
    denied(expression("In", &["a", "c"]), [true, false, true]);
    denied(expression("NotIn", &["a"]), [false, true, true]);
    denied(expression("Exists", &[]), [true, true, true]);
    denied(expression("DoesNotExist", &[]), [false, false, false]);
    let absent = json!({ "podSelector": { "matchExpressions": [{ "key": "tier", "operator": "NotIn", "values": ["x"] }] } });
    denied(absent, [true, true, true]);
    let both = json!({ "podSelector": {
        "matchLabels": { "pod": "a" },
        "matchExpressions": [{ "key": "pod", "operator": "NotIn", "values": ["a"] }],
    } });
    denied(both, [false, false, false]);
    // An empty value is a value: the key must be there.
    denied(json!({ "podSelector": { "matchLabels": { "tier": "" } } }), [false, false, false]);
}

#[test]
fn a_manifest_without_anything_isolates_ingress() {
    let raw = RawPolicy { pod_selector: RawSelector::default(), ..RawPolicy::default() };
    let (policy, findings) = parse_policy(&raw);
    assert_eq!((policy.ingress, policy.egress, findings.len()), (Some(vec![]), None, 0));
}
