//! cni/host_networking.

use anyhow::{Result, ensure};
use system_tests::world::World;

use super::cluster::{NODES, POOL, Placed, SMALL, SPANNING, manifest, placed, pod, spanning};
use super::tester::{Host, Subject};

const NODE: &str = NODES[0];
/// A kernel's word for an Ethernet address that somebody chose: udev's MACAddressPolicy leaves such a link alone.
const CHOSEN: &str = "3";

fn subjects(prefix: &str, pods: &[Placed]) -> Result<Vec<Subject>> {
    pods.iter().map(|pod| Subject::new(prefix, "default", &pod.name, pod.address)).collect()
}

fn faults<'a>(pods: &'a [Subject], look: impl Fn(&'a Subject) -> Vec<String>) -> Result<()> {
    let faults: Vec<String> = pods.iter().flat_map(look).collect();
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    Ok(())
}

/// Every pod of a node that runs is wired as it must be.
pub(crate) fn wired(world: &World, node: &str, pods: &[Placed]) -> Result<()> {
    let (pods, host) = (subjects("eni", pods)?, Host::look(world, node)?);
    faults(&pods, |pod| host.set_up(pod, None))
}

/// Nothing is left of pods that are gone.
pub(crate) fn nothing_left(world: &World, node: &str, pods: &[Placed]) -> Result<()> {
    let (pods, host) = (subjects("eni", pods)?, Host::look(world, node)?);
    faults(&pods, |pod| host.torn_down(pod))
}

/// Creates pods on both ENIs, checks them, deletes them, and checks that nothing is left.
fn come_and_go(world: &World, prefix: &str, mtu: u64) -> Result<()> {
    // Addresses that others had a moment ago are not for these: they would be on a third ENI.
    world.wait("no address cools", || {
        (world.debug(NODE, "pool").ok()?["addresses"]["cooling"] == 0).then_some(())
    })?;
    world.apply(&manifest(NODE, SPANNING))?;
    let pods: Vec<Placed> = spanning(world, NODE)?.all().cloned().collect();
    let pods = subjects(prefix, &pods)?;
    let host = Host::look(world, NODE)?;
    faults(&pods, |pod| host.set_up(pod, Some(mtu)))?;
    for pod in &pods {
        // Set by us, so that nobody changes it behind the back of the pod, which knows it as its gateway's.
        let file = format!("/sys/class/net/{}/addr_assign_type", pod.link);
        let how = world.inside(NODE, &["cat", &file])?;
        ensure!(how.trim() == CHOSEN, "the address of {} was chosen by {how}", pod.link);
    }
    world.delete(&manifest(NODE, SPANNING))?;
    let gone = Host::look(world, NODE)?;
    faults(&pods, |pod| gone.torn_down(pod))
}

/// Right while pods run, nothing left when they are gone; and the tester itself fails on what is wrong.
pub(crate) fn set_up_and_torn_down() -> Result<()> {
    let world = started(POOL)?;
    come_and_go(&world, "eni", 9001)?;

    world.apply(&pod("parking", NODE))?;
    let parked = placed(&world, NODE, &["parking".to_owned()])?.remove(0);
    let valid = Subject::new("eni", "default", &parked.name, parked.address)?;
    let host = Host::look(&world, NODE)?;
    faults(std::slice::from_ref(&valid), |pod| host.set_up(pod, Some(9001)))?;
    let wrong_address = Subject { address: [1, 1, 1, 1].into(), ..valid.clone() };
    let wrong_namespace = Subject::new("eni", "different", &parked.name, parked.address)?;
    for (what, found) in [
        ("a wrong address", host.set_up(&wrong_address, None)),
        ("a wrong namespace", host.set_up(&wrong_namespace, None)),
        ("a wrong MTU", host.set_up(&valid, Some(1300))),
        ("a pod that runs, as torn down", host.torn_down(&valid)),
    ] {
        ensure!(!found.is_empty(), "the tester accepts {what}");
    }
    Ok(())
}

/// AWS_VPC_K8S_CNI_VETHPREFIX with AWS_VPC_ENI_MTU, then with POD_MTU.
pub(crate) fn other_prefix_and_mtu() -> Result<()> {
    let mut world = started(POOL)?;
    // A pod of before keeps its link and is torn down all the same.
    world.apply(&pod("older", NODE))?;
    let older = placed(&world, NODE, &["older".to_owned()])?.remove(0);
    let older = Subject::new("eni", "default", &older.name, older.address)?;
    let eni_mtu = ("AWS_VPC_ENI_MTU", "1300");
    let prefix = ("AWS_VPC_K8S_CNI_VETHPREFIX", "veth");
    for (settings, mtu) in [(&[prefix, eni_mtu][..], 1300), (&[prefix, eni_mtu, ("POD_MTU", "1280")], 1280)] {
        world.set_environment(&[POOL, settings].concat());
        world.kill_agent(NODE)?;
        world.start_agent(NODE)?;
        world.wait_until_ready(NODE)?;
        come_and_go(&world, "veth", mtu)?;
        faults(std::slice::from_ref(&older), |pod| {
            Host::look(&world, NODE)
                .map_or_else(|error| vec![error.to_string()], |host| host.set_up(pod, None))
        })?;
    }
    world.delete(&pod("older", NODE))?;
    let gone = Host::look(&world, NODE)?;
    faults(std::slice::from_ref(&older), |pod| gone.torn_down(pod))
}

fn started(environment: &[(&str, &str)]) -> Result<World> {
    let mut world = World::of(1, SMALL, environment)?;
    world.start_agent(NODE)?;
    world.wait_until_ready(NODE)?;
    Ok(world)
}
