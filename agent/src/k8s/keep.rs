//! The task that owns the table.

use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, timeout_at};

use super::handle::Snapshot;
use super::object::PeerNodeLite;
use super::start::QUEUE;
use super::table::{Incumbents, Table, Update, Waiting};
use super::watch::{Change, Sink, WatchPace, WatchStatus, Watcher};

/// Between two snapshots at least: a change that comes alone is shown at once, and what follows it is gathered.
const BETWEEN: Duration = Duration::from_millis(10);

/// A policy that waits for nodes for so long is told.
const HELD: Duration = Duration::from_secs(3);

/// What the task shows.
pub(super) struct Shown {
    pub(super) snapshots: watch::Sender<Snapshot>,
    pub(super) waiting: watch::Sender<Option<Waiting>>,
    pub(super) incumbents: watch::Sender<Option<Incumbents>>,
}

/// Owns the table: takes what comes, gathers what comes together, and shows the result.
pub(super) async fn keep(
    mut table: Table,
    mut inbox: mpsc::Receiver<Update>,
    mut nodes: PeerNodes,
    shown: Shown,
) {
    let mut quiet_until = Instant::now();
    let mut held = Held::default();
    loop {
        let first = match held.due() {
            Some(due) => timeout_at(due, inbox.recv()).await.ok(),
            None => Some(inbox.recv().await),
        };
        let mut since = None;
        match first {
            Some(Some(first)) => take(&mut table, first, &mut since),
            Some(None) => return,
            // Time has come to tell what is held back.
            None => {}
        }
        loop {
            // No more than a queue full: whoever fills it faster must not keep all from being shown.
            for _ in 0..QUEUE {
                let Ok(update) = inbox.try_recv() else { break };
                take(&mut table, update, &mut since);
            }
            match timeout_at(quiet_until, inbox.recv()).await {
                Ok(Some(update)) if Instant::now() < quiet_until => take(&mut table, update, &mut since),
                Ok(Some(update)) => {
                    take(&mut table, update, &mut since);
                    break;
                }
                // Nobody can send any more; what came is still shown.
                Ok(None) => break,
                Err(_) => break,
            }
        }
        if nodes.follow(&mut table) {
            since.get_or_insert_with(std::time::Instant::now);
        }
        if table.tell_held(held.tells(table.holds_policies(), Instant::now())) {
            since.get_or_insert_with(std::time::Instant::now);
        }
        // Not a part of the snapshot: policy must not be compiled anew for it.
        if let Some(waiting) = table.waiting() {
            shown.waiting.send_replace(Some(waiting));
        }
        if let Some(incumbents) = table.incumbents() {
            shown.incumbents.send_replace(Some(incumbents));
        }
        // Before everything was listed once, half a cluster is not worth compiling.
        if since.is_some() && table.is_complete() {
            let next = Snapshot {
                generation: shown.snapshots.borrow().generation + 1,
                synced: true,
                cluster: table.cluster(),
                findings: table.findings(),
                node: table.facts(),
                since,
            };
            shown.snapshots.send_replace(next);
            quiet_until = Instant::now() + BETWEEN;
        }
    }
}

/// Since when policies wait for nodes; a list of nodes takes a moment, and that is nothing to tell.
#[derive(Default)]
struct Held {
    since: Option<Instant>,
    told: bool,
}

impl Held {
    /// When it is to be told.
    fn due(&self) -> Option<Instant> {
        self.since.filter(|_| !self.told).map(|since| since + HELD)
    }

    /// Whether it is to be told now.
    fn tells(&mut self, holds: bool, now: Instant) -> bool {
        self.since = holds.then(|| self.since.unwrap_or(now));
        self.told = self.since.is_some_and(|since| now >= since + HELD);
        self.told
    }
}

/// Notes when the first update came that made a difference.
fn take(table: &mut Table, update: Update, since: &mut Option<std::time::Instant>) {
    let now = std::time::Instant::now();
    if table.apply(update) {
        since.get_or_insert(now);
    }
}

/// The watch of all nodes, which runs only while a policy speaks of nodes: their heartbeats are most of what an API
/// server of a large cluster writes.
pub(super) struct PeerNodes {
    client: Client,
    pace: WatchPace,
    updates: mpsc::WeakSender<Update>,
    status: watch::Sender<WatchStatus>,
    /// Counts the watches, so that a late word of a stopped one is known for what it is.
    number: u64,
    running: Option<JoinSet<()>>,
}

impl PeerNodes {
    pub(super) fn new(
        client: Client,
        pace: WatchPace,
        updates: &mpsc::Sender<Update>,
    ) -> (Self, watch::Receiver<WatchStatus>) {
        let (status, receiver) = watch::channel(idle());
        let updates = updates.downgrade();
        (Self { client, pace, updates, status, number: 0, running: None }, receiver)
    }

    /// Starts and stops it as the table needs; true: what the table knows of nodes is different.
    fn follow(&mut self, table: &mut Table) -> bool {
        match (table.wants_nodes(), self.running.is_some()) {
            (true, false) => {
                let Some(updates) = self.updates.upgrade() else { return false };
                self.number += 1;
                table.expect_nodes(self.number);
                self.status.send_modify(|status| status.synced = false);
                let watcher = Watcher {
                    client: self.client.clone(),
                    kind: idle().kind,
                    path: "/api/v1/nodes",
                    labels: None,
                    fields: None,
                    optional: false,
                    pace: self.pace,
                    status: self.status.clone(),
                };
                let mut task = JoinSet::new();
                task.spawn(watcher.run(ToTable { updates, number: self.number }));
                self.running = Some(task);
                false
            }
            (false, true) => {
                // Dropping it ends it.
                self.running = None;
                self.status.send_replace(idle());
                table.forget_nodes()
            }
            _ => false,
        }
    }
}

/// While nobody asks for nodes nothing is missing.
fn idle() -> WatchStatus {
    WatchStatus { kind: "peer nodes", synced: true, ..WatchStatus::default() }
}

struct ToTable {
    updates: mpsc::Sender<Update>,
    number: u64,
}

impl Sink<PeerNodeLite> for ToTable {
    async fn take(&mut self, change: Change<PeerNodeLite>) -> bool {
        self.updates.send(Update::PeerNodes(self.number, change)).await.is_ok()
    }
}
