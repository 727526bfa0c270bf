//! Where addresses come from: custom networking, discovered subnets, prefixes
//! and single addresses, and changes between them on a live node.

use std::collections::BTreeSet;

use ipam_core::{
    AllocationMode, FailureClass, Operation, Owner, SecurityGroupId, SubnetChoice, SubnetId, Targets, tags,
};

use crate::world::{Cloud, Fault, Node, Stranger, discover, secs, targets_for};

const OTHER_CLUSTER: &str = "cni.networking.k8s.aws/cluster/theirs";

/// A node whose VPC has, beside its own subnet, one for pods, one of another
/// cluster, one that is closed to pods and one without tags.
fn node_in(targets: Targets, own: u32, pods: u32) -> Node {
    let limits = &targets.limits;
    let mut cloud = Cloud::new(limits.enis(), limits.ipv4_per_eni, own);
    cloud.add_subnet("subnet-b", pods, &[(tags::SUBNET_ROLE, "1")]);
    cloud.add_subnet("subnet-c", 8192, &[(tags::SUBNET_ROLE, "1"), (OTHER_CLUSTER, "")]);
    cloud.add_subnet("subnet-d", 8192, &[(tags::SUBNET_ROLE, "0")]);
    cloud.add_subnet("subnet-e", 8192, &[]);
    let mut node = Node::new(cloud, targets);
    node.pass(secs(90));
    node.cloud.calls.clear();
    node
}

fn run(node: &mut Node, pods: std::ops::Range<u32>) {
    node.burst(pods.clone());
    node.pass(secs(30));
    for pod in pods {
        assert!(node.holders.contains_key(&Node::key(pod)), "pod {pod}: {:?}", node.refused);
        node.commit(pod);
    }
}

fn subnet_of(node: &Node, pod: u32) -> &str {
    let eni = &node.holders[&Node::key(pod)].eni;
    node.cloud.enis().find(|known| known.id == *eni).expect("it carries a pod").subnet.as_str()
}

fn enis_in(node: &Node, subnet: &str) -> usize {
    node.cloud.enis().filter(|eni| eni.subnet.as_str() == subnet).count()
}

fn custom(instance: &str) -> Targets {
    let mut targets = targets_for(instance);
    targets.subnet_choice = SubnetChoice::Fixed(vec![SubnetId::new("subnet-b")]);
    targets.use_primary = false;
    targets.max_pods = targets.limits.max_pods_without_primary(false);
    targets.security_groups = BTreeSet::from([SecurityGroupId::new("sg-pods")]);
    targets
}

#[test]
fn custom_networking_takes_another_subnet_and_other_groups() {
    let mut node = node_in(custom("m5.large"), 4096, 4096);
    run(&mut node, 0..18);
    assert!((0..18).all(|pod| subnet_of(&node, pod) == "subnet-b"));
    for eni in node.cloud.enis() {
        let primary = eni.attachment.as_ref().is_some_and(|at| at.device_index == 0);
        assert_eq!(eni.singles.is_empty(), primary, "{eni:?}");
        assert_eq!(eni.groups.contains(&SecurityGroupId::new("sg-pods")), !primary, "{eni:?}");
    }
    // One ENI less than without it.
    node.burst(18..19);
    node.pass(secs(60));
    assert_eq!(node.refused.len(), 1, "two ENIs of nine addresses each");
}

#[test]
fn custom_networking_on_a_live_node_drains_the_old_enis() {
    let mut targets = targets_for("m5.large");
    targets.warm_ip = Some(1);
    let mut node = node_in(targets.clone(), 4096, 4096);
    run(&mut node, 0..12);
    assert_eq!(enis_in(&node, "subnet-a"), 2);
    node.targets = Targets { warm_ip: Some(1), ..custom("m5.large") };
    node.step();
    run(&mut node, 12..14);
    assert_eq!((subnet_of(&node, 12), subnet_of(&node, 13)), ("subnet-b", "subnet-b"));
    node.pass(secs(600));
    // Running pods keep their addresses, and their ENIs.
    assert!((0..12).all(|pod| node.cloud.has(node.holders[&Node::key(pod)].address)));
    assert_eq!(enis_in(&node, "subnet-a"), 2);
    (0..12).for_each(|pod| node.del(pod));
    node.pass(secs(600));
    assert_eq!(enis_in(&node, "subnet-a"), 1, "the primary one, and");
    let primary = node.state.enis().find(|eni| eni.owner == Owner::Primary).expect("always there");
    assert_eq!(primary.addresses().count(), 0, "nothing on it");
    node.check_agreement();
}

