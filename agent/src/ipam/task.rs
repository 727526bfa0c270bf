//! The task that owns the pool's state.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipam_core::{
    Action, Asked, Failure, Grant, Growth, IntentId, Lease, MacAddr, Now, Operation, Plan, PodRef, PoolState,
    Queue, Reply, SandboxKey, Targets, Truth, Waiter, plan,
};
use ipnetwork::IpNetwork;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use super::adopt::{Left, is_on_ours};
use super::checkpoint::{Checkpoint, CheckpointError};
use super::clock::BootClock;
use super::draft::{self, Draft};
use super::execute::{Ended, Executor, chain};
use super::handle::{Adopted, Adoption, LeaseError, LeaseRequest};
use super::view::{LastFailure, PoolView, Reconciled};
use crate::ec2::{Ec2Error, EniListing, ImdsEni};

/// How long the metadata service may take to say what it knows, when EC2 does
/// not answer at start.
const IMDS_PATIENCE: Duration = Duration::from_secs(5);
/// With nothing to wait for the task still looks around now and then.
const IDLE: Duration = Duration::from_secs(3600);

/// What handles ask of the task.
#[derive(Debug)]
pub(super) enum Command {
    Lease { request: LeaseRequest, ticket: u64, reply: oneshot::Sender<Result<Grant, LeaseError>> },
    Withdraw { key: SandboxKey, ticket: u64 },
    Commit { key: SandboxKey, host_ifname: String, reply: oneshot::Sender<bool> },
    Release { key: SandboxKey, reply: oneshot::Sender<Option<Lease>> },
    Adopt { adoption: Adoption, reply: oneshot::Sender<Adopted> },
    AdoptionEnded { reply: oneshot::Sender<bool> },
    Adopted { reply: oneshot::Sender<BTreeMap<SandboxKey, MacAddr>> },
    Leases { reply: oneshot::Sender<Vec<Lease>> },
    Link { mac: MacAddr, ready: bool },
    Announce(u32),
    AnnouncePods(Vec<PodRef>),
    Queue(Box<Queue>),
    Retarget(Box<Targets>),
    Resync,
}

/// A future that waits for a lease.
struct Asker {
    ticket: u64,
    reply: oneshot::Sender<Result<Grant, LeaseError>>,
}

/// An answer that is true only once the checkpoint is written.
enum Answer {
    Grant { key: SandboxKey, asker: Asker, grant: Grant },
    Written { reply: oneshot::Sender<bool> },
    Release { reply: oneshot::Sender<Option<Lease>>, lease: Option<Lease> },
    Adopt { reply: oneshot::Sender<Adopted>, adopted: Adopted },
}

/// What a task of the pool's own came back with.
enum Work {
    Ended(Box<Ended>),
    Listed(Option<Vec<ImdsEni>>),
}

pub(super) struct PoolTask {
    pub(super) state: PoolState,
    targets: Targets,
    pub(super) clock: BootClock,
    checkpoint: Checkpoint,
    executor: Executor,
    imds: Arc<dyn EniListing>,
    shown: watch::Sender<Arc<PoolView>>,
    pub(super) left: Left,
    askers: HashMap<SandboxKey, Vec<Asker>>,
    /// The ticket to which each provisional lease was given.
    given: HashMap<SandboxKey, u64>,
    answers: Vec<Answer>,
    draft: Draft,
    /// The checkpoint's text.
    written: Vec<u8>,
    /// Counts what was written once every pod that runs had its lease.
    noted: watch::Sender<u64>,
    work: JoinSet<Work>,
    /// Which action a task executes, for one that dies.
    running: BTreeMap<tokio::task::Id, (IntentId, Operation)>,
    last_failure: Option<LastFailure>,
    pub(super) contradicted: BTreeSet<IpAddr>,
    reconciled: Reconciled,
    asked_imds: bool,
}

impl PoolTask {
    #[expect(clippy::too_many_arguments, reason = "called once, by the handle, which has just made them all")]
    pub(super) fn new(
        state: PoolState,
        targets: Targets,
        clock: BootClock,
        checkpoint: Checkpoint,
        executor: Executor,
        imds: Arc<dyn EniListing>,
        shown: watch::Sender<Arc<PoolView>>,
        left: Left,
        noted: watch::Sender<u64>,
    ) -> Self {
        Self {
            state,
            targets,
            clock,
            draft: Draft::default(),
            written: draft::blank(&checkpoint),
            checkpoint,
            executor,
            imds,
            shown,
            left,
            askers: HashMap::new(),
            given: HashMap::new(),
            answers: Vec::new(),
            noted,
            work: JoinSet::new(),
            running: BTreeMap::new(),
            last_failure: None,
            contradicted: BTreeSet::new(),
            reconciled: Reconciled::default(),
            asked_imds: false,
        }
    }

