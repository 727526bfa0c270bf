//! The pool and EC2: growth to more than one ENI, and what scarcity does.

use anyhow::{Result, ensure};
use kernel_test::wait_for;
use serde_json::{Value, json};
use system_tests::house::{items, text};

use system_tests::world::manifests::pod;
use system_tests::world::{BOUND, INTERNET, World};

/// Routing table of the primary ENI.
const MAIN: u64 = 254;

pub(crate) fn growth() -> Result<()> {
    const PODS: usize = 20;
    let world = World::start(&[])?;
    world.settled_pool("node-1")?;
    let names: Vec<String> = (0..PODS).map(|number| format!("pod-{number}")).collect();
    let mut manifest: String = names.iter().map(|name| pod(name, "node-1", "many")).collect();
    manifest.push_str(&pod("far", "node-2", "far"));
    world.apply(&manifest)?;
    let mut all: Vec<&str> = names.iter().map(String::as_str).collect();
    all.push("far");
    world.wait_for_pods(&all)?;

    let endpoints = world.debug("node-1", "endpoints")?;
    let secondary: Vec<&str> = items(&endpoints)
        .filter(|one| one["table"].as_u64() != Some(MAIN))
        .filter_map(|one| one["pod"].as_str()?.strip_prefix("default/"))
        .collect();
    // Ten addresses an ENI, of which one is its own.
    ensure!(secondary.len() >= PODS - 9, "on secondary ENIs: {secondary:?}");
    let tables = items(&endpoints).filter_map(|one| one["table"].as_u64());
    ensure!(tables.collect::<std::collections::BTreeSet<_>>().len() == 3, "{endpoints:#}");

    let mut pairs = Vec::new();
    for name in &names {
        pairs.extend([(name.as_str(), "far"), ("far", name.as_str()), (name.as_str(), INTERNET.0)]);
        // Across ENIs of the same node.
        pairs.push((name.as_str(), names[0].as_str()));
    }
    for ((allowed, detail), (from, to)) in world.probe(5000, &pairs)?.into_iter().zip(pairs) {
        ensure!(allowed, "{from} to {to}: {detail}");
    }
    let fabric = world.control("/fabric", None)?;
    ensure!(fabric["wrong_source_drops"] == 0 && fabric["no_way_out_drops"] == 0, "{fabric:#}");
    ensure!(items(&fabric["problems"]).count() == 0, "{fabric:#}");

    // m5.large: three ENIs. One Assign for the primary one, and for each new one Create, Attach and Modify.
    let calls = world.calls("node-1")?;
    let count = |name: &str| calls.get(name).copied().unwrap_or(0);
    ensure!(count("CreateNetworkInterface") == 2 && count("AttachNetworkInterface") == 2, "{calls:?}");
    ensure!(count("ModifyNetworkInterfaceAttribute") <= 2, "{calls:?}");
    ensure!(count("AssignPrivateIpAddresses") <= 3, "{calls:?}");
    for wasted in ["UnassignPrivateIpAddresses", "DetachNetworkInterface", "DeleteNetworkInterface"] {
        ensure!(count(wasted) == 0, "{calls:?}");
    }
    Ok(())
}

/// One node's calls are throttled, the other's subnet is full; both have room for one pod already.
pub(crate) fn scarcity() -> Result<()> {
    let world = World::start(&[("WARM_IP_TARGET", "1"), ("MAX_ENI", "1"), ("IP_COOLDOWN_PERIOD", "0")])?;
    let cases = [
        ("node-1", "throttle", "throttled", "throttled"),
        ("node-2", "InsufficientFreeAddressesInSubnet", "subnet_full", "exhausted"),
    ];
    for (node, kind, ..) in cases {
        world.settled_pool(node)?;
        let fault =
            json!({"operation": "AssignPrivateIpAddresses", "kind": kind, "count": 10_000, "node": node});
        world.control("/faults", Some(&fault.to_string()))?;
    }
    // As many as there are free addresses run, and one more does not.
    let mut starved = Vec::new();
    for (node, ..) in cases {
        let free = world.settled_pool(node)?["addresses"]["free"].as_u64().unwrap_or(0);
        let names: Vec<String> = (0..=free).map(|number| format!("{node}-{number}")).collect();
        world.apply(&names.iter().map(|name| pod(name, node, "many")).collect::<String>())?;
        starved.push(names);
    }
    for ((node, _, reason, class), names) in cases.iter().zip(&starved) {
        let pod = world.wait(&format!("a pod of {node} is refused"), || {
            let pods = world.pods().ok()?;
            pods.into_iter().find(|pod| pod["node"] == *node && pod["message"].is_string())
        })?;
        ensure!(names.iter().any(|name| pod["name"] == name.as_str()), "{pod}");
        let message = text(&pod["message"]);
        let says = match *reason {
            "throttled" => "throttle",
            _ => "subnet",
        };
        ensure!(message.to_lowercase().contains(says), "{message}");
        let events = world.wait("an Event says why", || {
            let events = world.kubernetes("/api/v1/namespaces/default/events").ok()?;
            let found: Vec<Value> = items(&events["items"])
                .filter(|event| {
                    let object = &event["involvedObject"];
                    match *reason {
                        // It passes by itself: told on the node only.
                        "throttled" => event["reason"] == "Ec2Throttled" && object["name"] == *node,
                        _ => event["reason"] == "NoAddress" && object["name"] == pod["name"],
                    }
                })
                .cloned()
                .collect();
            (!found.is_empty()).then_some(found)
        })?;
        // The node's own Event has EC2's word for it.
        let says = if *reason == "throttled" { "requestlimitexceeded" } else { says };
        ensure!(text(&events[0]["message"]).to_lowercase().contains(says), "{events:?}");
        let (_, metrics) = world.agent_page(node, "/metrics")?;
        let has = |name: &str, labels: &[&str]| {
            metrics
                .lines()
                .any(|line| line.starts_with(name) && labels.iter().all(|label| line.contains(label)))
        };
        let outcome = format!("outcome=\"{reason}\"");
        ensure!(has("tidepool_cni_seconds_count", &[&outcome]), "no {outcome} in\n{metrics}");
        let outcome = format!("outcome=\"{class}\"");
        let assign = "operation=\"AssignPrivateIpAddresses\"";
        ensure!(has("tidepool_ec2_call_seconds_count", &[assign, &outcome]), "no {outcome} in\n{metrics}");
        let pool = world.debug(node, "pool")?;
        ensure!(pool["last_failure"]["class"] == *class, "{pool:#}");
    }

    // A full subnet is asked again after half a minute at the soonest; an address that another pod gives back
    // is there at once.
    let lucky = &starved[1];
    let runs = world.wait("a pod runs in the full subnet", || {
        let pods = world.pods().ok()?;
        pods.into_iter().find(|pod| pod["node"] == "node-2" && pod["ready"] == true)
    })?;
    world.delete(&pod(text(&runs["name"]), "node-2", "many"))?;
    let left: Vec<&str> = lucky.iter().map(String::as_str).filter(|name| runs["name"] != *name).collect();
    world.wait_for_pods(&left)?;

    world.end_faults()?;
    let throttled: Vec<&str> = starved[0].iter().map(String::as_str).collect();
    // The agent's own pause before the next try has grown meanwhile.
    wait_for("the throttled pods run", 2 * BOUND, || world.wait_for_pods(&throttled).ok())
}
