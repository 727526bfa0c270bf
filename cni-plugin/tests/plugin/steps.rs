//! The plugin step by step: killed at every call that it makes, and what it asks the kernel.

use std::{
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use kernel_test::{NetNs, wait_for};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};
use serde_json::json;

use crate::support::{Node, Sandbox, links, trace};

const BOUND: Duration = Duration::from_secs(20);
/// The pod of every sandbox here: what is left of one is in the way of the next.
const POD: &str = "db-0";
/// `RTM_…` of linux/rtnetlink.h.
const GETLINK: u16 = 18;

type Body = fn() -> Result<()>;

/// These trials, by name.
pub(crate) const TRIALS: [(&str, Body); 6] = [
    ("an_add_killed_at_any_call_is_undone_by_its_del", killed_add_then_del),
    ("an_add_killed_at_any_call_can_be_repeated", killed_add_then_add),
    ("a_del_killed_at_any_call_can_be_repeated", killed_del),
    ("a_gc_killed_at_any_call_can_be_repeated", killed_gc),
    ("an_add_lists_nothing", an_add_lists_nothing),
    ("a_sandbox_says_nothing_in_ipv6", a_sandbox_says_nothing_in_ipv6),
];

/// Kills `verb` at its first call, its second, … until a run comes to its end; `after` sees what each leaves.
fn each_call(
    node: &Node,
    verb: &str,
    mut before: impl FnMut() -> Result<Sandbox>,
    mut after: impl FnMut(&Sandbox) -> Result<()>,
) -> Result<()> {
    for call in 0.. {
        let sandbox = before()?;
        let traced = trace::run(node, verb, &sandbox, &node.conf, Some(call))?;
        after(&sandbox).with_context(|| format!("after {verb} was killed at call {call}"))?;
        if let Some(outcome) = traced.outcome {
            outcome.ok()?;
            // Each verb reads its input, asks the agent, asks the kernel and is answered.
            ensure!(call == traced.calls && call > 8, "{call} calls cannot be all of {verb}");
            return Ok(());
        }
    }
    Ok(())
}

fn killed_add_then_del() -> Result<()> {
    let node = Node::new()?;
    let agent = node.agent()?;
    each_call(
        &node,
        "ADD",
        || Sandbox::new(Some(POD)),
        |sandbox| {
            node.del(sandbox)?.ok()?;
            ensure!(node.links()?.is_empty() && links(&sandbox.ns)?.is_empty(), "a link is left");
            wait_for("no lease is left", BOUND, || agent.lock().leases.is_empty().then_some(()))
        },
    )
}

fn killed_add_then_add() -> Result<()> {
    let node = Node::new()?;
    let agent = node.agent()?;
    each_call(
        &node,
        "ADD",
        || Sandbox::new(Some(POD)),
        |sandbox| {
            let result = node.add(sandbox)?.ok()?.json()?;
            ensure!(node.links()? == [sandbox.host_ifname()] && links(&sandbox.ns)? == ["eth0"]);
            let conf = node.conf_with(json!({"prevResult": result}));
            node.run("CHECK", sandbox, &conf)?.ok()?;
            ensure!(agent.lock().leases.keys().cloned().collect::<Vec<_>>() == [sandbox.key()]);
            node.del(sandbox)?.ok()?;
            ensure!(node.links()?.is_empty() && agent.lock().leases.is_empty());
            Ok(())
        },
    )
}

fn killed_del() -> Result<()> {
    let node = Node::new()?;
    let agent = node.agent()?;
    each_call(
        &node,
        "DEL",
        || {
            let sandbox = Sandbox::new(Some(POD))?;
            node.add(&sandbox)?.ok()?;
            Ok(sandbox)
        },
        |sandbox| {
            node.del(sandbox)?.ok()?;
            ensure!(node.links()?.is_empty() && agent.lock().leases.is_empty());
            Ok(())
        },
    )
}

fn killed_gc() -> Result<()> {
    let mut node = Node::new()?;
    node.conf = node.conf_with(json!({"cniVersion": "1.1.0", "cni.dev/valid-attachments": []}));
    let agent = node.agent()?;
    each_call(
        &node,
        "GC",
        || {
            let sandbox = Sandbox::new(Some(POD))?;
            node.add(&sandbox)?.ok()?;
            Ok(sandbox)
        },
        |sandbox| {
            node.run("GC", sandbox, &node.conf)?.ok()?;
            ensure!(agent.lock().leases.is_empty());
            // Links are the real agent's to delete, which this one does not.
            node.del(sandbox)?.ok()?;
            ensure!(node.links()?.is_empty());
            Ok(())
        },
    )
}

fn an_add_lists_nothing() -> Result<()> {
    let node = Node::new()?;
    let _agent = node.agent()?;
    let sandbox = Sandbox::new(Some(POD))?;
    let traced = trace::run(&node, "ADD", &sandbox, &node.conf, None)?;
    traced.outcome.context("it was not killed")?.ok()?;
    ensure!(traced.asked.len() > 5, "requests were not seen: {:?}", traced.asked);
    ensure!(!traced.asked.iter().any(|one| one.dump), "an ADD lists: {:?}", traced.asked);
    let lookups = traced.asked.iter().filter(|one| one.kind == GETLINK).count();
    ensure!(lookups <= 5, "{lookups} look-ups of links: {:?}", traced.asked);
    // The harness sees a dump where there is one.
    let traced = trace::run(&node, "ADD", &sandbox, &node.conf, None)?;
    ensure!(traced.asked.iter().any(|one| one.dump), "a repeated ADD compares addresses: {:?}", traced.asked);
    Ok(())
}

/// A socket that hears every frame on the links of a namespace.
fn listen(ns: &NetNs) -> Result<OwnedFd> {
    let (family, every) = (AddressFamily::Packet, SockProtocol::EthAll);
    Ok(ns.run(|| socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, every))?)
}

/// The IPv6 frames that were heard since the last look.
fn ipv6_frames(listener: &OwnedFd) -> Vec<Vec<u8>> {
    let mut heard = Vec::new();
    let mut frame = [0; 2048];
    while let Ok(length) = recv(listener.as_raw_fd(), &mut frame, MsgFlags::MSG_DONTWAIT) {
        if frame[12..14] == [0x86, 0xdd] {
            heard.push(frame[..length].to_vec());
        }
    }
    heard
}

/// ICMPv6 (next header 58) of type 133.
fn asks_for_routers(frame: &[u8]) -> bool {
    frame.get(20) == Some(&58) && frame.get(54) == Some(&133)
}

fn a_sandbox_says_nothing_in_ipv6() -> Result<()> {
    let node = Node::new()?;
    let _agent = node.agent()?;
    let (sandbox, other) = (Sandbox::new(None)?, NetNs::new()?);
    let (ours, others) = (listen(&node.ns)?, listen(&other)?);
    node.add(&sandbox)?.ok()?;
    // A pair as anybody makes it, brought up after ours: by the time it has asked for routers, ours would have, too.
    other.ip("link add one type veth peer name two\nlink set one up\nlink set two up")?;
    wait_for("an ordinary link asks for routers", BOUND, || {
        ipv6_frames(&others).iter().any(|frame| asks_for_routers(frame)).then_some(())
    })?;
    let said = ipv6_frames(&ours);
    ensure!(said.is_empty(), "on the pod's link: {said:02x?}");
    for ns in [&node.ns, &sandbox.ns] {
        let addresses = ns.output("ip", &["-6", "-o", "addr", "show", "scope", "link"])?;
        ensure!(addresses.is_empty(), "{addresses}");
    }
    Ok(())
}
