//! The laws of the pool over random histories. Laws 1 to 5 and 10 are checked
//! by [`Node`] at every step; here is what must hold at the end of each.

use ipam_core::{AllocationMode, EniKind, Operation, tags};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::world::{Cloud, Fault, Node, millis, secs, targets_for};

/// One event of a history.
#[derive(Clone, Debug)]
enum Event {
    Add(u32),
    Burst(u32, u32),
    Commit(u32),
    Del(u32),
    DelAll,
    Pass(u64),
    Crash,
    Fault(Operation, Fault),
    Lag(u64),
    MaxPods(u32),
    Cooldown(u64),
    Warm(Option<u32>, Option<u32>),
    Prefixes(bool),
    Occupy(u32),
}

fn operation() -> impl Strategy<Value = Operation> {
    prop::sample::select(vec![
        Operation::CreateEni,
        Operation::Attach,
        Operation::Modify,
        Operation::Assign,
        Operation::Unassign,
        Operation::Detach,
        Operation::DeleteEni,
        Operation::DescribeEnis,
        Operation::DescribeSubnets,
    ])
}

fn fault() -> impl Strategy<Value = Fault> {
    prop::sample::select(vec![Fault::Throttle, Fault::Deny, Fault::LostReply, Fault::ServerError])
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..40_u32).prop_map(Event::Add),
        2 => (0..40_u32, 1..20_u32).prop_map(|(first, count)| Event::Burst(first, count)),
        6 => (0..40_u32).prop_map(Event::Commit),
        5 => (0..40_u32).prop_map(Event::Del),
        1 => Just(Event::DelAll),
        6 => (1..5_000_u64).prop_map(Event::Pass),
        3 => (5_000..180_000_u64).prop_map(Event::Pass),
        2 => Just(Event::Crash),
        3 => (operation(), fault()).prop_map(|(operation, fault)| Event::Fault(operation, fault)),
        1 => (0..20_u64).prop_map(Event::Lag),
        1 => (4..40_u32).prop_map(Event::MaxPods),
        1 => (0..45_u64).prop_map(Event::Cooldown),
        1 => (prop::option::of(0..8_u32), prop::option::of(0..12_u32)).prop_map(|(w, m)| Event::Warm(w, m)),
        1 => any::<bool>().prop_map(Event::Prefixes),
        1 => (1..30_u32).prop_map(Event::Occupy),
    ]
}

fn live(node: &mut Node, event: &Event) {
    match event {
        Event::Add(pod) => node.burst(std::iter::once(*pod)),
        Event::Burst(first, count) => node.burst(*first..first + count),
        Event::Commit(pod) => node.commit(*pod),
        Event::Del(pod) => node.del(*pod),
        Event::DelAll => (0..60).for_each(|pod| node.del(pod)),
        Event::Pass(span) => node.pass(millis(*span)),
        Event::Crash => node.crash(),
        Event::Fault(operation, fault) => node.cloud.faults.push((*operation, *fault)),
        Event::Lag(seconds) => node.cloud.lag = secs(*seconds),
        Event::MaxPods(max_pods) => node.targets.max_pods = *max_pods,
        Event::Cooldown(seconds) => node.targets.cooldown = node.targets.cooldown.max(secs(*seconds)),
        Event::Warm(warm, minimum) => (node.targets.warm_ip, node.targets.minimum_ip) = (*warm, *minimum),
        Event::Prefixes(on) => {
            node.targets.mode = if *on { AllocationMode::Prefix } else { AllocationMode::Secondary };
        }
        Event::Occupy(count) => node.cloud.occupy(*count),
    }
}

