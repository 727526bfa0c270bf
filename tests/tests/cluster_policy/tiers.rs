//! Scenarios with rules of their own: networks, nodes, named ports, and tiers with each other.

use std::net::IpAddr;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use system_tests::cluster_policy::{policy, together};
use system_tests::probe::Protocol;

use super::cast::{Port, Stage, house, of, pods_of};
use super::rules::{Roles, Way, rule};

/// Everything that has an address.
fn anywhere() -> Value {
    json!({"networks": ["0.0.0.0/0", "::/0"]})
}

/// Networks are of pods too, before and after a namespace's label changes, and single addresses come first.
pub(crate) fn networks(stage: &mut Stage, tier: (&str, u16)) -> Result<()> {
    let accept = rule(Way::Out, "Accept", &[pods_of("slytherin")], None);
    let deny = rule(Way::Out, "Deny", &[anywhere()], None);
    let subject = pods_of("gryffindor");
    stage.world.apply(&policy("networks", tier, &subject, &[], &[accept.clone(), deny.clone()]))?;
    stage.expect(|from, to, _| from.house == "gryffindor" && to.house != "slytherin")?;

    stage.world.apply(&house("slytherin", "denied-namespace-label"))?;
    stage.expect(|from, _, _| from.house == "gryffindor").context("with another label")?;
    stage.world.apply(&house("slytherin", "slytherin"))?;
    stage.expect(|from, to, _| from.house == "gryffindor" && to.house != "slytherin")?;

    let single: Vec<IpAddr> = stage
        .actors
        .iter()
        .filter(|actor| actor.is("ravenclaw", 0) || actor.is("hufflepuff", 0))
        .map(|actor| actor.address)
        .collect();
    let blocks: Vec<String> = single.iter().map(|address| format!("{address}/32")).collect();
    let first = rule(Way::Out, "Accept", &[json!({ "networks": blocks })], None);
    stage.world.apply(&policy("networks", tier, &subject, &[], &[first, accept, deny]))?;
    stage.expect(|from, to, _| {
        from.house == "gryffindor" && to.house != "slytherin" && !single.contains(&to.address)
    })
}

/// A port by its name, in the place of a number.
pub(crate) fn named(
    stage: &mut Stage,
    tier: (&str, u16),
    way: Way,
    roles: Roles,
    name: &str,
    is: Port,
) -> Result<()> {
    let passes = tier.0 == "Admin";
    let mut rules = roles.rules(way, passes, super::rules::Order::Accept);
    let at = rules.len() - 2;
    rules[at]["protocols"] = json!([{ "destinationNamedPort": name }]);
    let (ingress, egress) = if way == Way::In { (rules, vec![]) } else { (vec![], rules) };
    stage.world.apply(&policy("named", tier, &of(roles.subject), &ingress, &egress))?;
    let ports = [is];
    stage.expect(|from, to, port| {
        let (subject, peer) = if way == Way::In { (to, from) } else { (from, to) };
        subject.house == roles.subject
            && (peer.house == roles.some.0 && roles.some.1.contains(&port)
                || peer.house == roles.only.0 && !ports.contains(&port))
    })
}

/// Admin, then NetworkPolicy, then Baseline.
pub(crate) fn integration(stage: &mut Stage) -> Result<()> {
    let house = of("gryffindor");
    let gress = |way, action: &str| vec![rule(way, action, &[of("slytherin")], None)];
    let admin = |into: &str, out: &str| {
        policy("pass-example", ("Admin", 10), &house, &gress(Way::In, into), &gress(Way::Out, out))
    };
    let peers = json!([{"namespaceSelector": {"matchLabels": {"conformance-house": "slytherin"}}}]);
    let network_policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"namespace": "gryffindor", "name": "with-slytherin"},
        "spec": {
            "podSelector": {}, "policyTypes": ["Ingress", "Egress"],
            "ingress": [{ "from": peers }], "egress": [{ "to": peers }],
        },
    })
    .to_string();
    let baseline =
        policy("default", ("Baseline", 10), &house, &gress(Way::In, "Deny"), &gress(Way::Out, "Deny"));
    stage.world.apply(&together([&admin("Deny", "Deny"), &network_policy, &baseline]))?;
    let ours = "gryffindor";
    stage.expect(|from, to, _| from.house == ours || to.house == ours)?;
    // What it passes is the NetworkPolicy's; that isolates from all others.
    stage.world.apply(&admin("Pass", "Deny"))?;
    stage
        .expect(|from, to, _| from.house == ours || to.house == ours && from.house != "slytherin")
        .context("ingress passes")?;
    stage.world.apply(&admin("Pass", "Pass"))?;
    stage
        .expect(|from, to, _| {
            from.house == ours && to.house != "slytherin" || to.house == ours && from.house != "slytherin"
        })
        .context("both pass")?;
    stage.world.delete(&network_policy)?;
    stage
        .expect(|from, to, _| {
            from.house == ours && to.house == "slytherin" || from.house == "slytherin" && to.house == ours
        })
        .context("the baseline is left")
}

