//! What is left of pods that were deleted.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use serde_json::Value;
use system_tests::house::items;

use system_tests::world::manifests::{only, pod};
use system_tests::world::{STILL_POOL, World};

/// All that a pod could leave on a node.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    rules: BTreeSet<String>,
    routes: BTreeSet<String>,
    neighbours: BTreeSet<String>,
    links: BTreeSet<String>,
    qdiscs: BTreeSet<String>,
    files: BTreeSet<String>,
    endpoints: Value,
    policy: Value,
    leased: Value,
}

impl Traces {
    fn of(world: &World, node: &str) -> Result<Self> {
        let lines = |words: &[&str]| -> Result<BTreeSet<String>> {
            let shown = world.inside(node, words)?;
            // The kernel gives eth0 its link-local address when it has found that nobody else has it.
            let lines = shown.lines().filter(|line| !(line.contains("fe80:") && line.contains("dev eth0")));
            Ok(lines.map(|line| line.trim().to_owned()).collect())
        };
        let links = world.inside(node, &["ip", "-oneline", "link"])?;
        // The name with its peer; states and counters change by themselves.
        let links = links.lines().filter_map(|line| line.split(": ").nth(1)).map(str::to_owned).collect();
        let neighbours = world.inside(node, &["ip", "neighbour", "show", "nud", "permanent"])?;
        let policy = world.debug(node, "policy")?;
        Ok(Self {
            rules: lines(&["ip", "rule"])?,
            routes: lines(&["ip", "route", "show", "table", "all"])?,
            neighbours: neighbours.lines().map(str::to_owned).collect(),
            links,
            qdiscs: lines(&["tc", "qdisc"])?,
            files: lines(&["find", "/run/tidepool"])?,
            endpoints: world.debug(node, "endpoints")?,
            policy: serde_json::json!([policy["pods"], policy["entries"]]),
            leased: world.debug(node, "pool")?["addresses"]["leased"].clone(),
        })
    }
}

pub(crate) fn nothing_left() -> Result<()> {
    const NODE: &str = "node-1";
    let world = World::start(STILL_POOL)?;
    world.settled_pool(NODE)?;
    let before = Traces::of(&world, NODE)?;

    let names = ["one", "two", "three", "four"];
    let mut manifest: String = names.iter().map(|name| pod(name, NODE, name)).collect();
    manifest.push_str(&only("closed", "one", "two"));
    world.apply(&manifest)?;
    world.wait_for_pods(&names)?;
    world.must_reach("two", "one")?;
    world.wait_for_verdict("three", "one", false)?;

    let during = Traces::of(&world, NODE)?;
    ensure!(during.leased == 4 && items(&during.endpoints).count() == 4, "{during:#?}");
    ensure!(during.rules.len() == before.rules.len() + 4, "{during:#?}");
    ensure!(during.links.len() == before.links.len() + 4, "{during:#?}");
    let link = items(&during.endpoints).find_map(|one| one["link"].as_str()).unwrap_or_default();
    for side in ["ingress", "egress"] {
        let filters = world.inside(NODE, &["tc", "filter", "show", "dev", link, side])?;
        ensure!(filters.contains("bpf"), "{link} has no filter at {side}: {filters}");
    }
    let addresses: Vec<String> =
        items(&during.endpoints).filter_map(|one| one["address"].as_str().map(str::to_owned)).collect();

    world.delete(&manifest)?;
    // The API's deletion comes after the node's; only the policy's way is its own.
    let after = world.wait("nothing is left", || {
        let now = Traces::of(&world, NODE).ok()?;
        (now == before).then_some(now)
    });
    if after.is_err() {
        let after = Traces::of(&world, NODE)?;
        ensure!(after == before, "before {before:#?}\nafter {after:#?}");
    }
    let pool = world.debug(NODE, "pool")?;
    ensure!(pool["addresses"]["cooling"] == 4, "{pool:#}");
    // The file may name the addresses as cooling, but no sandbox.
    let file: Value = serde_json::from_str(&world.inside(NODE, &["cat", "/run/tidepool/pool.json"])?)?;
    ensure!(file["pool"]["leases"].as_array().is_none_or(Vec::is_empty), "{file:#}");
    ensure!(addresses.iter().all(|address| file.to_string().contains(address)), "{file:#}");

    // A cooling address is given to nobody: the next pod has another one.
    world.apply(&pod("next", NODE, "next"))?;
    world.wait_for_pods(&["next"])?;
    let next = world.pod("next")?;
    ensure!(addresses.iter().all(|address| next["ip"] != address.as_str()), "{next} is one of {addresses:?}");
    Ok(())
}
