//! The pool as the rest of the agent holds it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ipam_core::{
    Grant, Identity, InstanceId, Lease, MacAddr, PodRef, PoolState, Queue, Refusal, SandboxKey, Targets,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::{info, warn};

use super::adopt::Left;
use super::checkpoint::{Checkpoint, CheckpointError, Content, Found};
use super::clock::{BootClock, ClockError};
use super::execute::{Executor, chain};
use super::journal::{Journal, JournalError};
use super::task::{Command, PoolTask};
use super::view::PoolView;
use crate::ec2::{Ec2, EniListing};

/// What the pool needs to know.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// The instance.
    pub instance: InstanceId,
    /// How large the pool is to be.
    pub targets: Targets,
    /// Whether attached ENIs without any agent's tag are ours
    /// (`MANAGE_UNTAGGED_ENI`).
    pub manage_untagged: bool,
    /// The cluster's name, for tags (`CLUSTER_NAME`).
    pub cluster: Option<String>,
    /// Tags for new ENIs (`ADDITIONAL_ENI_TAGS`).
    pub extra_tags: BTreeMap<String, String>,
    /// How long EC2 is not called while the first word of [`Pool::queue`] is
    /// to be expected; zero when none will come.
    pub queue_patience: Duration,
}

/// Where the pool keeps its state.
#[derive(Clone, Debug)]
pub struct StateDirs {
    /// Leases and cooldowns; a tmpfs. Usually /run/tidepool.
    pub run: PathBuf,
    /// The journal of EC2 changes; on disk. Usually /var/lib/tidepool.
    pub journal: PathBuf,
}

/// The pool could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A directory could not be made.
    #[error("making {path}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// The checkpoint cannot be used.
    #[error("the checkpoint")]
    Checkpoint(#[from] CheckpointError),
    /// The journal cannot be used.
    #[error("the journal")]
    Journal(#[from] JournalError),
    /// The boot's identity or age cannot be read.
    #[error("the boot clock")]
    Clock(#[from] ClockError),
}

/// A pod that runs without a lease: the checkpoint was lost, or another agent gave it its address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Adoption {
    /// Whose it is.
    pub key: SandboxKey,
    /// The pod, where it is known.
    pub pod: Option<PodRef>,
    /// Its address.
    pub address: IpAddr,
    /// The host end of its link.
    pub host_ifname: String,
    /// The host end's MAC address.
    pub host_mac: MacAddr,
}

/// What became of an [`Adoption`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Adopted {
    /// A lease as any other.
    Confirmed,
    /// EC2 does not have the address on an ENI of ours: held, reported, never
    /// given to another.
    Unconfirmed,
    /// The sandbox or the address has a lease.
    Taken,
    /// It could not be written down, or the pool has stopped.
    NotWritten,
}

/// A sandbox wants an address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseRequest {
    /// Whose it will be.
    pub key: SandboxKey,
    /// The pod, where it is known.
    pub pod: Option<PodRef>,
    /// When waiting is no longer worth it.
    pub deadline: Instant,
}

/// There is no address for the sandbox.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// There was none until the deadline, for a reason that an operator can
    /// act on.
    #[error("no address: {0}")]
    Refused(Refusal),
    /// The sandbox had an address whose ENI is gone. It is to be released.
    #[error("the ENI of address {address} is gone")]
    Lost {
        /// The address.
        address: IpAddr,
    },
    /// The lease could not be written down, so it was not given.
    #[error("the lease could not be written down: {0}")]
    NotWritten(String),
    /// The request was withdrawn by a release of the same sandbox.
    #[error("the request was withdrawn")]
    Withdrawn,
    /// The pool's task has ended.
    #[error("the pool has stopped")]
    Stopped,
}

impl LeaseError {
    /// A fixed word for metrics and for the CNI error.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.as_str(),
            Self::Lost { .. } => "eni_gone",
            Self::NotWritten(_) => "state_not_written",
            Self::Withdrawn => "withdrawn",
            Self::Stopped => "stopped",
        }
    }

    /// Whether the runtime should simply try again later.
    pub fn is_retryable(&self) -> bool {
        true
    }
}

/// A handle to the pool; clones are handles to the same one. The pool's task
/// ends when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct Pool {
    pub(super) commands: mpsc::UnboundedSender<Command>,
    view: watch::Receiver<Arc<PoolView>>,
    noted: watch::Receiver<u64>,
    tickets: Arc<AtomicU64>,
    past: Past,
}

