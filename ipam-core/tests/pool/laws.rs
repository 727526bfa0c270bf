//! The laws of the pool over random histories. Most are checked by the world
//! at every step (`world/watch.rs`); here is what must hold at the end of each.

use ipam_core::{EniKind, Growth, Owner, tags};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{FileFailurePersistence, RngSeed};

use crate::events::{Event, event, live};
use crate::world::{Cloud, Node, secs, targets_for};

/// Where the seeds of failures are kept.
const SEEDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pool.proptest-regressions");

/// Lets `events` happen to a node of type `instance` with `subnet` addresses
/// in each of its two subnets, and checks what it comes to.
pub(crate) fn check_history(instance: &str, subnet: u32, foreign: bool, events: &[Event]) {
    let targets = targets_for(instance);
    let limits = &targets.limits;
    let mut cloud = Cloud::new(limits.enis(), limits.ipv4_per_eni, subnet);
    cloud.add_subnet("subnet-b", subnet, &[(tags::SUBNET_ROLE, "1")]);
    cloud.add_subnet("subnet-c", 4096, &[]);
    let mut strangers = Vec::new();
    if foreign {
        let begin = ipam_core::Now::default();
        strangers.push(cloud.add_foreign(EniKind::Efa, 1, None, begin));
        strangers.push(cloud.add_foreign(EniKind::Interface, 7, Some((tags::NO_MANAGE, "true")), begin));
    }
    let strangers: Vec<_> = cloud.enis().filter(|eni| strangers.contains(&eni.id)).cloned().collect();
    let mut node = Node::new(cloud, targets);
    node.watch.strangers(strangers);
    for event in events {
        live(&mut node, event);
    }
    check_rest(&mut node);
    check_restart(&mut node);
    check_service(&mut node);
}

/// EC2 recovers and time passes: the pool comes to rest and agrees with it.
fn check_rest(node: &mut Node) {
    node.cloud.faults.clear();
    node.cloud.omitted = None;
    node.cloud.lag = secs(0);
    node.targets.growth = Growth::Normal;
    node.state.announce(0);
    node.pass(secs(1800));
    assert!(node.is_quiet(), "law 4: not at rest: {:?}", node.begun.iter().rev().take(8).collect::<Vec<_>>());
    assert_eq!(node.state.waiters().count(), 0, "law 3: everybody has an answer");
    node.cloud.calls.clear();
    node.begun.clear();
    node.pass(secs(900));
    assert_eq!(node.cloud.mutating_calls(), 0, "law 4: constant demand, and yet {:?}", node.begun);
    node.check_agreement();

    let counts = node.state.counts(&node.targets, node.now);
    assert!(
        counts.leased + counts.free + counts.pending <= node.targets.max_pods.max(counts.leased),
        "law 4: {counts:?} for {} pods",
        node.targets.max_pods
    );
    let primary = node.state.enis().find(|eni| eni.owner == Owner::Primary).expect("there is one");
    let groups = match &node.targets.security_groups {
        chosen if !chosen.is_empty() => chosen,
        _ => &primary.groups,
    };
    for eni in node.state.enis().filter(|eni| eni.owner == Owner::Ours) {
        assert_eq!(eni.groups, *groups, "law 10: {} does not follow", eni.id);
        let leased = node.state.leases().filter(|lease| eni.carries(lease.address)).count();
        assert!(
            node.state.serves(eni, &node.targets) || leased > 0,
            "law 6: {} serves nobody and was not given back",
            eni.id
        );
    }
    check_full(node);
}

/// Where something is missing at rest, there is no place that could give it.
fn check_full(node: &Node) {
    if node.state.sizing(&node.targets, node.now).missing == 0 {
        return;
    }
    let slots = node.targets.limits.slots_per_eni();
    let card = node.targets.limits.default_card;
    for eni in node.state.enis().filter(|eni| node.state.serves(eni, &node.targets)) {
        let free = node.cloud.free_in(&eni.subnet);
        assert!(
            eni.slots_used() >= slots || free == 0 || !node.state.is_linked(eni),
            "law 7: {} has room and {} has {free} free addresses",
            eni.id,
            eni.subnet
        );
    }
    let attached = node.state.enis().filter_map(|eni| eni.attachment.as_ref());
    let attached = attached.filter(|at| at.network_card == card).count();
    if attached < node.targets.eni_limit() as usize {
        for subnet in node.state.new_eni_subnets(&node.targets) {
            let free = node.cloud.free_in(&subnet);
            assert!(free < 2, "law 7: {attached} ENIs, and {subnet} has {free} free addresses");
        }
    }
}

/// A restart with a pool on target changes nothing.
fn check_restart(node: &mut Node) {
    let on_target = node.state.sizing(&node.targets, node.now).missing == 0;
    node.cloud.calls.clear();
    node.begun.clear();
    node.crash();
    node.pass(secs(120));
    assert!(
        !on_target || node.cloud.mutating_calls() == 0,
        "law 5: a restart with a pool on target calls {:?}",
        node.begun
    );
}

/// Everybody is served who fits.
fn check_service(node: &mut Node) {
    let free = node.state.counts(&node.targets, node.now).free;
    node.burst(100..100 + free);
    node.pass(secs(30));
    let served = (100..100 + free).filter(|pod| node.holders.contains_key(&Node::key(*pod))).count();
    assert_eq!(served, free as usize, "law 3: {:?}", node.refused);
}

/// Five hundred each, the same ones at every run, so that a change is judged by what it changed. Where
/// `PROPTEST_CASES` asks for more, they are new ones each time: that is how one looks for histories that nobody
/// thought of, and their seeds are kept.
fn histories() -> ProptestConfig {
    const USUAL: u32 = 500;
    let default = ProptestConfig::default();
    let rng_seed = match default.rng_seed {
        RngSeed::Random if default.cases <= USUAL => RngSeed::Fixed(1),
        seed => seed,
    };
    ProptestConfig {
        cases: default.cases.max(USUAL),
        rng_seed,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(SEEDS))),
        ..default
    }
}

proptest! {
    #![proptest_config(histories())]

    #[test]
    fn small_instance(events in vec(event(), 1..60)) {
        check_history("t3.small", 4096, false, &events);
    }

    #[test]
    fn larger_instance(events in vec(event(), 1..60)) {
        check_history("m5.large", 4096, false, &events);
    }

    #[test]
    fn narrow_subnets(events in vec(event(), 1..60)) {
        check_history("m5.large", 64, false, &events);
    }

    #[test]
    fn beside_foreign_enis(events in vec(event(), 1..60)) {
        check_history("m5.xlarge", 4096, true, &events);
    }
}
