//! What the runtime says lives, and what it is told of the node: GC, STATUS, and a sandbox whose pod is gone.

use std::io::Write;
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use system_tests::containerd::proxy::{Hold, Proxy};
use system_tests::house::{items, text};
use system_tests::world::{STILL_POOL, World, manifests};

use crate::NODE;
use crate::invoker::{List, SOCKET, Sandbox, agent_socket, finish, node_with, nothing_left, ours, started};

fn list(world: &World) -> List<'_> {
    List { world, version: "1.1.0", plugins: vec![ours(SOCKET)], wishes: json!({}) }
}

/// A GC that names these as living.
fn collect(world: &World, socket: &str, valid: &[&Sandbox]) -> Result<Child> {
    let named = valid.iter().map(|sandbox| json!({"containerID": sandbox.id, "ifname": "eth0"}));
    let mut plugin = ours(socket);
    plugin["cni.dev/valid-attachments"] = named.collect();
    list(world).start("GC", &Sandbox::new("none")?, &plugin, None)
}

/// Sandboxes run that the runtime has forgotten: they go, with all that they have, and nothing else does.
pub(crate) fn forgotten() -> Result<()> {
    let mut world = node_with(&[])?;
    let (mut resident, agent) = agent_socket(&world)?;
    let dir = tempfile::tempdir()?;
    let proxy = Proxy::start(dir.path().join("proxy.sock"), agent)?;
    let by_proxy = proxy.socket.to_str().context("UTF-8")?.to_owned();

    let (mut kept, mut stale) = (Sandbox::new("kept")?, Sandbox::new("stale")?);
    let (mut second, mut newer) = (Sandbox::new("second")?, Sandbox::new("newer")?);
    for sandbox in [&mut kept, &mut stale] {
        list(&world).add(sandbox)?;
        sandbox.must_answer(&world)?;
    }
    finish(collect(&world, SOCKET, &[&kept])?)?;
    must_be_gone(&world, &stale)?;
    only(&world, &[&kept])?;

    // Killed when all is done and nobody has heard of it; and the agent, before it has heard of it.
    list(&world).add(&mut second)?;
    proxy.hold(Hold::Answer("gc"));
    let mut cut = collect(&world, &by_proxy, &[&kept])?;
    proxy.wait_until_held()?;
    cut.kill()?;
    cut.wait()?;
    proxy.release();
    finish(collect(&world, SOCKET, &[&kept])?)?;
    must_be_gone(&world, &second)?;
    proxy.hold(Hold::Question("gc"));
    let late = collect(&world, &by_proxy, &[&kept])?;
    proxy.wait_until_held()?;
    // After the list was made.
    list(&world).add(&mut newer)?;
    world.kill_agent(NODE)?;
    world.start_agent(NODE)?;
    world.wait_until_ready(NODE)?;
    proxy.release();
    finish(late)?;
    only(&world, &[&kept, &newer])?;
    // The next list is newer than the agent.
    finish(collect(&world, SOCKET, &[&newer])?)?;
    must_be_gone(&world, &kept)?;
    only(&world, &[&newer])?;
    list(&world).del(&newer)?;
    resident.kill()?;
    resident.wait()?;
    nothing_left(&world)
}

/// Its namespace is there and has no link any more; the host has none either, nor a route or rule.
fn must_be_gone(world: &World, sandbox: &Sandbox) -> Result<()> {
    let links = sandbox.ns.output("ip", &["-o", "link", "show"])?;
    ensure!(!links.contains("eth0"), "{links}");
    let address = sandbox.address()?;
    for words in [&["ip", "route", "show", "table", "all"][..], &["ip", "rule", "show"]] {
        let shown = world.inside(NODE, words)?;
        ensure!(!shown.contains(&format!("{address} ")), "{words:?}: {shown}");
    }
    Ok(())
}

/// These are all that run, and they answer. An ADD that was refused is undone when its connection ends.
fn only(world: &World, sandboxes: &[&Sandbox]) -> Result<()> {
    let count = sandboxes.len();
    world.wait("these are all that run", || {
        let endpoints = world.debug(NODE, "endpoints").ok()?;
        let pool = world.debug(NODE, "pool").ok()?;
        let links = world.inside(NODE, &["ip", "-o", "link", "show", "type", "veth"]).ok()?;
        let pods = links.lines().filter(|line| line.contains(": eni")).count();
        let known = items(&endpoints).count();
        (known == count && pods == count && pool["addresses"]["leased"] == count).then_some(())
    })?;
    sandboxes.iter().try_for_each(|sandbox| sandbox.must_answer(world))
}

