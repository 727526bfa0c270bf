//! Law 9: what a node reads off the line, and what its pool makes of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipam_core::{
    AccountLimits, Action, AttachmentId, AttachmentRecord, AttachmentStatus, EniId, EniKind, EniRecord,
    EniStatus, Failure, FailureClass, Identity, InstanceId, InstanceTable, Lane, Line, Load, MacAddr, Now,
    Operation, PodRef, PoolState, Queue, Refusal, Reply, SandboxKey, SecurityGroupId, Shape, SubnetId,
    SubnetQuery, Targets, Waiter, plan, spread_of,
};
use proptest::prelude::*;

const SHAPE: Shape = Shape { per_eni: 9, uses_primary: true, warm: 0 };
const NINE: Load = Load { waiting: 9, addressed: 0, booting: false };

fn line() -> Line<u32> {
    let mut line = Line::new(AccountLimits::default(), SHAPE);
    line.set_nodes(5000);
    line
}

fn at(seconds: f64) -> Now {
    Now::default() + Duration::from_secs_f64(seconds)
}

fn wait(queue: &Queue, lane: Lane) -> f64 {
    queue.turns[lane as usize].wait.as_secs_f64()
}

/// EC2's bucket, as it really is.
struct Bucket {
    level: f64,
    at: f64,
    capacity: f64,
    refill: f64,
}

impl Bucket {
    fn take(&mut self, now: f64) -> bool {
        self.level = (self.level + (now - self.at).max(0.0) * self.refill).min(self.capacity);
        self.at = self.at.max(now);
        let taken = self.level >= 1.0;
        self.level -= f64::from(u8::from(taken));
        taken
    }
}

/// Everybody comes at a time of its own and calls in its turn; the API shows
/// what was done `lag` later. Returns when each was served and how many calls
/// were refused.
fn served(arrivals: &[f64], lag: f64, step: f64) -> (Vec<f64>, u32) {
    let mut line = line();
    let mut bucket = Bucket { level: 100.0, at: 0.0, capacity: 100.0, refill: 5.0 };
    let mut open: BTreeSet<u32> = BTreeSet::new();
    let mut shown: BTreeMap<u32, f64> = BTreeMap::new();
    let (mut done, mut refused) = (Vec::new(), 0);
    let mut order: Vec<(f64, u32)> = arrivals.iter().copied().zip(0..).collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut order = order.into_iter().peekable();
    let mut now = 0.0;
    while done.len() < arrivals.len() {
        assert!(now < 10_000.0, "{} of {} were served", done.len(), arrivals.len());
        while let Some((_, node)) = order.next_if(|(arrival, _)| *arrival <= now) {
            line.update(&node, NINE, at(now));
            open.insert(node);
        }
        for (node, _) in shown.extract_if(.., |_, since| *since + lag <= now) {
            line.update(&node, Load { waiting: 0, addressed: 9, booting: false }, at(now));
        }
        for (node, queue) in line.queues(at(now)) {
            if wait(&queue, Lane::Assign) == 0.0 && open.contains(&node) {
                if bucket.take(now) {
                    open.remove(&node);
                    shown.insert(node, now);
                    done.push(now);
                } else {
                    refused += 1;
                }
            }
        }
        now += step;
    }
    (done, refused)
}

#[test]
fn a_fleet_at_once_is_served_as_fast_as_the_bucket_allows() {
    for lag in [0.2, 3.0, 10.0] {
        let (done, refused) = served(&[1.0; 500], lag, 0.25);
        assert_eq!(refused, 0);
        // 90 at once and 4.75 a second; the bucket itself would take 80 s.
        let last = done.last().expect("somebody");
        assert!((80.0..90.0).contains(last), "with a lag of {lag} s the last was served at {last:.1} s");
    }
}

#[test]
fn places_are_taken_in_the_order_in_which_the_api_showed_them() {
    let mut line = line();
    for node in [7, 3, 5] {
        line.update(&node, NINE, at(1.0));
    }
    let ahead =
        |line: &mut Line<u32>, node| line.queue(&node, 0.0, at(1.0)).turns[Lane::Assign as usize].ahead;
    assert_eq!([7, 3, 5].map(|node| ahead(&mut line, node)), [0, 1, 2]);
    line.update(&7, Load { waiting: 0, addressed: 9, booting: false }, at(1.5));
    assert_eq!([3, 5].map(|node| ahead(&mut line, node)), [0, 1]);
}

