//! What a pool makes of its turn.

use super::*;

fn primary() -> EniRecord {
    EniRecord {
        id: EniId::new("eni-1"),
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
        subnet: SubnetId::new("subnet-a"),
        kind: EniKind::Interface,
        status: EniStatus::InUse,
        attachment: Some(AttachmentRecord {
            id: AttachmentId::new("eni-attach-1"),
            instance: Some(InstanceId::new("i-1")),
            device_index: 0,
            network_card: 0,
            status: AttachmentStatus::Attached,
            delete_on_termination: true,
        }),
        primary_ip: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 4)),
        singles: Vec::new(),
        prefixes: Vec::new(),
        groups: BTreeSet::from([SecurityGroupId::new("sg-1")]),
        tags: BTreeMap::new(),
        requester_managed: false,
    }
}

struct Pool {
    state: PoolState,
    targets: Targets,
}

impl Pool {
    /// A fresh m5.large with default targets that has looked at its ENIs.
    fn new() -> Self {
        let limits = InstanceTable::default().find("m5.large").expect("readable").expect("known");
        let targets = Targets::new(limits, SubnetId::new("subnet-a"));
        let identity = Identity { instance: InstanceId::new("i-1"), manage_untagged: false };
        Self { state: PoolState::new(identity, "seed"), targets }
    }

    fn looked(mut self, now: Now) -> Self {
        let intent = self.state.begin(Action::DescribeEnis, &self.targets, now);
        self.state.complete(intent.id, Ok(Reply::Enis(vec![primary()])), &self.targets, now, 0.5);
        self
    }

    fn ask(&mut self, pods: u32, now: Now) {
        for pod in 0..pods {
            let key = SandboxKey {
                network: "aws-cni".to_owned(),
                container_id: format!("c{pod}"),
                ifname: "eth0".to_owned(),
            };
            let deadline = now + Duration::from_secs(20);
            self.state.ask(Waiter { key, pod: Some(pod_ref(pod)), since: now, deadline });
        }
    }

    fn growth(&mut self, now: Now) -> (Vec<Operation>, Option<Now>) {
        self.state.settle(&self.targets, now);
        let planned = plan(&self.state, &self.targets, now);
        let calls = planned.actions.iter().map(Action::operation).filter(|call| call.is_mutating());
        (calls.collect(), planned.wake_at)
    }
}

fn pod_ref(pod: u32) -> PodRef {
    PodRef { namespace: "shop".to_owned(), name: format!("pod-{pod}"), uid: None }
}

/// What node 1 reads when `before` nodes came before it and `load` is its own.
fn reading(before: u32, load: Load, now: Now) -> Queue {
    let mut line = line();
    for node in 2..2 + before {
        line.update(&node, NINE, now);
    }
    line.update(&1, load, now);
    line.queue(&1, 0.5, now)
}

#[test]
fn a_pool_that_waits_alone_calls_at_once() {
    let now = at(100.0);
    for queue in [None, Some(reading(0, NINE, now)), Some(reading(80, NINE, now))] {
        let mut pool = Pool::new().looked(now);
        if let Some(queue) = queue {
            pool.state.queue(queue, now);
        }
        pool.ask(9, now);
        pool.growth(now);
        let (calls, _) = pool.growth(now + pool.targets.timing.coalesce);
        assert!(calls.contains(&Operation::Assign), "{calls:?} with {queue:?}");
    }
}

#[test]
fn a_pool_in_line_calls_in_its_turn_and_says_so_meanwhile() {
    let now = at(100.0);
    let mut pool = Pool::new().looked(now);
    let queue = reading(1000, NINE, now);
    pool.state.queue(queue, now);
    pool.ask(9, now);
    let turn = now + queue.turns[Lane::Assign as usize].wait;
    assert!(turn > at(280.0), "{queue:?}");
    let (calls, wake_at) = pool.growth(at(101.0));
    assert!(calls.is_empty(), "{calls:?}");
    assert!(wake_at.is_some_and(|at| at <= turn));
    let expired = pool.state.settle(&pool.targets, at(120.0));
    assert_eq!(expired.len(), 9);
    match &expired[0].reason {
        Refusal::Queued { ahead: 1000, wait } => assert!(wait.as_secs() > 100, "{wait:?}"),
        other => panic!("{other:?}"),
    }
    // The pods stay; those before leave sooner than was to be expected.
    pool.state.announce_pods((0..9).map(pod_ref).collect());
    pool.state.queue(reading(90, NINE, at(130.0)), at(130.0));
    let (calls, wake_at) = pool.growth(at(130.0));
    assert!(calls.is_empty() && wake_at.is_some_and(|wake| wake < at(131.0)), "{calls:?} {wake_at:?}");
    // One call for all, and no further ENI while others wait for theirs.
    assert_eq!(pool.growth(at(131.0)).0, [Operation::Assign]);
}

