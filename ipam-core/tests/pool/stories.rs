//! One thing that happens to a pool, and what becomes of it.

use ipam_core::{AllocationMode, FailureClass, Growth, Operation, Refusal, Targets};

use crate::world::{Cloud, Fault, Node, millis, secs, targets_for};

fn node(targets: Targets, subnet: u32) -> Node {
    let limits = &targets.limits;
    let mut node = Node::new(Cloud::new(limits.enis(), limits.ipv4_per_eni, subnet), targets);
    node.pass(secs(90));
    node.cloud.calls.clear();
    node
}

fn run(node: &mut Node, pods: std::ops::Range<u32>) {
    node.burst(pods.clone());
    node.pass(secs(30));
    pods.for_each(|pod| node.commit(pod));
}

#[test]
fn a_full_subnet_is_refused_by_name_and_asked_by_reading() {
    let mut node = node(targets_for("m5.large"), 32);
    node.cloud.occupy(64);
    node.burst(0..20);
    node.pass(secs(60));
    assert!(!node.refused.is_empty());
    for (_, reason) in &node.refused {
        assert!(matches!(reason, Refusal::SubnetFull { .. }), "{reason:?}");
    }
    node.cloud.calls.clear();
    node.pass(secs(3600));
    assert_eq!(node.cloud.mutating_calls(), 0, "{:?}", node.cloud.calls);
}

#[test]
fn the_last_addresses_of_a_subnet_are_found_by_asking_for_so_many() {
    let mut targets = targets_for("m5.xlarge");
    targets.warm_ip = Some(1);
    let mut node = node(targets, 64);
    let free = node.cloud.free_addresses();
    node.cloud.occupy(free - 3);
    node.burst(0..10);
    node.pass(secs(10));
    assert_eq!(node.holders.len(), 4, "one was warm, three were left: {:?}", node.cloud.calls);
    assert_eq!(node.cloud.free_addresses(), 0);
}

#[test]
fn a_fragmented_subnet_serves_single_addresses() {
    let mut targets = targets_for("m5.large");
    targets.mode = AllocationMode::Prefix;
    targets.max_pods = 110;
    let mut node = node(targets, 4096);
    node.cloud.fragment();
    node.burst(0..22);
    node.pass(secs(5));
    assert_eq!(node.holders.len(), 22, "{:?}", node.cloud.calls);
}

#[test]
fn a_throttled_node_says_so_and_recovers() {
    let mut targets = targets_for("m5.large");
    targets.warm_ip = Some(0);
    let mut node = node(targets, 4096);
    run(&mut node, 0..18);
    for _ in 0..60 {
        node.cloud.faults.push((Operation::CreateEni, Fault::Fail(FailureClass::Throttled)));
        node.cloud.faults.push((Operation::Assign, Fault::Fail(FailureClass::Throttled)));
    }
    node.burst(20..28);
    node.pass(secs(60));
    assert!(
        node.refused.iter().any(|(_, reason)| matches!(reason, Refusal::Throttled { .. })),
        "{:?}",
        node.refused
    );
    assert!(node.cloud.mutating_calls() < 20, "no hammering: {:?}", node.cloud.calls);
    node.cloud.faults.clear();
    node.pass(secs(600));
    node.burst(30..34);
    node.pass(secs(10));
    assert!((30..34).all(|pod| node.holders.contains_key(&Node::key(pod))), "{:?}", node.refused);
}

#[test]
fn a_missing_permission_is_named() {
    let mut targets = targets_for("m5.large");
    targets.warm_ip = Some(0);
    let mut node = node(targets, 4096);
    run(&mut node, 0..18);
    for _ in 0..100 {
        node.cloud.faults.push((Operation::CreateEni, Fault::Fail(FailureClass::Permission)));
    }
    node.burst(20..28);
    node.pass(secs(60));
    assert!(
        node.refused
            .iter()
            .all(|(_, reason)| *reason == Refusal::PermissionDenied { operation: Operation::CreateEni }),
        "{:?}",
        node.refused
    );
    assert!(!node.refused.is_empty());
}

#[test]
fn where_only_cooling_addresses_are_left_an_add_waits_for_them() {
    let mut node = node(targets_for("t3.small"), 4096);
    run(&mut node, 0..9);
    assert_eq!(node.holders.len(), 9);
    (0..3).for_each(|pod| node.del(pod));
    node.burst(10..13);
    node.pass(secs(29));
    assert_eq!(node.holders.len(), 6, "not before the cooldown");
    node.pass(secs(2));
    assert_eq!(node.holders.len(), 9, "{:?}", node.refused);
}

#[test]
fn first_come_first_served() {
    let mut node = node(targets_for("t3.small"), 4096);
    run(&mut node, 0..9);
    for pod in 20..24 {
        node.burst(std::iter::once(pod));
        node.pass(millis(100));
    }
    (0..2).for_each(|pod| node.del(pod));
    node.pass(secs(31));
    let served: Vec<u32> = (20..24).filter(|pod| node.holders.contains_key(&Node::key(*pod))).collect();
    assert_eq!(served, [20, 21]);
}

