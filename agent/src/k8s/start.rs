//! Starts the watches and the task that owns the table.

use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::announce::{Announcer, announce};
use super::cluster_policy;
use super::eniconfig::{self, EniConfigWatch};
use super::event::{Publisher, publish};
use super::handle::{ClusterHandle, Snapshot};
use super::keep::{PeerNodes, Shown, keep};
use super::object::Object;
use super::table::{Fleet, KINDS, Table, Update};
use super::watch::{Change, Sink, WatchPace, WatchStatus, Watcher};

/// Updates on their way to the table. When it is full the watches wait, and the server
/// ends those that wait too long; they then take up where they were.
pub(super) const QUEUE: usize = 1024;

/// What to watch and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// This node's name.
    pub node: String,
    /// Whether pods of this node are audited that ask for it by their annotation.
    pub pod_audit: bool,
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
        watches.optional(
            "clusternetworkpolicies",
            cluster_policy::PATH,
            ToTable { updates: updates.clone(), wrap: Update::ClusterPolicies },
        ),
    ];
    let mut status = kinds.to_vec();
    let (nodes, of_nodes) = PeerNodes::new(client.clone(), watches.options.pace, &updates);
    status.push(of_nodes);
    let eni_configs = watches.options.eni_configs.then(|| {
        let (keeper, list) = eniconfig::Keeper::new();
        let watched = watches.run("eniconfigs", eniconfig::PATH, (None, None), false, keeper);
        status.push(watched.clone());
        EniConfigWatch { list, status: watched }
    });
    let Watches { options, .. } = watches;
    let mut table = Table::new(&options.node, options.service_cidrs, options.fleet);
    table.pod_audit = options.pod_audit;
    let (told, waiting) = watch::channel(None);
    let (named, incumbents) = watch::channel(None);
    let shown = Shown { snapshots, waiting: told, incumbents: named };
    tasks.spawn(keep(table, inbox, nodes, shown));
    tasks.spawn(publish(client.clone(), options.node, outbox));
    let (announcer, to_announce) = Announcer::new();
    tasks.spawn(announce(client.clone(), snapshot.clone(), to_announce));
    let handle = ClusterHandle {
        client,
        snapshot,
        updates,
        status: status.into(),
        events,
        announcer,
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
        self.run(kind, path, (labels, fields), false, sink)
    }

    /// Of a kind that the API need not have; without it there is nothing.
    fn optional<T: Object>(
        &mut self,
        kind: &'static str,
        path: &'static str,
        sink: impl Sink<T> + 'static,
    ) -> watch::Receiver<WatchStatus> {
        self.run(kind, path, (None, None), true, sink)
    }

    fn run<T: Object>(
        &mut self,
        kind: &'static str,
        path: &'static str,
        (labels, fields): (Option<&str>, Option<&str>),
        optional: bool,
        sink: impl Sink<T> + 'static,
    ) -> watch::Receiver<WatchStatus> {
        let (status, receiver) = watch::channel(WatchStatus { kind, ..WatchStatus::default() });
        let watcher = Watcher {
            client: self.client.clone(),
            kind,
            path,
            labels: labels.map(str::to_owned),
            fields: fields.map(str::to_owned),
            optional,
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