#[test]
fn tokens_are_counted_by_what_a_node_needs() {
    let cases = [
        ("fits the primary ENI", 9, 0, (1, 0)),
        ("one beyond it", 10, 0, (1, 1)),
        ("two ENIs more", 20, 0, (1, 2)),
        ("the primary is full", 11, 9, (0, 2)),
        ("an ENI is begun", 3, 12, (1, 0)),
    ];
    for (name, waiting, addressed, (assigns, creates)) in cases {
        let mut line = line();
        // A thousand of them: what the next one waits for tells what they take.
        for node in 0..1000 {
            line.update(&node, Load { waiting, addressed, booting: false }, at(1.0));
        }
        let queue = line.queue(&5000, 0.0, at(1.0));
        let tokens = |lane, burst: f64| (wait(&queue, lane) * 4.75 + burst) / 1000.0;
        assert!((tokens(Lane::Assign, 90.0) - f64::from(assigns)).abs() < 0.1, "{name}: {queue:?}");
        assert!((tokens(Lane::Create, 45.0) - f64::from(creates)).abs() < 0.1, "{name}: {queue:?}");
    }
}

#[test]
fn nodes_that_are_never_served_hold_nobody_up_for_ever() {
    let mut line = line();
    for node in 0..400 {
        line.update(&node, NINE, at(1.0));
    }
    // None of them is ever served. A newcomer waits at first.
    line.update(&900, NINE, at(30.0));
    assert!(wait(&line.queue(&900, 0.0, at(30.0)), Lane::Assign) > 10.0);
    // 95 of them are in play for a minute and a half, then the next.
    let mut now = 31.0;
    while wait(&line.queue(&900, 0.0, at(now)), Lane::Assign) > 0.0 {
        now += 1.0;
        assert!(now < 450.0, "still held up");
    }
    // They get further turns, and hardly delay those who come meanwhile.
    let mut again = 0;
    while now < 2000.0 {
        now += 5.0;
        let turn = line.queue(&0, 0.0, at(now)).turns[Lane::Assign as usize];
        again += u32::from(turn.in_line && turn.wait.is_zero());
    }
    assert!(again > 0, "given up for ever");
    for late in 1000..1003 {
        line.update(&late, NINE, at(2000.0));
        assert_eq!(wait(&line.queue(&late, 0.0, at(2000.0)), Lane::Assign), 0.0);
    }
    // More pods on a node that was given up are a new attempt.
    line.update(&0, Load { waiting: 22, addressed: 0, booting: false }, at(2000.0));
    assert!(line.queue(&0, 0.0, at(2000.0)).turns[Lane::Create as usize].in_line);
}

#[test]
fn pods_that_no_address_helps_hold_a_newcomer_up_for_one_round_at_most() {
    for (stuck, longest) in [(200, 110.0), (5000, 1200.0)] {
        let mut line = line();
        for node in 0..stuck {
            line.update(&node, Load { waiting: 1, addressed: 5, booting: false }, at(1.0));
        }
        line.update(&9000, NINE, at(10.0));
        let mut now = 10.0;
        while wait(&line.queue(&9000, 0.5, at(now)), Lane::Assign) > 0.0 {
            now += 1.0;
            assert!(now < longest, "behind {stuck} nodes");
        }
        // An agent that starts later takes them for what they are.
        let mut line = self::line();
        let old = (0..stuck).map(|node| (node, NINE, Duration::from_secs(3600)));
        line.listed(old.chain([(9000, NINE, Duration::from_secs(1))]), at(1.0));
        let queue = line.queue(&9000, 0.5, at(1.0));
        assert_eq!((wait(&queue, Lane::Assign), queue.crowd), (0.0, Duration::ZERO), "{queue:?}");
        assert_eq!(queue.turns[Lane::Assign as usize].ahead, 0);
    }
}

#[test]
fn pods_served_from_warm_addresses_are_no_crowd() {
    let mut line = Line::new(AccountLimits::default(), Shape { warm: 9, ..SHAPE });
    line.set_nodes(5000);
    // Eight pods start each second, and the API shows their addresses three
    // seconds later.
    let (mut now, mut node) = (0.0, 0_u32);
    while now < 900.0 {
        line.update(&(node % 4000), Load { waiting: 1, addressed: 5, booting: false }, at(now));
        if node >= 24 {
            line.update(&((node - 24) % 4000), Load { waiting: 0, addressed: 6, booting: false }, at(now));
        }
        let queue = line.queue(&4999, 0.5, at(now));
        assert_eq!((queue.crowd, wait(&queue, Lane::Assign)), (Duration::ZERO, 0.0), "at {now} s");
        (now, node) = (now + 0.125, node + 1);
    }
    // Those that had none, or wait for longer, are one.
    for node in 5000..5500 {
        line.update(&node, Load { waiting: 1, addressed: 5, booting: false }, at(now));
    }
    assert!(wait(&line.queue(&4999, 0.5, at(now)), Lane::Assign) > 60.0);
    for node in 5000..5500 {
        line.update(&node, Load { waiting: 0, addressed: 6, booting: false }, at(now + 60.0));
    }
    assert!(line.queue(&4999, 0.5, at(now + 60.0)).crowd > Duration::from_secs(60));
}