/// Of two policies the one with the lower priority decides.
pub(crate) fn priority(stage: &mut Stage) -> Result<()> {
    let subject = pods_of("gryffindor");
    let gress = |way, action: &str| vec![rule(way, action, &[pods_of("slytherin")], None)];
    let one = |name: &str, tier: &str, priority: u16, action: &str| {
        policy(name, (tier, priority), &subject, &gress(Way::In, action), &gress(Way::Out, action))
    };
    let denies = one("priority-50", "Admin", 50, "Deny");
    let passes = |priority| one("old-60-new-40", "Admin", priority, "Pass");
    let baseline = one("default", "Baseline", 10, "Accept");
    stage.world.apply(&together([&denies, &passes(60), &baseline]))?;
    let between = |one: &str, other: &str| {
        matches!((one, other), ("gryffindor", "slytherin") | ("slytherin", "gryffindor"))
    };
    stage.expect(|from, to, _| between(from.house, to.house))?;
    stage.world.apply(&passes(40))?;
    stage.expect(|_, _, _| false).context("the other comes first")
}

/// Nodes by their labels, and every address of the rest.
fn nodes() -> Value {
    json!({"nodes": {"matchLabels": {"kubernetes.io/os": "linux"}}})
}

fn expect_of_nodes(stage: &mut Stage, ports: &[(Port, bool)]) -> Result<()> {
    let subjects: Vec<usize> =
        (0..stage.actors.len()).filter(|place| stage.actors[*place].house == "gryffindor").collect();
    for place in subjects {
        stage.expect_nodes(place, ports)?;
    }
    Ok(())
}

pub(crate) fn admin_nodes(stage: &mut Stage) -> Result<()> {
    let egress = [
        rule(Way::Out, "Accept", &[nodes()], Some(json!([{"tcp": {"destinationPort": {"number": 34345}}}]))),
        rule(Way::Out, "Pass", &[nodes()], Some(json!([{"udp": {"destinationPort": {"number": 34347}}}]))),
        rule(Way::Out, "Deny", &[pods_of("slytherin"), nodes(), anywhere()], None),
    ];
    stage.world.apply(&policy("nodes", ("Admin", 75), &pods_of("gryffindor"), &[], &egress))?;
    stage.expect(|from, _, _| from.house == "gryffindor")?;
    expect_of_nodes(
        stage,
        &[
            ((Protocol::Tcp, 34345), true),
            ((Protocol::Tcp, 34346), false),
            ((Protocol::Udp, 34347), true),
            ((Protocol::Udp, 34348), false),
            ((Protocol::Sctp, 34349), false),
        ],
    )
}

pub(crate) fn baseline_nodes(stage: &mut Stage) -> Result<()> {
    let range = json!([{"tcp": {"destinationPort": {"range": {"start": 34345, "end": 34346}}}}]);
    let egress = [
        rule(Way::Out, "Accept", &[nodes()], Some(range)),
        rule(Way::Out, "Deny", &[nodes(), anywhere()], None),
    ];
    stage.world.apply(&policy("default", ("Baseline", 10), &pods_of("gryffindor"), &[], &egress))?;
    stage.expect(|from, _, _| from.house == "gryffindor")?;
    expect_of_nodes(
        stage,
        &[
            ((Protocol::Tcp, 34345), true),
            ((Protocol::Tcp, 34346), true),
            ((Protocol::Tcp, 34347), false),
            ((Protocol::Udp, 34345), false),
            ((Protocol::Sctp, 34345), false),
        ],
    )
}
