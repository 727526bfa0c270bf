//! Nodes that are cordoned or on their way out, and nodes whose addresses somebody else provisions.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use system_tests::house::text;

use super::{NODE, quick};
use system_tests::world::World;
use system_tests::world::manifests::pod;

fn free(world: &World) -> Option<u64> {
    world.debug(NODE, "pool").ok()?["addresses"]["free"].as_u64()
}

fn pods(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}-{number}")).collect()
}

fn manifest(names: &[String]) -> String {
    names.iter().map(|name| pod(name, NODE, "many")).collect()
}

fn wait_for(world: &World, names: &[String]) -> Result<()> {
    world.wait_for_pods(&names.iter().map(String::as_str).collect::<Vec<_>>())
}

/// aws-node's AWS_MANAGE_ENIS_NON_SCHEDULABLE: a cordoned node grows for pods that wait and is not kept warm;
/// nothing is given back.
pub(crate) fn cordoned() -> Result<()> {
    const WARM: u64 = 3;
    let mut environment = quick(&[("WARM_IP_TARGET", "3"), ("MINIMUM_IP_TARGET", "3")]);
    let mut world = World::of(1, "m5.large", &environment)?;
    world.start_agent(NODE)?;
    world.wait_until_ready(NODE)?;
    world.wait("the pool is warm", || (free(&world)? == WARM).then_some(()))?;
    world.patch_node(&json!({"spec": {"unschedulable": true}}))?;
    world.control("/calls/reset", Some(""))?;
    world.apply(&manifest(&pods("daemon", 1)))?;
    wait_for(&world, &pods("daemon", 1))?;
    world.two_readings()?;
    ensure!(
        free(&world) == Some(WARM - 1) && world.changes()?.is_empty(),
        "refilled: {:?}",
        world.changes()?
    );

    // More than there is: it grows by what is missing.
    world.apply(&manifest(&pods("daemon", 5)))?;
    wait_for(&world, &pods("daemon", 5))?;
    world.two_readings()?;
    ensure!(free(&world) == Some(0), "warm addresses on a cordoned node: {:?}", free(&world));
    ensure!(world.changes()? == [("AssignPrivateIpAddresses".to_owned(), 1)], "{:?}", world.changes()?);

    world.delete(&manifest(&pods("daemon", 5)))?;
    world.wait("addresses have cooled", || (free(&world)? == 5).then_some(()))?;
    world.two_readings()?;
    ensure!(world.changes()?.len() == 1, "given back: {:?}", world.changes()?);

    // Managed all the same, if the operator says so; and when it is uncordoned.
    environment.push(("AWS_MANAGE_ENIS_NON_SCHEDULABLE", "true"));
    world.kill_agent(NODE)?;
    world.set_environment(&environment);
    world.start_agent(NODE)?;
    world.wait_until_ready(NODE)?;
    world.wait("the surplus is given back", || (free(&world)? == WARM).then_some(()))?;
    environment.pop();
    world.kill_agent(NODE)?;
    world.set_environment(&environment);
    world.start_agent(NODE)?;
    world.wait_until_ready(NODE)?;
    world.apply(&manifest(&pods("daemon", 1)))?;
    wait_for(&world, &pods("daemon", 1))?;
    world.patch_node(&json!({"spec": {"unschedulable": null}}))?;
    world.wait("the pool is warm again", || (free(&world)? == WARM).then_some(()))
}

fn metadata(world: &World, path: &str, value: Option<&str>) -> Result<()> {
    let body = json!({"node": NODE, "path": path, "text": value});
    world.control("/imds/keys", Some(&body.to_string())).map(drop)
}

