//! EC2's truth against what the pool believes: others change the node's addresses, and the metadata service is late.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use system_tests::house::{items, text};

use system_tests::world::manifests::pod;
use system_tests::world::{INTERNET, World};

const NODE: &str = "node-1";

/// Looks often, believes that EC2 is never behind for longer than a second, and does nothing else by itself: the next
/// periodic reading is minutes away.
const WATCHFUL: &[(&str, &str)] = &[
    ("TIDEPOOL_IMDS_PERIOD", "0.5"),
    ("TIDEPOOL_EC2_LAG", "1"),
    ("TIDEPOOL_SHRINK_AFTER", "3600"),
    ("IP_COOLDOWN_PERIOD", "0"),
    ("MINIMUM_IP_TARGET", "5"),
    ("WARM_IP_TARGET", "2"),
];

/// The primary ENI as the pool's page shows it.
fn primary(world: &World) -> Result<Value> {
    let pool = world.debug(NODE, "pool")?;
    items(&pool["enis"]).find(|eni| eni["primary"] == true).cloned().context("no primary ENI")
}

fn addresses(eni: &Value) -> BTreeSet<String> {
    items(&eni["addresses"]).map(|address| text(address).to_owned()).collect()
}

fn unassign(world: &World, eni: &Value, address: &str) -> Result<()> {
    let what = [("NetworkInterfaceId", text(&eni["id"])), ("PrivateIpAddress.1", address)];
    world.ec2("UnassignPrivateIpAddresses", &what).map(drop)
}

