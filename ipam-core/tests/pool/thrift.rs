//! How few calls a pool makes, and what becomes of the outcomes that it does
//! not know.

use ipam_core::{FailureClass, Operation, Targets};

use crate::world::{Cloud, Fault, Node, millis, secs, targets_for};

fn node(targets: Targets) -> Node {
    let limits = &targets.limits;
    let mut node = Node::new(Cloud::new(limits.enis(), limits.ipv4_per_eni, 4096), targets);
    node.pass(secs(90));
    node.cloud.calls.clear();
    node
}

#[test]
fn pods_that_come_while_an_eni_is_made_share_it() {
    let mut node = node(Targets { warm_ip: Some(0), ..targets_for("m5.large") });
    node.burst(0..9);
    node.pass(secs(5));
    node.burst(9..12);
    for pod in 12..16 {
        node.pass(millis(150));
        node.burst(pod..=pod);
    }
    node.pass(secs(20));
    assert_eq!(node.holders.len(), 16, "{:?}", node.refused);
    assert_eq!(node.cloud.calls_of(Operation::CreateEni), 1, "{:?}", node.cloud.calls);
    assert!(node.cloud.calls_of(Operation::Assign) <= 3, "{:?}", node.cloud.calls);
}

#[test]
fn pods_that_come_while_addresses_are_asked_for_share_the_next_call() {
    let mut node = node(Targets { warm_ip: Some(0), ..targets_for("m5.4xlarge") });
    node.burst(0..30);
    node.pass(secs(10));
    (0..30).filter(|pod| pod % 10 != 0).for_each(|pod| node.del(pod));
    node.pass(secs(300));
    node.cloud.calls.clear();
    for pod in 40..60 {
        node.burst(pod..=pod);
        node.pass(millis(50));
    }
    node.pass(secs(10));
    assert!((40..60).all(|pod| node.holders.contains_key(&Node::key(pod))), "{:?}", node.refused);
    // A second of arrivals, a third of a second each call.
    assert!(node.cloud.mutating_calls() <= 8, "{:?}", node.cloud.calls);
}

#[test]
fn idle_addresses_after_a_burst_are_what_the_targets_say() {
    for (instance, pods, warm, idle) in [
        ("m5.xlarge", 50, Targets { warm_ip: Some(5), minimum_ip: Some(10), ..targets_for("m5.xlarge") }, 5),
        ("m5.xlarge", 50, Targets { warm_ip: Some(1), minimum_ip: Some(3), ..targets_for("m5.xlarge") }, 1),
        (
            "m5.4xlarge",
            110,
            Targets { warm_ip: Some(5), minimum_ip: Some(10), ..targets_for("m5.4xlarge") },
            5,
        ),
        ("m5.xlarge", 50, targets_for("m5.xlarge"), 6),
        ("m5.4xlarge", 110, targets_for("m5.4xlarge"), 35),
        ("m5.4xlarge", 200, targets_for("m5.4xlarge"), 32),
    ] {
        let mut node = node(warm);
        node.burst(0..pods);
        node.pass(secs(60));
        let counts = node.state.counts(&node.targets, node.now);
        assert_eq!(counts.leased, pods, "{instance}: {:?}", node.refused);
        assert!(counts.free + counts.withheld <= idle, "{instance}, {pods} pods: {counts:?}");
    }
}

#[test]
fn after_a_refusal_by_the_bucket_one_call_is_tried_and_not_three() {
    let mut node = node(Targets { warm_ip: Some(0), ..targets_for("m5.xlarge") });
    node.burst(0..14);
    node.pass(secs(5));
    node.cloud.calls.clear();
    for _ in 0..40 {
        node.cloud.faults.push((Operation::CreateEni, Fault::Fail(FailureClass::Throttled)));
    }
    node.burst(14..56);
    node.pass(secs(10));
    let tries = node.cloud.calls_of(Operation::CreateEni);
    assert!(tries <= 3 + 6, "three at first, then one by one: {tries}");
    node.cloud.faults.clear();
    (14..56).for_each(|pod| node.del(pod));
    node.pass(secs(400));
    node.burst(60..102);
    node.pass(secs(30));
    assert!((60..102).all(|pod| node.holders.contains_key(&Node::key(pod))), "{:?}", node.cloud.calls);
}

#[test]
fn an_eni_that_has_given_back_every_address_goes_too() {
    let mut targets = targets_for("t3.small");
    targets.warm_ip = Some(1);
    let mut node = node(targets);
    node.burst(0..9);
    node.pass(secs(10));
    (0..9).for_each(|pod| node.commit(pod));
    node.pass(secs(120));
    for pod in 0..9 {
        node.del(pod);
        node.pass(secs(1));
    }
    node.pass(secs(900));
    for eni in node.cloud.enis().skip(1) {
        assert!(!eni.singles.is_empty(), "{eni:?} serves nobody");
    }
    assert_eq!(node.cloud.enis().count(), 1);
    let calls = &node.cloud.calls;
    assert!(node.cloud.calls_of(Operation::Unassign) <= 2, "whole ENIs first: {calls:?}");
}

#[test]
fn a_change_that_a_crash_prevented_is_found_out() {
    // The intent was journaled, EC2 never heard of it: the address is there,
    // and must be in the pool again once the describe cannot lag any more.
    let mut targets = targets_for("m5.large");
    targets.warm_ip = Some(4);
    let mut node = node(targets);
    node.targets.warm_ip = Some(1);
    node.step();
    while !node.begun.iter().any(|action| action.operation() == Operation::Unassign) {
        node.pass(secs(1));
    }
    node.targets.warm_ip = Some(4);
    node.crash();
    node.cloud.calls.clear();
    node.pass(secs(70));
    node.check_agreement();
    assert_eq!(node.cloud.calls_of(Operation::DescribeEnis), 2, "at start, and after EC2's lag");
}

#[test]
fn an_address_that_a_describe_leaves_out_is_not_leased_until_another_has_told() {
    let mut node = node(Targets { warm_ip: Some(3), ..targets_for("m5.large") });
    let primary = node.cloud.enis().next().expect("the primary ENI").clone();
    let lost = primary.singles[0];
    // Somebody takes it away; the next describe says so, at a time at which it
    // could still be a describe that lags.
    node.cloud.take_away(&primary.id, lost, node.now);
    node.state.resync_at(node.now);
    node.step();
    node.pass(secs(1));
    node.burst(0..3);
    node.pass(secs(30));
    assert_eq!(node.holders.len(), 3);
    assert!(node.holders.values().all(|held| held.address != lost));
    node.pass(secs(120));
    node.check_agreement();
}
