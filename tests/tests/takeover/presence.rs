//! While aws-node is alive on the node.

use anyhow::{Context, Result, ensure};
use system_tests::aws_node::{AwsNode, Firewall, Options, Socket};
use system_tests::house::{items, text};
use system_tests::world::manifests::pod;
use system_tests::world::{INTERNET, World};

use super::there_and_back::{ENVIRONMENT, leased};

const NODE: &str = "node-1";

/// What `/readyz` says of aws-node.
fn said(world: &World) -> Option<String> {
    let (_, body) = world.agent_page(NODE, "/readyz").ok()?;
    body.lines().find_map(|line| line.strip_prefix("incumbent")).map(str::to_owned)
}

fn wait_until_said(world: &World, what: &str) -> Result<String> {
    world.wait(&format!("/readyz says {what}"), || said(world).filter(|line| line.contains(what)))
}

/// Whether the Node has an Event with this reason.
fn has_event(world: &World, reason: &str) -> Result<bool> {
    let events = world.kubernetes("/api/v1/events")?;
    Ok(items(&events["items"])
        .any(|event| event["reason"] == reason && event["involvedObject"]["kind"] == "Node"))
}

pub(crate) fn refused() -> Result<()> {
    let mut world = World::of(1, "m5.large", ENVIRONMENT)?;
    let mut incumbent = AwsNode::set_up(&world, NODE, &Options::default())?;
    world.apply(&["a", "b"].map(|name| pod(name, NODE, "many")).concat())?;
    world.wait_for_pods(&["a", "b"])?;
    incumbent.police(&world, &["a"])?;
    let others = |world: &World| -> Result<String> {
        world.inside(NODE, &["sh", "-ec", "sysctl net.ipv4.ip_forward; ls -A /etc/cni/net.d; ls /sys/fs/bpf"])
    };
    let (facts, files) = (incumbent.facts(&world)?, others(&world)?);
    world.control("/calls/reset", Some(""))?;

    world.start_agent(NODE)?;
    let untouched = |world: &World, incumbent: &AwsNode, when: &str| -> Result<()> {
        let now = incumbent.facts(world)?;
        ensure!(now == facts, "{when}: {facts:#?}\nthen {now:#?}");
        ensure!(others(world)? == files, "{when}: {files}\nthen {}", others(world)?);
        ensure!(world.changes()?.is_empty(), "{when}: {:?}", world.changes()?);
        Ok(())
    };
    let line = wait_until_said(&world, "ipamd.sock answers")?;
    ensure!(line.contains("aws-node is alive"), "{line}");
    world.wait("the Node has an Event", || has_event(&world, "IncumbentAlive").ok()?.then_some(()))?;
    untouched(&world, &incumbent, "its socket answers")?;
    world.apply(&incumbent.pod_manifest())?;
    wait_until_said(&world, "pod kube-system/aws-node-x7k2p of DaemonSet aws-node is on it")?;
    // As before its version 1.23.
    incumbent.come_alive(&world, Socket::Tcp)?;
    untouched(&world, &incumbent, "its pod is there")?;
    let (status, _) = world.agent_page(NODE, "/readyz")?;
    ensure!(status == 503, "{status}");

    // Without a pod whoever has that port is somebody else.
    world.delete(&incumbent.pod_manifest())?;
    world.wait_until_ready(NODE)?;
    incumbent.stop(&world)?;
    world
        .wait("nothing of it is left", || incumbent.leftovers(&world).ok()?.is_empty().then_some(()))
        .with_context(|| format!("{:#?}", incumbent.leftovers(&world)))?;
    ensure!(leased(&world, NODE)?.len() == 2, "{:?}", leased(&world, NODE)?);
    ensure!(world.changes()?.is_empty(), "{:?}", world.changes()?);
    Ok(())
}

pub(crate) fn comes_back() -> Result<()> {
    let mut world = World::of(1, "m5.large", ENVIRONMENT)?;
    let mut incumbent = AwsNode::set_up(&world, NODE, &Options::default())?;
    world.apply(&["a", "b"].map(|name| pod(name, NODE, "many")).concat())?;
    world.wait_for_pods(&["a", "b"])?;
    incumbent.stop(&world)?;
    world.start_agent(NODE)?;
    world.wait_until_ready(NODE)?;
    world.apply(&["c", "e"].map(|name| pod(name, NODE, "many")).concat())?;
    world.wait_for_pods(&["c", "e"])?;
    let on_file = |world: &World, incumbent: &AwsNode, names: &[&str]| {
        let wanted: Vec<String> = names.iter().map(|name| format!("default/{name}")).collect();
        world.wait(&format!("its checkpoint has {names:?}"), || {
            let found: Vec<String> = incumbent.pods(world).ok()?.into_iter().map(|one| one.pod).collect();
            (found == wanted).then_some(())
        })
    };
    on_file(&world, &incumbent, &["a", "b", "c", "e"])?;
    // Its pod is bound to the node long before it reads the file.
    world.apply(&incumbent.pod_manifest())?;
    wait_until_said(&world, "alive on this node again")?;
    world.delete(&pod("e", NODE, "many"))?;
    on_file(&world, &incumbent, &["a", "b", "c"])?;

    incumbent.come_alive(&world, Socket::Unix)?;
    world.delete(&incumbent.pod_manifest())?;
    wait_until_said(&world, "ipamd.sock answers")?;
    world.apply(&pod("late", NODE, "many"))?;
    world.refusal_of("late", "aws-node")?;
    for (from, to) in [("a", "b"), ("b", "c"), ("c", "a")] {
        world.must_reach(from, to)?;
    }
    // A pod can go.
    world.delete(&pod("b", NODE, "many"))?;
    ensure!(leased(&world, NODE)?.len() == 2, "{:?}", leased(&world, NODE)?);
    on_file(&world, &incumbent, &["a", "b", "c"]).context("it has read the file, which is its own now")?;

    // When it has left, the agent ends, and the kubelet starts it anew.
    incumbent.stop(&world)?;
    world.wait("the agent ends", || world.agent_page(NODE, "/readyz").is_err().then_some(()))?;
    world.kill_agent(NODE)?;
    world.start_agent(NODE)?;
    world.wait_until_ready(NODE)?;
    world.wait_for_pods(&["late"])?;
    let late = text(&world.pod("late")?["ip"]).to_owned();
    ensure!(leased(&world, NODE)?.contains(&late), "{:?} and {late}", leased(&world, NODE)?);
    world.must_reach("a", "late")
}

