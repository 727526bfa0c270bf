//! Twenty-one small stacks of policies, and which of them decides. In each: pod x/a of
//! namespace x is asked on TCP/80 by y/a, and what the stack says is written beside.

use serde_json::{Value, json};

use super::scene::{InDenied, Met, Passes, Scene};

/// A rule of a ClusterNetworkPolicy as one word and what it is about: everything, a
/// namespace, pods of a label anywhere, or a port.
fn rule(text: &str) -> Value {
    let (action, about) = text.split_once(' ').expect("an action and what it is about");
    let (from, protocols) = match about.split_once('/') {
        Some((from, port)) => (from, Some(port)),
        None => (about, None),
    };
    let peer = match from {
        "all" => json!({ "namespaces": {} }),
        name @ ("x" | "y" | "z") => json!({ "namespaces": { "matchLabels": { "ns": name } } }),
        pod => json!({ "pods": { "podSelector": { "matchLabels": { "pod": pod } } } }),
    };
    let mut rule = json!({ "action": action, "from": [peer] });
    if let Some(port) = protocols {
        rule["protocols"] = match (port.parse::<u16>(), port.split_once('-')) {
            (Ok(number), _) => json!([{ "tcp": { "destinationPort": { "number": number } } }]),
            (_, Some((start, end))) => {
                let range: Vec<u16> = [start, end].iter().map(|n| n.parse().expect("a port")).collect();
                json!([{ "tcp": { "destinationPort": { "range": { "start": range[0], "end": range[1] } } } }])
            }
            _ => json!([{ "destinationNamedPort": port }]),
        };
    }
    rule
}

/// Policies as (tier, priority, rules), named by their place: p0, p1, …
fn stack(policies: &[(&str, u16, &[&str])], network_policy: Option<&[&str]>) -> Scene {
    let mut scene = Scene::new();
    for (place, (tier, priority, rules)) in policies.iter().enumerate() {
        let rules: Vec<Value> = rules.iter().map(|text| rule(text)).collect();
        let subject = json!({ "namespaces": { "matchLabels": { "ns": "x" } } });
        let spec = json!({ "tier": tier, "priority": priority, "subject": subject, "ingress": rules });
        scene = scene.cluster_policy(&format!("p{place}"), spec);
    }
    match network_policy {
        None => scene,
        Some(from) => {
            let peer = |name: &&str| json!({ "namespaceSelector": { "matchLabels": { "ns": name } } });
            let peers: Vec<Value> = from.iter().map(peer).collect();
            let rules = if peers.is_empty() { json!([]) } else { json!([{ "from": peers }]) };
            scene.policy("x/np", json!({ "ingress": rules }))
        }
    }
}

#[track_caller]
fn decides(policies: &[(&str, u16, &[&str])], network_policy: Option<&[&str]>, met: Met) {
    let scene = stack(policies, network_policy);
    assert_eq!(scene.found(), Vec::<String>::new());
    scene.check(&[("y/a", "x/a", "TCP/80", met)]);
}

macro_rules! stacks {
    ($($name:ident: $policies:expr, $np:expr => $met:expr;)*) => {
        $(#[test] fn $name() { decides(&$policies, $np, $met); })*
    };
}

stacks! {
    s01_the_first_rule_that_matches_decides:
        [("Admin", 5, &["Accept y", "Deny all"])], None => Passes;
    s02_a_rule_that_does_not_match_is_stepped_over:
        [("Admin", 5, &["Accept z", "Deny y"])], None => InDenied;
    s03_the_lower_priority_is_asked_first:
        [("Admin", 9, &["Accept y"]), ("Admin", 3, &["Deny y"])], None => InDenied;
    s04_the_higher_one_is_asked_for_what_is_left:
        [("Admin", 3, &["Deny z"]), ("Admin", 9, &["Accept y"])], Some(&[]) => Passes;
    s05_equal_priorities_are_asked_by_name:
        [("Admin", 3, &["Deny y"]), ("Admin", 3, &["Accept y"])], None => InDenied;
    s06_an_admin_deny_stands_above_network_policies:
        [("Admin", 3, &["Deny y"])], Some(&["y"]) => InDenied;
    s07_an_admin_accept_does_too:
        [("Admin", 3, &["Accept y"])], Some(&[]) => Passes;
    s08_what_admin_does_not_decide_network_policies_allow:
        [("Admin", 3, &["Deny z"])], Some(&["y"]) => Passes;
    s09_or_deny:
        [("Admin", 3, &["Deny z"])], Some(&["z"]) => InDenied;
    s10_pass_leaves_the_rest_of_the_policy_out:
        [("Admin", 3, &["Pass y", "Deny y"])], None => Passes;
    s11_and_the_rest_of_the_tier:
        [("Admin", 3, &["Pass y"]), ("Admin", 4, &["Deny y"])], None => Passes;
    s12_passed_on_a_network_policy_decides:
        [("Admin", 3, &["Pass y"]), ("Baseline", 1, &["Accept y"])], Some(&[]) => InDenied;
    s13_passed_on_without_one_baseline_decides:
        [("Admin", 3, &["Pass y"]), ("Baseline", 1, &["Deny y"])], None => InDenied;
    s14_baseline_does_not_touch_the_isolated:
        [("Baseline", 1, &["Deny all"])], Some(&["y"]) => Passes;
    s15_baseline_denies_where_nobody_else_spoke:
        [("Baseline", 1, &["Deny all"])], None => InDenied;
    s16_baseline_has_an_order_too:
        [("Baseline", 4, &["Deny all"]), ("Baseline", 2, &["Accept y"])], None => Passes;
    s17_pass_in_baseline_is_the_default:
        [("Baseline", 2, &["Pass y"]), ("Baseline", 4, &["Deny all"])], None => Passes;
    s18_an_admin_accept_of_another_port_changes_nothing:
        [("Admin", 3, &["Accept y/81", "Deny y/79-90"])], None => InDenied;
    s19_a_port_cut_out_of_a_denied_range:
        [("Admin", 3, &["Accept y/web"]), ("Admin", 4, &["Deny all/1-1000"])], None => Passes;
    s20_pass_of_one_port_only:
        [("Admin", 3, &["Pass y/80", "Deny y"]), ("Baseline", 1, &["Deny b", "Accept a"])], None => Passes;
    s21_all_tiers_for_different_peers:
        [("Admin", 0, &["Deny z", "Pass a/80"]), ("Admin", 1000, &["Deny all"]), ("Baseline", 0, &["Deny b"])],
        Some(&["y", "z"]) => Passes;
}

#[test]
fn the_whole_of_the_last_stack() {
    let policies: [(&str, u16, &[&str]); 3] = [
        ("Admin", 0, &["Deny z", "Pass a/80"]),
        ("Admin", 1000, &["Deny all"]),
        ("Baseline", 0, &["Deny b"]),
    ];
    stack(&policies, Some(&["y", "z"])).check(&[
        ("y/a", "x/a", "TCP/81", InDenied),
        ("y/b", "x/a", "TCP/80", InDenied),
        ("z/a", "x/a", "TCP/80", InDenied),
        ("x/a", "x/b", "TCP/80", InDenied),
        ("198.51.100.1", "x/a", "TCP/80", InDenied),
        ("y/a", "y/b", "TCP/80", Passes),
    ]);
    stack(&policies, None).check(&[
        ("y/a", "x/a", "TCP/80", Passes),
        ("y/a", "x/a", "UDP/80", InDenied),
        // No pod, so no rule speaks of it.
        ("198.51.100.1", "x/a", "TCP/80", Passes),
    ]);
}