#[test]
fn a_pod_that_comes_before_the_apis_word_of_it_waits_for_that_in_a_large_cluster_only() {
    let now = at(100.0);
    for (nodes, held) in [(1, false), (45, false), (60, true), (5000, true)] {
        let mut line = line();
        line.set_nodes(nodes);
        let mut pool = Pool::new().looked(now);
        pool.state.queue(line.queue(&1, 0.5, now), now);
        pool.ask(3, now);
        pool.growth(now);
        let (calls, wake_at) = pool.growth(now + pool.targets.timing.coalesce);
        assert_eq!(calls.is_empty(), held, "{calls:?} of {nodes} nodes");
        assert!(!held || wake_at.is_some_and(|at| at <= now + Duration::from_secs(15)));
        // The API shows the pods, and nobody else.
        pool.state.queue(reading(0, NINE, now), now);
        assert!(!pool.growth(now + pool.targets.timing.coalesce).0.is_empty());
    }
}

#[test]
fn the_first_look_waits_for_the_line_but_not_for_ever() {
    let calls = |pool: &mut Pool, now| {
        pool.state.settle(&pool.targets, now);
        plan(&pool.state, &pool.targets, now).actions
    };
    let mut pool = Pool::new();
    pool.state.expect_queue(at(5.0));
    assert!(calls(&mut pool, at(0.1)).is_empty());
    assert!(plan(&pool.state, &pool.targets, at(0.1)).wake_at.is_some_and(|wake| wake <= at(5.0)));
    assert_eq!(calls(&mut pool, at(5.0)), [Action::DescribeEnis]);
    // A line of booting agents, and we are the two hundredth.
    let mut line = line();
    for node in 0..200 {
        line.update(&node, Load { booting: true, ..Load::default() }, at(1.0));
    }
    pool.state.queue(line.queue(&199, 0.5, at(1.0)), at(1.0));
    assert!(calls(&mut pool, at(1.0)).is_empty());
    assert_eq!(calls(&mut pool, at(8.0)), [Action::DescribeEnis], "110 of them take less than six seconds");
}

#[test]
fn a_throttled_call_is_tried_soon_when_alone_and_late_in_a_crowd() {
    let pause = |queue: Queue| {
        let now = at(100.0);
        let mut pool = Pool::new().looked(now);
        pool.state.queue(queue, now);
        pool.ask(9, now);
        pool.growth(now);
        let mut longest = Duration::ZERO;
        for dice in [0.0, 0.5, 0.99, 0.99, 0.99, 0.99] {
            let assign = Action::Assign {
                eni: EniId::new("eni-1"),
                want: ipam_core::Want { singles: 9, prefixes: 0 },
            };
            let intent = pool.state.begin(assign, &pool.targets, now);
            let throttled = Err(Failure::of(FailureClass::Throttled));
            pool.state.complete(intent.id, throttled, &pool.targets, now, dice);
            let until = pool.state.backoffs(now).map(|(_, backoff)| backoff.until).max();
            longest = longest.max(until.map_or(Duration::ZERO, |until| until.since(now)));
        }
        longest
    };
    let now = at(100.0);
    assert!(pause(reading(0, NINE, now)) <= Duration::from_secs(11));
    let crowd = pause(reading(3000, NINE, now));
    assert!((60..=130).contains(&crowd.as_secs()), "{crowd:?}");
}