pub(crate) fn lists_of_others() -> Result<()> {
    const MULTUS: &str = "/etc/cni/net.d/00-multus.conf";
    const ISTIO: &str = "/etc/cni/net.d/10-aws.conflist";
    let mut world = World::of(1, "m5.large", ENVIRONMENT)?;
    let write = |world: &World, path: &str, text: &str| {
        world.inside(
            NODE,
            &["sh", "-ec", &format!("printf '%s' '{text}' >{path}.new && mv {path}.new {path}")],
        )
    };
    let network = |world: &World, what: &str| {
        world.wait(&format!("/readyz says {what}"), || {
            let (status, body) = world.agent_page(NODE, "/readyz").ok()?;
            let line = body.lines().find(|line| line.starts_with("network"))?.to_owned();
            line.contains(what).then_some((status, line))
        })
    };
    let delegates = r#"{"name":"multus","type":"multus","delegates":[{"plugins":[{"type":"aws-cni"}]}]}"#;
    write(&world, MULTUS, delegates)?;
    write(&world, ISTIO, r#"{"name":"aws-cni","plugins":[{"type":"aws-cni"},{"type":"istio-cni"}]}"#)?;
    world.start_agent(NODE)?;
    let (status, line) = network(&world, "00-multus.conf sorts before 05-tidepool.conflist")?;
    ensure!(status == 503, "{status} {line}");
    world.wait("the Node has an Event", || has_event(&world, "ForeignNetworkList").ok()?.then_some(()))?;
    world.inside(NODE, &["rm", MULTUS])?;
    world.wait_until_ready(NODE)?;
    network(&world, "network ok, but /etc/cni/net.d/10-aws.conflist names aws-cni among plugins of others")?;
    world.apply(&pod("a", NODE, "many"))?;
    world.wait_for_pods(&["a"])?;
    world.inside(NODE, &["test", "-e", ISTIO]).context("it is not ours to set aside")?;
    // Somebody comes later.
    write(&world, MULTUS, delegates)?;
    let (status, line) = network(&world, "00-multus.conf")?;
    ensure!(status == 503, "{status} {line}");
    let ours = r#"{"name":"multus","type":"multus","clusterNetwork":"/etc/cni/net.d/05-tidepool.conflist"}"#;
    write(&world, MULTUS, ours)?;
    world.inside(NODE, &["rm", ISTIO])?;
    world.wait_until_ready(NODE)
}

/// The commands of the guide's section on iptables-legacy.
fn commands_of_the_guide() -> Result<&'static str> {
    let guide = include_str!("../../../docs/migration.md");
    let (_, section) = guide.split_once("## Legacy iptables").context("no such section")?;
    section.split("```").nth(1).context("no commands")
}

pub(crate) fn legacy() -> Result<()> {
    let mut world = World::of(1, "m5.large", ENVIRONMENT)?;
    let options = Options { firewall: Firewall::IptablesLegacy, ..Options::default() };
    let mut incumbent = AwsNode::set_up(&world, NODE, &options)?;
    world.apply(&["a", "b"].map(|name| pod(name, NODE, "many")).concat())?;
    world.wait_for_pods(&["a", "b"])?;
    incumbent.stop(&world)?;
    world.start_agent(NODE)?;
    world.wait_until_ready(NODE)?;
    world.wait("the Node has an Event", || has_event(&world, "LegacyIptables").ok()?.then_some(()))?;
    let left = incumbent.leftovers(&world)?;
    ensure!(!left.is_empty() && left.iter().all(|line| line.starts_with("iptables-legacy: ")), "{left:#?}");
    for name in ["a", "b"] {
        world.must_reach(name, INTERNET.0)?;
    }
    world.inside(NODE, &["sh", "-ec", commands_of_the_guide()?])?;
    let left = incumbent.leftovers(&world)?;
    ensure!(left.is_empty(), "{left:#?}");
    for name in ["a", "b"] {
        world.must_reach(name, INTERNET.0)?;
    }
    Ok(())
}