/// STATUS: what a runtime makes of an agent that serves, of one that cannot keep pods connected, and of none.
pub(crate) fn status() -> Result<()> {
    let mut world = node_with(&[])?;
    let nobody = Sandbox::new("none")?;
    let ask = |world: &World| -> Result<Value> {
        let child = list(world).start("STATUS", &nobody, &ours(SOCKET), None)?;
        let said = String::from_utf8(child.wait_with_output()?.stdout)?;
        if said.is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_str(&said)?) }
    };
    ensure!(ask(&world)? == Value::Null);

    // Another takes our table and lets nobody else change it: what pods send outside is not translated.
    let table = "delete table ip tidepool\nadd table ip tidepool { flags owner; }\n";
    let mut owner =
        world.command(NODE, "nft")?.arg("-i").stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
    owner.stdin.as_mut().context("stdin is a pipe")?.write_all(table.as_bytes())?;
    let impaired = world
        .wait("the node's pods count as impaired", || ask(&world).ok().filter(|answer| answer["code"] == 51));
    owner.kill()?;
    owner.wait()?;
    let impaired = impaired?;
    ensure!(impaired.to_string().contains("host: "), "{impaired:#}");
    world.wait("the table is whole again", || (ask(&world).ok()? == Value::Null).then_some(()))?;

    world.kill_agent(NODE)?;
    let answer = ask(&world)?;
    ensure!(answer["code"] == 50, "{answer:#}");
    Ok(())
}

/// A node with an agent and no kubelet, and the object of a pod on it.
fn with_pod(name: &str) -> Result<World> {
    let mut world = World::without_kubelets(1, "m5.large")?;
    world.set_environment(&[STILL_POOL, &[("TIDEPOOL_SANDBOX_PATIENCE", "1")]].concat());
    let world = started(world, &[])?;
    world.apply(&manifests::pod(name, NODE, name))?;
    Ok(world)
}

/// A sandbox of that pod.
fn of_pod(world: &World, pod: &str, id: &str) -> Result<Sandbox> {
    let object = world.kubernetes(&format!("/api/v1/namespaces/default/pods/{pod}"))?;
    let uid = text(&object["metadata"]["uid"]);
    let args = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod};K8S_POD_UID={uid}");
    Ok(Sandbox { args, ..Sandbox::new(id)? })
}

/// The ADD of a pod's older sandbox comes to its link when the newer one runs.
pub(crate) fn late_add() -> Result<()> {
    let world = with_pod("db-0")?;
    let (mut resident, agent) = agent_socket(&world)?;
    let dir = tempfile::tempdir()?;
    let proxy = Proxy::start(dir.path().join("proxy.sock"), agent)?;
    let by_proxy = ours(proxy.socket.to_str().context("UTF-8")?);
    let (older, mut newer) = (of_pod(&world, "db-0", "older")?, of_pod(&world, "db-0", "newer")?);
    for point in [Hold::Question("lease"), Hold::Answer("lease")] {
        proxy.hold(point);
        let late = list(&world).start("ADD", &older, &by_proxy, None)?;
        proxy.wait_until_held()?;
        list(&world).add(&mut newer)?;
        proxy.release();
        let refused = finish(late).expect_err("a newer one runs");
        ensure!(refused.to_string().contains("sandbox-deleted"), "{refused}");
        only(&world, &[&newer])?;
        list(&world).del(&older)?;
        only(&world, &[&newer])?;
        // Its namespace is there, and nobody tells where, nor what it was given.
        let own = newer.result.take();
        newer.astray = true;
        list(&world).del(&newer)?;
        newer.result = own;
        must_be_gone(&world, &newer)?;
        newer.astray = false;
    }
    resident.kill()?;
    resident.wait()?;
    nothing_left(&world)
}

/// A pod that is deleted by force leaves the API while its sandbox runs.
pub(crate) fn pod_gone() -> Result<()> {
    let world = with_pod("lonely")?;
    let mut sandbox = of_pod(&world, "lonely", "lonely")?;
    list(&world).add(&mut sandbox)?;
    ensure!(world.metric(NODE, "tidepool_sandboxes_without_pod")? == Some(0.0));
    world.delete_now("/api/v1/namespaces/default/pods/lonely?gracePeriodSeconds=0")?;
    world.wait("the sandbox is reported", || {
        let count = world.metric(NODE, "tidepool_sandboxes_without_pod").ok()??;
        let events = world.kubernetes("/api/v1/namespaces/default/events").ok()?;
        let told = |event: &&Value| {
            event["reason"] == "SandboxWithoutPod" && text(&event["message"]).contains("default/lonely")
        };
        (count > 0.0 && items(&events["items"]).any(|event| told(&event))).then_some(())
    })?;
    // Nobody touches it.
    sandbox.must_answer(&world)?;
    // The runtime says that it lives.
    finish(collect(&world, SOCKET, &[&sandbox])?)?;
    world.wait("it is reported no more", || {
        (world.metric(NODE, "tidepool_sandboxes_without_pod").ok()? == Some(0.0)).then_some(())
    })?;
    list(&world).del(&sandbox)?;
    nothing_left(&world)
}
