use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use tokio::time::Instant;

use super::{Election, LeaseRecord, Reply, Request};

/// Of every Lease here.
const DURATION: Duration = Duration::from_secs(60);
/// The middle of all draws.
const MIDDLE: f64 = 0.5;

fn seconds(count: f64) -> Duration {
    Duration::from_secs_f64(count)
}

fn lease(holder: Option<&str>, version: &str) -> LeaseRecord {
    LeaseRecord {
        holder: holder.map(str::to_owned),
        duration: Some(DURATION),
        transitions: 3,
        version: version.to_owned(),
    }
}

/// One exchange: when it is sent and answered, the reply; then when the next request is due and which it is, and until
/// when the Lease is held.
type Exchange = ([f64; 2], Reply, (f64, Request), Option<f64>);

fn check(what: &str, exchanges: Vec<Exchange>) {
    let start = Instant::now();
    let mut election = Election::new("me", DURATION, start + seconds(1.0));
    assert_eq!(election.next(), &(start + seconds(1.0), Request::Read), "{what}");
    for (number, (times, reply, (due, request), held_until)) in exchanges.into_iter().enumerate() {
        let at = |moment: f64| start + seconds(moment);
        let [sent, answered] = times.map(at);
        election.answer(reply, sent, answered, MIDDLE);
        let what = format!("{what}, exchange {number}");
        assert_eq!(election.next().1, request, "{what}");
        let is_due = (election.next().0 - start).as_secs_f64();
        assert!((is_due - due).abs() < 1e-6, "{what}: due at {is_due}, not {due}");
        assert_eq!(election.held_until(), held_until.map(at), "{what}");
    }
}

#[test]
fn first_of_all() {
    check(
        "nobody has it",
        vec![
            ([1.0, 2.0], Reply::Absent, (2.0, Request::Create), None),
            // Two thirds of the duration after it was sent.
            (
                [2.0, 4.0],
                Reply::Written(lease(Some("me"), "1")),
                (22.0, Request::Write(lease(Some("me"), "1"))),
                Some(42.0),
            ),
            (
                [22.0, 23.0],
                Reply::Written(lease(Some("me"), "2")),
                (42.0, Request::Write(lease(Some("me"), "2"))),
                Some(62.0),
            ),
        ],
    );
    check(
        "another creates it first",
        vec![
            ([1.0, 2.0], Reply::Absent, (2.0, Request::Create), None),
            ([2.0, 3.0], Reply::Conflict, (4.0, Request::Read), None),
        ],
    );
}

#[test]
fn a_candidate_waits_for_a_whole_duration_by_its_own_clock() {
    let theirs = |version: &str| lease(Some("other"), version);
    check(
        "the holder renews, then no more",
        vec![
            // Looks again when it may have run out, and up to half a duration later.
            ([1.0, 2.0], Reply::Found(theirs("1")), (77.0, Request::Read), None),
            ([77.0, 78.0], Reply::Found(theirs("4")), (153.0, Request::Read), None),
            ([153.0, 153.0], Reply::Found(theirs("4")), (153.0, Request::Write(theirs("4"))), None),
            (
                [153.0, 155.0],
                Reply::Written(lease(Some("me"), "5")),
                (173.0, Request::Write(lease(Some("me"), "5"))),
                Some(193.0),
            ),
        ],
    );
    check(
        "it was seen too shortly",
        vec![
            ([1.0, 2.0], Reply::Found(theirs("1")), (77.0, Request::Read), None),
            ([61.9, 61.9], Reply::Found(theirs("1")), (77.0, Request::Read), None),
            ([62.0, 62.0], Reply::Found(theirs("1")), (62.0, Request::Write(theirs("1"))), None),
            // The holder was only slow.
            ([62.0, 63.0], Reply::Conflict, (64.0, Request::Read), None),
            ([64.0, 64.0], Reply::Found(theirs("2")), (139.0, Request::Read), None),
        ],
    );
    let longer = LeaseRecord { duration: Some(DURATION * 2), ..theirs("1") };
    check(
        "the holder's own duration counts",
        vec![
            ([0.0, 0.0], Reply::Found(longer.clone()), (135.0, Request::Read), None),
            ([119.0, 119.0], Reply::Found(longer.clone()), (135.0, Request::Read), None),
            ([120.0, 120.0], Reply::Found(longer.clone()), (120.0, Request::Write(longer)), None),
        ],
    );
    let silent = LeaseRecord { duration: None, ..theirs("1") };
    check("where it says none, ours", vec![([0.0, 0.0], Reply::Found(silent), (75.0, Request::Read), None)]);
}

