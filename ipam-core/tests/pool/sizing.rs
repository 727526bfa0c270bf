//! The sizes that the incumbent documents for its targets
//! (docs/eni-and-ip-target.md and docs/prefix-and-ip-target.md of
//! amazon-vpc-cni-k8s): the same knobs give no larger a pool here.

use crate::world::{Cloud, Node, millis, secs, targets_for};
use ipam_core::AllocationMode;

struct Row {
    instance: &'static str,
    prefix: bool,
    warm: (u32, Option<u32>, Option<u32>),
    pods: u32,
    enis: u32,
    /// Secondary addresses, or prefixes.
    attached: u32,
    max_pods: Option<u32>,
}

const fn row(
    instance: &'static str,
    warm: (u32, Option<u32>, Option<u32>),
    pods: u32,
    enis: u32,
    attached: u32,
) -> Row {
    Row { instance, prefix: false, warm, pods, enis, attached, max_pods: None }
}

const fn prefix(
    instance: &'static str,
    warm: (u32, Option<u32>, Option<u32>),
    pods: u32,
    enis: u32,
    attached: u32,
) -> Row {
    Row { instance, prefix: true, warm, pods, enis, attached, max_pods: Some(110) }
}

const ENI: (u32, Option<u32>, Option<u32>) = (1, None, None);

fn check(row: &Row) {
    let mut targets = targets_for(row.instance);
    (targets.warm_eni, targets.warm_ip, targets.minimum_ip) = row.warm;
    if row.prefix {
        targets.mode = AllocationMode::Prefix;
    }
    targets.max_pods = row.max_pods.unwrap_or(targets.max_pods);
    let limits = &targets.limits;
    let mut node = Node::new(Cloud::new(limits.enis(), limits.ipv4_per_eni, 4096), targets);
    node.pass(secs(120));
    node.burst(0..row.pods);
    node.pass(secs(600));
    let name = format!("{} {:?} {} pods", row.instance, row.warm, row.pods);
    assert_eq!(node.waits.len(), row.pods as usize, "{name}: {:?}", node.refused);
    assert!(node.is_quiet(), "{name}");
    node.check_agreement();
    let enis = u32::try_from(node.cloud.enis().count()).expect("few");
    let attached: usize =
        node.cloud.enis().map(|eni| if row.prefix { eni.prefixes.len() } else { eni.singles.len() }).sum();
    assert_eq!((enis, u32::try_from(attached).expect("few")), (row.enis, row.attached), "{name}");
}

#[test]
fn documented_examples_of_secondary_addresses() {
    let one = (0, Some(1), Some(1));
    let two_five = (0, Some(2), Some(5));
    let five_ten = (0, Some(5), Some(10));
    for row in [
        row("t3.small", ENI, 0, 1, 3),
        row("t3.small", ENI, 5, 3, 9),
        row("t3.small", ENI, 9, 3, 9),
        row("t3.small", one, 0, 1, 1),
        row("t3.small", one, 5, 2, 6),
        row("t3.small", one, 9, 3, 9),
        row("t3.small", two_five, 0, 2, 5),
        row("t3.small", two_five, 5, 3, 7),
        row("t3.small", two_five, 9, 3, 9),
        row("p3dn.24xlarge", ENI, 0, 1, 49),
        row("p3dn.24xlarge", ENI, 3, 2, 98),
        row("p3dn.24xlarge", ENI, 95, 3, 147),
        row("p3dn.24xlarge", five_ten, 0, 1, 10),
        row("p3dn.24xlarge", five_ten, 7, 1, 12),
        row("p3dn.24xlarge", five_ten, 15, 1, 20),
        row("p3dn.24xlarge", five_ten, 45, 2, 50),
    ] {
        check(&row);
    }
}

