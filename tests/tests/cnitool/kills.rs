//! One pod's transaction, cut off at each of its points: the plugin, the agent, and both.

use std::process::Child;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use system_tests::containerd::proxy::{Hold, Proxy};
use system_tests::house::text;
use system_tests::world::World;

use crate::NODE;
use crate::invoker::{List, SOCKET, Sandbox, agent_socket, finish, node_with, nothing_left, ours};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    /// By the runtime, whose client would not wait; its DEL follows at once.
    Plugin,
    /// The agent, and another one comes within the plugin's deadline: the runtime must not notice.
    Agent,
    /// Both; then the runtime's DEL meets an agent that never heard of the ADD.
    Both,
}

pub(crate) fn every_point() -> Result<()> {
    let mut world = node_with(&[])?;
    let (mut resident, agent) = agent_socket(&world)?;
    // Below /tmp, which nodes share with us.
    let dir = tempfile::tempdir()?;
    let proxy = Proxy::start(dir.path().join("proxy.sock"), agent)?;
    let points = [
        Hold::Question("lease"),
        Hold::Answer("lease"),
        // The pair stands.
        Hold::Question("attach"),
        // Everything is in force.
        Hold::Answer("attach"),
    ];
    for (number, point) in points.into_iter().enumerate() {
        for victim in [Victim::Plugin, Victim::Agent, Victim::Both] {
            let sandbox = Sandbox::new(&format!("cut-{number}-{victim:?}"))?;
            kill(&mut world, &proxy, sandbox, point, victim)
                .with_context(|| format!("{victim:?} killed at {point:?}"))?;
        }
    }
    end(&mut resident)
}

fn kill(world: &mut World, proxy: &Proxy, mut sandbox: Sandbox, point: Hold, victim: Victim) -> Result<()> {
    let by_proxy = ours(proxy.socket.to_str().context("UTF-8")?);
    proxy.hold(point);
    let mut add = list(world).start("ADD", &sandbox, &by_proxy, None)?;
    proxy.wait_until_held()?;
    match victim {
        Victim::Plugin => end(&mut add)?,
        Victim::Agent => restart(world)?,
        Victim::Both => {
            end(&mut add)?;
            restart(world)?;
        }
    }
    proxy.release();
    if victim == Victim::Agent {
        sandbox.result = Some(finish(add)?);
        sandbox.must_answer(world)?;
        list(world).check(&sandbox, &["tidepool-cni"])?;
    } else {
        // The runtime's own: at once, with the namespace and without a result.
        list(world).del(&sandbox)?;
        ensure!(!sandbox.ns.output("ip", &["-o", "link", "show"])?.contains("eth0"), "its link is left");
        nothing_left(world)?;
        // A container that is started again has the same id.
        list(world).add(&mut sandbox)?;
        sandbox.must_answer(world)?;
    }
    list(world).del(&sandbox)?;
    nothing_left(world)
}

/// The agent is killed while an ADD waits for an address: the next one serves it.
pub(crate) fn waiting() -> Result<()> {
    let mut world = node_with(&[])?;
    let hold = r#"{"node": "node-1", "at": "before", "operation": "AssignPrivateIpAddresses"}"#;
    world.control("/breakpoint", Some(hold))?;
    let mut fillers = Vec::new();
    while world.debug(NODE, "pool")?["addresses"]["free"] != 0 {
        let mut filler = Sandbox::new(&format!("filler-{}", fillers.len()))?;
        list(&world).add(&mut filler)?;
        fillers.push(filler);
    }
    let mut sandbox = Sandbox::new("waits")?;
    let add = list(&world).start("ADD", &sandbox, &ours(SOCKET), None)?;
    world.wait("it waits for an address", || {
        (world.debug(NODE, "pool").ok()?["addresses"]["waiting"] == 1).then_some(())
    })?;
    world.kill_agent(NODE)?;
    let url = format!("{}/breakpoint?node={NODE}", text(&world.up["control"]));
    ensure!(world.http.delete(&url).call()?.status().is_success(), "the breakpoint stays");
    world.start_agent(NODE)?;
    sandbox.result = Some(finish(add)?);
    sandbox.must_answer(&world)?;
    for sandbox in fillers.iter().chain([&sandbox]) {
        list(&world).del(sandbox)?;
    }
    nothing_left(&world)
}

fn list(world: &World) -> List<'_> {
    List { world, version: "1.1.0", plugins: vec![ours(SOCKET)], wishes: json!({}) }
}

fn end(child: &mut Child) -> Result<()> {
    child.kill()?;
    child.wait()?;
    Ok(())
}

fn restart(world: &mut World) -> Result<()> {
    world.kill_agent(NODE)?;
    world.start_agent(NODE)?;
    world.wait_until_ready(NODE)
}