#[test]
fn a_list_of_an_old_line_claims_no_burst() {
    let loads: Vec<(u32, Load)> = (0..1000).map(|node| (node, NINE)).collect();
    for (age, first) in [(0.0, 90), (9.5, 45), (600.0, 0)] {
        let mut line = line();
        let aged = loads.iter().map(|(node, load)| (*node, *load, Duration::from_secs_f64(age)));
        line.listed(aged, at(700.0));
        let at_once =
            line.queues(at(700.0)).values().filter(|queue| wait(queue, Lane::Assign) == 0.0).count();
        assert!(at_once.abs_diff(first) <= 1, "{at_once} at once, {age} s after the first came");
    }
}

#[test]
fn raised_limits_are_used() {
    let mut line: Line<u32> = Line::new(AccountLimits::scaled(4.0).expect("in range"), SHAPE);
    for node in 0..1000 {
        line.update(&node, NINE, at(1.0));
    }
    let last = wait(&line.queue(&999, 0.0, at(1.0)), Lane::Assign);
    assert!((last - (1000.0 - 360.0) / 19.0).abs() < 1.0, "{last}");
}

#[test]
fn names_that_are_alike_are_spread() {
    let spread: Vec<f64> =
        (0..1000).map(|node| spread_of(&format!("ip-10-0-0-{node}.ec2.internal"))).collect();
    assert!(spread.iter().all(|at| (0.0..1.0).contains(at)));
    for tenth in 0..10 {
        let low = f64::from(tenth) / 10.0;
        let count = spread.iter().filter(|at| (low..low + 0.1).contains(*at)).count();
        assert!((60..140).contains(&count), "{count} from {low}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Whenever they come: who calls in its turn is not refused.
    #[test]
    fn nobody_is_refused_in_its_turn(
        arrivals in prop::collection::vec(0.0..90.0_f64, 1..400),
        lag in 0.0..8.0_f64,
    ) {
        let (_, refused) = served(&arrivals, lag, 0.5);
        prop_assert_eq!(refused, 0);
    }

    /// Later places never come sooner, and a turn only moves earlier while
    /// those before leave.
    #[test]
    fn turns_are_in_order_and_never_put_off(
        loads in prop::collection::vec((1..40_u32, 0..40_u32, any::<bool>()), 1..300),
        leaving in prop::collection::vec((0..300_u32, 0.0..3.0_f64), 0..100),
    ) {
        let mut line = line();
        for (node, (waiting, addressed, booting)) in (0..).zip(&loads) {
            line.update(&node, Load { waiting: *waiting, addressed: *addressed, booting: *booting }, at(1.0));
        }
        let mut now = 1.0;
        let mut before: BTreeMap<u32, [f64; 3]> = BTreeMap::new();
        for (node, pause) in leaving {
            let queues = line.queues(at(now));
            for lane in [Lane::Assign, Lane::Create, Lane::Describe] {
                let waits: Vec<f64> = queues
                    .values()
                    .filter(|queue| queue.turns[lane as usize].in_line)
                    .map(|queue| wait(queue, lane))
                    .collect();
                prop_assert!(waits.is_sorted(), "{lane:?}: {waits:?}");
            }
            for (node, queue) in &queues {
                let turns = queue.turns.map(|turn| now + turn.wait.as_secs_f64());
                if let Some(known) = before.get(node) {
                    for lane in [Lane::Assign, Lane::Create, Lane::Describe] {
                        let (was, is) = (known[lane as usize].max(now), turns[lane as usize]);
                        let in_line = queue.turns[lane as usize].in_line;
                        // A line that does not move is put off; here it moves.
                        prop_assert!(!in_line || is <= was + 20.1, "{lane:?} of {node}: {was} to {is}");
                    }
                }
                before.insert(*node, turns);
            }
            line.update(&node, Load::default(), at(now));
            before.remove(&node);
            now += pause;
        }
    }

    /// Nobody else there: no wait, whatever this node has been through.
    #[test]
    fn a_node_alone_never_waits(steps in prop::collection::vec((0..30_u32, 0..30_u32, 0.0..100.0_f64), 1..50)) {
        let mut line = line();
        let mut now = 1000.0;
        for (waiting, addressed, pause) in steps {
            line.update(&1, Load { waiting, addressed, booting: false }, at(now));
            let queue = line.queue(&1, 0.5, at(now));
            for lane in [Lane::Assign, Lane::Create, Lane::Describe] {
                prop_assert_eq!(wait(&queue, lane), 0.0, "{:?}", queue);
            }
            prop_assert_eq!(queue.crowd, Duration::ZERO);
            // As long as its own calls would be more than the bucket has.
            now += pause.max(20.0);
        }
    }
}

// The pool's side.

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
