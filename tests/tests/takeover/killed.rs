//! A take-over whose agent is killed again and again, and an uninstall that fails or is killed between its steps.

use anyhow::{Context, Result, ensure};
use system_tests::world::World;

use super::flows::Flows;
use super::there_and_back::{Populated, populated, resumed};

const NODE: &str = "node-1";
/// What a take-over brings about, in order, and how it is seen on the node.
const STATES: [(&str, &str); 7] = [
    ("an agent is there", "[ -e /run/tidepool/agent.lock ]"),
    ("leases are on file", "[ -e /run/tidepool/pool.json ]"),
    ("our table stands", "nft list table ip tidepool"),
    ("a rule of ours stands", "ip -details rule | grep -E 'proto(col)? 116'"),
    ("something is pinned", "find /sys/fs/bpf/tidepool -mindepth 1 | grep ."),
    ("our list is there", "[ -e /etc/cni/net.d/05-tidepool.conflist ]"),
    ("theirs is set aside", "[ -e /etc/cni/net.d/10-aws.conflist.tidepool-set-aside ]"),
];

fn holds(world: &World, sign: &str) -> bool {
    world
        .run(NODE, &["sh", "-c", &format!("{sign} >/dev/null 2>&1")])
        .is_ok_and(|output| output.status.success())
}

fn wait_for(world: &World, what: &str, sign: &str) -> Result<()> {
    world.wait(what, || holds(world, sign).then_some(()))
}

pub(crate) fn anywhere() -> Result<()> {
    let mut it = populated()?;
    let datagrams = Flows::udp(&it.world, &it.pairs)?;
    datagrams.all_flow(&it.world, "as aws-node wires it")?;
    for (what, sign) in STATES {
        it.world.start_agent(NODE)?;
        wait_for(&it.world, what, sign)?;
        it.world.kill_agent(NODE)?;
        let when = format!("killed when {what}");
        it.connections.all_flow(&it.world, &when)?;
        datagrams.all_flow(&it.world, &when)?;
    }
    datagrams.end(&it.world, "a take-over that is killed again and again")?;
    it.take_over().context("at last")?;
    it.world.settled_pool(NODE)?;
    it.world.control("/calls/reset", Some(""))?;
    it.world.kill_agent(NODE)?;
    uninstalled(&mut it)
}

/// Lets something be in the way of a step of `uninstall`, which then fails, and takes it away again.
fn fails(it: &Populated, arguments: &[&str], path: &str, word: &str) -> Result<()> {
    it.world.inside(NODE, &["sh", "-ec", &format!("rm -rf {path}; mkdir -p {path}/in-the-way")])?;
    let (done, said) = it.uninstall(arguments)?;
    ensure!(!done && said.contains(word), "with {path} in the way: {said}");
    it.connections.all_flow(&it.world, &format!("{path} was in the way"))?;
    it.world.inside(NODE, &["rm", "-r", path]).map(drop)
}

fn uninstalled(it: &mut Populated) -> Result<()> {
    let datagrams = Flows::udp(&it.world, &it.pairs)?;
    fails(it, &[], "/etc/cni/net.d/10-aws.conflist", "cannot be put back")?;
    fails(it, &["--wait", "60"], "/etc/cni/net.d/05-tidepool.conflist", "05-tidepool.conflist")?;
    for (what, sign) in [
        ("their list is back", "[ -f /etc/cni/net.d/10-aws.conflist ]"),
        ("our checkpoint is gone", "[ ! -e /run/tidepool/pool.json ]"),
    ] {
        let mut command = it.world.command(NODE, "tidepool-agent")?;
        let mut child = command.args(["uninstall", "--wait", "60"]).spawn()?;
        let seen = wait_for(&it.world, what, sign);
        child.kill()?;
        child.wait()?;
        seen?;
        it.connections.all_flow(&it.world, &format!("killed when {what}"))?;
    }
    datagrams.end(&it.world, "an uninstall that is cut off again and again")?;
    it.incumbent.start_again(&it.world)?;
    it.connections.all_flow(&it.world, "with both")?;
    fails(it, &["--wait", "60"], "/run/tidepool/agent.sock", "agent.sock")?;
    for _ in 0..2 {
        let (done, said) = it.uninstall(&["--wait", "60"])?;
        ensure!(done, "{said}");
    }
    let faults = it.incumbent.would_resume(&it.world)?;
    ensure!(faults.is_empty(), "{faults:#?}");
    resumed(&it.world, &it.incumbent)?;
    std::mem::take(&mut it.connections).end(&it.world, "as aws-node has it again")
}
