//! ENIs that are not ours are counted and never touched; ours follow the primary ENI's security groups.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use system_tests::house::{items, text};

use system_tests::world::cloud::CHANGES;

use super::{NODE, field, quick, set};
use system_tests::world::World;
use system_tests::world::manifests::pod;

const NO_MANAGE: &str = "node.k8s.amazonaws.com/no_manage";
const INSTANCE: &str = "node.k8s.amazonaws.com/instance_id";

/// An ENI that somebody attached to the node.
fn attach(world: &World, kind: &str, card: u32, index: u32, addresses: u32) -> Result<String> {
    let node = world.node(NODE)?;
    let count = addresses.to_string();
    let mut parameters = vec![("SubnetId", text(&node["subnet_id"])), ("InterfaceType", kind)];
    if addresses > 0 {
        parameters.push(("SecondaryPrivateIpAddressCount", &count));
    }
    let id = field(&world.ec2("CreateNetworkInterface", &parameters)?, "networkInterfaceId")?.to_owned();
    let (card, index) = (card.to_string(), index.to_string());
    world.ec2(
        "AttachNetworkInterface",
        &[
            ("NetworkInterfaceId", &id),
            ("InstanceId", text(&node["instance_id"])),
            ("NetworkCardIndex", &card),
            ("DeviceIndex", &index),
        ],
    )?;
    Ok(id)
}

/// A trunk, an EFA, one that carries `no_manage`, and one on another network card.
pub(crate) fn foreign_enis() -> Result<()> {
    let environment = quick(&[("WARM_ENI_TARGET", "9"), ("MAX_ENI", "5")]);
    let mut world = World::of(1, "p4d.24xlarge", &environment)?;
    let trunk = attach(&world, "trunk", 0, 1, 0)?;
    let efa = attach(&world, "efa", 0, 2, 2)?;
    let not_ours = attach(&world, "interface", 0, 3, 3)?;
    world.tag(&not_ours, NO_MANAGE, "true")?;
    let other_card = attach(&world, "interface", 1, 1, 2)?;
    // Even with our own tag.
    world.tag(&other_card, INSTANCE, text(&world.node(NODE)?["instance_id"]))?;
    let bare = attach(&world, "efa-only", 2, 1, 0)?;
    let foreign =
        BTreeSet::from([trunk.clone(), efa.clone(), not_ours.clone(), other_card.clone(), bare.clone()]);
    let seen = |world: &World| -> Result<Vec<Value>> {
        Ok(world.enis()?.into_iter().filter(|eni| foreign.contains(text(&eni["id"]))).collect())
    };
    let before = seen(&world)?;
    ensure!(before.len() == 5, "{before:#?}");

    world.start_agent(NODE)?;
    world.wait_until_ready(NODE)?;
    world.wait("an ENI of our own", || {
        world
            .enis()
            .ok()?
            .iter()
            .any(|eni| !foreign.contains(text(&eni["id"])) && eni["device_index"] != 0)
            .then_some(())
    })?;
    let pods: Vec<String> = (0..60).map(|number| format!("pod-{number}")).collect();
    world.apply(&pods.iter().map(|name| pod(name, NODE, "many")).collect::<String>())?;
    world.wait_for_pods(&pods.iter().map(String::as_str).collect::<Vec<_>>())?;
    world.two_readings()?;

    // MAX_ENI is five: the primary, three of others on its card, and one of ours.
    let ours: Vec<Value> =
        world.secondary_enis()?.into_iter().filter(|eni| !foreign.contains(text(&eni["id"]))).collect();
    ensure!(ours.len() == 1 && ours[0]["network_card"] == 0, "{ours:#?}");
    ensure!(seen(&world)? == before, "an ENI of others was changed: {before:#?}\n{:#?}", seen(&world)?);
    let log = world.control("/calls/log", None)?;
    for call in items(&log).filter(|call| call["node"] == NODE) {
        let names_one = foreign.iter().any(|id| call["parameters"].to_string().contains(id));
        ensure!(!(names_one && CHANGES.contains(&text(&call["operation"]))), "{call:#}");
    }
    let pool = world.debug(NODE, "pool")?;
    let reasons: Vec<(String, String)> = items(&pool["enis"])
        .filter_map(|eni| Some((text(&eni["id"]).to_owned(), eni["foreign"].as_str()?.to_owned())))
        .collect();
    for (id, reason) in
        [(&trunk, "Trunk"), (&efa, "Efa"), (&not_ours, "NoManage"), (&other_card, "OtherCard")]
    {
        let found =
            reasons.iter().find(|(known, _)| known == id).with_context(|| format!("{id} is not shown"))?;
        ensure!(found.1 == reason, "{reasons:?}");
    }
    Ok(())
}

/// A change of the primary ENI's groups reaches ours, once.
pub(crate) fn security_groups() -> Result<()> {
    let mut world = World::of(1, "m5.large", &quick(&[("WARM_ENI_TARGET", "2")]))?;
    let not_ours = attach(&world, "interface", 0, 2, 0)?;
    world.tag(&not_ours, NO_MANAGE, "true")?;
    world.start_agent(NODE)?;
    world.wait_until_ready(NODE)?;
    world.wait("an ENI of our own", || (world.secondary_enis().ok()?.len() == 2).then_some(()))?;
    world.settled_pool(NODE)?;
    world.two_readings()?;
    let modified = |world: &World| -> Result<u64> {
        Ok(world.calls(NODE)?.get("ModifyNetworkInterfaceAttribute").copied().unwrap_or(0))
    };
    let before = modified(&world)?;

    let group = world.add_group("added")?;
    let primary = world.enis()?.into_iter().find(|eni| eni["device_index"] == 0).context("no primary ENI")?;
    let own = set(&primary["groups"]).into_iter().next().context("no group")?;
    world.ec2(
        "ModifyNetworkInterfaceAttribute",
        &[
            ("NetworkInterfaceId", text(&primary["id"])),
            ("SecurityGroupId.1", own.as_str()),
            ("SecurityGroupId.2", group.as_str()),
        ],
    )?;
    world.wait("our ENI has the group too", || {
        let enis = world.secondary_enis().ok()?;
        let ours = enis.iter().find(|eni| eni["id"] != not_ours.as_str())?;
        set(&ours["groups"]).contains(&group).then_some(())
    })?;
    world.two_readings()?;
    ensure!(modified(&world)? == before + 1, "one change, {} calls", modified(&world)? - before);
    let others = world.secondary_enis()?.into_iter().find(|eni| eni["id"] == not_ours.as_str());
    ensure!(!set(&others.context("it went")?["groups"]).contains(&group), "the ENI of others was changed");
    Ok(())
}