/// What is known of this boot's leases at the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Past {
    /// All of them, from our own checkpoint.
    Known,
    /// Nothing is on file, or not everything yet: another agent may have been
    /// here before.
    Missing,
    /// There was a checkpoint of ours and it cannot be read.
    Torn,
}

impl Pool {
    /// Reads what the last process left, and starts the task that owns the
    /// pool. EC2 is asked by that task: leases wait until it has answered, or
    /// until it is known not to answer and the checkpoint is served.
    ///
    /// Must be called on a tokio runtime.
    pub fn start(
        config: PoolConfig,
        ec2: Arc<dyn Ec2>,
        imds: Arc<dyn EniListing>,
        dirs: &StateDirs,
    ) -> Result<Self, StartError> {
        Self::start_at(config, ec2, imds, dirs, BootClock::read()?)
    }

    /// Like [`Self::start`], by a clock of the caller's.
    pub fn start_at(
        config: PoolConfig,
        ec2: Arc<dyn Ec2>,
        imds: Arc<dyn EniListing>,
        dirs: &StateDirs,
        clock: BootClock,
    ) -> Result<Self, StartError> {
        for path in [&dirs.run, &dirs.journal] {
            fs::create_dir_all(path)
                .map_err(|source| StartError::Directory { path: path.clone(), source })?;
        }
        let identity =
            Identity { instance: config.instance.clone(), manage_untagged: config.manage_untagged };
        let seed = format!("{}-{:016x}", config.instance, rand::random::<u64>());
        let mut state = PoolState::new(identity, seed);
        if !config.queue_patience.is_zero() {
            state.expect_queue(clock.now() + config.queue_patience);
        }

        let checkpoint = Checkpoint::new(&dirs.run, clock.boot_id());
        let (past, adopted) = match checkpoint.read()? {
            Found::Content(Content { pool: saved, adopted, adopting }) => {
                info!(
                    leases = saved.leases.len(),
                    cooling = saved.cooling.len(),
                    "checkpoint of this boot read"
                );
                state.restore(saved);
                (if adopting { Past::Missing } else { Past::Known }, adopted)
            }
            Found::Torn(error) => {
                warn!(error, "the checkpoint cannot be read; every address that EC2 lists cools down first");
                (Past::Torn, Vec::new())
            }
            Found::Nothing => (Past::Missing, Vec::new()),
        };
        let (journal, left) = Journal::open(&dirs.journal)?;
        for (_, action) in &left {
            warn!(?action, "an EC2 change of the last process has no known end");
            state.recover(action.clone(), &config.targets, clock.now());
        }

        let executor = Executor {
            ec2,
            journal,
            instance: config.instance,
            cluster: config.cluster,
            extra_tags: config.extra_tags,
        };
        let (commands, inbox) = mpsc::unbounded_channel();
        let (shown, view) = watch::channel(Arc::new(PoolView::default()));
        let left = Left {
            journal_lines: left.into_iter().map(|(line, _)| line).collect(),
            adopted: adopted.into_iter().map(|lease| (lease.key, lease.host_mac)).collect(),
            adopting: past != Past::Known,
        };
        let (telling, noted) = watch::channel(0);
        let task =
            PoolTask::new(state, config.targets, clock, checkpoint, executor, imds, shown, left, telling);
        tokio::spawn(task.run(inbox));
        Ok(Self { commands, view, noted, tickets: Arc::default(), past })
    }

    /// An address for a sandbox, provisional until [`Self::commit`]. Waits in
    /// the order of arrival until the deadline while the pool is empty; that
    /// wait makes it grow. Asked again for the same sandbox, it gives the same
    /// answer. Dropped before it is ready, it takes the request back.
    pub async fn lease(&self, request: LeaseRequest) -> Result<Grant, LeaseError> {
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        let mut withdrawal = Withdrawal { commands: &self.commands, key: Some(request.key.clone()), ticket };
        let (reply, answer) = oneshot::channel();
        self.send(Command::Lease { request, ticket, reply }).map_err(|_| LeaseError::Stopped)?;
        let answer = answer.await.map_err(|_| LeaseError::Stopped)?;
        withdrawal.key = None;
        answer
    }

    /// The pod of a lease is attached by `host_ifname`: the lease is no longer
    /// provisional. False when the lease is not known, or could not be written
    /// down; the plugin then begins again.
    pub async fn commit(&self, key: &SandboxKey, host_ifname: &str) -> bool {
        let (key, host_ifname) = (key.clone(), host_ifname.to_owned());
        self.ask(|reply| Command::Commit { key, host_ifname, reply }).await.unwrap_or(false)
    }

