//! When this node may call, where many share one account's token buckets.
//!
//! EC2 counts requests by account: 5,000 nodes that scale out together share
//! 100 AssignPrivateIpAddresses at once and 5 a second after that, and need
//! 980 s whatever they do. A node that calls blindly and backs off is refused
//! 92 to 98 times of 100, and 49 times if it makes nothing but the first call
//! blindly. So a node does not ask EC2 whether it may call: it reads from the
//! Kubernetes API who else waits ([`Line`]) and takes its turn.
//!
//! A pool that was told nothing ([`crate::PoolState::queue`] was never called)
//! calls at once and relies on its back-off.

mod account;
mod line;

use std::collections::BTreeMap;
use std::time::Duration;

pub use account::{AccountLimits, Bucket, ShareError};
pub use line::{Line, Load, Shape};

use crate::Now;
use crate::backoff::{Backoff, FailureClass};
use crate::lease::PodRef;
use crate::plan::Operation;
use crate::state::{PoolState, Truth};
use crate::targets::Timing;

/// A bucket, or a chain of them, that nodes stand in line for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lane {
    /// Addresses for an ENI that is there.
    Assign,
    /// A new ENI: create, attach, modify; the smallest of the three counts.
    Create,
    /// A fresh agent's first look at its ENIs.
    Describe,
}

impl Lane {
    pub(crate) const COUNT: usize = 3;
    pub(crate) const ALL: [Self; Self::COUNT] = [Self::Assign, Self::Create, Self::Describe];

    const fn chain(self) -> &'static [Operation] {
        match self {
            Self::Assign => &[Operation::Assign],
            Self::Create => &[Operation::CreateEni, Operation::Attach, Operation::Modify],
            Self::Describe => &[Operation::DescribeEnis],
        }
    }

    /// Where a call stands in line; `None` for calls that nobody waits for and
    /// for the later steps of a chain, which its first step has paced.
    const fn of(operation: Operation) -> Option<Self> {
        match operation {
            Operation::Assign => Some(Self::Assign),
            Operation::CreateEni => Some(Self::Create),
            // A fresh agent makes both at once; each has a bucket of that size.
            Operation::DescribeEnis | Operation::DescribeSubnets => Some(Self::Describe),
            _ => None,
        }
    }
}

/// A node's turn in one lane, from the moment of the reading.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Turn {
    /// Nodes before us.
    pub ahead: u32,
    /// How long until our turn comes.
    pub wait: Duration,
    /// How long to wait after a refusal, about.
    pub retry: Duration,
    /// Whether the API shows that we need this call; if not, this is the turn
    /// of a newcomer.
    pub in_line: bool,
}

/// What the Kubernetes API says about who else needs EC2; read off a [`Line`].
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Queue {
    /// Nodes of the cluster.
    pub nodes: u32,
    /// Pods of this node that the API shows without an address.
    pub waiting_here: u32,
    /// Our turn by [`Lane`].
    pub turns: [Turn; Lane::COUNT],
    /// Over how long those that came lately should spread what nobody waits
    /// for; zero when the buckets can take it at once.
    pub crowd: Duration,
    /// How long a pod that the API does not show yet may wait for it to do so:
    /// as long as the buckets would take for every node of the cluster.
    pub blind: Duration,
    /// The shortest period of regular looks that leaves three quarters of the
    /// bucket to others.
    pub every: Duration,
    /// Where this node stands when something is spread, in `[0, 1)`.
    pub spread: f64,
}

impl Queue {
    /// How long to wait after a refusal of `operation`, about.
    fn retry(&self, operation: Operation) -> Duration {
        let lane = match operation {
            // Held up by the same nodes.
            Operation::Attach | Operation::Modify => Some(Lane::Create),
            _ => Lane::of(operation),
        };
        lane.map_or(self.crowd, |lane| self.turns[lane as usize].retry)
    }
}

/// A number in `[0, 1)` that every agent draws alike from a node's name, and
/// that differs for names that are alike.
pub fn spread_of(name: &str) -> f64 {
    // FNV-1a, then the finalizer of splitmix64: close names lie far apart.
    let mut bits = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^= bits >> 31;
    // The upper 32 bits, exact in an f64.
    let upper = u32::try_from(bits >> 32).unwrap_or(u32::MAX);
    f64::from(upper) / (f64::from(u32::MAX) + 1.0)
}

/// The longest that a pod waits for the API to show it.
const BLIND_AT_MOST: Duration = Duration::from_secs(15);

