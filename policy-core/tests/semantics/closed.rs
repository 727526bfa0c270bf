//! What cannot be understood is closed, with a finding that names the field and the
//! remedy, and everything else stays in force.

use serde_json::{Value, json};

use super::scene::{InDenied, Met, OutDenied, Passes, Scene};

/// A policy for the pods of x of one rule, which is told as one that accepts, denies or passes.
fn of_rule(word: &str, action: &str, rule: &Value) -> Value {
    let mut rule = rule.clone();
    rule["action"] = json!(action);
    let subject = json!({ "namespaces": { "matchLabels": { "ns": "x" } } });
    json!({ "tier": "Admin", "priority": 1, "subject": subject, word: [rule] })
}

/// One that accepts matches nothing, one that denies or passes denies everything.
#[track_caller]
fn closed(word: &str, rule: &Value, finding: &str) {
    let isolating = || json!({ "policyTypes": ["Ingress", "Egress"] });
    let flows = |met: Met| match word {
        "ingress" => [("y/a", "x/a", "TCP/80", met), ("198.51.100.1", "x/a", "ICMP", met)],
        _ => [("x/a", "y/a", "TCP/80", met), ("x/a", "198.51.100.1", "ICMP", met)],
    };
    let denied = if word == "ingress" { InDenied } else { OutDenied };
    for (action, with, met) in [
        ("Accept", false, Passes),
        ("Accept", true, denied),
        ("Deny", false, denied),
        ("Pass", false, denied),
    ] {
        let mut scene = Scene::new().cluster_policy("p", of_rule(word, action, rule));
        assert_eq!(scene.found(), [finding], "{action}");
        if with {
            scene = scene.policy("x/np", isolating());
        }
        scene.check(&flows(met));
    }
}

#[test]
fn peers_that_say_nothing_or_too_much() {
    let both = json!({ "namespaces": {}, "pods": { "podSelector": {} } });
    closed("ingress", &json!({ "from": [{}] }), "spec.ingress[0].from[0] InvalidPeer");
    closed("ingress", &json!({ "from": [both] }), "spec.ingress[0].from[0] InvalidPeer");
    closed("ingress", &json!({}), "spec.ingress[0].from InvalidPeer");
    closed("egress", &json!({ "to": [] }), "spec.egress[0].to InvalidPeer");
    // Of another version of the API: its field is not known here, so the peer looks empty.
    closed(
        "egress",
        &json!({ "to": [{ "namespaces": {} }, { "service": "web" }] }),
        "spec.egress[0].to[1] InvalidPeer",
    );
    // Peers of egress only.
    closed(
        "ingress",
        &json!({ "from": [{ "networks": ["10.0.0.0/8"] }] }),
        "spec.ingress[0].from[0] InvalidPeer",
    );
    closed("ingress", &json!({ "from": [{ "nodes": {} }] }), "spec.ingress[0].from[0] InvalidPeer");
}

#[test]
fn selectors_that_cannot_be_read() {
    let bad = json!({ "matchExpressions": [{ "key": "a", "operator": "in", "values": ["b"] }] });
    closed(
        "ingress",
        &json!({ "from": [{ "namespaces": bad }] }),
        "spec.ingress[0].from[0].namespaces InvalidSelector",
    );
    closed("egress", &json!({ "to": [{ "nodes": bad }] }), "spec.egress[0].to[0].nodes InvalidSelector");
    for pods in
        [json!({ "podSelector": bad }), json!({ "namespaceSelector": bad, "podSelector": {} }), json!({})]
    {
        closed("egress", &json!({ "to": [{ "pods": pods }] }), "spec.egress[0].to[0].pods InvalidSelector");
    }
}

#[test]
fn networks_that_are_none() {
    let networks = |list: Value| json!({ "to": [{ "networks": list }] });
    for text in ["10.0.0.1", "10.0.0.0/33", "all", ""] {
        let list = json!(["10.0.2.0/24", text]);
        closed("egress", &networks(list), "spec.egress[0].to[0].networks[1] InvalidPeer");
    }
}

