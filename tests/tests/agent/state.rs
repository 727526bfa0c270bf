//! State on the node: what is lost is found again, while the pods run on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use system_tests::house::{items, text};

use super::restart::echoes;
use system_tests::world::manifests::{pod, trio};
use system_tests::world::{STILL_POOL, World};

/// Where pods of these tests stand whose agent loses its memory.
const NODE: &str = "node-2";
const CHECKPOINT: &str = "/run/tidepool/pool.json";

/// A shell command inside the node.
fn shell(world: &World, script: &str) -> Result<String> {
    world.inside(NODE, &["sh", "-ec", script])
}

/// Each pod's address, ENI, link and place in the endpoint map.
fn endpoints(world: &World) -> Result<BTreeMap<String, Value>> {
    let found = world.debug(NODE, "endpoints")?;
    let facts = |one: &Value| {
        let name = text(&one["pod"]).to_owned();
        (name, json!([one["address"], one["eni"], one["table"], one["link"], one["slot"]]))
    };
    Ok(items(&found).map(facts).collect())
}

fn sandboxes(world: &World) -> Result<BTreeSet<String>> {
    let found = world.debug(NODE, "endpoints")?;
    Ok(items(&found).map(|one| text(&one["sandbox"]).to_owned()).collect())
}

/// What the file says of an address: `leased`, `cooling`, or nothing.
fn on_file(world: &World, address: &str) -> Result<Option<&'static str>> {
    let file: Value = serde_json::from_str(&world.inside(NODE, &["cat", CHECKPOINT])?)?;
    let has = |list: &Value| items(list).any(|one| one["address"] == address);
    Ok(match (has(&file["pool"]["leases"]), has(&file["pool"]["cooling"])) {
        (true, _) => Some("leased"),
        (false, true) => Some("cooling"),
        (false, false) => None,
    })
}

/// Starts the node's agent; until it serves, what was denied is denied and what talks goes on.
fn start_closed(world: &mut World, flow: &mut TcpStream) -> Result<()> {
    world.start_agent(NODE)?;
    while world.agent_page(NODE, "/readyz").map_or(true, |(status, _)| status != 200) {
        ensure!(!world.probe(100, &[("other", "db")])?[0].0, "other reached db while the agent started");
        world.must_reach("web", "db")?;
        echoes(flow, Duration::from_secs(5)).context("the connection while the agent starts")?;
    }
    world.wait_until_ready(NODE)
}

/// `trio` and two more pods on the node, and a connection to the one that a policy guards.
fn populated(environment: &[(&str, &str)]) -> Result<(World, TcpStream)> {
    let world = World::start(environment)?;
    world.apply(&[trio(), pod("x", NODE, "x"), pod("y", NODE, "y")].concat())?;
    world.wait_for_pods(&["web", "other", "db", "x", "y"])?;
    world.wait_for_verdict("other", "db", false)?;
    let mut flow = world.connect("web", "db")?;
    echoes(&mut flow, Duration::from_secs(5)).context("before")?;
    world.settled_pool(NODE)?;
    Ok((world, flow))
}

/// Deletes each pod in turn: exactly its address is given back, with its rest.
fn each_delete_frees_its_own(world: &World, names: &[&str]) -> Result<()> {
    let mut present = endpoints(world)?;
    for name in names {
        let (_, facts) = present.remove_entry(&format!("default/{name}")).context("no such endpoint")?;
        world.delete(&pod(name, NODE, name))?;
        let left = world.wait("its endpoint is gone", || {
            endpoints(world).ok().filter(|now| !now.contains_key(&format!("default/{name}")))
        })?;
        ensure!(left == present, "with {name} went another: {left:#?}\nof {present:#?}");
        let address = text(&facts[0]);
        ensure!(on_file(world, address)? == Some("cooling"), "{address} does not rest");
        for other in present.values() {
            ensure!(on_file(world, text(&other[0]))? == Some("leased"), "{other} lost its lease");
        }
    }
    Ok(())
}