#[test]
fn what_is_free_or_ours_is_taken_at_once() {
    for holder in [None, Some("me")] {
        check(
            "a Lease without a holder, or of this node before a restart",
            vec![(
                [1.0, 2.0],
                Reply::Found(lease(holder, "7")),
                (2.0, Request::Write(lease(holder, "7"))),
                None,
            )],
        );
    }
}

#[test]
fn a_holder_in_trouble() {
    let held = || {
        (
            [1.0, 2.0],
            Reply::Written(lease(Some("me"), "1")),
            (21.0, Request::Write(lease(Some("me"), "1"))),
            Some(41.0),
        )
    };
    check(
        "an answer is lost, and was the server's yes",
        vec![
            held(),
            ([21.0, 31.0], Reply::Failed, (36.0, Request::Read), Some(41.0)),
            // By the reading alone it does not become longer.
            (
                [36.0, 37.0],
                Reply::Found(lease(Some("me"), "2")),
                (37.0, Request::Write(lease(Some("me"), "2"))),
                Some(41.0),
            ),
            (
                [37.0, 37.0],
                Reply::Written(lease(Some("me"), "3")),
                (57.0, Request::Write(lease(Some("me"), "3"))),
                Some(77.0),
            ),
        ],
    );
    check(
        "no server any more: it goes on trying, less and less often",
        vec![
            held(),
            ([21.0, 31.0], Reply::Failed, (36.0, Request::Read), Some(41.0)),
            ([36.0, 46.0], Reply::Failed, (106.0, Request::Read), Some(41.0)),
        ],
    );
    check(
        "another one took it",
        vec![
            held(),
            ([21.0, 22.0], Reply::Conflict, (23.0, Request::Read), Some(41.0)),
            ([23.0, 24.0], Reply::Found(lease(Some("other"), "9")), (99.0, Request::Read), None),
        ],
    );
    check(
        "somebody touched the object and nothing else",
        vec![
            held(),
            ([21.0, 22.0], Reply::Conflict, (23.0, Request::Read), Some(41.0)),
            (
                [23.0, 24.0],
                Reply::Found(lease(Some("me"), "9")),
                (24.0, Request::Write(lease(Some("me"), "9"))),
                Some(41.0),
            ),
        ],
    );
    check("somebody deleted it", vec![held(), ([21.0, 22.0], Reply::Absent, (27.0, Request::Read), None)]);
}

#[test]
fn a_lease_is_held_for_two_thirds_of_its_time() {
    let start = Instant::now();
    let mut election = Election::new("me", DURATION, start);
    assert!(!election.holds(start));
    election.answer(Reply::Absent, start, start, MIDDLE);
    election.answer(Reply::Written(lease(Some("me"), "1")), start, start + seconds(5.0), MIDDLE);
    assert!(election.holds(start + seconds(39.9)));
    assert!(!election.holds(start + seconds(40.0)));
    // An answer that comes too late is none.
    election.answer(
        Reply::Written(lease(Some("me"), "2")),
        start + seconds(41.0),
        start + seconds(90.0),
        MIDDLE,
    );
    assert!(!election.holds(start + seconds(90.0)));
}

// ------------------------------------------------- many nodes, one server

/// One message's fate.
#[derive(Clone, Copy, Debug)]
struct Fate {
    /// Until the server has the request, in milliseconds.
    out_ms: u64,
    /// Until the answer is back after that.
    back_ms: u64,
    /// Whether the answer never comes: the node gives up after a while.
    is_lost: bool,
    draw: f64,
}

fn fate(longest_ms: u64, losses: f64) -> impl Strategy<Value = Fate> {
    let delay = move || prop_oneof![3 => 0..200_u64, 1 => 0..longest_ms];
    (delay(), delay(), prop::bool::weighted(losses), 0.0..1.0_f64)
        .prop_map(|(out_ms, back_ms, is_lost, draw)| Fate { out_ms, back_ms, is_lost, draw })
}

