//! `MANAGE_UNTAGGED_ENI`: ENIs without any agent's tag are used, and remain
//! their maker's. The agent may neither detach nor delete them.

use ipam_core::{EniKind, FailureClass, Operation, Targets, tags};

use crate::world::{Cloud, Fault, Node, secs, targets_for};

/// A node with an untagged ENI of three addresses.
fn node(targets: Targets) -> Node {
    let limits = &targets.limits;
    let mut cloud = Cloud::new(limits.enis(), limits.ipv4_per_eni, 4096);
    cloud.add_foreign(EniKind::Interface, 1, None, ipam_core::Now::default());
    let mut node = Node::new(cloud, targets);
    node.manage_untagged = true;
    node.crash();
    for eni in node.cloud.enis().map(|eni| eni.mac).collect::<Vec<_>>() {
        node.state.set_link(eni, true);
    }
    node
}

#[test]
fn an_untagged_eni_is_used_and_drained_and_stays_attached() {
    for warm_ip in [None, Some(0), Some(2)] {
        let targets = Targets { warm_ip, warm_eni: 0, ..targets_for("m5.large") };
        let mut node = node(targets);
        node.burst(0..16);
        node.pass(secs(60));
        assert_eq!(node.holders.len(), 16, "{warm_ip:?}: {:?}", node.refused);
        (0..16).for_each(|pod| node.commit(pod));
        (0..16).for_each(|pod| node.del(pod));
        node.pass(secs(1800));
        let enis: Vec<_> = node.cloud.enis().collect();
        assert_eq!(enis.len(), 2, "{warm_ip:?}: {enis:?}");
        assert!(enis[1].singles.is_empty(), "{warm_ip:?}: {enis:?}");
        for operation in [Operation::Detach, Operation::DeleteEni] {
            let untagged = |action: &&ipam_core::Action| action.eni() == Some(&enis[1].id);
            let on_it = node.begun.iter().filter(untagged);
            assert_eq!(on_it.filter(|action| action.operation() == operation).count(), 0, "{warm_ip:?}");
        }
        node.cloud.calls.clear();
        node.pass(secs(1800));
        assert_eq!(node.cloud.mutating_calls(), 0, "{warm_ip:?}: it rests: {:?}", node.begun);
    }
}

#[test]
fn one_that_no_longer_serves_is_drained_and_stays_attached() {
    let mut node = node(targets_for("m5.large"));
    node.pass(secs(60));
    node.cloud.add_subnet("subnet-b", 4096, &[(tags::SUBNET_ROLE, "1")]);
    node.targets.subnet_choice = ipam_core::SubnetChoice::Fixed(vec![ipam_core::SubnetId::new("subnet-b")]);
    node.begun.clear();
    node.pass(secs(1800));
    let untagged = node.cloud.enis().nth(1).expect("it stays");
    assert!(untagged.attachment.is_some() && untagged.singles.is_empty(), "{untagged:?}");
    node.cloud.calls.clear();
    node.pass(secs(1800));
    assert_eq!(node.cloud.mutating_calls(), 0, "{:?}", node.begun);
}

#[test]
fn a_detach_that_is_not_allowed_for_one_eni_does_not_hold_up_another() {
    let targets = Targets { cooldown: secs(0), ..targets_for("m5.xlarge") };
    let limits = &targets.limits;
    let mut node = Node::new(Cloud::new(limits.enis(), limits.ipv4_per_eni, 4096), targets);
    node.pass(secs(60));
    node.burst(0..40);
    node.pass(secs(60));
    (0..40).for_each(|pod| node.commit(pod));
    node.pass(secs(120));
    let pods_on = |node: &Node, eni: &ipam_core::EniId| -> Vec<u32> {
        (0..40)
            .filter(|pod| node.holders.get(&Node::key(*pod)).is_some_and(|held| held.eni == *eni))
            .collect()
    };
    let (first, second) = (node.secondary(0).expect("one"), node.secondary(1).expect("another"));
    assert!(!pods_on(&node, &first).is_empty() && !pods_on(&node, &second).is_empty());
    // Their subnet no longer serves: each goes when its last pod has gone.
    node.cloud.add_subnet("subnet-b", 4096, &[]);
    node.targets.subnet_choice = ipam_core::SubnetChoice::Fixed(vec![ipam_core::SubnetId::new("subnet-b")]);
    node.pass(secs(60));
    node.cloud.faults.push((Operation::Detach, Fault::Fail(FailureClass::Permission)));
    pods_on(&node, &first).into_iter().for_each(|pod| node.del(pod));
    node.pass(secs(2));
    let detaches = |node: &Node, id: &ipam_core::EniId| {
        let on_it = node.begun.iter().filter(|action| action.eni() == Some(id));
        on_it.filter(|action| action.operation() == Operation::Detach).count()
    };
    assert_eq!(detaches(&node, &first), 1, "it was not allowed");
    pods_on(&node, &second).into_iter().for_each(|pod| node.del(pod));
    node.pass(secs(1));
    assert_eq!((detaches(&node, &first), detaches(&node, &second)), (1, 1));
    node.pass(secs(900));
    assert_eq!(detaches(&node, &first), 2, "it is tried again");
}