#[test]
fn the_subnet_with_most_free_addresses_is_taken_less_what_was_asked_since() {
    let mut targets = targets_for("m5.xlarge");
    targets.subnet_choice = discover();
    // subnet-b has ten more at first: the second new ENI finds it behind.
    let mut node = node_in(targets, 512, 512);
    let ahead =
        node.cloud.free_in(&SubnetId::new("subnet-b")) - node.cloud.free_in(&SubnetId::new("subnet-a"));
    node.cloud.occupy_in("subnet-b", ahead - 10);
    node.pass(secs(600));
    let reads = node.cloud.calls_of(Operation::DescribeSubnets);
    run(&mut node, 0..50);
    assert_eq!((enis_in(&node, "subnet-b"), enis_in(&node, "subnet-a")), (2, 2));
    assert_eq!(node.cloud.calls_of(Operation::DescribeSubnets), reads, "never read for an ENI");
}

#[test]
fn where_one_subnet_is_full_the_next_is_taken() {
    let mut targets = targets_for("m5.large");
    targets.subnet_choice = discover();
    let mut node = node_in(targets, 512, 64);
    let free = node.cloud.free_addresses();
    node.cloud.occupy(free);
    run(&mut node, 0..20);
    assert!(enis_in(&node, "subnet-b") > 0);
    assert_eq!(enis_in(&node, "subnet-c") + enis_in(&node, "subnet-d") + enis_in(&node, "subnet-e"), 0);
    assert!(node.cloud.exhausted_calls <= 2, "one for each of two ENIs: {}", node.cloud.exhausted_calls);
}

#[test]
fn an_excluded_subnet_keeps_its_pods_and_gets_no_more() {
    let mut targets = targets_for("m5.large");
    targets.subnet_choice = discover();
    let mut node = node_in(targets, 4096, 256);
    run(&mut node, 0..4);
    assert!((0..4).all(|pod| subnet_of(&node, pod) == "subnet-a"));
    node.cloud.tag_subnet("subnet-a", tags::SUBNET_ROLE, Some("0"));
    node.pass(secs(600));
    run(&mut node, 4..8);
    assert!((4..8).all(|pod| subnet_of(&node, pod) == "subnet-b"));
    assert!((0..4).all(|pod| node.cloud.has(node.holders[&Node::key(pod)].address)));
    // And is taken again when that is undone.
    node.cloud.tag_subnet("subnet-a", tags::SUBNET_ROLE, None);
    node.pass(secs(900));
    run(&mut node, 10..16);
    assert!((10..16).any(|pod| subnet_of(&node, pod) == "subnet-a"));
}

#[test]
fn where_subnets_may_not_be_read_the_nodes_own_is_taken() {
    let mut targets = targets_for("m5.large");
    targets.subnet_choice = discover();
    let limits = &targets.limits;
    let mut cloud = Cloud::new(limits.enis(), limits.ipv4_per_eni, 4096);
    cloud.add_subnet("subnet-b", 8192, &[(tags::SUBNET_ROLE, "1")]);
    for _ in 0..500 {
        cloud.faults.push((Operation::DescribeSubnets, Fault::Fail(FailureClass::Permission)));
    }
    let mut node = Node::new(cloud, targets);
    run(&mut node, 0..20);
    assert_eq!((enis_in(&node, "subnet-a"), enis_in(&node, "subnet-b")), (3, 0));
}

#[test]
fn room_that_comes_back_is_found_by_reading() {
    let mut node = node_in(Targets { warm_ip: Some(0), ..targets_for("m5.large") }, 64, 64);
    let free = node.cloud.free_addresses();
    node.cloud.occupy(free);
    node.burst(0..8);
    node.pass(secs(18));
    node.cloud.vacate("subnet-a", 3);
    let before = node.waits.len();
    node.pass(secs(15));
    assert_eq!(node.waits.len(), before + 3, "{:?}", node.cloud.calls);
    assert!(node.cloud.exhausted_calls <= 1, "{} refused tries", node.cloud.exhausted_calls);
}

fn prefixes(instance: &str) -> Targets {
    let mut targets = targets_for(instance);
    targets.mode = AllocationMode::Prefix;
    targets.max_pods = 110;
    targets
}

/// How many of a node's blocks are prefixes and how many single addresses.
fn blocks(node: &Node) -> (usize, usize) {
    let enis = || node.cloud.enis();
    (enis().map(|eni| eni.prefixes.len()).sum(), enis().map(|eni| eni.singles.len()).sum())
}

#[test]
fn a_pool_of_prefixes_and_single_addresses() {
    let mut node = node_in(prefixes("m5.large"), 4096, 64);
    run(&mut node, 0..20);
    assert_eq!(blocks(&node), (3, 0));
    node.cloud.fragment();
    run(&mut node, 20..40);
    let (whole, single) = blocks(&node);
    assert_eq!(whole, 3);
    assert!(single > 0, "the rest came singly");
    assert!(node.cloud.exhausted_calls <= 2, "{}", node.cloud.exhausted_calls);
}

