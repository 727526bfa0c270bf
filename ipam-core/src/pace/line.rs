//! The line of nodes that need EC2, as the Kubernetes API shows it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::account::{AccountLimits, Bucket};
use super::{Lane, Queue, Turn};
use crate::Now;
use crate::sizing::PREFIX_SIZE;
use crate::targets::Targets;

/// A place counts this long after its turn, in seconds. Nodes that never get
/// what they need (agent dead, subnet full) would otherwise hold up everybody
/// behind them for ever. Those in play at a time are served within it even
/// where others take three quarters of the tokens.
const PATIENCE: f64 = 90.0;
/// How many tokens nodes in line may claim at once, in seconds of refill. Nodes
/// that were served stay in line until the API shows their pods' addresses, a
/// new ENI's some ten seconds later; a line that does not move at all must not
/// be run over.
const IN_PLAY: f64 = 20.0;
/// The part of the line's whole time that a node refused in its turn waits
/// before it tries again, and the longest that can be, in seconds. Trying
/// sooner serves nobody: the fleet gets as many tokens as there are.
const RETRY_PART: f64 = 0.1;
const RETRY_AT_MOST: f64 = 60.0;
/// The part of the Describe bucket that regular looks may use.
const REGULAR_PART: f64 = 0.25;
/// When a node that no longer counted stands in line again, at the end: after
/// this many seconds, after twice as many the next time, and so on up to the
/// longest. In an overload that lasts everybody gets a further turn; pods that
/// no address helps (a missing Secret) soon take next to none.
const AGAIN: f64 = 300.0;
const AGAIN_AT_MOST: f64 = 3600.0;
/// How often a node was in vain that a first list shows to wait for too long.
const STUCK_TIMES: u32 = 3;
/// A node that had warm addresses for its pods and is seen to be served within
/// this many seconds needed nothing of EC2.
const SERVED_WARM: f64 = 10.0;

/// What the API shows of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Load {
    /// Pods without an address: alive, bound to it, not on the host's network.
    pub waiting: u32,
    /// Pods with an address.
    pub addressed: u32,
    /// Whether its agent has started and is not ready.
    pub booting: bool,
}

/// How many addresses an ENI brings. Our own node's is taken for every node's:
/// nodes that scale out together are mostly of one kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Addresses for pods on one ENI, prefixes counted out.
    pub per_eni: u32,
    /// Whether pods may have addresses of the primary ENI.
    pub uses_primary: bool,
    /// Free addresses that a node keeps, so that as many pods need nothing of
    /// EC2.
    pub warm: u32,
}

impl Shape {
    /// That of a node with these targets.
    pub fn of(targets: &Targets) -> Self {
        let slots = targets.limits.slots_per_eni();
        let prefixes = targets.asks_prefixes();
        let warm = match targets.warm_ip {
            warm if targets.counts_addresses() => warm.unwrap_or(0),
            _ if prefixes => targets.warm_prefix * PREFIX_SIZE,
            _ => targets.warm_eni * slots,
        };
        let per_eni = if prefixes { slots * PREFIX_SIZE } else { slots };
        Self { per_eni, uses_primary: targets.use_primary, warm }
    }

    /// Tokens that a node of `load` still takes from each lane's bucket.
    fn tokens(self, load: Load) -> [u32; Lane::COUNT] {
        let look = u32::from(load.booting);
        if load.waiting == 0 {
            return [0, 0, look];
        }
        let per_eni = self.per_eni.max(1);
        let enis = |pods: u32| {
            let all = pods.div_ceil(per_eni);
            if self.uses_primary { all.saturating_sub(1) } else { all }
        };
        let creates = enis(load.addressed.saturating_add(load.waiting)) - enis(load.addressed);
        // An ENI that is begun has room; so has a primary ENI without pods.
        let begun = !load.addressed.is_multiple_of(per_eni) || load.addressed == 0 && self.uses_primary;
        [u32::from(begun || creates == 0), creates, look]
    }

    /// Whether its warm addresses should do.
    fn is_warm(self, load: Load) -> bool {
        load.addressed > 0 && load.waiting <= self.warm && !load.booting
    }
}