    /// Runs until the last handle is gone. EC2 calls under way are then cut
    /// off; the journal tells the next process of them.
    pub(super) async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Command>) {
        loop {
            let wake_at = self.step();
            tokio::select! {
                command = inbox.recv() => {
                    let Some(command) = command else { return };
                    self.heed(command);
                    // What has come meanwhile shares one checkpoint and one plan.
                    while let Ok(command) = inbox.try_recv() {
                        self.heed(command);
                    }
                }
                Some(done) = self.work.join_next_with_id(), if !self.work.is_empty() => self.worked(done),
                () = tokio::time::sleep_until(wake_at) => {}
            }
        }
    }

    /// Settles, serves, writes, answers, plans, shows. Returns when to look
    /// again if nothing happens.
    fn step(&mut self) -> tokio::time::Instant {
        let now = self.clock.now();
        for expired in self.state.settle(&self.targets, now) {
            info!(reason = expired.reason.as_str(), sandbox = %expired.key.container_id, "no address until the deadline");
            for asker in self.askers.remove(&expired.key).unwrap_or_default() {
                let _ = asker.reply.send(Err(expired.reason.clone().into()));
            }
        }
        for served in self.state.serve(&self.targets, now) {
            let askers = self.askers.remove(&served.key).unwrap_or_default();
            for asker in askers {
                let (key, grant) = (served.key.clone(), served.grant.clone());
                self.answers.push(Answer::Grant { key, asker, grant });
            }
        }
        self.write_and_answer();

        // Serving may have emptied the pool: the clocks look at it once more. By
        // the same time, so that nobody's deadline can pass unheard.
        self.state.settle(&self.targets, now);
        let planned = self.plan(now);
        for action in planned.actions {
            self.execute(action);
        }
        self.close_recovered();
        self.show();
        // Actions just begun change what there is to wait for.
        let wake_at = self.plan(now).wake_at;
        let latest = now + IDLE;
        self.clock.instant(wake_at.map_or(latest, |at| at.min(latest)))
    }

    /// Until every pod that runs is known to have its lease, nothing is given
    /// back: what looks idle may be theirs.
    fn plan(&self, now: Now) -> Plan {
        if self.left.adopting && self.targets.growth == Growth::Normal {
            let targets = Targets { growth: Growth::DemandOnly, ..self.targets.clone() };
            return plan(&self.state, &targets, now);
        }
        plan(&self.state, &self.targets, now)
    }

    fn heed(&mut self, command: Command) {
        let now = self.clock.now();
        match command {
            Command::Lease { request, ticket, reply } => {
                let waiter = Waiter {
                    key: request.key.clone(),
                    pod: request.pod,
                    since: now,
                    deadline: self.clock.point(request.deadline),
                };
                let asker = Asker { ticket, reply };
                match self.state.ask(waiter) {
                    Asked::Known(grant) => {
                        self.answers.push(Answer::Grant { key: request.key, asker, grant })
                    }
                    Asked::Queued => self.askers.entry(request.key).or_default().push(asker),
                    Asked::Lost { address } => {
                        let _ = asker.reply.send(Err(LeaseError::Lost { address }));
                    }
                }
            }
            Command::Withdraw { key, ticket } => self.withdraw(&key, ticket),
            Command::Commit { key, host_ifname, reply } => {
                if self.state.commit(&key, &host_ifname) {
                    self.given.remove(&key);
                    self.answers.push(Answer::Written { reply });
                } else {
                    let _ = reply.send(false);
                }
            }
            Command::Release { key, reply } => {
                for asker in self.askers.remove(&key).unwrap_or_default() {
                    let _ = asker.reply.send(Err(LeaseError::Withdrawn));
                }
                let lease = self.release(&key);
                self.answers.push(Answer::Release { reply, lease });
            }
            Command::Adopt { adoption, reply } => {
                let adopted = self.adopt(adoption);
                self.answers.push(Answer::Adopt { reply, adopted });
            }
            Command::AdoptionEnded { reply } => {
                self.left.adopting = false;
                self.answers.push(Answer::Written { reply });
            }
            Command::Adopted { reply } => {
                let _ = reply.send(self.left.adopted.clone());
            }
            Command::Leases { reply } => {
                let _ = reply.send(self.state.leases().cloned().collect());
            }
            Command::Link { mac, ready } => self.state.set_link(mac, ready),
            Command::Announce(pods) => self.state.announce(pods),
            Command::AnnouncePods(pods) => self.state.announce_pods(pods),
            Command::Queue(queue) => self.state.queue(*queue, now),
            Command::Retarget(targets) => self.targets = *targets,
            Command::Resync => self.state.resync_at(now),
        }
    }

    pub(super) fn release(&mut self, key: &SandboxKey) -> Option<Lease> {
        self.given.remove(key);
        let lease = self.state.release(key, &self.targets, self.clock.now())?;
        self.contradicted.remove(&lease.address);
        self.left.adopted.remove(key);
        Some(lease)
    }

    /// The future that asked is gone. If it was the last one for its sandbox,
    /// the request leaves the queue; a lease that it was to get and never saw
    /// goes back.
    fn withdraw(&mut self, key: &SandboxKey, ticket: u64) {
        if let Some(askers) = self.askers.get_mut(key) {
            askers.retain(|asker| asker.ticket != ticket);
            if !askers.is_empty() {
                return;
            }
            self.askers.remove(key);
            if self.state.lease_of(key).is_none() {
                self.release(key);
                return;
            }
        }
        if self.given.get(key) == Some(&ticket) {
            self.release(key);
        }
    }

    /// The checkpoint first, then the answers that rest on it.
    fn write_and_answer(&mut self) {
        let answers = std::mem::take(&mut self.answers);
        match self.write() {
            Ok(changed) => {
                if !self.left.adopting && changed {
                    self.noted.send_modify(|count| *count += 1);
                }
                for answer in answers {
                    self.answer(answer);
                }
            }
            Err(error) => {
                error!(error = %chain(&error), "the checkpoint could not be written");
                let reason = chain(&error);
                for answer in answers {
                    self.answer_unwritten(answer, &reason);
                }
            }
        }
    }

    /// Brings the checkpoint up to date; tells whether it was not.
    fn write(&mut self) -> Result<bool, CheckpointError> {
        let text = self.draft.text(&self.checkpoint, &self.state, &self.left)?;
        if text == self.written {
            return Ok(false);
        }
        self.checkpoint.write(&text)?;
        self.written = text;
        Ok(true)
    }

    fn answer(&mut self, answer: Answer) {
        match answer {
            Answer::Grant { key, asker, grant } => {
                let provisional = self.state.lease_of(&key).is_some_and(|lease| lease.host_ifname.is_none());
                if provisional {
                    self.given.insert(key, asker.ticket);
                }
                // A future that is gone withdraws its ticket by itself.
                let _ = asker.reply.send(Ok(grant));
            }
            Answer::Written { reply } => {
                let _ = reply.send(true);
            }
            Answer::Release { reply, lease } => {
                let _ = reply.send(lease);
            }
            Answer::Adopt { reply, adopted } => {
                let _ = reply.send(adopted);
            }
        }
    }

    /// What could not be written down is not told as done: a lease is taken
    /// back. A release stays done in memory: its address is leased again only
    /// after a later write, which then holds the release as well.
    fn answer_unwritten(&mut self, answer: Answer, reason: &str) {
        match answer {
            Answer::Grant { key, asker, .. } => {
                let provisional = self.state.lease_of(&key).is_some_and(|lease| lease.host_ifname.is_none());
                if provisional {
                    self.release(&key);
                }
                let _ = asker.reply.send(Err(LeaseError::NotWritten(reason.to_owned())));
            }
            Answer::Written { reply } => {
                let _ = reply.send(false);
            }
            Answer::Release { reply, lease } => {
                let _ = reply.send(lease);
            }
            Answer::Adopt { reply, .. } => {
                let _ = reply.send(Adopted::NotWritten);
            }
        }
    }

    fn execute(&mut self, action: Action) {
        let intent = self.state.begin(action, &self.targets, self.clock.now());
        let (id, operation) = (intent.id, intent.action.operation());
        let executor = self.executor.clone();
        let handle = self.work.spawn(async move { Work::Ended(Box::new(executor.run(intent).await)) });
        self.running.insert(handle.id(), (id, operation));
    }

    fn worked(&mut self, done: Result<(tokio::task::Id, Work), tokio::task::JoinError>) {
        match done {
            Ok((task, Work::Ended(ended))) => {
                self.running.remove(&task);
                self.ended(*ended);
            }
            Ok((_, Work::Listed(listing))) => self.listed(listing),
            Err(died) => {
                error!(error = %died, "a task of the pool died");
                if let Some((id, operation)) = self.running.remove(&died.id()) {
                    let outcome = Err(Ec2Error::unanswered(operation, "the call's task died", true, None));
                    self.ended(Ended { id, operation, outcome });
                }
            }
        }
    }

    fn ended(&mut self, ended: Ended) {
        let now = self.clock.now();
        let dice = rand::random::<f64>();
        let outcome: Result<Reply, Failure> = match ended.outcome {
            Ok(reply) => Ok(reply),
            Err(error) => {
                self.last_failure = Some(LastFailure {
                    operation: ended.operation,
                    class: error.class,
                    message: chain(&error),
                    at: now,
                });
                if ended.operation == Operation::DescribeEnis && self.state.truth() == Truth::Unknown {
                    self.ask_imds();
                }
                Err(error.failure())
            }
        };
        let knew = matches!(self.state.truth(), Truth::Ec2 { .. });
        let Some(seen) = self.state.complete(ended.id, outcome, &self.targets, now, dice) else {
            return;
        };
        if knew {
            self.reconciled.add(&seen, &self.state);
        }
        if seen != ipam_core::Observation::default() {
            info!(
                found = seen.found.len(),
                lost = seen.lost.len(),
                adopted = seen.adopted,
                dropped = seen.dropped,
                "EC2's view differs from the pool's; the pool follows"
            );
        }
        for (address, key) in seen.contradicted {
            if self.contradicted.insert(address) {
                warn!(%address, sandbox = %key.container_id, "a running pod's address is no longer on its ENI");
            }
        }
        self.confirm_adopted();
        let state = &self.state;
        self.contradicted.retain(|address| {
            !is_on_ours(state, *address) && state.leases().any(|lease| lease.address == *address)
        });
    }

    /// EC2 does not answer: the metadata service may contradict the
    /// checkpoint before that is served.
    fn ask_imds(&mut self) {
        if self.asked_imds {
            return;
        }
        self.asked_imds = true;
        let imds = Arc::clone(&self.imds);
        self.work.spawn(async move {
            let answer = tokio::time::timeout(IMDS_PATIENCE, imds.list_enis()).await;
            Work::Listed(match answer {
                Ok(Ok(listing)) => Some(listing),
                Ok(Err(error)) => {
                    warn!(error = %chain(&error), "the metadata service does not list the ENIs");
                    None
                }
                Err(_) => {
                    warn!("the metadata service does not answer");
                    None
                }
            })
        });
    }

    fn listed(&mut self, listing: Option<Vec<ImdsEni>>) {
        if let Some(listing) = listing {
            self.state.contradict(|eni, block| {
                listing.iter().filter(|listed| listed.id == eni.id).any(|listed| {
                    listed.prefixes.contains(&block)
                        || listed.addresses.iter().any(|address| IpNetwork::from(*address) == block)
                })
            });
        }
        self.state.trust_checkpoint();
        if self.state.truth() == Truth::Checkpoint {
            warn!("EC2 does not answer; the addresses of this boot's checkpoint are served");
        }
    }

    /// The last process's open changes are settled once EC2 has been asked and
    /// no create waits to be repeated; the repeats have lines of their own.
    fn close_recovered(&mut self) {
        let settled = matches!(self.state.truth(), Truth::Ec2 { .. }) && !self.state.has_unresolved_creates();
        if self.left.journal_lines.is_empty() || !settled {
            return;
        }
        let creating = self.state.intents().any(|intent| intent.action.operation() == Operation::CreateEni);
        if creating {
            return;
        }
        let journal = self.executor.journal.clone();
        let lines = std::mem::take(&mut self.left.journal_lines);
        tokio::spawn(async move {
            for line in lines {
                if let Err(error) = journal.end(line).await {
                    warn!(error = %chain(&error), "the end of a change could not be journaled");
                }
            }
        });
    }

    fn show(&self) {
        let view = PoolView::of(
            &self.state,
            &self.targets,
            self.clock.now(),
            self.last_failure.clone(),
            self.contradicted.clone(),
            self.reconciled,
        );
        self.shown.send_if_modified(|shown| {
            let changed = **shown != view;
            if changed {
                *shown = Arc::new(view);
            }
            changed
        });
    }
}
