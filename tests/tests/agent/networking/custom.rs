//! aws-node's suite custom-networking.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use system_tests::house::{items, root, text};

use super::{NODE, is_in, quick, set};
use system_tests::world::manifests::pod;
use system_tests::world::{INTERNET, World};

/// What the node's agent says of itself.
fn readyz(world: &World) -> Option<String> {
    world.agent_page(NODE, "/readyz").ok().map(|(_, body)| body)
}

fn wait_for_reason(world: &World, says: &str) -> Result<()> {
    world.wait(&format!("/readyz says {says}"), || readyz(world)?.contains(says).then_some(()))
}

fn eni_config(name: &str, subnet: &str, groups: &[&str]) -> String {
    json!({
        "apiVersion": "crd.k8s.amazonaws.com/v1alpha1",
        "kind": "ENIConfig",
        "metadata": {"name": name},
        "spec": {"subnet": subnet, "securityGroups": groups},
    })
    .to_string()
}

/// The definition of ENIConfigs as it is installed.
fn definition() -> Result<String> {
    let manifest = std::fs::read_to_string(root().join("daemonset.yaml"))?;
    let found =
        manifest.split("\n---\n").find(|document| document.contains("kind: CustomResourceDefinition"));
    Ok(found.context("no definition")?.to_owned())
}

pub(crate) fn custom_networking() -> Result<()> {
    let environment = quick(&[
        ("AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG", "true"),
        ("WARM_IP_TARGET", "1"),
        ("MINIMUM_IP_TARGET", "1"),
    ]);
    let mut world = World::of(1, "m5.large", &environment)?;
    let (first, second) = (world.add_subnet("10.20.64.0/24")?, world.add_subnet("10.20.65.0/24")?);
    let group = world.add_group("pods")?;

    // Neither the kind nor an object: not ready, with the reason, and no pod is sent.
    world.start_agent(NODE)?;
    wait_for_reason(&world, "CustomResourceDefinition")?;
    ensure!(
        !world.inside(NODE, &["ls", "/etc/cni/net.d"])?.contains("tidepool"),
        "a conflist without a pool"
    );
    world.apply(&definition()?)?;
    wait_for_reason(&world, "ENIConfig «default»")?;
    world.wait("an Event on the Node says why", || {
        let events = world.kubernetes("/api/v1/namespaces/default/events").ok()?;
        let about =
            |event: &&Value| event["reason"] == "NoEniConfig" && event["involvedObject"]["name"] == NODE;
        items(&events["items"]).find(about).map(drop)
    })?;
    ensure!(world.changes()?.is_empty(), "{:?}", world.changes()?);

    // It recovers when the object appears.
    world.apply(&eni_config("default", &first, &[&group]))?;
    world.wait_until_ready(NODE)?;
    world.apply(&(pod("one", NODE, "a") + &pod("two", NODE, "a")))?;
    let one = world.address_of("one")?;
    ensure!(is_in(one, "10.20.64.0/24")?, "{one} is not of the ENIConfig's subnet");
    world.wait_for_pods(&["two"])?;
    world.must_reach("one", "two")?;
    world.must_reach("two", INTERNET.0)?;
    let enis = world.secondary_enis()?;
    ensure!(enis.len() == 1 && enis[0]["subnet_id"] == first.as_str(), "{enis:#?}");
    ensure!(set(&enis[0]["groups"]) == BTreeSet::from([group]), "{enis:#?}");
    let primary = world.enis()?.into_iter().find(|eni| eni["device_index"] == 0).context("no primary ENI")?;
    ensure!(items(&primary["addresses"]).count() == 1, "pods' addresses on the primary ENI: {primary:#}");

    // The annotation beats the label; new pods follow, those that run are not touched. No groups: the primary
    // ENI's.
    world.apply(&eni_config("other", &second, &[]))?;
    world.patch_node(&json!({"metadata": {
        "labels": {"k8s.amazonaws.com/eniConfig": "nobody"},
        "annotations": {"k8s.amazonaws.com/eniConfig": "other"},
    }}))?;
    world.wait("an ENI in the other subnet", || {
        let enis = world.secondary_enis().ok()?;
        let found = enis.iter().find(|eni| eni["subnet_id"] == second.as_str())?;
        (set(&found["groups"]) == set(&primary["groups"])).then_some(())
    })?;
    world.apply(&pod("three", NODE, "a"))?;
    let three = world.address_of("three")?;
    ensure!(is_in(three, "10.20.65.0/24")?, "{three} is not of the other ENIConfig's subnet");
    world.must_reach("one", "three")?;
    ensure!(world.address_of("one")? == one, "a running pod's address changed");

    // The old subnet's ENI goes with its last pod.
    world.delete(&(pod("one", NODE, "a") + &pod("two", NODE, "a")))?;
    world.wait("the old subnet's ENI is given back", || {
        let enis = world.secondary_enis().ok()?;
        enis.iter().all(|eni| eni["subnet_id"] == second.as_str()).then_some(())
    })?;

    // A subnet that does not exist is named, and pods that run stay.
    let absent = "subnet-00000000000000bad";
    world.apply(&eni_config("other", absent, &[]))?;
    let failure = world.wait("EC2 refuses the subnet", || {
        let pool = world.debug(NODE, "pool").ok()?;
        let failure = &pool["last_failure"];
        (failure["class"] == "config" && failure["operation"] != "DescribeSubnets").then(|| failure.clone())
    })?;
    ensure!(text(&failure["message"]).contains(absent), "{failure:#}");
    world.must_reach("three", INTERNET.0)?;

    // Without its ENIConfig the node serves on, and says what is missing.
    world.apply(&eni_config("other", &second, &[]))?;
    world.settled_pool(NODE)?;
    world.delete(&eni_config("other", &second, &[]))?;
    wait_for_reason(&world, "ENIConfig «other»")?;
    world.apply(&pod("four", NODE, "a"))?;
    ensure!(is_in(world.address_of("four")?, "10.20.65.0/24")?, "a warm address of the subnet");
    world.apply(&(pod("five", NODE, "a") + &pod("six", NODE, "a")))?;
    let refused = world.wait("a pod is refused", || {
        let pods = world.pods().ok()?;
        let pod = pods.into_iter().find(|pod| text(&pod["message"]).contains("ENIConfig"))?;
        Some(text(&pod["name"]).to_owned())
    })?;
    world.apply(&eni_config("other", &second, &[]))?;
    world.wait_for_pods(&[refused.as_str()])
}