    /// Takes a lease back, or a request that waits. Returns what the sandbox
    /// had; `None` also when the pool has stopped.
    pub async fn release(&self, key: &SandboxKey) -> Option<Lease> {
        let key = key.clone();
        self.ask(|reply| Command::Release { key, reply }).await.flatten()
    }

    /// What is known of this boot's leases at the start.
    pub fn past(&self) -> Past {
        self.past
    }

    /// Makes a lease of a pod that runs without one. To be called while EC2's
    /// truth is known, and before anything is leased.
    pub async fn adopt(&self, adoption: Adoption) -> Adopted {
        self.ask(|reply| Command::Adopt { adoption, reply }).await.unwrap_or(Adopted::NotWritten)
    }

    /// Every pod that runs has a lease now; until this is written down, a next
    /// process looks at the node again. False when it could not be.
    pub async fn adoption_ended(&self) -> bool {
        self.ask(|reply| Command::AdoptionEnded { reply }).await.unwrap_or(false)
    }

    /// The host end's MAC address of each lease that was adopted.
    pub async fn adopted(&self) -> BTreeMap<SandboxKey, MacAddr> {
        self.ask(|reply| Command::Adopted { reply }).await.unwrap_or_default()
    }

    /// Every lease, provisional ones included.
    pub async fn leases(&self) -> Vec<Lease> {
        self.ask(|reply| Command::Leases { reply }).await.unwrap_or_default()
    }

    /// What there is to see, and its changes.
    pub fn view(&self) -> watch::Receiver<Arc<PoolView>> {
        self.view.clone()
    }

    /// Changes with every change of the leases on file, from the moment on when every pod that runs has one.
    pub fn noted(&self) -> watch::Receiver<u64> {
        self.noted.clone()
    }

    /// The kernel shows the link of the ENI with this MAC address and the
    /// host's routes for it stand: its addresses can be leased. To be told
    /// after every start of the agent, also before the ENI is in the view.
    /// The primary ENI needs it not.
    pub fn link_ready(&self, mac: MacAddr) {
        self.tell(Command::Link { mac, ready: true });
    }

    /// The link is gone, or its routes are: nothing more is leased on it.
    pub fn link_lost(&self, mac: MacAddr) {
        self.tell(Command::Link { mac, ready: false });
    }

    /// How many pods bound to this node have no address yet, as the Kubernetes
    /// API says; those that wait in [`Self::lease`] count too.
    pub fn announce(&self, pods_without_address: u32) {
        self.tell(Command::Announce(pods_without_address));
    }

    /// Which pods bound to this node the Kubernetes API shows without an
    /// address; those that have their lease do not count any more.
    pub fn announce_pods(&self, pods: Vec<PodRef>) {
        self.tell(Command::AnnouncePods(pods));
    }

    /// Who else needs EC2, as the Kubernetes API says: when our turn comes.
    pub fn queue(&self, queue: Queue) {
        self.tell(Command::Queue(Box::new(queue)));
    }

    /// New targets: a change of `max-pods`, a cordoned node, a new knob.
    pub fn retarget(&self, targets: Targets) {
        self.tell(Command::Retarget(Box::new(targets)));
    }

    /// IMDS or the kernel shows something unexpected: EC2 is asked now.
    pub fn resync(&self) {
        self.tell(Command::Resync);
    }

    /// Ends when the pool's task has ended.
    pub async fn stopped(&self) {
        self.commands.closed().await;
    }

    fn tell(&self, command: Command) {
        // A pool that has stopped is found by `stopped` and by every answer
        // that does not come.
        let _ = self.send(command);
    }

    fn send(&self, command: Command) -> Result<(), ()> {
        self.commands.send(command).map_err(|_| ())
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply)).ok()?;
        answer.await.ok()
    }
}

/// Takes a request back when the future that made it is dropped.
struct Withdrawal<'a> {
    commands: &'a mpsc::UnboundedSender<Command>,
    key: Option<SandboxKey>,
    ticket: u64,
}

impl Drop for Withdrawal<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            let _ = self.commands.send(Command::Withdraw { key, ticket: self.ticket });
        }
    }
}

impl From<Refusal> for LeaseError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<CheckpointError> for LeaseError {
    fn from(error: CheckpointError) -> Self {
        Self::NotWritten(chain(&error))
    }
}
