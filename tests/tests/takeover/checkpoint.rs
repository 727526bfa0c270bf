//! A node of aws-node's whose pods run, and our agent on it for the first time.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use system_tests::house::{items, text};

use super::echoes;
use system_tests::world::World;
use system_tests::world::manifests::pod;

const NODE: &str = "node-1";
/// The protocol of our routes and rules.
const OURS: &str = "116";
const FILE: &str = "/var/run/aws-node/ipam.json";

/// Makes the node's pods those of aws-node: host ends with MACs of its own, ARP instead of neighbour entries, routes
/// and rules of no protocol of ours, no filters and no state but its file.
fn hand_to_incumbent(world: &World, endpoints: &[Value]) -> Result<()> {
    let mut script = String::new();
    for (number, one) in endpoints.iter().enumerate() {
        let (link, address) = (text(&one["link"]), text(&one["address"]));
        let mac = format!("66:00:00:00:00:{number:02x}");
        let name = text(&one["pod"]).trim_start_matches("default/");
        // The pod's permanent entry for its gateway follows.
        let netns = text(&world.pod(name)?["netns"]).to_owned();
        nsenter(
            &netns,
            &["ip", "neigh", "replace", "169.254.1.1", "lladdr", &mac, "dev", "eth0", "nud", "permanent"],
        )?;
        script.push_str(&format!(
            "ip link set {link} address {mac}\nip neigh del {address} dev {link} || true\n\
             ip route replace {address} dev {link} scope link proto boot\n\
             ip rule del pref 512 to {address} protocol {OURS}\nip rule add pref 512 to {address} lookup main\n\
             tc qdisc del dev {link} clsact || true\n"
        ));
        if let Some(table) = one["table"].as_u64().filter(|table| *table != 254) {
            script.push_str(&format!(
                "ip rule del pref 1536 from {address} protocol {OURS}\nip rule add pref 1536 from {address} lookup {table}\n"
            ));
        }
    }
    script.push_str("nft delete table ip tidepool\nrm -r /run/tidepool /var/lib/tidepool /var/lib/cni/results\nfind /sys/fs/bpf/tidepool -depth -delete\n");
    world.inside(NODE, &["sh", "-ec", &script])?;
    Ok(())
}

fn nsenter(netns: &str, words: &[&str]) -> Result<()> {
    let status = std::process::Command::new("nsenter").arg(format!("--net={netns}")).args(words).status()?;
    ensure!(status.success(), "{words:?}: {status}");
    Ok(())
}

/// The file as aws-node writes it.
fn incumbent_file(endpoints: &[Value], extra: &[Value]) -> String {
    let entry = |one: &Value| {
        let mut key = text(&one["sandbox"]).split('/');
        let (network, id, ifname) = (key.next(), key.next(), key.next());
        let name = text(&one["pod"]).trim_start_matches("default/");
        json!({
            "networkName": network, "containerID": id, "ifName": ifname, "ipv4": one["address"],
            "allocationTimestamp": 1_700_000_000_000_000_000_u64,
            "metadata": {"k8sPodNamespace": "default", "k8sPodName": name, "interfacesCount": 1},
        })
    };
    let allocations: Vec<Value> = endpoints.iter().map(entry).chain(extra.iter().cloned()).collect();
    json!({"version": "vpc-cni-ipam/1", "allocations": allocations}).to_string()
}

fn by_sandbox(world: &World) -> Result<BTreeMap<String, Value>> {
    let found = world.debug(NODE, "endpoints")?;
    let facts = |one: &Value| json!([one["pod"], one["address"], one["eni"], one["table"], one["link"]]);
    Ok(items(&found).map(|one| (text(&one["sandbox"]).to_owned(), facts(one))).collect())
}

