//! A kubelet for every node of the simulation, and what stands in for a scheduler.
//!
//! It binds pods to nodes, makes a network namespace per pod, calls the node's
//! network list as the Container Network Interface demands, runs servers at the
//! ports that the pod declares, writes the status of pods and nodes, and acts
//! on deletion: a pod's object goes only when its sandbox is gone. Containers
//! and images are not run. A pod's annotation `vpc-sim/status-delay-ms` puts off the
//! status that says that it runs; init containers, volumes and probes are ignored.
//!
//! It is a client of a Kubernetes API like any other, ours or a real one.

mod cni;
mod manager;
mod node_status;
pub mod probe;
mod records;
mod sandbox;
mod schedule;
mod spec;
mod status;
mod worker;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::JoinSet;

pub use self::records::{AddTimes, PodRecord};
pub use self::sandbox::{Protocol, SandboxError};

use self::records::Records;
use crate::fabric::ns::NodeNs;

/// A node that pods are run on.
#[derive(Debug, Clone)]
pub struct KubeletNode {
    /// Its name in the cluster.
    pub name: String,
    /// Where it lives.
    pub ns: NodeNs,
    /// Its own address.
    pub address: IpAddr,
}

/// Where plugins lie on a node, if nothing else is said.
pub const DEFAULT_CNI_BIN: &str = "/opt/cni/bin";

/// What all parts of the kubelets share.
pub(crate) struct Shared {
    client: kube::Client,
    /// In the order in which pods are spread over them.
    nodes: Vec<KubeletNode>,
    /// Where plugins are looked for, on the nodes.
    plugin_path: Vec<PathBuf>,
    records: Records,
}

impl Shared {
    fn node(&self, name: &str) -> Option<&KubeletNode> {
        self.nodes.iter().find(|node| node.name == name)
    }
}

/// The kubelets of all nodes. Dropping this ends them; pods stay as they are.
pub struct Kubelets {
    shared: Arc<Shared>,
    /// Taken out when they are stopped.
    tasks: Mutex<JoinSet<()>>,
}

impl Kubelets {
    /// Starts the kubelets in the current tokio runtime. The Node objects must
    /// be there: their status is written, the nodes are not registered.
    pub fn start(client: kube::Client, nodes: Vec<KubeletNode>, plugin_path: Vec<PathBuf>) -> Self {
        let shared = Arc::new(Shared { client, nodes, plugin_path, records: Records::default() });
        let mut tasks = JoinSet::new();
        tasks.spawn(manager::run(shared.clone()));
        for node in &shared.nodes {
            tasks.spawn(node_status::run(shared.clone(), node.clone()));
        }
        Self { shared, tasks: Mutex::new(tasks) }
    }

    /// Ends the kubelets before what they talk to ends. Pods stay as they are.
    pub async fn stop(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.shutdown().await;
    }

    /// All pods that are known, by namespace and name.
    pub fn pods(&self) -> Vec<PodRecord> {
        self.shared.records.pods()
    }

    /// How long every ADD took so far.
    pub fn add_times(&self) -> AddTimes {
        self.shared.records.add_times()
    }
}

/// The present time as the API writes it.
fn now() -> String {
    k8s_openapi::jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
