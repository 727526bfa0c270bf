//! The handle to the policy thread.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use policy_core::{Cluster, EndpointSets, Finding, LocalPod, PodIdentity};
use rpc::{PodRef, Refusal, code};
use tokio::sync::{mpsc, oneshot, watch};

use super::worker::{Command, Worker};
use super::{Changes, Kernel, KernelError};
use crate::endpoint::{Endpoint, Enforcement, Slot};
use crate::metrics::Metrics;

/// How many commands may wait; the next sender waits with them.
const QUEUE: usize = 256;

/// How long an ADD waits for the API to know its pod.
const POD_PATIENCE: Duration = Duration::from_secs(5);

/// The cluster, as the policy thread needs it.
pub trait ClusterSource: Send + Sync + 'static {
    /// The newest snapshot.
    fn snapshot(&self) -> Arc<Cluster>;
    /// Sees to it that the snapshot has this very pod; an error says why that cannot be.
    fn ensure_pod(
        &self,
        pod: &PodRef,
        patience: Duration,
    ) -> impl Future<Output = Result<(), Refusal>> + Send;
}

/// What is in force, for people.
#[derive(Debug, Clone, Default)]
pub struct PolicyReport {
    /// Why the newest policy is not in force, where it is not.
    pub error: Option<String>,
    /// Sets and epoch by slot.
    pub endpoints: BTreeMap<u32, EndpointSets>,
    /// The pods under policy.
    pub local: Vec<LocalPod>,
    /// Entries by map.
    pub counts: BTreeMap<&'static str, usize>,
    /// What could not be taken as given; the same pointer for as long as nothing changed.
    pub findings: Arc<[Finding]>,
    /// Pods whose links take no filters, or have others' before ours.
    pub filters: Arc<[Finding]>,
}

impl PolicyReport {
    /// Everything that was found.
    pub fn all_findings(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().chain(self.filters.iter())
    }
}

/// Puts endpoints under policy; clone it as often as needed.
#[derive(Debug)]
pub struct Enforcer<C> {
    pub(super) commands: mpsc::Sender<Command>,
    cluster: Arc<C>,
    report: watch::Receiver<Arc<PolicyReport>>,
    changes: Changes,
    restoring: watch::Sender<bool>,
}

impl<C: ClusterSource> Enforcer<C> {
    /// Starts the thread. Until [`Self::activate`], endpoints that attach are taken for those of a former agent:
    /// what is in force for them stays.
    ///
    /// # Errors
    ///
    /// Where the maps cannot be read or the thread cannot be started.
    pub fn start<K: Kernel>(kernel: K, cluster: Arc<C>, metrics: Metrics) -> Result<Self, KernelError> {
        let (commands, receiver) = mpsc::channel(QUEUE);
        let (reporter, report) = watch::channel(Arc::default());
        let source = Arc::clone(&cluster);
        let changes = Changes::default();
        let snapshot = Box::new(move || source.snapshot());
        let worker = Worker::new(kernel, snapshot, reporter, changes.clone(), metrics, commands.downgrade())?;
        std::thread::Builder::new().name("policy".to_owned()).spawn(move || worker.run(receiver))?;
        Ok(Self { commands, cluster, report, changes, restoring: watch::Sender::new(true) })
    }

    /// Every former endpoint was attached: compiles, puts it in force, and serves newcomers from now on.
    ///
    /// # Errors
    ///
    /// Why the first compilation is not in force.
    pub async fn activate(&self) -> Result<(), Refusal> {
        self.ask(Command::Activate).await?;
        self.restoring.send_replace(false);
        Ok(())
    }

    /// The cluster's snapshot changed; the first of what is new reached the agent at `since`.
    pub async fn cluster_changed(&self, since: Instant) {
        // The thread lives as long as this handle; if it is gone the process is ending.
        drop(self.commands.send(Command::Changed(since)).await);
    }

    /// How long the last changes took on their way into the maps.
    #[must_use]
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// Brings the packet counters into the metrics.
    pub async fn count(&self) {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Count(reply)).await.is_ok() {
            drop(answer.await);
        }
    }

    /// Puts back filters that somebody took off.
    pub async fn verify(&self) {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Verify(reply)).await.is_ok() {
            drop(answer.await);
        }
    }

    /// What is in force.
    #[must_use]
    pub fn report(&self) -> watch::Receiver<Arc<PolicyReport>> {
        self.report.clone()
    }

    async fn ask(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<(), Refusal>>) -> Command,
    ) -> Result<(), Refusal> {
        let (reply, answer) = oneshot::channel();
        let ended = || Refusal::retryable(code::TRY_AGAIN_LATER, "agent-stopping", "the agent is stopping");
        self.commands.send(command(reply)).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

impl<C: ClusterSource> Enforcement for Enforcer<C> {
    async fn attach(&self, endpoint: Endpoint) -> Result<(), Refusal> {
        let pod = LocalPod {
            slot: u32::from(endpoint.slot.number()),
            sandbox: endpoint.key.to_string().into(),
            identity: endpoint.pod.as_ref().map(identity),
            addresses: vec![endpoint.address],
        };
        if *self.restoring.borrow() {
            return self.ask(|reply| Command::Adopt(endpoint, pod, reply)).await;
        }
        if let Some(named) = &endpoint.pod {
            self.cluster.ensure_pod(named, POD_PATIENCE).await?;
        }
        self.ask(|reply| Command::Attach(endpoint, pod, reply)).await
    }

    async fn detach(&self, endpoint: &Endpoint) {
        let (reply, answer) = oneshot::channel();
        let command = Command::Detach(endpoint.slot, endpoint.end.ifindex, reply);
        if self.commands.send(command).await.is_ok() {
            drop(answer.await);
        }
    }

    async fn addresses_of(&self, ifindex: u32) -> Vec<IpAddr> {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::AddressesOf(ifindex, reply)).await.is_err() {
            return Vec::new();
        }
        answer.await.unwrap_or_default()
    }

    async fn discard(&self, ifindex: u32) {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Discard(ifindex, reply)).await.is_ok() {
            drop(answer.await);
        }
    }

    async fn slot_of(&self, ifindex: u32) -> Option<Slot> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::SlotOf(ifindex, reply)).await.ok()?;
        answer.await.ok()?
    }
}

fn identity(pod: &PodRef) -> PodIdentity {
    PodIdentity {
        namespace: pod.namespace.as_str().into(),
        name: pod.name.as_str().into(),
        uid: pod.uid.as_deref().map(Into::into),
    }
}