#[test]
fn a_look_at_the_subnets_that_pods_hang_on_is_soon_made_again() {
    let now = at(100.0);
    let pause = |early: bool, action: &dyn Fn(&Pool) -> Action| {
        let mut pool = Pool::new().looked(now);
        pool.state.queue(reading(0, Load::default(), now), now);
        let throttle = |pool: &mut Pool| {
            let intent = pool.state.begin(action(pool), &pool.targets, now);
            pool.state.complete(
                intent.id,
                Err(Failure::of(FailureClass::Throttled)),
                &pool.targets,
                now,
                0.5,
            );
        };
        if early {
            throttle(&mut pool);
        }
        pool.ask(3, now);
        pool.growth(now);
        if !early {
            throttle(&mut pool);
        }
        pool.state.backoffs(now).map(|(_, backoff)| backoff.until.since(now)).max().unwrap_or_default()
    };
    let subnets =
        |_: &Pool| Action::DescribeSubnets { query: SubnetQuery::Ids(vec![SubnetId::new("subnet-a")]) };
    for early in [false, true] {
        let rest = pause(early, &subnets);
        assert!(rest <= Duration::from_secs(2), "{rest:?}, refused before the pods came: {early}");
        // Nothing hangs on a regular look.
        assert!(pause(early, &|_| Action::DescribeEnis) > Duration::from_secs(10));
    }
}

#[test]
fn a_node_that_the_line_does_not_count_is_told_of_its_turn_too() {
    let now = at(100.0);
    // Not seen by the API, and given up.
    let mut unseen = line();
    let mut given_up = line();
    given_up.update(&1, NINE, at(0.0));
    given_up.queue(&1, 0.5, at(1.0));
    given_up.queue(&1, 0.5, now);
    for line in [&mut unseen, &mut given_up] {
        for node in 2..1002 {
            line.update(&node, NINE, now);
        }
        let queue = line.queue(&1, 0.5, now);
        assert!(!queue.turns[Lane::Assign as usize].in_line, "{queue:?}");
        let mut pool = Pool::new().looked(now);
        pool.state.queue(queue, now);
        pool.ask(9, now);
        assert!(pool.growth(at(105.0)).0.is_empty());
        let reason = Refusal::of(&pool.state, &pool.targets, at(105.0));
        assert!(matches!(reason, Refusal::Queued { ahead: 1000, .. }), "{reason:?}");
    }
}

#[test]
fn a_turn_that_came_too_late_for_a_pod_is_its_reason() {
    let mut pool = Pool::new().looked(at(100.0));
    pool.state.queue(reading(1000, NINE, at(100.0)), at(100.0));
    pool.ask(9, at(100.0));
    pool.growth(at(101.0));
    pool.state.queue(reading(0, NINE, at(119.0)), at(119.0));
    pool.growth(at(119.0));
    let assign =
        Action::Assign { eni: EniId::new("eni-1"), want: ipam_core::Want { singles: 9, prefixes: 0 } };
    pool.state.begin(assign, &pool.targets, at(119.5));
    let expired = pool.state.settle(&pool.targets, at(120.0));
    assert_eq!(
        expired.first().map(|one| &one.reason),
        Some(&Refusal::Queued { ahead: 0, wait: Duration::ZERO })
    );
}