fn check_history(instance: &str, subnet: u32, foreign: bool, events: &[Event]) {
    let targets = targets_for(instance);
    let limits = &targets.limits;
    let mut cloud = Cloud::new(limits.enis(), limits.ipv4_per_eni, subnet);
    if foreign {
        cloud.add_foreign(EniKind::Efa, 1, None, ipam_core::Now::default());
        cloud.add_foreign(EniKind::Interface, 7, Some((tags::NO_MANAGE, "true")), ipam_core::Now::default());
    }
    let before: Vec<_> = cloud.enis().skip(1).cloned().collect();
    let mut node = Node::new(cloud, targets);
    for event in events {
        live(&mut node, event);
    }

    // EC2 recovers and time passes: the pool comes to rest and agrees with it.
    node.cloud.faults.clear();
    node.cloud.lag = secs(0);
    node.pass(secs(1800));
    assert!(node.is_quiet());
    assert_eq!(node.state.waiters().count(), 0, "everybody has an answer");
    node.cloud.calls.clear();
    node.pass(secs(900));
    assert_eq!(node.cloud.mutating_calls(), 0, "constant demand, no change: {:?}", node.cloud.calls);
    node.check_agreement();

    // Law 4, at rest.
    let counts = node.state.counts(&node.targets, node.now);
    if counts.leased <= node.targets.max_pods {
        assert!(
            counts.leased + counts.free + counts.pending <= node.targets.max_pods.max(counts.leased),
            "{counts:?}"
        );
    }
    // Law 10: what is not ours is as it was.
    for record in before {
        assert!(node.cloud.enis().any(|eni| *eni == record), "{record:?}");
    }
    // Law 5: a restart with a pool on target changes nothing.
    let on_target = node.state.sizing(&node.targets, node.now).missing == 0;
    node.crash();
    node.pass(secs(120));
    assert!(!on_target || node.cloud.mutating_calls() == 0, "a restart: {:?}", node.cloud.calls);

    // Law 1 holds for what is leased next, too, and everybody is served who
    // fits.
    let free = node.state.counts(&node.targets, node.now).free;
    node.burst(100..100 + free);
    node.pass(secs(30));
    let served = (100..100 + free).filter(|pod| node.holders.contains_key(&Node::key(*pod))).count();
    assert_eq!(served, free as usize, "{:?}", node.refused);
}

/// At least five hundred each, more where `PROPTEST_CASES` says so; failures
/// are kept in `proptest-regressions`.
fn histories() -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig { cases: default.cases.max(500), ..default }
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
    fn narrow_subnet(events in vec(event(), 1..60)) {
        check_history("m5.large", 64, false, &events);
    }

    #[test]
    fn beside_foreign_enis(events in vec(event(), 1..50)) {
        check_history("m5.xlarge", 4096, true, &events);
    }
}

/// Histories that once broke a law, as proptest shrank them.
#[test]
fn past_failures() {
    use Event::{Add, Burst, Commit, Cooldown, Crash, Del, DelAll, Lag, Occupy, Pass, Prefixes, Warm};
    let lost = |operation| Event::Fault(operation, Fault::LostReply);
    // Surplus that had once been smaller was never given back.
    check_history("m5.xlarge", 4096, false, &[Add(0), Pass(5000), DelAll]);
    check_history("m5.large", 4096, false, &[Pass(1300), Add(0), Pass(1), Pass(3449), Del(0)]);
    // A detach without an answer, and a describe that still showed it attached.
    let detach = [Add(0), Pass(300), Lag(1), DelAll, lost(Operation::Detach), Pass(62_900), Burst(0, 10)];
    check_history("m5.large", 4096, false, &detach);
    check_history("m5.large", 64, false, &detach);
    // A restart right after a detach: the checkpoint must say that it leaves.
    let unassign = Event::Fault(Operation::Unassign, Fault::Throttle);
    let restart = [
        Warm(Some(0), None),
        unassign,
        Lag(3),
        Burst(0, 15),
        Pass(2750),
        Crash,
        DelAll,
        Pass(86_688),
        Pass(3612),
        Burst(2, 14),
        Crash,
        Add(0),
        Pass(150),
    ];
    check_history("m5.xlarge", 4096, true, &restart);
    // An attach without an answer, seen late, made a second ENI.
    let attach = [
        Lag(12),
        Crash,
        lost(Operation::Attach),
        Burst(0, 10),
        Pass(3073),
        Crash,
        Burst(0, 10),
        Pass(610),
        DelAll,
        Pass(2287),
        Add(0),
        Pass(6480),
    ];
    check_history("m5.large", 4096, false, &attach);
    // A full subnet was tried again and again instead of read.
    check_history("m5.large", 64, false, &[Occupy(23), Prefixes(true), Occupy(19)]);
    check_history("m5.large", 64, false, &[Occupy(28), Occupy(20), Add(0)]);
    check_history("m5.large", 64, false, &[Add(0), Occupy(11), Occupy(19), Burst(1, 10), Prefixes(true)]);
    // A cooldown that grew while an address rested.
    let cooldown = [Cooldown(0), Add(0), Pass(600), Add(30), Commit(30), DelAll, Cooldown(31), Burst(0, 9)];
    check_history("t3.small", 4096, false, &cooldown);
}