#[test]
fn from_prefixes_to_single_addresses_on_a_live_node() {
    let mut node = node_in(Targets { warm_ip: Some(2), ..prefixes("m5.large") }, 4096, 64);
    run(&mut node, 0..20);
    assert_eq!(blocks(&node), (2, 0));
    node.targets.mode = AllocationMode::Secondary;
    node.step();
    node.cloud.calls.clear();
    run(&mut node, 20..30);
    assert_eq!(blocks(&node).0, 2, "the rest of what is there is used, and no new prefix asked for");
    assert!((0..20).all(|pod| node.cloud.has(node.holders[&Node::key(pod)].address)));
    (0..30).for_each(|pod| node.del(pod));
    node.pass(secs(900));
    assert_eq!(blocks(&node), (0, 2), "prefixes that nobody uses are given back");
    assert!(node.is_quiet());
}

#[test]
fn from_single_addresses_to_prefixes_on_a_live_node() {
    let mut node = node_in(targets_for("m5.large"), 4096, 64);
    run(&mut node, 0..5);
    let before: Vec<_> = (0..5).map(|pod| node.holders[&Node::key(pod)].address).collect();
    node.targets.mode = AllocationMode::Prefix;
    node.step();
    node.pass(secs(600));
    run(&mut node, 5..28);
    assert!(blocks(&node).0 >= 1);
    let now: Vec<_> = (0..5).map(|pod| node.holders[&Node::key(pod)].address).collect();
    assert_eq!(before, now);
    (5..28).for_each(|pod| node.del(pod));
    node.pass(secs(900));
    assert_eq!(node.cloud.enis().count(), 1);
    assert!(node.is_quiet());
}

/// On target, a restart with an empty journal and the same configuration.
#[test]
fn a_restart_changes_nothing_in_any_mode() {
    type Prepare = fn(&mut Node);
    let mixed: Prepare = |node| node.cloud.fragment();
    let plain: Prepare = |_| {};
    let discovered = Targets { subnet_choice: discover(), ..targets_for("m5.large") };
    let rows: [(&str, Targets, Prepare); 6] = [
        ("secondary addresses", targets_for("m5.large"), plain),
        ("an address target", Targets { warm_ip: Some(3), ..targets_for("m5.large") }, plain),
        ("prefixes", prefixes("m5.large"), plain),
        ("a mixed pool", prefixes("m5.large"), mixed),
        ("custom networking", custom("m5.large"), plain),
        ("discovered subnets", discovered, plain),
    ];
    for (name, targets, prepare) in rows {
        let mut node = node_in(targets, 1024, 2048);
        run(&mut node, 0..4);
        prepare(&mut node);
        let pods = if name == "a mixed pool" { 24 } else { 12 };
        run(&mut node, 4..pods);
        node.pass(secs(900));
        assert!(node.is_quiet(), "{name}");
        if name == "a mixed pool" {
            let (whole, single) = blocks(&node);
            assert!(whole > 0 && single > 0, "{name}: {whole} prefixes, {single} single addresses");
        }
        node.cloud.calls.clear();
        for _ in 0..2 {
            node.crash();
            node.pass(secs(400));
        }
        assert_eq!(node.cloud.mutating_calls(), 0, "law 5: {name}: {:?}", node.cloud.calls);
        assert_eq!(node.holders.len(), pods as usize, "{name}");
    }
}

#[test]
fn what_is_not_ours_is_counted_and_left_alone() {
    let strangers = [
        Stranger::Trunk,
        Stranger::Efa,
        Stranger::NoManage,
        Stranger::Untagged,
        Stranger::OtherNode,
        Stranger::Managed,
    ];
    for stranger in strangers {
        let mut node = node_in(targets_for("t3.small"), 4096, 64);
        node.appear(stranger);
        node.appear(Stranger::OtherCard);
        node.pass(secs(600));
        node.burst(0..9);
        node.pass(secs(60));
        // Three ENIs, of which one is theirs; the other card is no place of ours.
        assert_eq!(node.holders.len(), 6, "{stranger:?}");
        assert_eq!(node.cloud.calls_of(Operation::CreateEni), 1, "{stranger:?}");
        node.check_agreement();
    }
}

#[test]
fn max_eni_bounds_the_pool_and_frees_nothing() {
    let mut node = node_in(targets_for("m5.xlarge"), 4096, 64);
    run(&mut node, 0..20);
    let enis = node.cloud.enis().count();
    node.targets.max_eni = Some(2);
    node.step();
    node.burst(20..60);
    node.pass(secs(60));
    assert_eq!(node.cloud.enis().count(), enis);
    assert_eq!(node.cloud.calls_of(Operation::Detach), 0);
}