/// The API server: one Lease, or none yet.
#[derive(Default)]
struct Server {
    lease: Option<LeaseRecord>,
    version: u64,
}

impl Server {
    fn handle(&mut self, node: &str, request: &Request) -> Reply {
        let held = |version: u64, transitions: u32| LeaseRecord {
            holder: Some(node.to_owned()),
            duration: Some(DURATION),
            transitions,
            version: version.to_string(),
        };
        match (request, &self.lease) {
            (Request::Read, None) | (Request::Write(_), None) => return Reply::Absent,
            (Request::Read, Some(lease)) => return Reply::Found(lease.clone()),
            (Request::Create, Some(_)) => return Reply::Conflict,
            (Request::Write(seen), Some(lease)) if seen.version != lease.version => return Reply::Conflict,
            (Request::Create, None) => {
                self.version += 1;
                self.lease = Some(held(self.version, 0));
            }
            (Request::Write(_), Some(lease)) => {
                let is_new = lease.holder.as_deref() != Some(node);
                self.version += 1;
                self.lease = Some(held(self.version, lease.transitions + u32::from(is_new)));
            }
        }
        self.lease.clone().map_or(Reply::Absent, Reply::Written)
    }
}

/// What happens next, in true time.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Event {
    /// The node's next request is due.
    Send,
    /// A request arrives; with the number of the exchange.
    Arrive(u64),
    /// The node hears the answer, or gives up waiting.
    Hear(u64),
}

struct Node {
    name: String,
    election: Election,
    /// Its clock is ahead of the true one by this.
    offset: Duration,
    is_dead: bool,
    /// When the pending request was sent, in true time, and its fate.
    pending: Option<(u64, Duration, Fate, Request)>,
}

/// Nodes and a server, driven by a list of fates.
struct Universe {
    origin: Instant,
    server: Server,
    nodes: Vec<Node>,
    events: BinaryHeap<Reverse<(Duration, usize, Event)>>,
    answers: BTreeMap<u64, Reply>,
    /// Requests under way, those that were given up included: they may still arrive.
    under_way: BTreeMap<u64, (usize, Request)>,
    exchanges: u64,
    fates: Vec<Fate>,
    /// Who believed when, in true time.
    beliefs: Vec<(usize, Duration)>,
}

impl Universe {
    fn new(offsets_ms: &[u64], fates: Vec<Fate>) -> Self {
        let origin = Instant::now();
        let mut events = BinaryHeap::new();
        let nodes: Vec<Node> = offsets_ms
            .iter()
            .enumerate()
            .map(|(number, offset)| {
                let offset = Duration::from_millis(*offset);
                let name = format!("node-{number}");
                let election = Election::new(&name, DURATION, origin + offset);
                events.push(Reverse((Duration::ZERO, number, Event::Send)));
                Node { name, election, offset, is_dead: false, pending: None }
            })
            .collect();
        Self {
            origin,
            server: Server::default(),
            nodes,
            events,
            answers: BTreeMap::new(),
            under_way: BTreeMap::new(),
            exchanges: 0,
            fates,
            beliefs: Vec::new(),
        }
    }

    /// A node's clock at a true time.
    fn local(&self, node: usize, at: Duration) -> Instant {
        self.origin + self.nodes[node].offset + at
    }

    fn believers(&self, at: Duration) -> Vec<usize> {
        (0..self.nodes.len())
            .filter(|node| {
                !self.nodes[*node].is_dead && self.nodes[*node].election.holds(self.local(*node, at))
            })
            .collect()
    }

