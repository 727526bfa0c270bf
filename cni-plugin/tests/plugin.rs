//! The plugin as a runtime runs it, against an agent of a few lines and the
//! real kernel.

#[path = "plugin/steps.rs"]
mod steps;
mod support;

use std::{
    net::UdpSocket,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use kernel_test::{Need, Trial, trial, wait_for};
use rpc::{Refusal, Request, reason};
use serde_json::{Value, json};
use support::{Agent, Fault, Node, Sandbox, finish, links};

const BOUND: Duration = Duration::from_secs(20);

fn main() {
    let on_net =
        |name: &str, body: fn() -> Result<()>| -> Trial { trial(name, &[Need::Root, Need::NetNs], body) };
    let mut trials = vec![
        on_net("add_wires_the_sandbox_in_every_version", add_wires_the_sandbox_in_every_version),
        on_net("first_packets_after_add_arrive", first_packets_after_add_arrive),
        on_net("pod_is_down_until_attach_is_answered", pod_is_down_until_attach_is_answered),
        on_net("add_again_gives_the_same", add_again_gives_the_same),
        on_net("newer_pod_of_the_same_name_keeps_its_link", newer_pod_of_the_same_name_keeps_its_link),
        on_net(
            "late_pod_of_the_same_name_leaves_the_newer_s_link",
            late_pod_of_the_same_name_leaves_the_newer_s_link,
        ),
        on_net("del_is_idempotent_and_needs_no_namespace", del_is_idempotent_and_needs_no_namespace),
        on_net(
            "del_without_namespace_takes_only_its_own_link",
            del_without_namespace_takes_only_its_own_link,
        ),
        on_net("agent_restart_is_not_seen", agent_restart_is_not_seen),
        on_net("refused_lease_leaves_nothing", refused_lease_leaves_nothing),
        on_net("refused_attach_is_undone", refused_attach_is_undone),
        on_net("silent_agent_ends_at_the_deadline", silent_agent_ends_at_the_deadline),
        on_net("killed_add_is_undone_by_del", killed_add_is_undone_by_del),
        on_net("behind_other_plugins_their_result_stays", behind_other_plugins_their_result_stays),
        on_net("foreign_interface_is_refused", foreign_interface_is_refused),
        on_net("namespace_of_the_host_is_refused", namespace_of_the_host_is_refused),
        on_net("check_sees_what_is_missing", check_sees_what_is_missing),
        on_net("status_and_collect_reach_the_agent", status_and_collect_reach_the_agent),
        on_net("bad_input_is_a_cni_error", bad_input_is_a_cni_error),
        on_net("many_at_once", many_at_once),
    ];
    trials.extend(steps::TRIALS.map(|(name, body)| on_net(name, body)));
    kernel_test::run(trials);
}

fn shown(sandbox: &Sandbox, command: &[&str]) -> Result<String> {
    sandbox.ns.output("ip", command)
}

fn add_wires_the_sandbox_in_every_version() -> Result<()> {
    for version in ["0.4.0", "1.0.0", "1.1.0"] {
        let node = Node::new()?;
        let _agent = node.agent()?;
        let sandbox = Sandbox::new(Some("web-0"))?;
        let conf = node.conf_with(json!({"cniVersion": version, "dns": {"domain": "d"}}));
        let result = node.run("ADD", &sandbox, &conf)?.ok()?.json()?;
        let path = sandbox.ns.path().to_str().context("UTF-8")?;
        ensure!(result["cniVersion"] == version, "{result}");
        ensure!(result["interfaces"][0]["name"] == sandbox.host_ifname().as_str(), "{result}");
        ensure!(result["interfaces"][1]["sandbox"] == path, "{result}");
        ensure!(
            result["ips"][0]["address"] == "10.20.0.1/32" && result["ips"][0]["interface"] == 1,
            "{result}"
        );
        ensure!((result["ips"][0]["version"] == "4") == (version == "0.4.0"), "{result}");
        ensure!((result["interfaces"][1]["mtu"] == 9001) == (version == "1.1.0"), "{result}");
        ensure!(result["dns"]["domain"] == "d" && result["routes"][0]["dst"] == "0.0.0.0/0", "{result}");

        let link = shown(&sandbox, &["-d", "link", "show", "eth0"])?;
        ensure!(
            link.contains("mtu 9001") && link.contains("LOWER_UP") && link.contains("addrgenmode none"),
            "{link}"
        );
        ensure!(link.contains(result["interfaces"][1]["mac"].as_str().context("a MAC")?), "{link}");
        let addresses = shown(&sandbox, &["-o", "addr", "show"])?;
        ensure!(addresses.contains("10.20.0.1/32") && !addresses.contains("fe80"), "{addresses}");
        ensure!(addresses.contains("127.0.0.1"), "loopback is down: {addresses}");
        let routes = shown(&sandbox, &["route", "show"])?;
        ensure!(routes.contains("default via 169.254.1.1 dev eth0"), "{routes}");
        ensure!(routes.contains("169.254.1.1 dev eth0 scope link"), "{routes}");
        let entries = shown(&sandbox, &["neigh", "show"])?;
        let host_mac = result["interfaces"][0]["mac"].as_str().context("a MAC")?;
        ensure!(entries.contains(&format!("169.254.1.1 dev eth0 lladdr {host_mac} PERMANENT")), "{entries}");
        node.del(&sandbox)?.ok()?;
        ensure!(node.links()?.is_empty() && links(&sandbox.ns)?.is_empty());
    }
    Ok(())
}

fn first_packets_after_add_arrive() -> Result<()> {
    let node = Node::new()?;
    let _agent = node.agent()?;
    node.ns.ip("link set lo up\naddr add 10.20.255.1/32 dev lo")?;
    let host = node.ns.run(|| UdpSocket::bind("10.20.255.1:7000"))?;
    host.set_read_timeout(Some(BOUND))?;
    for number in 1..=20 {
        let sandbox = Sandbox::new(None)?;
        node.add(&sandbox)?.ok()?;
        let address = format!("10.20.0.{number}");
        // What the agent would have done at Attach.
        node.ns.ip(&format!("route add {address}/32 dev {} scope link", sandbox.host_ifname()))?;
        let pod = sandbox.ns.run(|| UdpSocket::bind("0.0.0.0:7000"))?;
        pod.set_read_timeout(Some(BOUND))?;
        let mut buffer = [0; 8];
        pod.send_to(b"up", "10.20.255.1:7000")?;
        host.recv(&mut buffer).context("the pod's first packet was lost")?;
        host.send_to(b"down", format!("{address}:7000"))?;
        pod.recv(&mut buffer).context("the first packet to the pod was lost")?;
        node.del(&sandbox)?.ok()?;
    }
    Ok(())
}

fn pod_is_down_until_attach_is_answered() -> Result<()> {
    let node = Node::new()?;
    let agent = node.agent()?;
    agent.lock().faults = vec![Fault::Silence("attach")];
    let sandbox = Sandbox::new(None)?;
    let child =
        node.spawn("ADD", &sandbox, Some(sandbox.ns.path()), &node.conf_with(json!({"timeoutSeconds": 2})))?;
    wait_for("attach to be asked", BOUND, || {
        agent.lock().seen.iter().any(|request| matches!(request, Request::Attach { .. })).then_some(())
    })?;
    let host = node.ns.output("ip", &["link", "show", &sandbox.host_ifname()])?;
    ensure!(host.contains(",UP"), "the host's end is down: {host}");
    let pod = shown(&sandbox, &["link", "show", "eth0"])?;
    ensure!(!pod.contains("UP"), "the pod's end is up: {pod}");
    let addresses = shown(&sandbox, &["addr", "show", "eth0"])?;
    ensure!(!addresses.contains("inet"), "{addresses}");
    let (code, _) = finish(child)?.error()?;
    ensure!(code == 11, "{code}");
    Ok(())
}

fn add_again_gives_the_same() -> Result<()> {
    let node = Node::new()?;
    let agent = node.agent()?;
    let sandbox = Sandbox::new(Some("web-0"))?;
    let first = node.add(&sandbox)?.ok()?;
    let before = (shown(&sandbox, &["-o", "addr", "show"])?, node.ns.output("ip", &["-o", "link", "show"])?);
    let second = node.add(&sandbox)?.ok()?;
    ensure!(first.stdout == second.stdout, "{first:?} {second:?}");
    let after = (shown(&sandbox, &["-o", "addr", "show"])?, node.ns.output("ip", &["-o", "link", "show"])?);
    ensure!(before == after, "{before:?} {after:?}");
    ensure!(agent.lock().leases.len() == 1);
    Ok(())
}

fn newer_pod_of_the_same_name_keeps_its_link() -> Result<()> {
    let node = Node::new()?;
    let agent = node.agent()?;
    let (old, new) = (Sandbox::new(Some("db-0"))?, Sandbox::new(Some("db-0"))?);
    let old_result = node.add(&old)?.ok()?.json()?;
    let new_result = node.add(&new)?.ok()?.json()?;
    ensure!(old_result["ips"] != new_result["ips"]);
    ensure!(node.links()? == [old.host_ifname()], "{:?}", node.links()?);
    ensure!(links(&old.ns)?.is_empty(), "the older one's link is in the way still");
    // The late DEL, in all the ways that it comes.
    node.del(&old)?.ok()?;
    let with_result = node.conf_with(json!({"prevResult": old_result}));
    finish(node.spawn("DEL", &old, None, &with_result)?)?.ok()?;
    ensure!(
        node.links()? == [new.host_ifname()] && links(&new.ns)? == ["eth0"],
        "the newer one's link is gone"
    );
    let left: Vec<_> = agent.lock().leases.keys().cloned().collect();
    ensure!(left == [new.key()], "{left:?}");
    node.del(&new)?.ok()?;
    ensure!(node.links()?.is_empty());
    Ok(())
}

fn late_pod_of_the_same_name_leaves_the_newer_s_link() -> Result<()> {
    let node = Node::new()?;
    let agent = node.agent()?;
    let (late, new) = (Sandbox::new(Some("db-0"))?, Sandbox::new(Some("db-0"))?);
    node.add(&new)?.ok()?;
    let refusal = Refusal::new(100, reason::SANDBOX_DELETED, "another is newer");
    agent.lock().faults = vec![Fault::Pass("lease"), Fault::Refuse("lease", refusal)];
    let (code, text) = node.add(&late)?.error()?;
    ensure!(code == 100 && text.contains("newer"), "{text}");
    ensure!(
        node.links()? == [new.host_ifname()] && links(&new.ns)? == ["eth0"],
        "the newer one's link is gone"
    );
    wait_for("its own lease is gone", BOUND, || agent.lock().leases.keys().eq([&new.key()]).then_some(()))
}

fn del_is_idempotent_and_needs_no_namespace() -> Result<()> {
    let node = Node::new()?;
    let agent = node.agent()?;
    let sandbox = Sandbox::new(Some("web-0"))?;
    node.del(&sandbox)?.ok().context("before any ADD")?;
    let result = node.add(&sandbox)?.ok()?.json()?;
    let conf = node.conf_with(json!({"prevResult": result}));
    node.run("DEL", &sandbox, &conf)?.ok()?;
    node.run("DEL", &sandbox, &conf)?.ok()?;
    // As containerd: again, with an empty path and without a result.
    finish(node.spawn("DEL", &sandbox, None, &node.conf)?)?.ok()?;
    for gone in ["/proc/1/task/0/ns/net", "/nonexistent", "/etc/passwd"] {
        finish(node.spawn("DEL", &sandbox, Some(Path::new(gone)), &node.conf)?)?.ok().context(gone)?;
    }
    ensure!(agent.lock().leases.is_empty() && node.links()?.is_empty());
    // Only the agent can say that nothing is left: without it, DEL must come again.
    drop(agent);
    let (code, _) = node.run("DEL", &sandbox, &node.conf_with(json!({"timeoutSeconds": 1})))?.error()?;
    ensure!(code == 11, "{code}");
    Ok(())
}

fn del_without_namespace_takes_only_its_own_link() -> Result<()> {
    let node = Node::new()?;
    let _agent = node.agent()?;
    let sandbox = Sandbox::new(Some("web-0"))?;
    let mut result = node.add(&sandbox)?.ok()?.json()?;
    let mac = result["interfaces"][0]["mac"].clone();
    result["interfaces"][0]["mac"] = "02:00:00:00:00:99".into();
    finish(node.spawn("DEL", &sandbox, None, &node.conf_with(json!({"prevResult": result})))?)?.ok()?;
    ensure!(node.links()?.len() == 1, "another's link of that name was deleted");
    result["interfaces"][0]["mac"] = mac;
    finish(node.spawn("DEL", &sandbox, None, &node.conf_with(json!({"prevResult": result})))?)?.ok()?;
    ensure!(node.links()?.is_empty());
    Ok(())
}

fn agent_restart_is_not_seen() -> Result<()> {
    // Not there yet when the plugin starts.
    let node = Node::new()?;
    let sandbox = Sandbox::new(None)?;
    let child = node.spawn("ADD", &sandbox, Some(sandbox.ns.path()), &node.conf)?;
    let agent = node.agent()?;
    finish(child)?.ok()?;
    node.del(&sandbox)?.ok()?;
    // Restarted while it waits for a lease, between lease and attach, and between attach and reply; and
    // without knowledge of the lease.
    let unknown = Refusal::retryable(11, reason::UNKNOWN_LEASE, "who?");
    for faults in [
        vec![Fault::Close("lease")],
        vec![Fault::Close("attach")],
        vec![Fault::Close("lease"), Fault::Close("lease"), Fault::Close("attach"), Fault::Close("lease")],
        vec![Fault::Refuse("attach", unknown.clone()), Fault::Refuse("attach", unknown)],
        vec![Fault::Refuse("lease", Refusal::retryable(11, reason::NOT_SYNCED, "soon"))],
    ] {
        agent.lock().faults = faults.clone();
        node.add(&sandbox)?.ok().with_context(|| format!("{faults:?}"))?;
        ensure!(agent.lock().faults.is_empty() && agent.lock().leases.len() == 1);
        ensure!(node.links()? == [sandbox.host_ifname()]);
        node.del(&sandbox)?.ok()?;
        ensure!(node.links()?.is_empty());
    }
    // DEL too.
    node.add(&sandbox)?.ok()?;
    let state = Arc::clone(&agent.state);
    drop(agent);
    let child = node.spawn("DEL", &sandbox, Some(sandbox.ns.path()), &node.conf)?;
    let agent = Agent::start(&node.socket(), state)?;
    agent.lock().faults = vec![Fault::Close("release")];
    finish(child)?.ok()?;
    ensure!(agent.lock().leases.is_empty());
    Ok(())
}

fn refused_lease_leaves_nothing() -> Result<()> {
    let node = Node::new()?;
    let agent = node.agent()?;
    let sandbox = Sandbox::new(None)?;
    agent.lock().faults = vec![Fault::Refuse("lease", Refusal::new(100, "subnet-full", "subnet-1 is full"))];
    let outcome = node.add(&sandbox)?;
    let (code, text) = outcome.error()?;
    ensure!(
        code == 100 && text.contains("subnet-1 is full") && outcome.json()?["details"] == "subnet-full",
        "{text}"
    );
    ensure!(outcome.json()?["cniVersion"] == "1.0.0");
    ensure!(node.links()?.is_empty() && links(&sandbox.ns)?.is_empty());
    Ok(())
}

fn refused_attach_is_undone() -> Result<()> {
    let node = Node::new()?;
    let agent = node.agent()?;
    let sandbox = Sandbox::new(None)?;
    agent.lock().faults = vec![Fault::Refuse("attach", Refusal::new(100, "filters", "no filters"))];
    let (code, _) = node.add(&sandbox)?.error()?;
    ensure!(code == 100);
    ensure!(node.links()?.is_empty() && links(&sandbox.ns)?.is_empty());
    wait_for("the lease to be undone", BOUND, || (agent.lock().undone == [sandbox.key()]).then_some(()))
}

fn silent_agent_ends_at_the_deadline() -> Result<()> {
    let node = Node::new()?;
    let agent = node.agent()?;
    for verb in ["lease", "attach"] {
        agent.lock().faults = vec![Fault::Silence(verb)];
        let sandbox = Sandbox::new(None)?;
        let started = Instant::now();
        let (code, text) =
            node.run("ADD", &sandbox, &node.conf_with(json!({"timeoutSeconds": 1})))?.error()?;
        ensure!(code == 11 && text.contains(verb), "{code} {text}");
        ensure!(started.elapsed() >= Duration::from_millis(900) && started.elapsed() < BOUND);
        ensure!(node.links()?.is_empty() && links(&sandbox.ns)?.is_empty(), "{verb}");
    }
    Ok(())
}

fn killed_add_is_undone_by_del() -> Result<()> {
    let node = Node::new()?;
    let agent = node.agent()?;
    for verb in ["lease", "attach"] {
        agent.lock().seen.clear();
        agent.lock().undone.clear();
        agent.lock().faults = vec![Fault::Silence(verb)];
        let sandbox = Sandbox::new(Some("web-0"))?;
        let mut child = node.spawn("ADD", &sandbox, Some(sandbox.ns.path()), &node.conf)?;
        wait_for("the request", BOUND, || {
            agent.lock().seen.iter().any(|one| one.verb() == verb).then_some(())
        })?;
        child.kill()?;
        child.wait()?;
        if verb == "attach" {
            wait_for("the undoing", BOUND, || (agent.lock().undone == [sandbox.key()]).then_some(()))?;
            ensure!(node.links()?.len() == 1, "the kill left no residue to clean");
        }
        node.del(&sandbox)?.ok()?;
        ensure!(node.links()?.is_empty() && links(&sandbox.ns)?.is_empty() && agent.lock().leases.is_empty());
    }
    Ok(())
}

fn behind_other_plugins_their_result_stays() -> Result<()> {
    let node = Node::new()?;
    let agent = node.agent()?;
    let sandbox = Sandbox::new(None)?;
    // It has taken the index that we would like.
    sandbox.ns.ip("link add other type veth peer name other2\nlink set other up")?;
    let path = sandbox.ns.path().to_str().context("UTF-8")?;
    let before = json!({"cniVersion": "1.0.0", "interfaces": [{"name": "other", "sandbox": path}], "ips": [{"address": "192.168.7.2/24", "interface": 0}], "dns": {"search": ["x"]}});
    let conf =
        node.conf_with(json!({"prevResult": before, "runtimeConfig": {"Bandwidth": {"EgressRate": 1000}}}));
    let result = node.run("ADD", &sandbox, &conf)?.ok()?.json()?;
    ensure!(result["interfaces"].as_array().map(Vec::len) == Some(3), "{result}");
    ensure!(
        result["ips"][0]["address"] == "192.168.7.2/24" && result["ips"][1]["interface"] == 2,
        "{result}"
    );
    ensure!(result["dns"]["search"][0] == "x", "{result}");
    ensure!(shown(&sandbox, &["link", "show", "eth0"])?.contains("LOWER_UP"));
    let shaped =
        agent.lock().seen.iter().any(|one| matches!(one, Request::Lease { egress_shaped: true, .. }));
    ensure!(shaped, "the agent was not told of the shaping");
    node.run("DEL", &sandbox, &node.conf_with(json!({"prevResult": result})))?.ok()?;
    ensure!(links(&sandbox.ns)?.len() == 2, "another's links were deleted");
    let strange = node.conf_with(json!({"prevResult": {"cniVersion": "7.0.0"}}));
    let (code, text) = node.run("ADD", &sandbox, &strange)?.error()?;
    ensure!(code == 1 && text.contains("prevResult"), "{text}");
    Ok(())
}

fn foreign_interface_is_refused() -> Result<()> {
    let node = Node::new()?;
    let agent = node.agent()?;
    let sandbox = Sandbox::new(None)?;
    sandbox.ns.ip("link add eth0 type veth peer name other")?;
    let (code, text) = node.add(&sandbox)?.error()?;
    ensure!(code == 100 && text.contains("eth0"), "{text}");
    wait_for("the lease to be undone", BOUND, || agent.lock().leases.is_empty().then_some(()))?;
    ensure!(links(&sandbox.ns)?.len() == 2);
    Ok(())
}

fn namespace_of_the_host_is_refused() -> Result<()> {
    let node = Node::new()?;
    let _agent = node.agent()?;
    let sandbox = Sandbox::new(None)?;
    let (code, _) = finish(node.spawn("ADD", &sandbox, Some(node.ns.path()), &node.conf)?)?.error()?;
    ensure!(code == 4, "{code}");
    let (code, _) =
        finish(node.spawn("ADD", &sandbox, Some(Path::new("/nonexistent")), &node.conf)?)?.error()?;
    ensure!(code == 3, "{code}");
    let (code, text) = finish(node.spawn("ADD", &sandbox, None, &node.conf)?)?.error()?;
    ensure!(code == 4 && text.contains("CNI_NETNS"), "{text}");
    Ok(())
}

fn check_sees_what_is_missing() -> Result<()> {
    let node = Node::new()?;
    let agent = node.agent()?;
    let sandbox = Sandbox::new(None)?;
    let result = node.add(&sandbox)?.ok()?.json()?;
    let conf = node.conf_with(json!({"prevResult": result}));
    node.run("CHECK", &sandbox, &conf)?.ok()?;
    let (code, text) = node.run("CHECK", &sandbox, &node.conf)?.error()?;
    ensure!(code == 7 && text.contains("prevResult"), "{text}");
    let damages = [
        ("neigh del 169.254.1.1 dev eth0", "neighbour"),
        ("route del default", "default route"),
        ("addr flush dev eth0", "10.20.0."),
        ("link set eth0 down", "down"),
        ("link set eth0 address 02:00:00:00:00:77", "Ethernet"),
        ("link del eth0", "gone"),
    ];
    for (damage, named) in damages {
        sandbox.ns.ip(damage)?;
        let (code, text) = node.run("CHECK", &sandbox, &conf)?.error()?;
        ensure!(code == 100 && text.contains(named), "{damage}: {text}");
    }
    let other = Sandbox::new(None)?;
    let result = node.add(&other)?.ok()?.json()?;
    agent.lock().leases.clear();
    let (code, _) = node.run("CHECK", &other, &node.conf_with(json!({"prevResult": result})))?.error()?;
    ensure!(code == 3, "{code}");
    Ok(())
}

fn status_and_collect_reach_the_agent() -> Result<()> {
    let node = Node::new()?;
    let sandbox = Sandbox::new(None)?;
    let conf = node.conf_with(json!({"cniVersion": "1.1.0", "timeoutSeconds": 1}));
    let (code, _) = node.run("STATUS", &sandbox, &conf)?.error()?;
    ensure!(code == 50, "{code}");
    let agent = node.agent()?;
    ensure!(node.run("STATUS", &sandbox, &conf)?.ok()?.stdout.is_empty());
    agent.lock().faults = vec![Fault::Refuse("status", Refusal::new(51, "impaired", "filters are gone"))];
    let (code, _) = node.run("STATUS", &sandbox, &conf)?.error()?;
    ensure!(code == 51, "{code}");

    let (kept, lost) = (Sandbox::new(None)?, Sandbox::new(None)?);
    node.add(&kept)?.ok()?;
    node.add(&lost)?.ok()?;
    let valid = json!({"cniVersion": "1.1.0", "cni.dev/valid-attachments": [{"containerID": kept.id, "ifname": "eth0"}]});
    ensure!(node.run("GC", &sandbox, &node.conf_with(valid))?.ok()?.stdout.is_empty());
    ensure!(agent.lock().leases.keys().cloned().collect::<Vec<_>>() == [kept.key()]);
    for verb in ["STATUS", "GC"] {
        let (code, text) = node.run(verb, &sandbox, &node.conf)?.error()?;
        ensure!(code == 1 && text.contains("1.1.0"), "{text}");
    }
    node.run("GC", &sandbox, &conf)?.ok()?;
    ensure!(agent.lock().leases.len() == 1, "a list that is missing is no empty list");
    let nothing = json!({"cniVersion": "1.1.0", "cni.dev/valid-attachments": null});
    node.run("GC", &sandbox, &node.conf_with(nothing))?.ok()?;
    ensure!(agent.lock().leases.is_empty(), "a list of nothing");
    Ok(())
}

fn bad_input_is_a_cni_error() -> Result<()> {
    let node = Node::new()?;
    let sandbox = Sandbox::new(None)?;
    let (code, _) = node.run("ADD", &sandbox, &Value::String("{".into()))?.error()?;
    ensure!(code == 6, "{code}");
    let (code, text) = node.run("ADD", &sandbox, &node.conf_with(json!({"timeoutSeconds": 0})))?.error()?;
    ensure!(code == 7 && text.contains("timeoutSeconds"), "{text}");
    let (code, text) = node.run("PING", &sandbox, &node.conf)?.error()?;
    ensure!(code == 4 && text.contains("CNI_COMMAND"), "{text}");
    let version = node.run("VERSION", &sandbox, &node.conf)?.ok()?.json()?;
    ensure!(version["supportedVersions"] == json!(["0.4.0", "1.0.0", "1.1.0"]), "{version}");
    Ok(())
}

fn many_at_once() -> Result<()> {
    let node = Node::new()?;
    let agent = node.agent()?;
    let sandboxes: Vec<_> = (0..40).map(|_| Sandbox::new(None)).collect::<Result<_>>()?;
    for verb in ["ADD", "DEL"] {
        std::thread::scope(|scope| {
            let runs: Vec<_> =
                sandboxes.iter().map(|one| scope.spawn(|| node.run(verb, one, &node.conf)?.ok())).collect();
            runs.into_iter().try_for_each(|run| run.join().expect("no panic").map(|_| ()))
        })?;
        let links = if verb == "ADD" { sandboxes.len() } else { 0 };
        ensure!(node.links()?.len() == links && agent.lock().leases.len() == links);
    }
    Ok(())
}
