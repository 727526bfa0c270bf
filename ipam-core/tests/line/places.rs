//! Who stands where in line, and when a turn comes.

use super::*;

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
