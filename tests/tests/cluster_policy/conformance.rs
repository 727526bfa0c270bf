//! The 24 conformance tests of the API, each as a scenario of the same name: policies come, are rewritten live, go.
//!
//! Where they try a pair of pods and a port, here all pods are tried on all ports and by echo requests after every
//! step, so what must not change is seen not to.

use anyhow::{Context, Result, ensure};
use system_tests::cluster_policy::policy;

use super::cast::{Port, SCTP_9003, Stage, TCP_80, TCP_8080, UDP_53, UDP_5353, house, of};
use super::rules::{Order, Roles, Way};
use super::tiers;

type Scenario = (&'static str, fn(&mut Stage) -> Result<()>);

const SCENARIOS: [Scenario; 24] = [
    ("CNPAdminTierIngressTCP", |stage| one_way(stage, ("Admin", 3), Way::In, TCP_IN)),
    ("CNPAdminTierIngressUDP", |stage| one_way(stage, ("Admin", 4), Way::In, UDP)),
    ("CNPAdminTierIngressSCTP", |stage| one_way(stage, ("Admin", 5), Way::In, SCTP)),
    ("CNPAdminTierEgressTCP", |stage| one_way(stage, ("Admin", 6), Way::Out, TCP_OUT)),
    ("CNPAdminTierEgressUDP", |stage| one_way(stage, ("Admin", 7), Way::Out, UDP)),
    ("CNPAdminTierEgressSCTP", |stage| one_way(stage, ("Admin", 8), Way::Out, SCTP)),
    ("CNPAdminTierGress", |stage| both_ways(stage, ("Admin", 15))),
    ("CNPAdminTierEgressInlineCIDRPeers", |stage| tiers::networks(stage, ("Admin", 85))),
    ("CNPAdminTierIntegration", tiers::integration),
    ("CNPAdminTierPriorityField", tiers::priority),
    ("CNPAdminTierIngressNamedPort", |stage| tiers::named(stage, ("Admin", 4), Way::In, UDP, "dns", UDP_53)),
    ("CNPAdminTierEgressNamedPort", |stage| {
        tiers::named(stage, ("Admin", 6), Way::Out, TCP_OUT, "web", TCP_80)
    }),
    ("CNPAdminTierEgressNodePeers", tiers::admin_nodes),
    ("CNPBaselineTierIngressTCP", |stage| one_way(stage, BASELINE, Way::In, TCP_IN)),
    ("CNPBaselineTierIngressUDP", |stage| one_way(stage, BASELINE, Way::In, UDP)),
    ("CNPBaselineTierIngressSCTP", |stage| one_way(stage, BASELINE, Way::In, SCTP)),
    ("CNPBaselineTierEgressTCP", |stage| one_way(stage, BASELINE, Way::Out, TCP_OUT)),
    ("CNPBaselineTierEgressUDP", |stage| one_way(stage, BASELINE, Way::Out, UDP)),
    ("CNPBaselineTierEgressSCTP", |stage| one_way(stage, BASELINE, Way::Out, SCTP)),
    ("CNPBaselineTierGress", |stage| both_ways(stage, BASELINE)),
    ("CNPBaselineTierEgressInlineCIDRPeers", |stage| tiers::networks(stage, BASELINE)),
    ("CNPBaselineTierIngressNamedPort", |stage| {
        tiers::named(stage, BASELINE, Way::In, TCP_IN, "web", TCP_80)
    }),
    ("CNPBaselineTierEgressNamedPort", |stage| tiers::named(stage, BASELINE, Way::Out, UDP, "dns", UDP_53)),
    ("CNPBaselineTierEgressNodePeers", tiers::baseline_nodes),
];

const BASELINE: (&str, u16) = ("Baseline", 10);

const TCP_IN: Roles = Roles {
    subject: "gryffindor",
    all: "ravenclaw",
    some: ("slytherin", &[TCP_80]),
    only: ("hufflepuff", &[TCP_80]),
};
const TCP_OUT: Roles = Roles { only: ("hufflepuff", &[TCP_8080]), ..TCP_IN };
const UDP: Roles = Roles {
    subject: "hufflepuff",
    all: "ravenclaw",
    some: ("slytherin", &[UDP_5353]),
    only: ("gryffindor", &[UDP_53]),
};
const SCTP: Roles = Roles {
    subject: "ravenclaw",
    all: "gryffindor",
    some: ("slytherin", &[SCTP_9003]),
    only: ("hufflepuff", &[SCTP_9003]),
};

/// All of them in one world; none leaves anything to the next.
pub(crate) fn all() -> Result<()> {
    let mut stage = Stage::set()?;
    stage.expect(|_, _, _| false).context("before any policy")?;
    let mut failed = Vec::new();
    for (name, scenario) in SCENARIOS {
        if let Err(error) = scenario(&mut stage).and_then(|()| clean(&mut stage)) {
            failed.push(format!("{name}: {error:#}"));
            // What follows begins with nothing all the same.
            clean(&mut stage).with_context(|| failed.join("\n\n"))?;
        }
    }
    let passed = SCENARIOS.len() - failed.len();
    ensure!(failed.is_empty(), "{passed} of {}:\n{}", SCENARIOS.len(), failed.join("\n\n"));
    Ok(())
}

/// No policy, and everything arrives.
fn clean(stage: &mut Stage) -> Result<()> {
    for path in [
        "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies",
        "/apis/networking.k8s.io/v1/namespaces/gryffindor/networkpolicies",
    ] {
        stage.world.delete_now(path)?;
    }
    stage.world.apply(&house("slytherin", "slytherin"))?;
    stage.expect(|_, _, _| false).context("after the policies went")
}

fn orders(tier: &str) -> &'static [Order] {
    match tier {
        "Admin" => &[Order::Accept, Order::Deny, Order::Accept, Order::Pass, Order::PassPorts],
        // Its rules cannot pass.
        _ => &[Order::Accept, Order::Deny, Order::Accept],
    }
}

fn one_way(stage: &mut Stage, tier: (&str, u16), way: Way, roles: Roles) -> Result<()> {
    for order in orders(tier.0) {
        let rules = roles.rules(way, tier.0 == "Admin", *order);
        let (ingress, egress) = if way == Way::In { (rules, vec![]) } else { (vec![], rules) };
        stage.world.apply(&policy("one-way", tier, &of(roles.subject), &ingress, &egress))?;
        stage.expect(|from, to, port| roles.denies(way, *order, from, to, port))?;
    }
    Ok(())
}

fn both_ways(stage: &mut Stage, tier: (&str, u16)) -> Result<()> {
    const SOME: &[Port] = &[TCP_80, UDP_53, SCTP_9003];
    let coming =
        Roles { some: ("slytherin", SOME), only: ("hufflepuff", &[TCP_80, UDP_5353, SCTP_9003]), ..TCP_IN };
    let going = Roles { only: ("hufflepuff", &[TCP_8080, UDP_5353, SCTP_9003]), ..coming };
    for order in orders(tier.0) {
        let passes = tier.0 == "Admin";
        let (ingress, egress) =
            (coming.rules(Way::In, passes, *order), going.rules(Way::Out, passes, *order));
        stage.world.apply(&policy("both-ways", tier, &of(coming.subject), &ingress, &egress))?;
        stage.expect(|from, to, port| {
            coming.denies(Way::In, *order, from, to, port) || going.denies(Way::Out, *order, from, to, port)
        })?;
    }
    Ok(())
}