pub(crate) fn lost() -> Result<()> {
    let (mut world, mut flow) = populated(STILL_POOL)?;
    let before = endpoints(&world)?;
    let known = sandboxes(&world)?;
    ensure!(before.len() == 3, "{before:#?}");
    for damage in [
        format!("rm {CHECKPOINT}"),
        format!("truncate --size=100 {CHECKPOINT}"),
        format!(": > {CHECKPOINT}"),
        format!("head --bytes=500 /dev/urandom > {CHECKPOINT}"),
        // The journal as a power cut leaves it, and everything at once.
        "printf '{\"line\":\"beg' >> /var/lib/tidepool/ec2-intents.jsonl".to_owned(),
        "rm -r /run/tidepool /var/lib/tidepool".to_owned(),
    ] {
        world.kill_agent(NODE)?;
        world.control("/calls/reset", Some(""))?;
        shell(&world, &damage)?;
        start_closed(&mut world, &mut flow).with_context(|| damage.clone())?;
        let after = endpoints(&world)?;
        ensure!(before == after, "{damage}: {before:#?}\nthen {after:#?}");
        ensure!(sandboxes(&world)? == known, "{damage}: the runtime's results name the sandboxes");
        let calls = world.calls(NODE)?;
        for wrong in ["UnassignPrivateIpAddresses", "DetachNetworkInterface", "DeleteNetworkInterface"] {
            ensure!(!calls.contains_key(wrong), "{damage}: {calls:?}");
        }
        world.must_reach("web", "db")?;
        world.must_not_reach("other", "db")?;
    }

    // Nor is the runtime's cache needed: then the Kubernetes API names the pods.
    world.kill_agent(NODE)?;
    shell(&world, &format!("rm -r {CHECKPOINT} /var/lib/cni/results"))?;
    start_closed(&mut world, &mut flow).context("without the runtime's results")?;
    let after = endpoints(&world)?;
    ensure!(before == after, "{before:#?}\nthen {after:#?}");
    ensure!(sandboxes(&world)?.is_disjoint(&known), "no key can be known");
    // And such leases are as good as others: for the next agent, and for the runtime's DEL.
    world.kill_agent(NODE)?;
    start_closed(&mut world, &mut flow).context("after an ordinary restart")?;
    ensure!(endpoints(&world)? == before, "{before:#?}\nthen {:#?}", endpoints(&world)?);
    each_delete_frees_its_own(&world, &["x", "y"])?;
    echoes(&mut flow, Duration::from_secs(5)).context("at the end")?;

    // What others had in the meantime rests; a new pod has an address of its own.
    world.apply(&pod("new", NODE, "db"))?;
    world.wait_for_pods(&["new"])?;
    let new = world.pod("new")?;
    ensure!(before.values().all(|facts| facts[0] != new["ip"]), "{new} has another's address: {before:#?}");
    world.must_reach("web", "new")?;
    world.must_not_reach("other", "new")
}

/// Milliseconds since the kernel booted.
fn uptime_ms(world: &World) -> Result<f64> {
    let text = world.inside(NODE, &["cat", "/proc/uptime"])?;
    Ok(text.split(' ').next().context("empty")?.parse::<f64>()? * 1000.0)
}

