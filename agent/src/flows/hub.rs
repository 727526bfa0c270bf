//! The one reader of the ring, and those who follow.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ebpf_common::abi::Event;
use policy_core::Cluster;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};

use super::directory::Directory;
use super::flow::{Moment, tell};
use super::{Flow, Known, Ring, Verdict, Wish};
use crate::metrics::Metrics;

/// How many may follow at once.
const MOST: usize = 16;
/// Flows that a follower may be behind before it misses some.
const BEHIND: usize = 4096;
/// Events that are read at once.
const BATCH: usize = 1024;
/// Between two batches: a flood costs a bounded part of one CPU, and the rest of it is counted as lost.
const PAUSE: Duration = Duration::from_millis(20);
/// How long one may read nothing before its place is given to others.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is looked whether those who follow are still there, and whether events were lost.
const LOOK: Duration = Duration::from_secs(1);

/// What a follower is told.
#[derive(Debug, Clone)]
pub enum Told {
    /// A flow.
    Flow(Arc<Flow>),
    /// So many could not be told.
    Lost(u64),
}

/// Too many follow already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{MOST} follow already, which is the most; end one of them")]
pub struct TooMany;

/// What one follower hears. Dropping it ends the following.
#[derive(Debug)]
pub struct Follower(mpsc::Receiver<Told>);

impl Follower {
    /// The next word; `None` where the agent ends.
    pub async fn next(&mut self) -> Option<Told> {
        self.0.recv().await
    }
}

/// Where one asks to follow.
#[derive(Debug, Clone)]
pub struct Flows(mpsc::Sender<Join>);

impl Flows {
    /// Hears of flows from now on.
    ///
    /// # Errors
    ///
    /// Where too many follow already.
    pub async fn follow(&self, wish: Wish) -> Result<Follower, TooMany> {
        let (reply, answer) = oneshot::channel();
        // Where the hub has ended the process does.
        self.0.send(Join { wish, reply }).await.map_err(|_| TooMany)?;
        answer.await.map_err(|_| TooMany)?
    }
}

#[derive(Debug)]
struct Join {
    wish: Wish,
    reply: oneshot::Sender<Result<Follower, TooMany>>,
}

#[derive(Debug)]
struct Seat {
    wish: Wish,
    sender: mpsc::Sender<Told>,
    missed: u64,
    /// Since when there has been no room for what it is to be told.
    full_since: Option<Instant>,
    /// Allowed flows that it was not shown since the last one.
    passed_over: u32,
}

/// The task.
#[derive(Debug)]
pub struct Hub<R: Ring, K> {
    ring: R,
    ready: AsyncFd<OwnedFd>,
    known: K,
    metrics: Metrics,
    joins: mpsc::Receiver<Join>,
    seats: Vec<Seat>,
    /// One in so many allowed flows is written.
    sample: u32,
    directory: Directory,
    cluster: Option<Arc<Cluster>>,
    lost: u64,
}