#[derive(Clone, Debug)]
struct Place<K> {
    node: K,
    tokens: u32,
    /// Pods, or a first look, that it stands in line for.
    need: u32,
    /// When its turn came.
    called: Option<f64>,
}

impl<K> Place<K> {
    /// Whether it does not count any more.
    fn is_over(&self, now: f64) -> bool {
        self.called.is_some_and(|called| now > called + PATIENCE)
    }
}

/// What a node was given up for.
#[derive(Clone, Copy, Debug)]
struct GivenUp {
    /// Pods, or a first look, that no longer count.
    need: u32,
    /// When they count again.
    again: f64,
    times: u32,
}

impl GivenUp {
    fn after(known: Option<&Self>, need: u32, now: f64) -> Self {
        let times = known.map_or(0, |known| known.times);
        let pause = (AGAIN * f64::from(times.min(10)).exp2()).min(AGAIN_AT_MOST);
        Self { need: need + known.map_or(0, |known| known.need), again: now + pause, times: times + 1 }
    }
}

/// The line before one bucket, or before the smallest of a chain: a model of
/// the bucket, of which every node in line is given its tokens in turn.
#[derive(Clone, Debug)]
struct OneLine<K> {
    bucket: Bucket,
    /// What is left in the bucket, and when it was.
    level: f64,
    at: f64,
    places: BTreeMap<u64, Place<K>>,
    numbers: BTreeMap<K, u64>,
    given_up: BTreeMap<K, GivenUp>,
    /// Tokens of all places, and of those whose turn came.
    tokens: u32,
    called: u32,
    /// Tokens of those that never took theirs, fading: who waits for other
    /// things than addresses must not hold up the rest.
    unused: f64,
}

impl<K: Ord + Clone> OneLine<K> {
    fn new(bucket: Bucket) -> Self {
        Self {
            bucket,
            level: bucket.capacity,
            at: 0.0,
            places: BTreeMap::new(),
            numbers: BTreeMap::new(),
            given_up: BTreeMap::new(),
            tokens: 0,
            called: 0,
            unused: 0.0,
        }
    }

    /// Seconds in which `tokens` flow in.
    fn time(&self, tokens: f64) -> f64 {
        tokens / self.bucket.per_second
    }

    fn fill_time(&self) -> f64 {
        self.time(self.bucket.capacity)
    }

    /// Tokens that may be claimed and not yet seen to be taken.
    fn in_play(&self) -> f64 {
        (IN_PLAY * self.bucket.per_second).max(self.bucket.capacity) + 2.0 * self.unused
    }

    /// Whether the node waits for more than it was given up for.
    fn begins_anew(&self, node: &K, need: u32) -> bool {
        let more = self.given_up.get(node).is_some_and(|known| need > known.need);
        more && !self.numbers.contains_key(node)
    }

    /// The node needs this much, of which `tokens` says what it takes.
    fn set(&mut self, node: &K, number: u64, need: u32, tokens: impl Fn(u32) -> u32) {
        if need == 0 {
            self.given_up.remove(node);
        }
        let open = match self.given_up.get_mut(node) {
            Some(known) => {
                known.need = known.need.min(need);
                need - known.need
            }
            None => need,
        };
        let tokens = tokens(open);
        if tokens == 0 {
            self.leave(node);
            return;
        }
        let Some(place) = self.numbers.get(node).and_then(|number| self.places.get_mut(number)) else {
            self.tokens += tokens;
            self.numbers.insert(node.clone(), number);
            self.places.insert(number, Place { node: node.clone(), tokens, need: open, called: None });
            return;
        };
        self.tokens = self.tokens - place.tokens + tokens;
        if place.called.is_some() {
            self.called = self.called - place.tokens + tokens;
        }
        place.tokens = tokens;
        place.need = open;
    }

    /// Its tokens were not taken: they are in the bucket still.
    fn refund(&mut self, node: &K) {
        let place = self.numbers.get(node).and_then(|number| self.places.get(number));
        if let Some(place) = place.filter(|place| place.called.is_some()) {
            self.level = (self.level + f64::from(place.tokens)).min(self.bucket.capacity);
        }
    }