pub(crate) fn behind_its_back() -> Result<()> {
    let mut world = World::of(1, "m5.large", WATCHFUL)?;
    world.control("/settings", Some(r#"{"imds_lag": 0}"#))?;
    world.start_agent(NODE)?;
    world.wait_until_ready(NODE)?;
    world.settled_pool(NODE)?;

    // A free address is taken: the pool forgets it, though EC2 was not to be read for minutes.
    let eni = primary(&world)?;
    let taken = addresses(&eni).pop_last().context("a free address")?;
    unassign(&world, &eni, &taken)?;
    world.wait("the taken address is forgotten", || {
        (!addresses(&primary(&world).ok()?).contains(&taken)).then_some(())
    })?;
    ensure!(world.metric(NODE, "tidepool_metadata_differences_total")? >= Some(1.0), "by chance?");
    ensure!(
        world.metric(NODE, "awscni_reconcile_count{fn=\"eniIPPoolReconcileDel\"}")? == Some(1.0),
        "not counted"
    );

    // A strange one appears: EC2 confirms it, so it is the pool's from then on.
    world.settled_pool(NODE)?;
    let before = addresses(&primary(&world)?);
    let count = [("NetworkInterfaceId", text(&eni["id"])), ("SecondaryPrivateIpAddressCount", "1")];
    world.ec2("AssignPrivateIpAddresses", &count)?;
    world.wait("the strange address is adopted", || {
        (addresses(&primary(&world).ok()?).len() == before.len() + 1).then_some(())
    })?;

    // A running pod's address is taken: told, and not used again.
    world.apply(&pod("victim", NODE, "many"))?;
    world.wait_for_pods(&["victim"])?;
    let victim = world.pod("victim")?;
    let lost = text(&victim["ip"]).to_owned();
    unassign(&world, &eni, &lost)?;
    world.wait("the loss is told", || {
        let pool = world.debug(NODE, "pool").ok()?;
        items(&pool["contradicted"]).any(|address| *address == lost.as_str()).then_some(())
    })?;
    ensure!(world.metric(NODE, "tidepool_contradicted_addresses")? == Some(1.0), "not in the metrics");
    ensure!(world.metric(NODE, "awscni_force_removed_ips")? == Some(1.0), "not in the metrics");
    for (kind, name) in [("Pod", "victim"), ("Node", NODE)] {
        world.wait(&format!("an Event on {kind} {name}"), || {
            let events = world.kubernetes("/api/v1/namespaces/default/events").ok()?;
            let told = items(&events["items"]).any(|event| {
                event["reason"] == "AddressLost"
                    && event["involvedObject"]["kind"] == kind
                    && event["involvedObject"]["name"] == name
                    && text(&event["message"]).contains(&lost)
            });
            told.then_some(())
        })?;
    }
    let status = world.inside(NODE, &["tidepool-agent", "status"])?;
    ensure!(status.contains(&format!("address {lost} of a running pod is no longer on its ENI")), "{status}");

    // What a look costs: the list of ENIs, and the addresses of each of ours (one here).
    let asked = world.control("/imds/calls", None)?;
    let asked_for = |suffix: &str| {
        let paths = asked[NODE].as_object().into_iter().flatten();
        paths.filter(|(path, _)| path.ends_with(suffix)).filter_map(|(_, count)| count.as_u64()).sum::<u64>()
    };
    let looks = asked_for("/network/interfaces/macs/");
    ensure!(looks > 0 && asked_for("/local-ipv4s") <= looks && asked_for("/ipv4-prefix") == 0, "{asked:#}");

    // Even when its pod has gone it is nobody's: all that the node can have are others.
    world.delete(&pod("victim", NODE, "many"))?;
    let names: Vec<String> = (0..8).map(|number| format!("pod-{number}")).collect();
    world.apply(&names.iter().map(|name| pod(name, NODE, "many")).collect::<String>())?;
    world.wait_for_pods(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
    let held: BTreeSet<String> = world.pods()?.iter().map(|pod| text(&pod["ip"]).to_owned()).collect();
    ensure!(!held.contains(&lost) && !held.contains(&taken), "{lost} or {taken} is in {held:?}");
    ensure!(world.metric(NODE, "tidepool_contradicted_addresses")? == Some(0.0), "still told");
    let fabric = world.control("/fabric", None)?;
    ensure!(fabric["wrong_source_drops"] == 0, "{fabric:#}");
    Ok(())
}

/// What the metadata service says is a minute old: no pod waits for it, none has an address that is not there, and
/// EC2 is not asked because of it.
pub(crate) fn late_metadata() -> Result<()> {
    const PODS: usize = 12;
    let mut world =
        World::of(1, "m5.large", &[("TIDEPOOL_IMDS_PERIOD", "0.3"), ("IP_COOLDOWN_PERIOD", "0")])?;
    world.control("/settings", Some(r#"{"imds_lag": 60000}"#))?;
    world.start_agent(NODE)?;
    world.wait_until_ready(NODE)?;
    let names: Vec<String> = (0..PODS).map(|number| format!("pod-{number}")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    world.apply(&names.iter().map(|name| pod(name, NODE, "many")).collect::<String>())?;
    world.wait_for_pods(&all)?;
    reach(&world, &all)?;

    // An agent that starts meanwhile sees more at EC2 than the service shows.
    world.kill_agent(NODE)?;
    world.start_agent(NODE)?;
    world.wait_until_ready(NODE)?;
    world.apply(&pod("late", NODE, "many"))?;
    world.wait_for_pods(&["late"])?;
    reach(&world, &[all.as_slice(), &["late"]].concat())?;

    let described = world.calls(NODE)?.get("DescribeNetworkInterfaces").copied().unwrap_or(0);
    ensure!(described <= 6, "two questions for each start, and for one doubt: {described}");
    ensure!(world.metric(NODE, "tidepool_metadata_differences_total")? == Some(0.0), "EC2 was asked");
    let fabric = world.control("/fabric", None)?;
    ensure!(fabric["wrong_source_drops"] == 0, "{fabric:#}");
    Ok(())
}

fn reach(world: &World, names: &[&str]) -> Result<()> {
    let pairs: Vec<(&str, &str)> = names
        .iter()
        .flat_map(|name| [(*name, INTERNET.0), (*name, names[0])])
        .filter(|(a, b)| a != b)
        .collect();
    for ((allowed, detail), (from, to)) in world.probe(5000, &pairs)?.into_iter().zip(pairs) {
        ensure!(allowed, "{from} to {to}: {detail}");
    }
    Ok(())
}