/// EC2 without limits: every call is answered at once.
fn answered(pool: &mut Pool, given: &mut u8, now: Now) -> usize {
    pool.state.settle(&pool.targets, now);
    pool.state.serve(&pool.targets, now);
    pool.state.settle(&pool.targets, now);
    let actions = plan(&pool.state, &pool.targets, now).actions;
    let mutating = actions.iter().filter(|action| action.operation().is_mutating()).count();
    for action in actions {
        let reply = match &action {
            Action::DescribeEnis => {
                let singles =
                    (0..*given).map(|host| IpAddr::V4(Ipv4Addr::new(10, 0, 0, 10 + host))).collect();
                Ok(Reply::Enis(vec![EniRecord { singles, ..primary() }]))
            }
            Action::Assign { want, .. } => {
                let count = u8::try_from(want.singles).expect("an ENI's worth");
                let hosts = *given..*given + count;
                *given += count;
                let singles = hosts.map(|host| IpAddr::V4(Ipv4Addr::new(10, 0, 0, 10 + host))).collect();
                Ok(Reply::Assigned { singles, prefixes: Vec::new() })
            }
            _ => Err(Failure::of(FailureClass::Throttled)),
        };
        let intent = pool.state.begin(action, &pool.targets, now);
        pool.state.complete(intent.id, reply, &pool.targets, now, 0.5);
    }
    pool.state.settle(&pool.targets, now);
    pool.state.serve(&pool.targets, now);
    mutating
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Law 4 with a line that changes all the time: what is held back has a
    /// point at which it is looked at again, demand is met once the line is
    /// gone, and then no call follows.
    #[test]
    fn readings_of_any_line_delay_and_never_stop_or_stir_a_pool(
        readings in prop::collection::vec((0..3000_u32, 0..10_u32, any::<bool>(), 0.1..30.0_f64), 1..20),
        pods in 1..10_u32,
    ) {
        let mut pool = Pool::new();
        pool.targets.max_eni = Some(1);
        pool.targets.warm_ip = Some(0);
        let mut given = 0;
        let mut now = 100.0;
        answered(&mut pool, &mut given, at(now));
        for pod in 0..pods {
            let key = SandboxKey {
                network: "aws-cni".to_owned(),
                container_id: format!("c{pod}"),
                ifname: "eth0".to_owned(),
            };
            let deadline = at(10_000.0);
            pool.state.ask(Waiter { key, pod: Some(pod_ref(pod)), since: at(now), deadline });
        }
        for (before, waiting, seen, pause) in readings {
            let load = Load { waiting: if seen { waiting } else { 0 }, addressed: 0, booting: false };
            pool.state.queue(reading(before, load, at(now)), at(now));
            answered(&mut pool, &mut given, at(now));
            let open = pool.state.waiters().count();
            let wake_at = plan(&pool.state, &pool.targets, at(now)).wake_at;
            prop_assert!(wake_at.is_some_and(|wake| wake > at(now)), "{wake_at:?}");
            if open > 0 {
                // No call is under way: the next is one that the turn allows.
                let turn = before as f64 / 4.75 + 16.0;
                prop_assert!(wake_at.is_some_and(|wake| wake <= at(now + turn)), "{wake_at:?}");
                let reason = Refusal::of(&pool.state, &pool.targets, at(now));
                prop_assert!(matches!(reason, Refusal::Queued { .. } | Refusal::StillGrowing), "{reason:?}");
            }
            now += pause;
        }
        // The last reading's turn comes, though nobody reads on.
        let mut last = None;
        for _ in 0..200 {
            if pool.state.waiters().count() == 0 {
                break;
            }
            let wake = plan(&pool.state, &pool.targets, at(now)).wake_at.expect("something is held back");
            now = now.max(Duration::from_millis(wake.as_millis()).as_secs_f64());
            answered(&mut pool, &mut given, at(now));
            last = Some(wake);
        }
        prop_assert_eq!(pool.state.waiters().count(), 0, "woken last at {:?}", last);
        prop_assert_eq!(u32::from(given), pods);
        // Whatever it is told from now on.
        for before in [0, 50, 3000, 0] {
            now += 3.0;
            pool.state.queue(reading(before, Load { waiting: 0, addressed: pods, booting: false }, at(now)), at(now));
            prop_assert_eq!(answered(&mut pool, &mut given, at(now)), 0);
        }
    }
}

#[test]
fn a_pod_that_has_its_lease_is_not_waited_for_twice() {
    let now = at(100.0);
    let mut pool = Pool::new().looked(now);
    let want = ipam_core::Want { singles: 9, prefixes: 0 };
    let assign = Action::Assign { eni: EniId::new("eni-1"), want };
    let intent = pool.state.begin(assign, &pool.targets, now);
    let singles = (10..19).map(|host| IpAddr::V4(Ipv4Addr::new(10, 0, 0, host))).collect();
    let reply = Reply::Assigned { singles, prefixes: Vec::new() };
    pool.state.complete(intent.id, Ok(reply), &pool.targets, now, 0.5);
    let later = at(101.0);
    pool.state.announce_pods((0..5).map(pod_ref).collect());
    pool.ask(5, later);
    pool.state.settle(&pool.targets, later);
    assert_eq!(pool.state.serve(&pool.targets, later).len(), 5);
    pool.state.settle(&pool.targets, later);
    assert_eq!(pool.state.counts(&pool.targets, later).announced, 0);
    // The API still shows one that has no lease here.
    pool.state.announce_pods((3..6).map(pod_ref).collect());
    assert_eq!(pool.state.counts(&pool.targets, later).announced, 1);
}