#[test]
fn protocols_that_cannot_be_read() {
    let on = |entry: Value| json!({ "from": [{ "namespaces": {} }], "protocols": [entry] });
    let port = |port: Value| json!({ "tcp": { "destinationPort": port } });
    for entry in [
        json!({}),
        json!({ "tcp": {} }),
        json!({ "icmp": {} }),
        port(json!({})),
        port(json!({ "number": 0 })),
        port(json!({ "number": 65536 })),
        port(json!({ "number": 80, "range": { "start": 1, "end": 2 } })),
        port(json!({ "range": { "start": 9, "end": 8 } })),
        port(json!({ "range": { "start": 0, "end": 8 } })),
        json!({ "tcp": { "destinationPort": { "number": 80 } }, "destinationNamedPort": "web" }),
    ] {
        closed("ingress", &on(entry), "spec.ingress[0].protocols[0] InvalidPort");
    }
}

#[test]
fn names_of_ports_where_there_are_no_names() {
    let rule = |peer: Value| json!({ "to": [peer], "protocols": [{ "destinationNamedPort": "web" }] });
    closed("egress", &rule(json!({ "networks": ["0.0.0.0/0"] })), "spec.egress[0].to[0] InvalidPeer");
    closed("egress", &rule(json!({ "nodes": {} })), "spec.egress[0].to[0] InvalidPeer");
}

#[test]
fn domain_names_are_refused() {
    let domains = json!({ "domainNames": ["example.org"] });
    let rule = |action: &str, peers: Value| of_rule("egress", action, &json!({ "to": peers }));
    // Accepted: the peer matches nothing, and the others stay.
    let scene = Scene::new().policy("x/np", json!({ "policyTypes": ["Egress"] })).cluster_policy(
        "p",
        rule("Accept", json!([domains, { "namespaces": { "matchLabels": { "ns": "y" } } }])),
    );
    assert_eq!(scene.found(), ["spec.egress[0].to[0].domainNames NotSupported"]);
    scene.check(&[("x/a", "y/a", "TCP/80", Passes), ("x/a", "198.51.100.1", "TCP/443", OutDenied)]);
    for action in ["Deny", "Pass"] {
        let scene = Scene::new().cluster_policy("p", rule(action, json!([domains])));
        assert_eq!(scene.found(), ["spec.egress[0].to[0].domainNames NotSupported"]);
        scene.check(&[("x/a", "y/a", "TCP/80", OutDenied), ("x/a", "198.51.100.1", "TCP/443", OutDenied)]);
    }
}

#[test]
fn an_action_that_is_not_known_denies_what_it_names() {
    for action in ["", "Allow", "deny"] {
        let rule = json!({ "from": [{ "namespaces": { "matchLabels": { "ns": "y" } } }] });
        let scene = Scene::new().cluster_policy("p", of_rule("ingress", action, &rule));
        assert_eq!(scene.found(), ["spec.ingress[0].action InvalidRule"]);
        scene.check(&[("y/a", "x/a", "TCP/80", InDenied), ("z/a", "x/a", "TCP/80", Passes)]);
    }
}

