//! aws-node's suite eni-subnet-discovery.

use anyhow::{Result, ensure};
use serde_json::json;
use system_tests::house::text;

use super::{NODE, is_in, quick};
use system_tests::world::manifests::pod;
use system_tests::world::{INTERNET, World};

/// The tag that offers a subnet to pods, or withholds it.
const ROLE: &str = "kubernetes.io/role/cni";
/// What the tags that reserve a subnet to clusters begin with.
const CLUSTER: &str = "cni.networking.k8s.aws/cluster/";
/// An m5.large has ten addresses an ENI, one of them its own.
const FULL: usize = 9;

pub(crate) fn discovery() -> Result<()> {
    let mut world = World::of(1, "m5.large", &quick(&[("WARM_IP_TARGET", "1"), ("MINIMUM_IP_TARGET", "1")]))?;
    // Larger than the node's own, and the largest of those that are offered to this cluster.
    let chosen = world.add_subnet("10.20.64.0/19")?;
    let (smaller, others, untagged) = (
        world.add_subnet("10.20.32.0/24")?,
        world.add_subnet("10.20.128.0/18")?,
        world.add_subnet("10.20.192.0/18")?,
    );
    for subnet in [&chosen, &smaller, &others] {
        world.tag(subnet, ROLE, "1")?;
    }
    world.tag(&others, &format!("{CLUSTER}another-cluster"), "shared")?;
    world.tag(&chosen, &format!("{CLUSTER}system-test"), "shared")?;
    world.tag(&untagged, "team", "storage")?;
    world.start_agent(NODE)?;
    world.wait_until_ready(NODE)?;

    let names: Vec<String> = (0..FULL + 3).map(|number| format!("pod-{number}")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    world.apply(&names.iter().map(|name| pod(name, NODE, "many")).collect::<String>())?;
    world.wait_for_pods(&all)?;
    let enis = world.secondary_enis()?;
    ensure!(!enis.is_empty(), "all pods on the primary ENI");
    for eni in &enis {
        ensure!(eni["subnet_id"] == chosen.as_str(), "not the subnet with most free addresses: {eni:#}");
    }
    let mut there = Vec::new();
    for name in &all {
        if is_in(world.address_of(name)?, "10.20.64.0/19")? {
            there.push(*name);
        }
    }
    ensure!(there.len() >= 3, "{there:?}");
    world.must_reach(there[0], INTERNET.0)?;
    world.must_reach(there[0], all[0])?;

    // The node's own subnet is withheld: its pods stay, new ones go elsewhere.
    let stays = all.iter().copied().find(|name| !there.contains(name)).unwrap_or(all[0]);
    let address = world.address_of(stays)?;
    world.tag(text(&world.node(NODE)?["subnet_id"]), ROLE, "0")?;
    world.two_readings()?;
    world.delete(&there.iter().map(|name| pod(name, NODE, "many")).collect::<String>())?;
    world.apply(&(pod("late", NODE, "many") + &pod("later", NODE, "many")))?;
    for late in ["late", "later"] {
        let address = world.address_of(late)?;
        ensure!(is_in(address, "10.20.64.0/19")?, "{address} is of the excluded subnet");
    }
    world.must_reach("late", stays)?;
    ensure!(world.address_of(stays)? == address, "a running pod's address changed");
    Ok(())
}

/// Without the permission to describe subnets the node's own serves, and it is said.
pub(crate) fn discovery_refused() -> Result<()> {
    let mut world = World::of(1, "m5.large", &quick(&[("WARM_IP_TARGET", "1"), ("MINIMUM_IP_TARGET", "1")]))?;
    let larger = world.add_subnet("10.20.64.0/19")?;
    world.tag(&larger, ROLE, "1")?;
    let fault =
        json!({"operation": "DescribeSubnets", "kind": "unauthorized", "count": 100_000, "node": NODE});
    world.control("/faults", Some(&fault.to_string()))?;
    world.start_agent(NODE)?;
    world.wait_until_ready(NODE)?;
    let names: Vec<String> = (0..FULL + 2).map(|number| format!("pod-{number}")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    world.apply(&names.iter().map(|name| pod(name, NODE, "many")).collect::<String>())?;
    world.wait_for_pods(&all)?;
    let own = text(&world.node(NODE)?["subnet_id"]).to_owned();
    let enis = world.secondary_enis()?;
    ensure!(!enis.is_empty() && enis.iter().all(|eni| eni["subnet_id"] == own.as_str()), "{enis:#?}");
    for name in &all {
        world.must_reach(name, INTERNET.0)?;
    }
    let (_, metrics) = world.agent_page(NODE, "/metrics")?;
    let counted = metrics.lines().any(|line| {
        line.starts_with("tidepool_ec2_call")
            && line.contains("operation=\"DescribeSubnets\"")
            && line.contains("permission")
    });
    ensure!(counted, "no metric tells of the refusal:\n{metrics}");
    Ok(())
}