/// About how long to wait after a refused look that nothing hangs on.
const LEISURE: Duration = Duration::from_secs(30);

/// What is merely to be warm and was refused is tried again after about this
/// part of the time that the buckets would take for all nodes: none of them is
/// seen to want the same.
const WARM_RETRY_PART: u32 = 4;

/// The calls that bring addresses.
const GROWTH: [Operation; 4] =
    [Operation::Assign, Operation::CreateEni, Operation::Attach, Operation::Modify];

/// What the pool knows about its turn.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pace {
    queue: Option<(Now, Queue)>,
    /// Until when the first reading is worth waiting for.
    expected_until: Option<Now>,
    /// Since when only warm addresses are missing, and when they may be asked
    /// for.
    warm: Option<(Now, Now)>,
    /// Until when calls that pods waited for were held back, or will be.
    held: Option<Now>,
}

/// A call that is held back for those before us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Queued {
    /// Nodes before us.
    pub(crate) ahead: u32,
    /// When the call is made.
    pub(crate) until: Now,
}

impl PoolState {
    /// A reading of the line is on its way: until it is there, or until this
    /// point, no call is made that others may be waiting to make.
    pub fn expect_queue(&mut self, until: Now) {
        self.pace.expected_until = Some(until);
    }

    /// What the Kubernetes API says now of who else needs EC2.
    pub fn queue(&mut self, queue: Queue, now: Now) {
        self.pace.queue = Some((now, queue));
        self.pace.expected_until = None;
        self.note_shortage(now);
    }

    /// The pods of this node that the API shows without an address. Better than
    /// their number ([`Self::announce`]): one that has its lease counts no
    /// more, though the API shows its address only seconds later.
    pub fn announce_pods(&mut self, pods: Vec<PodRef>) {
        self.announced_pods = Some(pods);
        self.recount_announced();
    }

    pub(crate) fn recount_announced(&mut self) {
        let Some(pods) = &self.announced_pods else { return };
        let leased: BTreeMap<_, _> = self
            .leases
            .values()
            .filter_map(|lease| lease.pod.as_ref())
            .map(|pod| ((pod.namespace.as_str(), pod.name.as_str()), pod.uid.as_deref()))
            .collect();
        let open = pods.iter().filter(|pod| {
            let holder = leased.get(&(pod.namespace.as_str(), pod.name.as_str()));
            // A StatefulSet's new pod is not its predecessor.
            holder.is_none_or(|uid| uid.zip(pod.uid.as_deref()).is_some_and(|(held, asked)| held != asked))
        });
        self.announced = u32::try_from(open.count()).unwrap_or(u32::MAX);
    }

    /// When the call may be made, if that is not now.
    pub(crate) fn turn(&self, operation: Operation, now: Now) -> Option<Now> {
        let lane = Lane::of(operation)?;
        if lane == Lane::Describe && matches!(self.truth, Truth::Ec2 { .. }) {
            return None;
        }
        let Some((at, queue)) = self.pace.queue else {
            return self.pace.expected_until.filter(|until| *until > now);
        };
        let turn = queue.turns[lane as usize];
        // A pod that came sooner than the API's word of it: nobody counts us
        // yet, and neither can we count those who came with us.
        let unseen = lane != Lane::Describe && queue.waiting_here == 0 && !turn.in_line;
        let turn = match self.waiters.front().filter(|_| unseen) {
            Some(first) => first.since + queue.blind.min(BLIND_AT_MOST),
            None => at + turn.wait,
        };
        Some(turn).filter(|turn| *turn > now)
    }

    /// The call that waits for its turn in line, and how long the line is: one
    /// that brings addresses, or a fresh agent's first look. While another is
    /// under way, only what the API shows to be needed too.
    pub(crate) fn queued(&self, now: Now) -> Option<Queued> {
        let (_, queue) = self.pace.queue?;
        let lanes: &[Lane] =
            if self.truth == Truth::Unknown { &[Lane::Describe] } else { &[Lane::Assign, Lane::Create] };
        let grows = self.intents().any(|intent| GROWTH.contains(&intent.action.operation()));
        let counts = |lane: &Lane| !grows || queue.turns[*lane as usize].in_line;
        let turns = lanes.iter().filter(|lane| counts(lane)).filter_map(|lane| {
            let until = self.turn(*lane.chain().first()?, now)?;
            Some(Queued { ahead: queue.turns[*lane as usize].ahead, until })
        });
        turns.min_by_key(|queued| queued.until)
    }

