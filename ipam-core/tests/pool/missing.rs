//! ENIs that a describe leaves out.

use ipam_core::{EniId, Operation};

use crate::world::{Cloud, Node, millis, secs, targets_for};

/// A node with pods on two ENIs, and the second one.
fn node() -> (Node, EniId) {
    let targets = targets_for("m5.large");
    let limits = &targets.limits;
    let mut node = Node::new(Cloud::new(limits.enis(), limits.ipv4_per_eni, 4096), targets);
    node.pass(secs(90));
    node.burst(0..12);
    node.pass(secs(30));
    (0..12).for_each(|pod| node.commit(pod));
    node.pass(secs(120));
    let id = node.secondary(0).expect("a second ENI");
    assert!(node.holders.values().any(|held| held.eni == id));
    (node, id)
}

fn describe(node: &mut Node) {
    node.state.resync_at(node.now);
    node.step();
    node.pass(secs(1));
}

#[test]
fn one_describe_that_leaves_an_eni_out_cuts_off_nobody_and_leases_nothing_of_it() {
    let (mut node, id) = node();
    let held = node.state.leases().filter(|lease| lease.eni == id).count();
    node.cloud.calls.clear();
    node.cloud.omitted = Some(id.clone());
    describe(&mut node);
    let known = node.state.enis().find(|eni| eni.id == id).expect("not forgotten");
    assert!(known.is_missing());
    assert_eq!(node.state.counts(&node.targets, node.now).leased, 12);
    node.burst(20..22);
    node.pass(secs(10));
    assert_eq!(node.state.leases().filter(|lease| lease.eni == id).count(), held, "nothing new on it");
    assert_eq!(node.cloud.calls_of(Operation::DescribeEnis), 1);
    // The second look is due after EC2's lag, and finds it.
    node.pass(node.targets.timing.lag);
    assert_eq!(node.cloud.calls_of(Operation::DescribeEnis), 2);
    assert!(node.state.enis().any(|eni| eni.id == id && !eni.is_missing()));
    node.pass(secs(600));
    node.check_agreement();
}

#[test]
fn an_eni_that_is_gone_is_forgotten_by_the_second_describe() {
    let (mut node, id) = node();
    node.tear_off(0, true);
    describe(&mut node);
    assert!(node.state.enis().any(|eni| eni.id == id && eni.is_missing()));
    // A third look at once says nothing that the first did not.
    describe(&mut node);
    assert!(node.state.enis().any(|eni| eni.id == id));
    node.pass(node.targets.timing.lag);
    assert!(node.state.enis().all(|eni| eni.id != id), "two describes, a lag apart");
    node.pass(secs(300));
}

#[test]
fn an_eni_with_pods_and_a_link_outlives_every_describe() {
    let (mut node, id) = node();
    node.cloud.hidden = Some(id.clone());
    node.cloud.calls.clear();
    node.pass(secs(1800));
    assert!(node.state.enis().any(|eni| eni.id == id && eni.is_missing()));
    assert!(node.cloud.calls_of(Operation::DescribeEnis) <= 12, "{:?}", node.cloud.calls);
    // A restart does not forget the doubt, or the pods.
    node.crash();
    node.pass(secs(300));
    assert!(node.state.enis().any(|eni| eni.id == id && eni.is_missing()));
    // Its link goes, too.
    node.tear_off(0, false);
    describe(&mut node);
    assert!(node.state.enis().all(|eni| eni.id != id));
}

#[test]
fn the_primary_eni_is_never_forgotten() {
    let (mut node, _) = node();
    let primary = node.cloud.enis().next().expect("the primary ENI").id.clone();
    (0..12).for_each(|pod| node.del(pod));
    node.cloud.hidden = Some(primary.clone());
    node.pass(secs(900));
    assert!(node.state.enis().any(|eni| eni.id == primary));
    node.cloud.hidden = None;
    node.pass(secs(900));
    node.check_agreement();
    node.burst(20..22);
    node.pass(millis(400));
    assert!(node.holders.len() == 2 && node.holders.values().all(|held| held.eni == primary));
}