pub(crate) fn from_incumbent() -> Result<()> {
    // Nine on the primary ENI, two on a secondary one.
    const PODS: usize = 11;
    let mut world = World::start(&[("MINIMUM_IP_TARGET", "14"), ("WARM_IP_TARGET", "1")])?;
    let names: Vec<String> = (0..PODS).map(|number| format!("pod-{number}")).collect();
    let mut manifest: String = names.iter().map(|name| pod(name, NODE, "many")).collect();
    manifest.push_str(&pod("far", "node-2", "far"));
    world.apply(&manifest)?;
    let mut all: Vec<&str> = names.iter().map(String::as_str).collect();
    all.push("far");
    world.wait_for_pods(&all)?;
    world.settled_pool(NODE)?;
    let before = by_sandbox(&world)?;
    let endpoints: Vec<Value> = items(&world.debug(NODE, "endpoints")?).cloned().collect();
    let on_secondary = endpoints.iter().find(|one| one["table"] != 254).context("none on a secondary ENI")?;
    let on_primary = endpoints.iter().find(|one| one["table"] == 254).context("none on the primary ENI")?;
    let name_of = |one: &Value| text(&one["pod"]).trim_start_matches("default/").to_owned();
    let (primary, secondary) = (name_of(on_primary), name_of(on_secondary));
    let pool = world.debug(NODE, "pool")?;
    let used: Vec<&Value> = endpoints.iter().map(|one| &one["address"]).collect();
    let free = items(&pool["enis"])
        .flat_map(|eni| items(&eni["addresses"]))
        .find(|address| !used.contains(address))
        .cloned()
        .context("no free address")?;

    world.kill_agent(NODE)?;
    hand_to_incumbent(&world, &endpoints)?;
    let mut flows = Vec::new();
    for name in [&primary, &secondary] {
        world.must_reach("far", name).context("as aws-node wires it")?;
        let mut flow = world.connect("far", name)?;
        echoes(&mut flow, Duration::from_secs(5))?;
        flows.push(flow);
    }
    // A pod that is gone, and one of IPv6.
    let stale = json!({"networkName": "aws-cni", "containerID": "gone", "ifName": "eth0", "ipv4": free,
        "metadata": {"k8sPodNamespace": "default", "k8sPodName": "gone"}});
    let v6 = json!({"networkName": "aws-cni", "containerID": "six", "ifName": "eth0", "ipv6": "2001:db8::6", "metadata": {}});
    let file = incumbent_file(&endpoints, &[stale, v6]);

    // A version that nobody knows is refused, in words; it is looked at again.
    world.inside(NODE, &["mkdir", "-p", "/var/run/aws-node"])?;
    write(&world, &file.replace("vpc-cni-ipam/1", "vpc-cni-ipam/9"))?;
    world.control("/calls/reset", Some(""))?;
    world.start_agent(NODE)?;
    world.wait("the version is refused", || {
        let (_, body) = world.agent_page(NODE, "/readyz").ok()?;
        body.lines()
            .any(|line| {
                line.starts_with("pool: ") && line.contains("vpc-cni-ipam/9") && line.contains("drain")
            })
            .then_some(())
    })?;
    write(&world, &file)?;
    world.wait_until_ready(NODE)?;

    let after = by_sandbox(&world)?;
    ensure!(before == after, "{before:#?}\nthen {after:#?}");
    for (flow, name) in flows.iter_mut().zip([&primary, &secondary]) {
        echoes(flow, Duration::from_secs(5)).with_context(|| format!("the connection to {name}"))?;
        world.must_reach("far", name)?;
    }
    let pool = world.debug(NODE, "pool")?;
    ensure!(pool["addresses"]["leased"] == PODS && items(&pool["contradicted"]).count() == 0, "{pool:#}");
    let calls = world.calls(NODE)?;
    let changing: Vec<_> = calls.keys().filter(|name| !name.starts_with("Describe")).collect();
    ensure!(changing.is_empty(), "{calls:?}");
    // What the gone pod had, and all else that was free, may have been in somebody's hands a moment ago.
    let checkpoint: Value = serde_json::from_str(&world.inside(NODE, &["cat", "/run/tidepool/pool.json"])?)?;
    ensure!(items(&checkpoint["pool"]["cooling"]).any(|one| one["address"] == free), "{checkpoint:#}");

    // The runtime's DEL of an adopted sandbox frees its address, and only its.
    world.delete(&pod(&secondary, NODE, "many"))?;
    let left =
        world.wait("its endpoint is gone", || by_sandbox(&world).ok().filter(|now| now.len() == PODS - 1))?;
    ensure!(left.iter().all(|(sandbox, facts)| before.get(sandbox) == Some(facts)), "{left:#?}");
    // Rules of aws-node's go with it, too: they would lead the next pod with the address to this ENI.
    let address = text(&on_secondary["address"]);
    let rules = world.inside(NODE, &["ip", "rule", "list"])?;
    ensure!(!rules.contains(&format!("{address} ")), "{address} is gone, and there is\n{rules}");
    ensure!(rules.contains(&format!("to {} ", text(&on_primary["address"]))), "{rules}");
    echoes(&mut flows[0], Duration::from_secs(5)).context("of another pod")?;

    // The file is read once: from now on ours rules.
    world.kill_agent(NODE)?;
    world.start_agent(NODE)?;
    world.wait_until_ready(NODE)?;
    ensure!(by_sandbox(&world)? == left, "{left:#?}\nthen {:#?}", by_sandbox(&world)?);
    echoes(&mut flows[0], Duration::from_secs(5)).context("after another restart")
}

fn write(world: &World, content: &str) -> Result<()> {
    ensure!(!content.contains('\''), "it is quoted");
    world.inside(
        NODE,
        &["sh", "-ec", &format!("printf '%s' '{content}' > {FILE}.new && mv {FILE}.new {FILE}")],
    )?;
    Ok(())
}