    /// Whether a turn came, or will come, after `since`: too late for a pod that
    /// has waited from then on.
    pub(crate) fn was_held_after(&self, since: Now) -> bool {
        self.pace.held.is_some_and(|until| until > since)
    }

    fn note_held(&mut self, now: Now) {
        let refused = self.backoffs.iter().filter(|((operation, _), backoff)| {
            // Growth may hang on a look at the subnets.
            let growth = GROWTH.contains(operation) || *operation == Operation::DescribeSubnets;
            growth && backoff.class == FailureClass::Throttled && backoff.until > now
        });
        let pauses = refused.map(|(_, backoff)| backoff.until);
        self.pace.held = match self.queued(now).map(|queued| queued.until).into_iter().chain(pauses).max() {
            Some(until) => Some(until),
            // Its turn may have come sooner than was to be expected.
            None => self.pace.held.map(|until| until.min(now)),
        };
    }

    /// When growth that no pod waits for may begin.
    pub(crate) fn warm_turn(&self) -> Option<Now> {
        self.pace.warm.map(|(_, turn)| turn)
    }

    /// Whether pods here and on other nodes wait for calls, so that none is to
    /// be spent on what is merely to be warm.
    pub(crate) fn warm_waits(&self) -> bool {
        self.demand_since.is_some() && self.pace.queue.is_some_and(|(_, queue)| !queue.crowd.is_zero())
    }

    /// Draws the turn of a warm shortage: all that came with us will want the
    /// same. It begins when no pod waits here any more, so that nodes that were
    /// served one after the other ask one after the other; a crowd that comes
    /// later can put it off, but only once.
    pub(crate) fn note_shortage(&mut self, now: Now) {
        if self.demand_since.is_some() {
            self.hurry(now);
            self.note_held(now);
        }
        let warm_only = self.short_since.is_some() && self.demand_since.is_none();
        let Some((_, queue)) = self.pace.queue.filter(|_| warm_only) else {
            self.pace.warm = None;
            return;
        };
        let (since, drawn) = self.pace.warm.unwrap_or((now, now));
        let turn = since + queue.crowd.mul_f64(queue.spread);
        self.pace.warm = Some((since, turn.max(drawn)));
    }

    /// Pods wait now: a pause that was drawn when nobody did, or when more were
    /// before us, ends when our turn comes.
    fn hurry(&mut self, now: Now) {
        let Some((_, queue)) = self.pace.queue else { return };
        for ((operation, _), backoff) in &mut self.backoffs {
            let retry = queue.retry(*operation);
            let regular = *operation == Operation::DescribeEnis && self.doubt_since.is_none();
            if !regular
                && backoff.class == FailureClass::Throttled
                && backoff.until > now + Backoff::longest_in_line(retry)
            {
                backoff.until = now + retry;
            }
        }
    }

    /// How long to wait after a refusal, about, where a reading of the line
    /// tells. Where no pod waits here, everybody who came lately is before us.
    pub(crate) fn retry_after(&self, operation: Operation) -> Option<Duration> {
        let (_, queue) = self.pace.queue?;
        let retry = queue.retry(operation);
        // Where pods wait, their calls may hang on what a look at the subnets says.
        let urgent = self.demand_since.is_some() && operation != Operation::DescribeEnis;
        Some(if urgent {
            retry
        } else if operation.is_mutating() {
            retry.max(queue.crowd).max(queue.blind / WARM_RETRY_PART)
        } else if matches!(self.truth, Truth::Ec2 { .. }) && self.doubt_since.is_none() {
            retry.max(LEISURE)
        } else {
            retry
        })
    }

    /// The period of regular looks at EC2.
    pub(crate) fn reconcile_every(&self, timing: &Timing) -> Duration {
        let fleet = self.pace.queue.map_or(Duration::ZERO, |(_, queue)| queue.every);
        timing.reconcile_every.max(fleet)
    }

    /// The same for looks at subnets, which nothing else jitters.
    pub(crate) fn rediscover_after(&self, timing: &Timing) -> Duration {
        let spread = self.pace.queue.map_or(0.0, |(_, queue)| queue.spread);
        self.reconcile_every(timing).mul_f64(0.75 + 0.5 * spread)
    }

    /// Every point at which a turn comes.
    pub(crate) fn turns(&self, now: Now) -> impl Iterator<Item = Now> + '_ {
        let calls = [Operation::Assign, Operation::CreateEni, Operation::DescribeEnis];
        calls.into_iter().filter_map(move |operation| self.turn(operation, now)).chain(self.warm_turn())
    }
}