pub(crate) fn cooldown() -> Result<()> {
    // One ENI, nine addresses, nine pods: the next one can only have what one of them gives back.
    let environment =
        [("MINIMUM_IP_TARGET", "9"), ("WARM_IP_TARGET", "0"), ("MAX_ENI", "1"), ("IP_COOLDOWN_PERIOD", "15")];
    let mut world = World::start(&environment)?;
    let names: Vec<String> = (0..9).map(|number| format!("pod-{number}")).collect();
    world.apply(&names.iter().map(|name| pod(name, NODE, "many")).collect::<String>())?;
    world.wait_for_pods(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
    let address = text(&world.pod("pod-4")?["ip"]).to_owned();
    world.delete(&pod("pod-4", NODE, "many"))?;
    world.wait("the address rests", || (on_file(&world, &address).ok()? == Some("cooling")).then_some(()))?;
    world.kill_agent(NODE)?;
    let file: Value = serde_json::from_str(&world.inside(NODE, &["cat", CHECKPOINT])?)?;
    let entry = items(&file["pool"]["cooling"]).find(|one| one["address"] == address.as_str());
    let until = entry.and_then(|one| one["until"].as_f64()).context("no end of its rest")?;
    ensure!(uptime_ms(&world)? < until, "the machine is too slow for this test");

    world.start_agent(NODE)?;
    world.apply(&pod("next", NODE, "many"))?;
    world.wait("the pod has its address", || {
        (on_file(&world, &address).ok()? == Some("leased")).then_some(())
    })?;
    let now = uptime_ms(&world)?;
    ensure!(now >= until, "{address} was leased {} ms too early", until - now);
    world.wait_for_pods(&["next"])?;
    ensure!(world.pod("next")?["ip"] == address.as_str(), "{}", world.pod("next")?);
    Ok(())
}

pub(crate) fn newer() -> Result<()> {
    let (mut world, mut flow) = populated(STILL_POOL)?;
    let before = endpoints(&world)?;
    for (file, newer, remedy) in [
        (CHECKPOINT, "s/\"version\":2/\"version\":7/", "start the newer agent again, or drain the node"),
        (
            "/var/lib/tidepool/ec2-intents.jsonl",
            "s/\"version\":1/\"version\":7/",
            "start the newer agent again, or remove",
        ),
    ] {
        world.kill_agent(NODE)?;
        shell(&world, &format!("cp {file} /run/kept && sed -i '{newer}' {file}"))?;
        world.start_agent(NODE)?;
        let told = world.wait("it says why it does not serve", || {
            let (status, body) = world.agent_page(NODE, "/readyz").ok()?;
            let line = body.lines().find(|line| line.starts_with("pool: "))?;
            (status == 503 && line.contains("version 7")).then(|| line.to_owned())
        })?;
        ensure!(told.contains(file) && told.contains(remedy), "{told}");
        world.must_reach("web", "db")?;
        world.must_not_reach("other", "db")?;
        // Put right, it goes on by itself.
        shell(&world, &format!("mv /run/kept {file}"))?;
        world.wait_until_ready(NODE)?;
        echoes(&mut flow, Duration::from_secs(5)).context("after")?;
        ensure!(endpoints(&world)? == before, "{before:#?}\nthen {:#?}", endpoints(&world)?);
    }
    Ok(())
}

pub(crate) fn without_kubernetes() -> Result<()> {
    let (mut world, mut flow) = populated(STILL_POOL)?;
    world.kill_agent(NODE)?;
    let db = text(&world.pod("db")?["ip"]).to_owned();
    let x = text(&world.pod("x")?["ip"]).to_owned();
    world.inside(NODE, &["ip", "rule", "delete", "priority", "512", "to", &db])?;
    world.inside(NODE, &["ip", "route", "delete", &db, "table", "main"])?;
    ensure!(!world.probe(400, &[("web", "db")])?[0].0, "the damage does nothing");
    let refuse =
        r#"{"path": "/apis/networking.k8s.io", "verbs": ["list", "watch"], "code": 500, "times": 100000}"#;
    world.control("/kubernetes/fail", Some(refuse))?;

    world.start_agent(NODE)?;
    // Routes come back, and what policy was in force stays.
    world.wait_for_verdict("web", "db", true)?;
    echoes(&mut flow, Duration::from_secs(5)).context("the connection after the repair")?;
    world.must_not_reach("other", "db")?;
    let waits = |world: &World| -> Result<()> {
        let (status, body) = world.agent_page(NODE, "/readyz")?;
        let kubernetes = body.lines().any(|line| line.starts_with("kubernetes: "));
        ensure!(status == 503 && kubernetes, "{status}: {body}");
        Ok(())
    };
    waits(&world)?;
    // A pod can go; none can come.
    world.delete(&pod("x", NODE, "x"))?;
    world.wait("the address rests", || (on_file(&world, &x).ok()? == Some("cooling")).then_some(()))?;
    world.apply(&pod("late", NODE, "db"))?;
    waits(&world)?;
    ensure!(world.pod("late")?["ready"] == false, "{}", world.pod("late")?);
    world.must_not_reach("other", "db")?;

    world.control("/kubernetes/clear", Some(""))?;
    world.wait_for_pods(&["late"])?;
    world.must_reach("web", "late")?;
    world.must_not_reach("other", "late")?;
    echoes(&mut flow, Duration::from_secs(5)).context("at the end")
}
