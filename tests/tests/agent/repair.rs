//! Others touch what is ours.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use system_tests::house::text;

use system_tests::world::manifests::pod;
use system_tests::world::{INTERNET, STILL_POOL, World};

const NODE: &str = "node-1";

pub(crate) fn put_back() -> Result<()> {
    let world = World::start(STILL_POOL)?;
    world.apply(&[pod("one", NODE, "one"), pod("two", "node-2", "two")].concat())?;
    world.wait_for_pods(&["one", "two"])?;
    let pod = world.pod("one")?;
    let ip = text(&pod["ip"]);

    let rule = ["ip", "rule", "show", "priority", "512"];
    damaged(&world, &["ip", "rule", "delete", "priority", "512", "to", ip], &rule, ip, "rule")?;
    let route = ["ip", "route", "show", "table", "main", ip];
    damaged(&world, &["ip", "route", "delete", ip, "table", "main"], &route, ip, "route")?;
    let table = ["nft", "list", "tables"];
    damaged(&world, &["nft", "delete", "table", "ip", "tidepool"], &table, "tidepool", "nftables")?;
    world.must_reach("two", "one")?;
    world.must_reach("one", INTERNET.0)
}

/// Does damage, and waits until it is mended and counted.
fn damaged(world: &World, damage: &[&str], look: &[&str], wanted: &str, kind: &str) -> Result<()> {
    let repairs = || -> Result<f64> {
        let (_, body) = world.agent_page(NODE, "/metrics")?;
        let counted = body.lines().filter(|line| line.starts_with("tidepool_host_repairs_total{"));
        Ok(counted.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    };
    let before = repairs()?;
    let shown = world.inside(NODE, look)?;
    ensure!(shown.contains(wanted), "{wanted} was not there: {shown}");
    world.inside(NODE, damage)?;
    let start = Instant::now();
    world
        .wait("it is put back", || world.inside(NODE, look).ok()?.contains(wanted).then_some(()))
        .with_context(|| format!("{damage:?}"))?;
    let took = start.elapsed();
    world.wait("the repair is counted", || (repairs().ok()? > before).then_some(()))?;
    // Since the kernel told, not by the look of every ten seconds; the half of it is for a machine that builds.
    ensure!(took.as_secs() < 2, "{kind}: put back after {took:?}");
    Ok(())
}
