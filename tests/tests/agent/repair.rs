//! Others touch what is ours on the node, and the VPC changes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use kernel_test::within;
use serde_json::json;
use system_tests::house::text;
use system_tests::world::manifests::pod;
use system_tests::world::{INTERNET, STILL_POOL, World};

const NODE: &str = "node-1";
/// What was promised.
const WITHIN: Duration = Duration::from_secs(1);

/// Damage as shell commands, a command whose output is to be as before, and what is counted. POD is the pod's address,
/// LINK its link, ENI the secondary ENI's link, ADDRESS that one's own address with its prefix.
const DAMAGE: &[(&str, &str, &str)] = &[
    ("ip rule del pref 512 to POD", "ip rule show", "rule"),
    ("ip rule del pref 1024", "ip rule show", "rule"),
    ("ip rule del pref 32765", "ip rule show", "rule"),
    ("ip rule flush protocol 116", "ip rule show", "rule"),
    ("ip route del POD", "ip route show POD", "route"),
    ("ip route replace POD dev lo", "ip route show POD", "route"),
    ("ip route flush table 2", "ip route show table 2", "route"),
    ("ip neigh del POD dev LINK", "ip neigh show POD", "neighbour"),
    (
        "ip neigh replace POD lladdr 02:00:00:00:00:99 dev LINK nud permanent",
        "ip neigh show POD",
        "neighbour",
    ),
    ("ip addr del ADDRESS dev ENI", "ip -4 -br addr show ENI", "address"),
    ("ip link set ENI down", "ip -br link show ENI", "link"),
    ("ip link set ENI mtu 1400", "ip -br link show ENI; ip -o link show ENI | grep -o mtu.[0-9]*", "link"),
    (
        "echo 0 > /proc/sys/net/ipv4/conf/LINK/forwarding",
        "cat /proc/sys/net/ipv4/conf/LINK/forwarding",
        "link",
    ),
    ("nft delete table ip tidepool", "nft -s list table ip tidepool", "nftables"),
    ("nft flush chain ip tidepool translate", "nft -s list table ip tidepool", "nftables"),
    ("nft flush ruleset", "nft -s list table ip tidepool", "nftables"),
];

/// The kernel test of host networking has the whole table; this shows that the agent listens, mends and counts.
pub(crate) fn put_back() -> Result<()> {
    // More addresses than the primary ENI has.
    let world = World::start(&[("MINIMUM_IP_TARGET", "12"), ("WARM_IP_TARGET", "1")])?;
    world.apply(&[pod("one", NODE, "one"), pod("two", "node-2", "two")].concat())?;
    world.wait_for_pods(&["one", "two"])?;
    let eni = world.wait("a second ENI has its link", || {
        let eni = world.secondary_enis().ok()?.into_iter().next()?;
        let links = world.inside(NODE, &["ip", "-br", "link"]).ok()?;
        let mac = text(&eni["mac"]).to_owned();
        let line = links.lines().find(|line| line.contains(&mac))?;
        let name = line.split([' ', '@']).next()?.to_owned();
        let shown = world.inside(NODE, &["ip", "-4", "-br", "addr", "show", &name]).ok()?;
        Some((name, shown.split_whitespace().nth(2)?.to_owned()))
    })?;
    let ip = text(&world.pod("one")?["ip"]).to_owned();
    let route = world.inside(NODE, &["ip", "route", "show", &ip])?;
    let link = route.split_whitespace().nth(2).context("no route to the pod")?.to_owned();
    let named = |command: &str| {
        command.replace("POD", &ip).replace("LINK", &link).replace("ADDRESS", &eni.1).replace("ENI", &eni.0)
    };
    for (damage, look, kind) in DAMAGE {
        within(damage, WITHIN, || damaged(&world, &named(damage), &named(look), kind))?;
    }
    world.must_reach("two", "one")?;
    world.must_reach("one", INTERNET.0)
}

/// Does damage, and waits until it is mended and counted; how long the mending took.
fn damaged(world: &World, damage: &str, look: &str, kind: &str) -> Result<Duration> {
    let metric = format!("tidepool_host_repairs_total{{reason=\"{kind}\"}}");
    let repairs = || world.metric(NODE, &metric).ok().map(|count| count.unwrap_or(0.0));
    let shown = || world.inside(NODE, &["sh", "-c", look]);
    let (before, whole) = (repairs(), shown()?);
    world.inside(NODE, &["sh", "-c", damage])?;
    let start = Instant::now();
    world
        .wait("it is put back", || (shown().ok()? == whole).then_some(()))
        .with_context(|| format!("{damage}: was\n{whole}\nis\n{}", shown().unwrap_or_default()))?;
    let took = start.elapsed();
    world
        .wait("the repair is counted", || (repairs()? > before?).then_some(()))
        .with_context(|| damage.to_owned())?;
    Ok(took)
}

/// The VPC gets another CIDR while pods run: what is in it sees them as themselves, until it is taken away again.
pub(crate) fn vpc_cidrs() -> Result<()> {
    let world = World::start(&[STILL_POOL, &[("TIDEPOOL_IMDS_PERIOD", "0.3")]].concat())?;
    world.apply(&pod("one", NODE, "one"))?;
    world.wait_for_pods(&["one"])?;
    world.must_reach("one", INTERNET.0)?;
    let enis = world.enis()?;
    let primary = enis.iter().find(|eni| eni["device_index"] == 0).context("no primary ENI")?;
    let path = format!("network/interfaces/macs/{}/vpc-ipv4-cidr-blocks", text(&primary["mac"]));
    let set = || world.inside(NODE, &["nft", "list", "set", "ip", "tidepool", "untranslated"]);
    let before = set()?;
    let own = world.up["vpc"]["cidr"].as_str().context("the VPC's CIDR")?;
    let tell = |cidrs: &str| {
        let body = json!({"node": NODE, "path": path, "text": cidrs}).to_string();
        world.control("/imds/keys", Some(&body)).map(drop)
    };
    tell(&format!("{own}\n198.51.100.0/24"))?;
    world.wait("the CIDR is known", || set().ok()?.contains("198.51.100.0/24").then_some(()))?;
    // The internet has no way back to a pod's own address.
    world.must_not_reach("one", INTERNET.0)?;
    tell(own)?;
    world.wait("the CIDR is forgotten", || (set().ok()? == before).then_some(()))?;
    world.must_reach("one", INTERNET.0)
}