/// A policy of which not even the place is known: what it accepts it does not, what it
/// passes it denies.
#[test]
fn tiers_priorities_and_subjects_that_cannot_be_read() {
    let rules = json!([
        { "action": "Accept", "from": [{ "namespaces": { "matchLabels": { "ns": "x" } } }] },
        { "action": "Pass", "from": [{ "namespaces": { "matchLabels": { "ns": "y" } } }] },
        { "action": "Deny", "from": [{ "pods": { "podSelector": { "matchLabels": { "pod": "c" } } } }] },
    ]);
    let good = json!({
        "tier": "Admin", "priority": 1, "ingress": rules,
        "subject": { "namespaces": { "matchLabels": { "ns": "x" } } },
    });
    let with = |field: &str, value: Value| {
        let mut spec = good.clone();
        spec[field] = value;
        Scene::new().cluster_policy("p", spec).policy(
            "x/np",
            json!({
                "ingress": [{ "from": [{ "namespaceSelector": {} }] }],
            }),
        )
    };
    let bad = json!({ "matchExpressions": [{ "key": "a", "operator": "Is" }] });
    for (field, value, finding) in [
        ("tier", json!("Middle"), "spec.tier InvalidRule"),
        ("tier", json!(null), "spec.tier InvalidRule"),
        ("priority", json!(null), "spec.priority InvalidRule"),
        ("priority", json!(1001), "spec.priority InvalidRule"),
        ("priority", json!(-1), "spec.priority InvalidRule"),
        ("subject", json!({}), "spec.subject InvalidSelector"),
        (
            "subject",
            json!({ "namespaces": {}, "pods": { "podSelector": {} } }),
            "spec.subject InvalidSelector",
        ),
        ("subject", json!({ "namespaces": bad }), "spec.subject.namespaces InvalidSelector"),
        ("subject", json!({ "pods": {} }), "spec.subject.pods InvalidSelector"),
        ("subject", json!({ "pods": { "podSelector": bad } }), "spec.subject.pods InvalidSelector"),
    ] {
        let scene = with(field, value.clone());
        assert_eq!(scene.found(), [finding], "{field} {value}");
        let everybody = if field == "subject" { InDenied } else { Passes };
        scene.check(&[
            ("x/b", "x/a", "TCP/80", Passes),
            ("y/a", "x/a", "TCP/80", InDenied),
            ("z/c", "x/a", "TCP/80", InDenied),
            ("z/a", "x/a", "TCP/80", Passes),
            // Whom it selects is known unless it is the subject that is not.
            ("y/a", "z/a", "TCP/80", everybody),
            ("z/c", "z/a", "TCP/80", everybody),
        ]);
    }
}

#[test]
fn one_bad_policy_leaves_the_others_in_force() {
    let good = json!({ "podSelector": { "matchLabels": { "pod": "a" } },
        "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "pod": "b" } } }] }] });
    let bad = json!({ "podSelector": { "matchLabels": { "pod": "a" } }, "ingress": [
        { "from": [{ "podSelector": { "matchExpressions": [{ "key": "pod", "operator": "Near" }] } }] },
        { "from": [{ "podSelector": { "matchLabels": { "pod": "c" } } }], "ports": [{ "port": 81 }, { "port": -1 }] },
    ] });
    let scene = Scene::new().policy("x/bad", bad).policy("x/good", good).cluster_policy(
        "guard",
        of_rule("egress", "Deny", &json!({ "to": [{ "networks": ["198.51.100.0/24"] }] })),
    );
    assert_eq!(
        scene.found(),
        ["spec.ingress[0].from[0] InvalidSelector", "spec.ingress[1].ports[1] InvalidPort"]
    );
    scene.check(&[
        ("x/b", "x/a", "TCP/80", Passes),
        ("x/c", "x/a", "TCP/81", Passes),
        ("x/c", "x/a", "TCP/80", InDenied),
        ("y/a", "x/a", "TCP/80", InDenied),
        ("x/a", "198.51.100.7", "TCP/80", OutDenied),
        ("x/a", "203.0.113.7", "TCP/80", Passes),
    ]);
}

#[test]
fn a_subject_that_cannot_be_read_isolates_its_namespace() {
    let bad = json!({ "matchExpressions": [{ "key": "a", "operator": "In" }] });
    let scene = Scene::new().policy("x/p", json!({ "podSelector": bad, "ingress": [{}] }));
    assert_eq!(scene.found(), ["spec.podSelector InvalidSelector"]);
    scene.check(&[("y/a", "x/a", "TCP/80", InDenied), ("x/a", "y/a", "TCP/80", Passes)]);
}

#[test]
fn a_finding_says_where_what_and_what_to_do() {
    let spec = of_rule("egress", "Deny", &json!({ "to": [{ "networks": ["10.0.0.0/99"] }] }));
    let scene = Scene::new().cluster_policy("guard", spec);
    assert_eq!(
        scene.findings[0].to_string(),
        "ClusterNetworkPolicy guard at spec.egress[0].to[0].networks[0]: \"10.0.0.0/99\" is not a CIDR, which is \
         an address, a slash and a prefix length; this rule denies everything until that is mended"
    );
}