    fn give_up(&mut self, node: &K, now: f64) -> Option<u32> {
        let place = self.leave(node)?;
        let given_up = GivenUp::after(self.given_up.get(node), place.need, now);
        self.given_up.insert(node.clone(), given_up);
        Some(place.tokens)
    }

    /// Nodes that were given up long enough ago; what they need counts again.
    fn due(&mut self, now: f64) -> Vec<(f64, K)> {
        let due = self.given_up.iter_mut().filter(|(_, known)| known.need > 0 && known.again <= now);
        due.map(|(node, known)| {
            known.need = 0;
            (known.again, node.clone())
        })
        .collect()
    }

    fn leave(&mut self, node: &K) -> Option<Place<K>> {
        let place = self.numbers.remove(node).and_then(|number| self.places.remove(&number))?;
        self.tokens -= place.tokens;
        if place.called.is_some() {
            self.called -= place.tokens;
        }
        Some(place)
    }

    /// Lets time pass: tokens flow in, those whose turn it is take them, and
    /// those whose turn is long over count no more.
    fn pass(&mut self, now: f64) {
        self.unused *= (-(now - self.at).max(0.0) / (2.0 * PATIENCE)).exp();
        // Readings come in bunches; nothing is over twice at one time.
        let over = self.places.values().filter(|place| now > self.at && place.is_over(now));
        for node in over.map(|place| place.node.clone()).collect::<Vec<_>>() {
            self.unused += f64::from(self.give_up(&node, now).unwrap_or(0));
        }
        self.level =
            (self.level + (now - self.at).max(0.0) * self.bucket.per_second).min(self.bucket.capacity);
        self.at = self.at.max(now);
        let in_play = self.in_play();
        for place in self.places.values_mut().filter(|place| place.called.is_none()) {
            if self.level < 1.0 || f64::from(self.called) >= in_play {
                break;
            }
            place.called = Some(now);
            self.called += place.tokens;
            self.level -= f64::from(place.tokens);
        }
    }

    /// How long until the turn of one who has this many tokens before it that
    /// have not been called.
    fn wait(&self, before: u32) -> Duration {
        let before = f64::from(before);
        let tokens = before + 1.0 - self.level;
        // So that more is not claimed than can be under way: a line that does
        // not move is not run over.
        let claimed = f64::from(self.called) + before + 1.0 - self.in_play();
        Duration::from_secs_f64(self.time(tokens.max(claimed)).max(0.0))
    }

    /// Every turn, first come first, until `told` has heard enough.
    fn walk(&mut self, now: f64, mut told: impl FnMut(&K, Turn) -> bool) {
        self.pass(now);
        let retry = self.retry();
        let (mut ahead, mut before) = (0, 0_u32);
        for place in self.places.values() {
            let wait = if place.called.is_some() { Duration::ZERO } else { self.wait(before) };
            if !told(&place.node, Turn { ahead, wait, retry, in_line: true }) {
                return;
            }
            ahead += 1;
            if place.called.is_none() {
                before += place.tokens;
            }
        }
    }

    fn retry(&self) -> Duration {
        Duration::from_secs_f64((self.time(f64::from(self.tokens)) * RETRY_PART).min(RETRY_AT_MOST))
    }

    /// The turn of one who is not in line.
    fn outside(&self) -> Turn {
        let wait = self.wait(self.tokens - self.called);
        Turn { ahead: count(self.places.len()), wait, retry: self.retry(), in_line: false }
    }

    fn turn_of(&mut self, node: &K, now: f64) -> Turn {
        let mut found = None;
        self.walk(now, |other, turn| {
            if other == node {
                found = Some(turn);
            }
            found.is_none()
        });
        found.unwrap_or_else(|| self.outside())
    }
}

/// Who came lately: each will want a warm pool afterwards.
#[derive(Clone, Copy, Debug, Default)]
struct Crowd {
    came: u32,
    /// When the refill would have served them all.
    until: f64,
}

/// A node that needs EC2, as far as the API shows.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Kept as long as the node needs something: all lines have one order, and
    /// who may look first may ask first.
    number: u64,
    load: Load,
    came: f64,
    /// Whether its warm addresses should have done all along.
    warm: bool,
}

