//! The stand-in for a node of aws-node's is one on which it goes on: what the tests of taking over and giving back
//! stand on, without an agent of ours.

use anyhow::{Context, Result, ensure};
use kernel_test::{Need, trial};
use system_tests::aws_node::{AwsNode, Firewall, Options};
use system_tests::world::World;
use system_tests::world::manifests::pod;

const NEEDS: &[Need] = &[
    Need::Root,
    Need::NetNs,
    Need::Mounts,
    Need::Bpf,
    Need::Tc,
    Need::Nft,
    Need::Tool("iptables-nft"),
    Need::Env("TIDEPOOL_BIN_DIR"),
];
const NODE: &str = "node-1";

fn main() {
    kernel_test::run(vec![trial("aws_node_goes_on_with_its_own_node", NEEDS, goes_on)]);
}

fn goes_on() -> Result<()> {
    let world = World::without_agents(&[])?;
    let mut incumbent = AwsNode::set_up(&world, NODE, &Options::default())?;
    let _other = AwsNode::set_up(
        &world,
        "node-2",
        &Options { firewall: Firewall::IptablesNft, ..Options::default() },
    )?;
    world.apply(&["a-0", "a-1", "b-0"].map(|name| pod(name, NODE, "many")).concat())?;
    world.apply(&pod("far", "node-2", "far"))?;
    world.wait_for_pods(&["a-0", "a-1", "b-0", "far"])?;
    let pods = incumbent.pods(&world)?;
    ensure!(pods.len() == 3, "{pods:#?}");
    ensure!(pods.iter().any(|one| one.table == 254) && pods.iter().any(|one| one.table == 2), "{pods:#?}");
    for (from, to) in
        [("far", "a-0"), ("far", "a-1"), ("a-0", "far"), ("a-1", "far"), ("a-0", "a-1"), ("b-0", "a-0")]
    {
        world.must_reach(from, to)?;
    }
    // The internet's host is reached by translation only.
    for name in ["a-0", "a-1"] {
        world.must_reach(name, system_tests::world::INTERNET.0).context("by its translation")?;
    }

    incumbent.police(&world, &["a-0", "a-1", "b-0"])?;
    let facts = incumbent.facts(&world)?;
    ensure!(facts.filters.len() == 6, "{:#?}", facts.filters);
    // Two workloads, each with two programs and six maps, and the two maps of all.
    ensure!(facts.pins.len() == 18, "{:#?}", facts.pins);
    world.must_reach("far", "a-1")?;
    let left = incumbent.leftovers(&world)?;
    for sign in [
        "rule 512: ",
        "rule 1024: ",
        "rule 1536: ",
        "rule 32765: ",
        "route ",
        "filter ",
        "pin ",
        "nft: ",
        "iptables-nft: ",
        "/etc/cni/net.d/10-aws.conflist",
    ] {
        ensure!(left.iter().any(|line| line.starts_with(sign)), "no {sign}in {left:#?}");
    }

    // Its filters are no fault of ours; each other fault is told.
    clear_filters(&world, &facts.filters)?;
    incumbent.stop(&world)?;
    let faults = incumbent.would_resume(&world)?;
    ensure!(faults.is_empty(), "{faults:#?}");
    let one = &pods[0];
    world.inside(
        NODE,
        &[
            "ip",
            "rule",
            "add",
            "pref",
            "512",
            "to",
            &one.address.to_string(),
            "lookup",
            "main",
            "protocol",
            "116",
        ],
    )?;
    let faults = incumbent.would_resume(&world)?;
    ensure!(faults.len() == 1 && faults[0].contains("2 rules to"), "{faults:#?}");
    world.inside(
        NODE,
        &["ip", "rule", "del", "pref", "512", "to", &one.address.to_string(), "protocol", "116"],
    )?;

    // Nothing is wired while it is away; afterwards new pods have addresses that nobody has.
    world.apply(&pod("late", NODE, "many"))?;
    world.refusal_of("late", "failed to connect to backend server")?;
    incumbent.resume(&world)?;
    world.wait_for_pods(&["late"])?;
    let now = incumbent.pods(&world)?;
    ensure!(now.len() == 4 && pods.iter().all(|one| now.contains(one)), "{pods:#?}\nthen {now:#?}");
    for name in ["a-0", "a-1", "b-0", "late"] {
        world.must_reach("far", name)?;
    }
    world.delete(&["a-0", "a-1", "b-0", "late"].map(|name| pod(name, NODE, "many")).concat())?;
    ensure!(incumbent.pods(&world)?.is_empty());
    let facts = incumbent.facts(&world)?;
    let of_pods: Vec<&String> =
        facts.rules.iter().filter(|rule| rule.starts_with("512:") || rule.starts_with("1536:")).collect();
    ensure!(of_pods.is_empty(), "{of_pods:#?}");
    Ok(())
}

fn clear_filters(world: &World, filters: &std::collections::BTreeSet<String>) -> Result<()> {
    for filter in filters {
        let link = filter.split(' ').next().unwrap_or_default();
        // One of two: the qdisc goes with both.
        let _ = world.run(NODE, &["tc", "qdisc", "del", "dev", link, "clsact"])?;
    }
    Ok(())
}
