//! The agent goes and comes back.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use system_tests::house::{items, text};

use system_tests::world::manifests::{only, pod, trio};
use system_tests::world::{STILL_POOL, World};

/// Says a word over an open connection to an echo and hears it.
pub(crate) fn echoes(stream: &mut TcpStream, patience: Duration) -> Result<()> {
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(b"tide")?;
    let mut heard = [0; 4];
    stream.read_exact(&mut heard)?;
    ensure!(&heard == b"tide", "heard {heard:?}");
    Ok(())
}

/// Each sandbox's address, ENI and link.
fn leases(world: &World, node: &str) -> Result<Vec<(String, Value, Value, Value)>> {
    let endpoints = world.debug(node, "endpoints")?;
    let mut found: Vec<_> = items(&endpoints)
        .map(|one| {
            (
                text(&one["sandbox"]).to_owned(),
                one["address"].clone(),
                one["eni"].clone(),
                one["link"].clone(),
            )
        })
        .collect();
    found.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(found)
}

pub(crate) fn killed() -> Result<()> {
    let mut world = World::start(STILL_POOL)?;
    world.apply(&trio())?;
    world.wait_for_pods(&["web", "other", "db"])?;
    world.wait_for_verdict("other", "db", false)?;
    world.must_reach("web", "db")?;
    let mut flow = world.connect("web", "db")?;
    echoes(&mut flow, Duration::from_secs(5)).context("before")?;

    let mut before = Vec::new();
    for node in ["node-1", "node-2"] {
        world.settled_pool(node)?;
        before.push(leases(&world, node)?);
    }
    ensure!(before.iter().map(Vec::len).sum::<usize>() == 3, "{before:?}");
    for node in ["node-1", "node-2"] {
        world.kill_agent(node)?;
    }
    world.control("/calls/reset", Some(""))?;

    // Away: routes, filters and maps stay with the kernel.
    echoes(&mut flow, Duration::from_secs(5)).context("while the agents are away")?;
    world.must_reach("web", "db")?;
    world.must_not_reach("other", "db")?;

    for node in ["node-1", "node-2"] {
        world.start_agent(node)?;
    }
    // At no moment of the start is it otherwise.
    while ["node-1", "node-2"]
        .iter()
        .any(|node| world.agent_page(node, "/readyz").map_or(true, |(status, _)| status != 200))
    {
        ensure!(!world.probe(100, &[("other", "db")])?[0].0, "other reached db while the agents started");
        world.must_reach("web", "db")?;
    }
    for (node, before) in ["node-1", "node-2"].into_iter().zip(before) {
        world.wait_until_ready(node)?;
        world.settled_pool(node)?;
        let after = leases(&world, node)?;
        ensure!(before == after, "{node}: {before:#?}\nthen {after:#?}");
        let calls = world.calls(node)?;
        let changing: Vec<_> = calls.keys().filter(|name| !name.starts_with("Describe")).collect();
        ensure!(!calls.is_empty() && changing.is_empty(), "{node} made {calls:?}");
    }
    echoes(&mut flow, Duration::from_secs(5)).context("after")?;
    world.must_reach("web", "db")?;
    world.must_not_reach("other", "db")?;

    // New pods and new policies work as before.
    world.apply(&pod("new", "node-2", "db"))?;
    world.wait_for_pods(&["new"])?;
    world.must_reach("web", "new")?;
    world.must_not_reach("other", "new")?;
    world.apply(&only("db", "db", "other"))?;
    world.wait_for_verdict("other", "db", true)?;
    world.wait_for_verdict("web", "db", false)
}

pub(crate) fn pod_meanwhile() -> Result<()> {
    let mut world = World::start(STILL_POOL)?;
    world.apply(&trio())?;
    world.wait_for_pods(&["web", "other", "db"])?;
    world.kill_agent("node-2")?;
    world.apply(&pod("late", "node-2", "db"))?;
    // Its sandbox is there, and so the plugin was called: it, too, waits for the agent.
    world.wait("the runtime calls the plugin", || {
        let running = std::fs::read_dir("/proc").ok()?.flatten().any(|entry| {
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains("tidepool-cni")
                && String::from_utf8_lossy(&environment).contains("K8S_POD_NAME=late;")
        });
        let refused = world.pod("late").is_ok_and(|pod| pod["message"].is_string());
        (running || refused).then_some(())
    })?;
    let waiting = world.pod("late")?;
    ensure!(waiting["ready"] == false, "it runs without an agent: {waiting}");

    world.start_agent("node-2")?;
    world.wait_for_pods(&["late"])?;
    world.must_reach("web", "late")?;
    world.must_not_reach("other", "late")?;
    Ok(())
}