/// Every node that needs EC2, in the order in which the API showed it.
///
/// All agents watch all pods and so hold the same line; each reads its own turn
/// off it, and nobody has to be asked. There is one line for each [`Lane`]. `K`
/// is what names a node.
#[derive(Clone, Debug)]
pub struct Line<K> {
    shape: Shape,
    lanes: [OneLine<K>; Lane::COUNT],
    entries: BTreeMap<K, Entry>,
    next: u64,
    nodes: u32,
    crowd: Crowd,
}

fn seconds(at: Now) -> f64 {
    Duration::from_millis(at.as_millis()).as_secs_f64()
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl<K: Ord + Clone> Line<K> {
    /// An empty line before the buckets of `limits`, which are taken for full.
    pub fn new(limits: AccountLimits, shape: Shape) -> Self {
        Self {
            shape,
            lanes: Lane::ALL.map(|lane| OneLine::new(limits.planned(lane.chain()))),
            entries: BTreeMap::new(),
            next: 0,
            nodes: 0,
            crowd: Crowd::default(),
        }
    }

    /// How many nodes the cluster has.
    pub fn set_nodes(&mut self, nodes: u32) {
        self.nodes = nodes;
    }

    /// What a first list showed, in an order that every agent that lists finds
    /// the same, with the age of each node's youngest pod without an address:
    /// the longer and the more they wait, the less is left of a full bucket.
    /// Nodes that wait for much longer than their turn can have taken have been
    /// given up by those who saw them come.
    pub fn listed(&mut self, loads: impl IntoIterator<Item = (K, Load, Duration)>, now: Now) {
        let at = seconds(now);
        let patience = (2.0 * self.blind()).max(2.0 * PATIENCE);
        let mut oldest = 0.0_f64;
        for (node, load, age) in loads {
            self.update(&node, load, now);
            if age.as_secs_f64() <= patience {
                oldest = oldest.max(age.as_secs_f64());
                continue;
            }
            for lane in [Lane::Assign, Lane::Create].map(|lane| lane as usize) {
                let lane = &mut self.lanes[lane];
                let before = GivenUp { need: 0, again: at, times: STUCK_TIMES };
                if lane.numbers.contains_key(&node) {
                    lane.given_up.entry(node.clone()).or_insert(before);
                }
                lane.give_up(&node, at);
            }
        }
        for lane in &mut self.lanes {
            let used = (oldest * lane.bucket.per_second).min(f64::from(lane.tokens));
            lane.level = (lane.bucket.capacity - used).max(0.0);
            lane.at = at;
        }
        let counted = count(self.lanes.iter().map(|lane| lane.places.len()).max().unwrap_or(0));
        self.crowd.came = self.crowd.came.min(counted);
        self.crowd.until = self.crowd.until.min(at + f64::from(counted) / self.slowest().per_second);
    }

    /// The load of `node` is this from now on.
    pub fn update(&mut self, node: &K, load: Load, now: Now) {
        let at = seconds(now);
        if load.waiting == 0 && !load.booting {
            if let Some(entry) = self.entries.remove(node) {
                self.left(node, entry, at);
            }
        } else if let Some(entry) = self.entries.get_mut(node) {
            entry.warm &= self.shape.is_warm(load);
            entry.load = load;
            let [assign, create, _] = &self.lanes;
            if [assign, create].iter().any(|lane| lane.begins_anew(node, load.waiting)) {
                // Behind those who came since; only its new pods count.
                let warm = self.shape.is_warm(load);
                *entry = Entry { number: self.next, load, came: at, warm };
                self.next += 1;
                self.joined(at);
            }
        } else {
            let warm = self.shape.is_warm(load);
            self.entries.insert(node.clone(), Entry { number: self.next, load, came: at, warm });
            self.next += 1;
            self.joined(at);
        }
        self.place(node, load);
    }

    fn place(&mut self, node: &K, load: Load) {
        let number = self.entries.get(node).map_or(self.next, |entry| entry.number);
        let shape = self.shape;
        for lane in Lane::ALL {
            let place = &mut self.lanes[lane as usize];
            let needs = |waiting| shape.tokens(Load { waiting, ..load })[lane as usize];
            match lane {
                Lane::Describe => place.set(node, number, u32::from(load.booting), |look| look),
                _ => place.set(node, number, load.waiting, needs),
            }
        }
    }

    fn joined(&mut self, now: f64) {
        if self.crowd.until <= now {
            self.crowd = Crowd { came: 0, until: now };
        }
        if self.crowd.came < self.nodes.max(1) {
            self.crowd.came += 1;
            self.crowd.until += 1.0 / self.slowest().per_second;
        }
    }

    /// A node needs nothing any more. Where its warm addresses did, it has
    /// taken nothing, and will want no more than others do on any day.
    fn left(&mut self, node: &K, entry: Entry, now: f64) {
        if !entry.warm || now > entry.came + SERVED_WARM {
            return;
        }
        for lane in &mut self.lanes {
            lane.refund(node);
        }
        if self.crowd.came > 0 {
            self.crowd.came -= 1;
            self.crowd.until -= 1.0 / self.slowest().per_second;
        }
    }

    /// Puts those in line again that were given up long enough ago.
    fn again(&mut self, now: f64) {
        let mut due: Vec<_> = self.lanes.iter_mut().flat_map(|lane| lane.due(now)).collect();
        due.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
        due.dedup_by(|a, b| a.1 == b.1);
        for (_, node) in due {
            if let Some(entry) = self.entries.get_mut(&node) {
                entry.number = self.next;
                self.next += 1;
                let load = entry.load;
                self.place(&node, load);
            }
        }
    }

    fn slowest(&self) -> Bucket {
        self.lanes[Lane::Create as usize].bucket
    }

    /// The turns of `us`, whose `spread` in `[0, 1)` is drawn from its name.
    pub fn queue(&mut self, us: &K, spread: f64, now: Now) -> Queue {
        let at = seconds(now);
        self.again(at);
        let turns = self.lanes.each_mut().map(|lane| lane.turn_of(us, at));
        Queue {
            spread,
            turns,
            waiting_here: self.entries.get(us).map_or(0, |entry| entry.load.waiting),
            ..self.about_all(at)
        }
    }

    /// The turns of everybody in some line: one walk serves a whole simulation.
    pub fn queues(&mut self, now: Now) -> BTreeMap<K, Queue> {
        let at = seconds(now);
        let mut queues = BTreeMap::new();
        self.again(at);
        let all = self.about_all(at);
        for lane in &mut self.lanes {
            lane.pass(at);
        }
        let outside = self.lanes.each_ref().map(OneLine::outside);
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            lane.walk(at, |node, turn| {
                let queue = queues.entry(node.clone()).or_insert(Queue { turns: outside, ..all });
                queue.turns[index] = turn;
                true
            });
        }
        for (node, queue) in &mut queues {
            queue.waiting_here = self.entries.get(node).map_or(0, |entry| entry.load.waiting);
        }
        queues
    }

    /// How long the buckets would take for every node, in seconds.
    fn blind(&self) -> f64 {
        let slowest = self.slowest();
        ((f64::from(self.nodes) - slowest.capacity) / slowest.per_second).max(0.0)
    }

    fn about_all(&self, now: f64) -> Queue {
        let slowest = self.slowest();
        let growth = [Lane::Assign, Lane::Create].map(|lane| &self.lanes[lane as usize]);
        let waiting = count(growth.iter().map(|lane| lane.places.len()).max().unwrap_or(0));
        let crowded = self.crowd.until - now > self.lanes[Lane::Create as usize].fill_time()
            || growth.iter().any(|lane| f64::from(lane.tokens) > lane.bucket.capacity);
        let size = f64::from(self.crowd.came.max(waiting));
        let crowd = if crowded { size / slowest.per_second } else { 0.0 };
        let nodes = f64::from(self.nodes);
        let look = self.lanes[Lane::Describe as usize].bucket;
        Queue {
            nodes: self.nodes,
            waiting_here: 0,
            turns: [Turn::default(); Lane::COUNT],
            crowd: Duration::from_secs_f64(crowd),
            blind: Duration::from_secs_f64(self.blind()),
            every: Duration::from_secs_f64(nodes / (look.per_second * REGULAR_PART)),
            spread: 0.0,
        }
    }
}
