//! From aws-node to us, and back.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use system_tests::aws_node::{AwsNode, Options};
use system_tests::house::{items, text};
use system_tests::world::{INTERNET, PORT, World};

use super::flows::Flows;

const NODE: &str = "node-1";
/// A pool that is at rest with what the stand-in's node has: eight addresses on two ENIs.
pub(crate) const ENVIRONMENT: &[(&str, &str)] =
    &[("MINIMUM_IP_TARGET", "8"), ("WARM_IP_TARGET", "0"), ("IP_COOLDOWN_PERIOD", "2")];

/// A pod that listens by TCP and by UDP.
fn listener(name: &str, node: &str) -> String {
    let ports = format!("[{{containerPort: {PORT}}}, {{containerPort: {PORT}, protocol: UDP}}]");
    system_tests::world::manifests::pod(name, node, "many")
        .replace(&format!("[{{containerPort: {PORT}}}]"), &ports)
}

/// Addresses that the agent has leased.
pub(crate) fn leased(world: &World, node: &str) -> Result<BTreeSet<String>> {
    let endpoints = world.debug(node, "endpoints")?;
    Ok(items(&endpoints).map(|one| text(&one["address"]).to_owned()).collect())
}

/// Four pods of aws-node's, policed by its node agent, and connections: from another node to two of them, and of these
/// to the internet. One of the two has its address on a secondary ENI.
pub(crate) struct Populated {
    pub(crate) world: World,
    pub(crate) incumbent: AwsNode,
    pub(crate) pairs: Vec<(String, String)>,
    pub(crate) connections: Flows,
}

pub(crate) fn populated() -> Result<Populated> {
    let mut world = World::of(2, "m5.large", ENVIRONMENT)?;
    let mut incumbent = AwsNode::set_up(&world, NODE, &Options::default())?;
    world.start_agent("node-2")?;
    world.wait_until_ready("node-2")?;
    // One after the other: its plugin then gives them addresses of its ENIs in turn.
    for name in ["a", "b"] {
        world.apply(&listener(name, NODE))?;
        world.wait_for_pods(&[name])?;
    }
    world.apply(&["c", "d"].map(|name| listener(name, NODE)).concat())?;
    world.apply(&listener("far", "node-2"))?;
    world.wait_for_pods(&["c", "d", "far"])?;
    incumbent.police(&world, &["a", "b", "c", "d"])?;
    let pods = incumbent.pods(&world)?;
    let mut pairs = Vec::new();
    for is_primary in [true, false] {
        // Of a and b.
        let found = pods.iter().find(|one| (one.table == 254) == is_primary).context("all on one ENI")?;
        let name = found.pod.trim_start_matches("default/").to_owned();
        ensure!(["a", "b"].contains(&name.as_str()), "{pods:#?}");
        pairs.extend([("far".to_owned(), name.clone()), (name, INTERNET.0.to_owned())]);
    }
    let connections = Flows::tcp(&world, &pairs)?;
    connections.all_flow(&world, "as aws-node wires it")?;
    incumbent.stop(&world)?;
    Ok(Populated { world, incumbent, pairs, connections })
}

impl Populated {
    /// Our agent takes the node over, and not a packet is lost.
    pub(crate) fn take_over(&mut self) -> Result<()> {
        let Self { world, incumbent, pairs, connections } = self;
        let addresses: BTreeSet<String> =
            incumbent.pods(world)?.iter().map(|one| one.address.to_string()).collect();
        let datagrams = Flows::udp(world, pairs)?;
        datagrams.all_flow(world, "as aws-node wires it")?;
        world.control("/calls/reset", Some(""))?;
        world.start_agent(NODE)?;
        world.wait_until_ready(NODE)?;
        world
            .wait("nothing of it is left", || incumbent.leftovers(world).ok()?.is_empty().then_some(()))
            .with_context(|| format!("{:#?}", incumbent.leftovers(world)))?;
        ensure!(leased(world, NODE)? == addresses, "{addresses:?}, then {:?}", leased(world, NODE)?);
        datagrams.end(world, "the node is taken over")?;
        connections.all_flow(world, "when ours stands")?;
        for (from, to) in [("a", "b"), ("c", "far"), ("far", "b"), ("b", INTERNET.0), ("a", INTERNET.0)] {
            world.must_reach(from, to)?;
        }
        ensure!(world.changes()?.is_empty(), "{:?}", world.changes()?);
        Ok(())
    }

    pub(crate) fn uninstall(&self, arguments: &[&str]) -> Result<(bool, String)> {
        let output = self.world.run(NODE, &[&["tidepool-agent", "uninstall"], arguments].concat())?;
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        Ok((output.status.success(), said))
    }
}