impl<R: Ring, K: Known> Hub<R, K> {
    /// Takes the ring; to be called within a runtime.
    ///
    /// # Errors
    ///
    /// Where the ring cannot be waited for.
    pub fn new(ring: R, known: K, metrics: Metrics) -> io::Result<(Flows, Self)> {
        #[expect(
            deprecated,
            reason = "an OwnedFd stays what it is, so that the unsafe successor proves nothing more"
        )]
        let ready = AsyncFd::with_interest(ring.as_fd().try_clone_to_owned()?, Interest::READABLE)?;
        let (sender, joins) = mpsc::channel(MOST);
        let hub = Self {
            lost: ring.lost(),
            ring,
            ready,
            known,
            metrics,
            joins,
            seats: Vec::new(),
            sample: 0,
            directory: Directory::default(),
            cluster: None,
        };
        Ok((Flows(sender), hub))
    }

    /// Serves until every [`Flows`] is gone.
    pub async fn run(mut self) {
        // Somebody before us may have died listening.
        listen(&mut self.ring, None);
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if self.seats.is_empty() {
                let Some(join) = self.joins.recv().await else { return };
                // What stands in the ring is as old as the last who listened, and rules have changed since.
                while self.ring.next_event().is_some() {}
                self.lost = self.ring.lost();
                self.admit(join);
                continue;
            }
            tokio::select! {
                join = self.joins.recv() => match join {
                    Some(join) => self.admit(join),
                    None => return,
                },
                _ = looks.tick() => self.look(),
                events = batch(&self.ready, &mut self.ring) => {
                    self.tell(&events).await;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn admit(&mut self, join: Join) {
        self.seats.retain(|seat| !seat.sender.is_closed());
        if self.seats.len() >= MOST {
            drop(join.reply.send(Err(TooMany)));
            return;
        }
        let (sender, receiver) = mpsc::channel(BEHIND);
        self.seats.push(Seat { wish: join.wish, sender, missed: 0, full_since: None, passed_over: 0 });
        // The answer tells that from now on nothing is missed.
        self.adjust();
        drop(join.reply.send(Ok(Follower(receiver))));
    }

    /// Who went, and what was lost.
    fn look(&mut self) {
        let lost = self.ring.lost();
        let newly = lost.saturating_sub(self.lost);
        self.lost = lost;
        self.metrics.flow_events_lost.inc_by(newly);
        let now = Instant::now();
        for seat in &mut self.seats {
            seat.missed += newly;
            seat.confess();
        }
        let before = self.seats.len();
        self.seats.retain_mut(|seat| !seat.sender.is_closed() && !seat.sleeps(now));
        if self.seats.len() != before {
            self.adjust();
        }
    }

    /// Lets the programs write what is needed, and no more.
    fn adjust(&mut self) {
        let needs = self.seats.iter().map(|seat| seat.wish.needs()).filter(|needs| *needs > 0);
        self.sample = needs.min().unwrap_or(0);
        if self.seats.is_empty() {
            listen(&mut self.ring, None);
            self.directory = Directory::default();
            self.cluster = None;
        } else {
            listen(&mut self.ring, Some(self.sample));
        }
        self.metrics.flow_followers.set(i64::try_from(self.seats.len()).unwrap_or(i64::MAX));
    }

    async fn tell(&mut self, events: &[Event]) {
        let rules: BTreeSet<u32> = events.iter().map(|event| event.rule).filter(|rule| *rule != 0).collect();
        let in_force = self.known.in_force(rules).await;
        let cluster = self.known.cluster();
        if !self.cluster.as_ref().is_some_and(|seen| Arc::ptr_eq(seen, &cluster)) {
            self.directory.refresh(&cluster);
            self.cluster = Some(cluster);
        }
        let now = Moment { monotonic_ns: monotonic_ns(), wall: SystemTime::now() };
        for event in events {
            let flow = Arc::new(tell(event, now, &in_force, &self.directory));
            for seat in &mut self.seats {
                seat.tell(&flow, self.sample);
            }
        }
    }
}

/// Not even where its task is cut off do the programs go on writing.
impl<R: Ring, K> Drop for Hub<R, K> {
    fn drop(&mut self) {
        listen(&mut self.ring, None);
    }
}

fn listen<R: Ring>(ring: &mut R, sample: Option<u32>) {
    if let Err(error) = ring.listen(sample) {
        tracing::warn!(error, "the programs were not told whether to write events");
    }
}

impl Seat {
    fn tell(&mut self, flow: &Arc<Flow>, sample: u32) {
        if !self.wish.wants(flow) {
            return;
        }
        if flow.verdict == Verdict::Allowed {
            // Others want more of them.
            self.passed_over += sample.max(1);
            if self.passed_over < self.wish.needs() {
                return;
            }
            self.passed_over = 0;
        }
        self.confess();
        if self.missed > 0 || self.sender.try_send(Told::Flow(Arc::clone(flow))).is_err() {
            self.missed += 1;
        } else {
            self.full_since = None;
        }
    }

    /// Whether it has read nothing for so long that it may not be there.
    fn sleeps(&mut self, now: Instant) -> bool {
        let full = self.sender.capacity() == 0;
        full && now.duration_since(*self.full_since.get_or_insert(now)) >= PATIENCE
    }

    /// Says what was missed, as soon as there is room for it.
    fn confess(&mut self) {
        if self.missed > 0 && self.sender.try_send(Told::Lost(self.missed)).is_ok() {
            self.missed = 0;
            self.full_since = None;
        }
    }
}

/// Waits for events and reads some.
async fn batch<R: Ring>(ready: &AsyncFd<OwnedFd>, ring: &mut R) -> Vec<Event> {
    loop {
        let Ok(mut guard) = ready.readable().await else {
            // The descriptor belongs to this process; it cannot fail but by its end.
            return std::future::pending().await;
        };
        let events: Vec<Event> = std::iter::from_fn(|| ring.next_event()).take(BATCH).collect();
        if events.len() < BATCH {
            // The ring was empty: the next event makes it readable anew.
            guard.clear_ready();
        }
        if !events.is_empty() {
            return events;
        }
    }
}

/// CLOCK_MONOTONIC, of which the programs read the coarse value.
fn monotonic_ns() -> u64 {
    let clock = nix::time::ClockId::CLOCK_MONOTONIC.now();
    clock.map_or(0, |now| u64::try_from(Duration::from(now).as_nanos()).unwrap_or(u64::MAX))
}