#[test]
fn a_burst_that_ends_is_given_back_once_and_not_while_it_cools() {
    let mut targets = targets_for("m5.xlarge");
    targets.warm_ip = Some(5);
    targets.minimum_ip = Some(10);
    let mut node = node(targets, 4096);
    run(&mut node, 0..40);
    (0..40).for_each(|pod| node.del(pod));
    node.cloud.calls.clear();
    node.pass(secs(600));
    let counts = node.state.counts(&node.targets, node.now);
    assert_eq!((counts.total, counts.free), (10, 10));
    let calls = &node.cloud.calls;
    assert_eq!((calls[&Operation::Detach], calls[&Operation::DeleteEni]), (3, 3), "{calls:?}");
    assert!(calls.get(&Operation::Unassign).copied().unwrap_or(0) <= 1, "{calls:?}");
    assert_eq!(calls.get(&Operation::Assign), None, "no oscillation: {calls:?}");
}

#[test]
fn churn_fails_nobody_and_costs_few_calls() {
    for (warm, minimum) in [(None, None), (Some(5), Some(10)), (Some(1), Some(3))] {
        let mut targets = targets_for("m5.xlarge");
        (targets.warm_ip, targets.minimum_ip) = (warm, minimum);
        let mut node = node(targets, 4096);
        // One pod every four seconds, each living eighty: twenty at a time,
        // and eight more that cool down.
        for number in 0..300 {
            node.burst(std::iter::once(number));
            node.pass(secs(2));
            node.commit(number);
            if number >= 20 {
                node.del(number - 20);
            }
            node.pass(secs(2));
        }
        assert!(node.refused.is_empty(), "{warm:?}: {:?}", node.refused);
        let calls = node.cloud.mutating_calls();
        assert!(calls <= 40, "{warm:?}/{minimum:?}: {calls} calls for 300 pods: {:?}", node.cloud.calls);
    }
}

#[test]
fn addresses_are_packed_so_that_enis_drain() {
    let mut node = node(targets_for("m5.xlarge"), 4096);
    run(&mut node, 0..42);
    // Every third pod goes, all over the ENIs; new ones fill the fullest.
    (0..42).filter(|pod| pod % 3 != 0).for_each(|pod| node.del(pod));
    node.pass(secs(40));
    run(&mut node, 50..57);
    let most =
        node.state.enis().map(|eni| node.holders.values().filter(|held| held.eni == eni.id).count()).max();
    assert_eq!(most, Some(12), "the primary ENI had 5 and takes all seven");
}

#[test]
fn a_cordoned_node_grows_for_pods_only_and_gives_nothing_back() {
    let mut targets = targets_for("m5.large");
    targets.growth = Growth::DemandOnly;
    let mut node = node(targets, 4096);
    assert_eq!(node.cloud.mutating_calls(), 0);
    run(&mut node, 0..2);
    assert_eq!(node.holders.len(), 2);
    assert_eq!(node.cloud.mutating_calls(), 1);
    (0..2).for_each(|pod| node.del(pod));
    node.pass(secs(3600));
    assert_eq!(node.cloud.mutating_calls(), 1, "{:?}", node.cloud.calls);
}

#[test]
fn security_groups_follow_the_primary_eni_only_on_a_difference() {
    let mut targets = targets_for("m5.large");
    targets.warm_eni = 2;
    let mut node = node(targets, 4096);
    let primary = node.cloud.enis().next().expect("the primary ENI").id.clone();
    let groups = std::collections::BTreeSet::from([ipam_core::SecurityGroupId::new("sg-2")]);
    let change = ipam_core::Action::SetGroups { eni: primary, groups: groups.clone() };
    node.cloud.call(&change, node.now).expect("allowed");
    node.cloud.calls.clear();
    node.pass(secs(900));
    assert_eq!(node.cloud.mutating_calls(), 1, "{:?}", node.cloud.calls);
    assert!(node.cloud.enis().all(|eni| eni.groups == groups));
}

#[test]
fn an_announced_demand_is_met_before_the_first_add() {
    let mut node = node(targets_for("m5.xlarge"), 4096);
    node.state.announce(50);
    node.step();
    node.pass(secs(10));
    node.burst(0..50);
    assert_eq!(node.holders.len(), 50, "nobody waits");
    node.state.announce(0);
    node.pass(secs(60));
    assert_eq!(node.cloud.mutating_calls(), 9, "{:?}", node.cloud.calls);
}

#[test]
fn an_eni_that_a_crash_left_unattached_is_used_or_given_up() {
    for wanted in [true, false] {
        let mut targets = targets_for("m5.large");
        targets.warm_ip = Some(0);
        let mut node = node(targets, 4096);
        run(&mut node, 0..5);
        node.burst(5..16);
        // Died between create and attach.
        node.pass(millis(400));
        assert!(node.cloud.enis().any(|eni| eni.attachment.is_none()), "an ENI is loose");
        if !wanted {
            (5..16).for_each(|pod| node.del(pod));
            (0..5).for_each(|pod| node.del(pod));
        }
        node.crash();
        if wanted {
            node.burst(5..16);
        }
        node.pass(secs(600));
        node.check_agreement();
        assert_eq!(node.cloud.enis().count() > 1, wanted);
    }
}