    fn step(&mut self) -> Option<Duration> {
        let Reverse((at, node, event)) = self.events.pop()?;
        match event {
            Event::Send if !self.nodes[node].is_dead => {
                let fate = self.fates[self.exchanges as usize % self.fates.len()];
                let exchange = self.exchanges;
                self.exchanges += 1;
                let request = self.nodes[node].election.next().1.clone();
                self.under_way.insert(exchange, (node, request.clone()));
                self.nodes[node].pending = Some((exchange, at, fate, request));
                let arrival = at + Duration::from_millis(fate.out_ms);
                self.events.push(Reverse((arrival, node, Event::Arrive(exchange))));
                // A request that takes longer than this is given up. Long, so that answers come when it is too late.
                let patience = DURATION * 2;
                let back = arrival + Duration::from_millis(fate.back_ms);
                let heard = if fate.is_lost { at + patience } else { back.min(at + patience) };
                self.events.push(Reverse((heard, node, Event::Hear(exchange))));
            }
            Event::Arrive(exchange) => {
                if let Some((node, request)) = self.under_way.remove(&exchange) {
                    let name = self.nodes[node].name.clone();
                    let reply = self.server.handle(&name, &request);
                    self.answers.insert(exchange, reply);
                }
            }
            Event::Hear(exchange) if !self.nodes[node].is_dead => {
                let Some((_, sent, fate, _)) = self.nodes[node].pending.take() else { return Some(at) };
                let came = sent + Duration::from_millis(fate.out_ms + fate.back_ms) <= at;
                let reply = self.answers.remove(&exchange).filter(|_| came && !fate.is_lost);
                let (sent, now) = (self.local(node, sent), self.local(node, at));
                let offset = self.nodes[node].offset;
                let election = &mut self.nodes[node].election;
                election.answer(reply.unwrap_or(Reply::Failed), sent, now, fate.draw);
                let due = election.next().0.max(now) - self.origin;
                self.events.push(Reverse((due.saturating_sub(offset), node, Event::Send)));
                if self.believers(at).contains(&node) {
                    self.beliefs.push((node, at));
                }
            }
            Event::Send | Event::Hear(_) => {}
        }
        Some(at)
    }
}

/// Runs until `end`, and looks after each event whether two believe.
fn run(universe: &mut Universe, end: Duration) -> Result<(), TestCaseError> {
    while let Some(at) = universe.step() {
        let believers = universe.believers(at);
        // Whoever believes at one moment began to at some event: between events nobody does.
        prop_assert!(believers.len() <= 1, "at {at:?}: {believers:?}");
        if at > end {
            break;
        }
    }
    Ok(())
}

proptest! {
    /// However the clocks are set, whatever is slow or lost, and whoever dies.
    #[test]
    fn two_never_hold_it_at_once(
        offsets in prop::collection::vec(0..10_000_000_u64, 2..6),
        fates in prop::collection::vec(fate(150_000, 0.2), 1..60),
        deaths in prop::collection::vec((0..6_usize, 0..900_u64), 0..3),
    ) {
        let mut universe = Universe::new(&offsets, fates);
        let mut deaths = deaths;
        deaths.sort_by_key(|(_, at)| *at);
        for (node, at) in deaths {
            run(&mut universe, Duration::from_secs(at))?;
            let node = node % universe.nodes.len();
            universe.nodes[node].is_dead = true;
        }
        run(&mut universe, Duration::from_secs(1800))?;
    }

    /// Where messages arrive within seconds, a holder stays; and when it dies another one follows within three
    /// durations.
    #[test]
    fn somebody_holds_it_and_it_does_not_wander(
        offsets in prop::collection::vec(0..10_000_000_u64, 2..6),
        fates in prop::collection::vec(fate(2_000, 0.0), 1..60),
    ) {
        let mut universe = Universe::new(&offsets, fates);
        run(&mut universe, Duration::from_secs(60))?;
        let believers = universe.believers(Duration::from_secs(60));
        prop_assert_eq!(believers.len(), 1);
        run(&mut universe, Duration::from_secs(1200))?;
        prop_assert_eq!(&universe.believers(Duration::from_secs(1200)), &believers);
        prop_assert!(universe.beliefs.iter().all(|(node, _)| *node == believers[0]));

        universe.nodes[believers[0]].is_dead = true;
        run(&mut universe, Duration::from_secs(1200) + DURATION * 3 + Duration::from_secs(10))?;
        let last = universe.beliefs.last().map(|(node, _)| *node);
        prop_assert!(last.is_some_and(|node| node != believers[0]), "{last:?}");
        let transitions = universe.server.lease.as_ref().map(|lease| lease.transitions);
        prop_assert_eq!(transitions, Some(1));
    }
}