pub(crate) fn seamless() -> Result<()> {
    let mut it = populated()?;
    it.take_over()?;
    // What comes and goes while we serve is handed back too.
    it.world.apply(&listener("e", NODE))?;
    it.world.wait_for_pods(&["e"])?;
    it.world.delete(&listener("d", NODE))?;
    it.world.wait("its checkpoint follows", || {
        let names: BTreeSet<String> =
            it.incumbent.pods(&it.world).ok()?.into_iter().map(|one| one.pod).collect();
        (names == BTreeSet::from(["a", "b", "c", "e"].map(|name| format!("default/{name}")))).then_some(())
    })?;
    it.world.settled_pool(NODE)?;
    it.world.control("/calls/reset", Some(""))?;

    // The DaemonSet leaves the node, and aws-node does not come in time: all but the list stays.
    let datagrams = Flows::udp(&it.world, &it.pairs)?;
    it.world.end_agent(NODE)?;
    let (done, said) = it.uninstall(&["--wait", "1"])?;
    ensure!(!done && said.contains("our translation and filters stay"), "{said}");
    let listed = it.world.inside(NODE, &["ls", "/etc/cni/net.d"])?;
    ensure!(listed.trim() == "10-aws.conflist", "{listed}");
    datagrams.end(&it.world, "between the two")?;
    // Its start takes the addresses of secondary ENIs away for a moment.
    it.incumbent.start_again(&it.world)?;
    // Its node agent finds ours on the links, and attaches before them.
    it.incumbent.police(&it.world, &["a", "b"])?;
    let policed = it.incumbent.facts(&it.world)?.pins;
    it.connections.all_flow(&it.world, "with both")?;
    let datagrams = Flows::udp(&it.world, &it.pairs)?;
    datagrams.all_flow(&it.world, "with both")?;
    let (done, said) = it.uninstall(&["--wait", "60"])?;
    ensure!(done, "{said}");
    datagrams.end(&it.world, "the node is given back")?;
    let facts = it.incumbent.facts(&it.world)?;
    ensure!(facts.pins == policed, "{policed:?}, then {:?}", facts.pins);
    ensure!(facts.filters.len() == 4, "two pods, two directions, and none of ours: {:#?}", facts.filters);
    resumed(&it.world, &it.incumbent)?;
    it.connections.end(&it.world, "as aws-node has it again")
}

pub(crate) fn at_once() -> Result<()> {
    let mut it = populated()?;
    it.take_over()?;
    it.world.settled_pool(NODE)?;
    it.world.control("/calls/reset", Some(""))?;
    // Connections within the VPC live through it; those out of it stall until somebody marks them again.
    let inside: Vec<_> = it.pairs.iter().filter(|(from, _)| from == "far").cloned().collect();
    std::mem::replace(&mut it.connections, Flows::tcp(&it.world, &inside)?).end(&it.world, "before")?;
    it.world.kill_agent(NODE)?;
    let datagrams = Flows::udp(&it.world, &inside)?;
    for _ in 0..2 {
        // Again is no error.
        let (done, said) = it.uninstall(&[])?;
        ensure!(done, "{said}");
        let faults = it.incumbent.would_resume(&it.world)?;
        ensure!(faults.is_empty(), "{faults:#?}");
    }
    datagrams.end(&it.world, "without any agent")?;
    it.incumbent.resume(&it.world)?;
    resumed(&it.world, &it.incumbent)?;
    it.connections.end(&it.world, "as aws-node has it again")
}

/// aws-node has the node as if it had never been away: old pods go, new ones come, nobody has another's address.
pub(crate) fn resumed(world: &World, incumbent: &AwsNode) -> Result<()> {
    ensure!(world.changes()?.is_empty(), "{:?}", world.changes()?);
    let before = incumbent.pods(world)?;
    let left = world.inside(
        NODE,
        &[
            "sh",
            "-c",
            "nft list tables; find /sys/fs/bpf/tidepool /run/tidepool/pool.json 2>/dev/null || true",
        ],
    )?;
    ensure!(!left.contains("tidepool"), "{left}");
    world.apply(&listener("new", NODE))?;
    world.wait_for_pods(&["new"])?;
    let new = text(&world.pod("new")?["ip"]).to_owned();
    ensure!(before.iter().all(|one| one.address.to_string() != new), "{new} is another's: {before:#?}");
    world.must_reach("far", "new")?;
    world.must_reach("new", INTERNET.0)?;
    world.delete(&listener("c", NODE))?;
    let now: Vec<String> = incumbent.pods(world)?.into_iter().map(|one| one.pod).collect();
    ensure!(!now.contains(&"default/c".to_owned()) && now.contains(&"default/new".to_owned()), "{now:?}");
    let address = before.iter().find(|one| one.pod == "default/c").context("no c")?.address.to_string();
    let rules = world.inside(NODE, &["ip", "rule"])?;
    ensure!(!rules.contains(&format!("{address} ")), "{address} is gone, and there is\n{rules}");
    Ok(())
}

/// Somebody swaps the DaemonSets without giving the node back, and swaps them again.
pub(crate) fn had_meanwhile() -> Result<()> {
    let mut it = populated()?;
    it.take_over()?;
    it.world.kill_agent(NODE)?;
    it.world.inside(NODE, &["rm", "/etc/cni/net.d/05-tidepool.conflist"])?;
    it.incumbent.start_again(&it.world)?;
    it.world.apply(&listener("meanwhile", NODE))?;
    it.world.wait_for_pods(&["meanwhile"])?;
    it.world.delete(&listener("d", NODE))?;
    it.incumbent.stop(&it.world)?;
    it.take_over()?;
    it.world.wait("its file is ours again", || {
        it.incumbent.checkpoint(&it.world).ok().filter(|file| file["writer"] == "tidepool-agent").map(drop)
    })?;
    it.connections.end(&it.world, "at the end")
}