/// An instance that its Auto Scaling group or EC2 is about to end, or whose Node is being deleted: nothing is
/// created, detached or given back, and pods that wait are told.
pub(crate) fn terminating() -> Result<()> {
    let environment = quick(&[("WARM_IP_TARGET", "1"), ("MINIMUM_IP_TARGET", "1")]);
    let mut world = World::of(1, "m5.large", &environment)?;
    world.start_agent(NODE)?;
    world.wait_until_ready(NODE)?;
    world.apply(&manifest(&pods("pod", 3)))?;
    wait_for(&world, &pods("pod", 3))?;
    let spot = r#"{"action": "terminate", "time": "2026-01-01T00:02:00Z"}"#;
    let node = format!("/api/v1/nodes/{NODE}");
    type Change = fn(&World, &str, bool) -> Result<()>;
    let ways: [(&str, Change); 2] = [
        ("autoscaling/target-lifecycle-state", |world, _, on| {
            metadata(
                world,
                "autoscaling/target-lifecycle-state",
                Some(if on { "Terminated" } else { "InService" }),
            )
        }),
        ("spot/instance-action", |world, spot, on| {
            metadata(world, "spot/instance-action", on.then_some(spot))
        }),
    ];
    for (number, (way, change)) in ways.into_iter().enumerate() {
        world.settled_pool(NODE)?;
        change(&world, spot, true)?;
        held(&world, &format!("{way} on"))?;
        world.control("/calls/reset", Some(""))?;
        let (name, more) = (format!("late-{number}"), format!("later-{number}"));
        // One warm address is left for the first.
        world.apply(&manifest(&[name.clone(), more.clone()]))?;
        let refused = world.wait("a pod is refused", || {
            let found = world.pods().ok()?;
            let pod = found.into_iter().find(|pod| text(&pod["message"]).contains("terminat"))?;
            Some(text(&pod["name"]).to_owned())
        })?;
        let (_, metrics) = world.agent_page(NODE, "/metrics")?;
        ensure!(metrics.contains("outcome=\"terminating\""), "no metric for {refused}:\n{metrics}");
        ensure!(world.changes()?.is_empty(), "{way}: {:?}", world.changes()?);
        change(&world, spot, false)?;
        wait_for(&world, &[name, more])?;
    }

    // What drains a node deletes its object and waits for its finalizer.
    world.settled_pool(NODE)?;
    world.patch_node(&json!({"metadata": {"finalizers": ["example.com/drain"]}}))?;
    let object: Value = world.kubernetes(&node)?;
    world.control(
        "/delete",
        Some(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}).to_string()),
    )?;
    ensure!(object["metadata"]["deletionTimestamp"].is_null(), "it was being deleted already");
    held(&world, "the Node is being deleted")?;
    world.control("/calls/reset", Some(""))?;
    world.delete(&manifest(&pods("pod", 3)))?;
    world.two_readings()?;
    ensure!(world.changes()?.is_empty(), "{:?}", world.changes()?);
    world.patch_node(&json!({"metadata": {"finalizers": null}}))
}

/// Waits until the pool knows that nothing may be changed.
fn held(world: &World, why: &str) -> Result<()> {
    world.wait(why, || (world.debug(NODE, "pool").ok()?["growth"] == "terminating").then_some(()))
}

/// DISABLE_NETWORK_RESOURCE_PROVISIONING: addresses come from somebody else.
pub(crate) fn provisioned_by_others() -> Result<()> {
    let environment = quick(&[("DISABLE_NETWORK_RESOURCE_PROVISIONING", "true")]);
    let mut world = World::of(1, "m5.large", &environment)?;
    let primary = world.enis()?.into_iter().next().context("no primary ENI")?;
    let assign = |world: &World, count: &str| {
        let parameters =
            [("NetworkInterfaceId", text(&primary["id"])), ("SecondaryPrivateIpAddressCount", count)];
        world.ec2("AssignPrivateIpAddresses", &parameters).map(drop)
    };
    assign(&world, "2")?;
    world.start_agent(NODE)?;
    world.wait_until_ready(NODE)?;
    world.apply(&manifest(&pods("pod", 2)))?;
    wait_for(&world, &pods("pod", 2))?;
    world.apply(&pod("third", NODE, "many"))?;
    world.refusal_of("third", "disable_network_resource_provisioning")?;
    assign(&world, "1")?;
    world.wait_for_pods(&["third"])?;
    world.delete(&manifest(&pods("pod", 2)))?;
    world.two_readings()?;
    ensure!(world.changes()?.is_empty(), "{:?}", world.changes()?);
    Ok(())
}
