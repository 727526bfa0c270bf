//! Starts the watches and the task that owns the table.

use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::eniconfig::{self, EniConfigWatch};
use super::event::{Publisher, publish};
use super::handle::{ClusterHandle, GATHER, GATHER_AT_MOST, Snapshot};
use super::object::Object;
use super::table::{Fleet, Incumbents, KINDS, Table, Update, Waiting};
use super::watch::{Change, Sink, WatchPace, WatchStatus, Watcher};

/// Updates on their way to the table. When it is full the watches wait, and the server
/// ends those that wait too long; they then take up where they were.
const QUEUE: usize = 1024;

/// What to watch and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// This node's name.
    pub node: String,
    /// Whether ENIConfigs are watched too.
    pub eni_configs: bool,
    /// Where cluster IPs are given from, if that is known.
    pub service_cidrs: Vec<ipnetwork::IpNetwork>,
    /// What tells our turn at EC2 among all nodes.
    pub fleet: Fleet,
    /// How patient the watches are.
    pub pace: WatchPace,
}

/// Everything that runs; dropping it stops it.
#[derive(Debug)]
pub struct Driver(JoinSet<()>);

impl Driver {
    /// Runs until one of its tasks ends, which none does by itself: the caller treats it
    /// as an error.
    pub async fn run(mut self) {
        match self.0.join_next().await {
            Some(Err(fault)) => tracing::error!(error = %fault, "a task of the Kubernetes adapter failed"),
            _ => tracing::error!("a task of the Kubernetes adapter ended"),
        }
    }
}

/// Starts watching. Returns at once; ask the handle when it is synced. Must be called
/// inside a tokio runtime.
pub fn start(client: Client, options: Options) -> (ClusterHandle, Driver) {
    let (updates, inbox) = mpsc::channel(QUEUE);
    let (snapshots, snapshot) = watch::channel(Snapshot::default());
    let (events, outbox) = Publisher::new();
    let mut tasks = JoinSet::new();
    let node_field = format!("metadata.name={}", options.node);
    let mut watches =
        Watches { client: client.clone(), options, updates: updates.clone(), tasks: &mut tasks };
    let kinds: [watch::Receiver<WatchStatus>; KINDS] = [
        watches.add("pods", "/api/v1/pods", None, None, Update::Pods),
        watches.add("namespaces", "/api/v1/namespaces", None, None, Update::Namespaces),
        watches.add(
            "networkpolicies",
            "/apis/networking.k8s.io/v1/networkpolicies",
            None,
            None,
            Update::Policies,
        ),
        watches.add("services", "/api/v1/services", None, None, Update::Services),
        // Those that the controller makes say what the pods say already.
        watches.add(
            "endpointslices",
            "/apis/discovery.k8s.io/v1/endpointslices",
            Some("endpointslice.kubernetes.io/managed-by!=endpointslice-controller.k8s.io"),
            None,
            Update::Slices,
        ),
        watches.add("nodes", "/api/v1/nodes", None, Some(node_field.as_str()), Update::Node),
    ];
    let mut status = kinds.to_vec();
    let eni_configs = watches.options.eni_configs.then(|| {
        let (keeper, list) = eniconfig::Keeper::new();
        let watched = watches.run("eniconfigs", eniconfig::PATH, None, None, keeper);
        status.push(watched.clone());
        EniConfigWatch { list, status: watched }
    });
    let Watches { options, .. } = watches;
    let table = Table::new(&options.node, options.service_cidrs, options.fleet);
    let (told, waiting) = watch::channel(None);
    let (named, incumbents) = watch::channel(None);
    tasks.spawn(keep(table, inbox, snapshots, told, named));
    tasks.spawn(publish(client.clone(), options.node, outbox));
    let handle = ClusterHandle {
        client,
        snapshot,
        updates,
        status: status.into(),
        events,
        eni_configs,
        waiting,
        incumbents,
    };
    (handle, Driver(tasks))
}

struct Watches<'a> {
    client: Client,
    options: Options,
    updates: mpsc::Sender<Update>,
    tasks: &'a mut JoinSet<()>,
}

impl Watches<'_> {
    fn add<T: Object>(
        &mut self,
        kind: &'static str,
        path: &'static str,
        labels: Option<&str>,
        fields: Option<&str>,
        wrap: fn(Change<T>) -> Update,
    ) -> watch::Receiver<WatchStatus> {
        let sink = ToTable { updates: self.updates.clone(), wrap };
        self.run(kind, path, labels, fields, sink)
    }

    fn run<T: Object>(
        &mut self,
        kind: &'static str,
        path: &'static str,
        labels: Option<&str>,
        fields: Option<&str>,
        sink: impl Sink<T> + 'static,
    ) -> watch::Receiver<WatchStatus> {
        let (status, receiver) = watch::channel(WatchStatus { kind, ..WatchStatus::default() });
        let watcher = Watcher {
            client: self.client.clone(),
            kind,
            path,
            labels: labels.map(str::to_owned),
            fields: fields.map(str::to_owned),
            pace: self.options.pace,
            status,
        };
        self.tasks.spawn(watcher.run(sink));
        receiver
    }
}

struct ToTable<T> {
    updates: mpsc::Sender<Update>,
    wrap: fn(Change<T>) -> Update,
}

impl<T: Object> Sink<T> for ToTable<T> {
    async fn take(&mut self, change: Change<T>) -> bool {
        self.updates.send((self.wrap)(change)).await.is_ok()
    }
}

/// Owns the table: takes what comes, gathers what comes together, and shows the result.
async fn keep(
    mut table: Table,
    mut inbox: mpsc::Receiver<Update>,
    shown: watch::Sender<Snapshot>,
    told: watch::Sender<Option<Waiting>>,
    named: watch::Sender<Option<Incumbents>>,
) {
    while let Some(first) = inbox.recv().await {
        let mut different = table.apply(first);
        let latest = Instant::now() + GATHER_AT_MOST;
        loop {
            let until = (Instant::now() + GATHER).min(latest);
            match timeout_at(until, inbox.recv()).await {
                Ok(Some(update)) => different |= table.apply(update),
                // Nobody can send any more; what came is still shown.
                Ok(None) => break,
                Err(_) => break,
            }
            if Instant::now() >= latest {
                break;
            }
        }
        // Not a part of the snapshot: policy must not be compiled anew for it.
        if let Some(waiting) = table.waiting() {
            told.send_replace(Some(waiting));
        }
        if let Some(incumbents) = table.incumbents() {
            named.send_replace(Some(incumbents));
        }
        // Before everything was listed once, half a cluster is not worth compiling.
        if different && table.is_complete() {
            let next = Snapshot {
                generation: shown.borrow().generation + 1,
                synced: true,
                cluster: table.cluster(),
                findings: table.findings(),
                node: table.facts(),
            };
            shown.send_replace(next);
        }
    }
}