/// Where that page contradicts its own text (a floor of 20 addresses is two
/// prefixes; a p3dn takes 49 on its first ENI), the text holds.
#[test]
fn documented_examples_of_prefixes() {
    let one = (0, Some(1), Some(1));
    let seven_twenty = (0, Some(7), Some(20));
    let five_ten = (0, Some(5), Some(10));
    for row in [
        prefix("t3.small", ENI, 0, 1, 1),
        prefix("t3.small", ENI, 5, 1, 2),
        prefix("t3.small", ENI, 16, 1, 2),
        prefix("t3.small", ENI, 17, 1, 3),
        prefix("t3.small", ENI, 58, 2, 5),
        prefix("t3.small", one, 0, 1, 1),
        prefix("t3.small", one, 5, 1, 1),
        prefix("t3.small", one, 17, 1, 2),
        prefix("t3.small", one, 58, 2, 4),
        prefix("t3.small", seven_twenty, 0, 1, 2),
        prefix("t3.small", seven_twenty, 5, 1, 2),
        prefix("t3.small", seven_twenty, 17, 1, 2),
        prefix("t3.small", seven_twenty, 58, 2, 5),
        prefix("p3dn.24xlarge", ENI, 0, 1, 1),
        prefix("p3dn.24xlarge", ENI, 3, 1, 2),
        prefix("p3dn.24xlarge", ENI, 95, 1, 7),
        prefix("p3dn.24xlarge", five_ten, 0, 1, 1),
        prefix("p3dn.24xlarge", five_ten, 7, 1, 1),
        prefix("p3dn.24xlarge", five_ten, 15, 1, 2),
        prefix("p3dn.24xlarge", five_ten, 45, 1, 4),
    ] {
        check(&row);
    }
}

/// A burst on an empty node: one assign for the primary ENI, three calls for
/// each new one, and everybody is served within one call and one attach.
#[test]
fn bursts() {
    for (instance, pods, mutating, idle) in [
        ("m5.large", 20, 6, 7),
        ("m5.xlarge", 50, 9, 6),
        ("m5.4xlarge", 110, 12, 35),
        ("m5.4xlarge", 200, 21, 32),
    ] {
        let targets = targets_for(instance);
        let limits = &targets.limits;
        let mut node = Node::new(Cloud::new(limits.enis(), limits.ipv4_per_eni, 4096), targets);
        node.pass(secs(60));
        node.cloud.calls.clear();
        node.burst(0..pods);
        node.pass(secs(120));
        assert!(node.refused.is_empty(), "{instance}: {:?}", node.refused);
        assert_eq!(node.waits.len(), pods as usize, "{instance}");
        assert_eq!(node.cloud.mutating_calls(), mutating, "{instance}: {:?}", node.cloud.calls);
        // Create, attach, the link; and the moment in which a burst gathers.
        let bound = millis(30) + node.latency * 2 + node.link_delay;
        let worst = node.waits.iter().max().expect("waits");
        assert!(*worst <= bound, "{instance}: {worst:?}");
        let counts = node.state.counts(&node.targets, node.now);
        assert!(counts.free <= idle, "{instance}: {counts:?}");
    }
}

/// The same in prefix mode: one call, or one and a few for a second ENI.
#[test]
fn bursts_with_prefixes() {
    for (instance, pods, max_pods, mutating, idle) in [
        ("m5.large", 20, 110, 1, 28),
        ("m5.xlarge", 50, 110, 1, 30),
        ("m5.4xlarge", 110, 234, 1, 18),
        ("m5.4xlarge", 200, 234, 1, 24),
    ] {
        let mut targets = targets_for(instance);
        targets.mode = AllocationMode::Prefix;
        targets.max_pods = max_pods;
        let limits = &targets.limits;
        let mut node = Node::new(Cloud::new(limits.enis(), limits.ipv4_per_eni, 4096), targets);
        node.pass(secs(60));
        node.cloud.calls.clear();
        node.burst(0..pods);
        node.pass(secs(120));
        assert_eq!(node.waits.len(), pods as usize, "{instance}: {:?}", node.refused);
        assert_eq!(node.cloud.mutating_calls(), mutating, "{instance}: {:?}", node.cloud.calls);
        let worst = node.waits.iter().max().expect("waits");
        assert!(*worst <= millis(30) + node.latency, "{instance}: {worst:?}");
        let counts = node.state.counts(&node.targets, node.now);
        assert!(counts.free + counts.withheld <= idle, "{instance}: {counts:?}");
    }
}
