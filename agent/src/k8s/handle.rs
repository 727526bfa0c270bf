//! What others may ask.

use kube::Client;
use kube::core::Request;
use kube::core::params::GetParams;
use policy_core::model::Pod;
use policy_core::{Cluster, Finding, PodIdentity};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};

use super::announce::{Announcement, Announcer, News};
use super::eniconfig::EniConfigWatch;
use super::error::{Error, ErrorClass};
use super::event::{EventSpec, Publisher};
use super::node::NodeFacts;
use super::object::PodLite;
use super::table::{Incumbents, Update, Waiting};
use super::watch::WatchStatus;

/// The cluster at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Grows with every change that matters to policy or of the node.
    pub generation: u64,
    /// When the first of what is new in it reached the agent.
    pub since: Option<std::time::Instant>,
    /// Whether every kind was listed whole since the start; before that, what is missing
    /// here need not be missing there.
    pub synced: bool,
    /// The cluster as policy-core takes it.
    pub cluster: Arc<Cluster>,
    /// What in policies could not be taken as written.
    pub findings: Arc<[Finding]>,
    /// This node; None while its object is not there.
    pub node: Option<Arc<NodeFacts>>,
}

/// Why a pod is not known.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// The API has no pod of this name.
    #[error("the API has no pod {0}")]
    Absent(PodIdentity),
    /// The API has another pod of this name.
    #[error("the API has another pod {wanted}, with UID {found}")]
    Other {
        /// Who was asked for.
        wanted: PodIdentity,
        /// Who is there.
        found: String,
    },
    /// The API could not be asked.
    #[error("the API could not be asked for pod {pod}")]
    Unasked {
        /// Who was asked for.
        pod: PodIdentity,
        /// Why.
        #[source]
        source: Error,
    },
    /// The table did not take the pod in time.
    #[error("pod {0} was not taken into the table in time")]
    Late(PodIdentity),
}

impl PodError {
    /// Whether asking again may help.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Absent(_) | Self::Late(_) => true,
            // The sandbox is of a pod that has been replaced.
            Self::Other { .. } => false,
            Self::Unasked { source, .. } => source.class() != ErrorClass::Denied,
        }
    }
}

/// Asks and tells; cheap to clone.
#[derive(Clone)]
pub struct ClusterHandle {
    pub(super) client: Client,
    pub(super) snapshot: watch::Receiver<Snapshot>,
    pub(super) updates: mpsc::Sender<Update>,
    pub(super) waiting: watch::Receiver<Option<Waiting>>,
    pub(super) incumbents: watch::Receiver<Option<Incumbents>>,
    pub(super) status: Arc<[watch::Receiver<WatchStatus>]>,
    pub(super) events: Publisher,
    pub(super) announcer: Announcer,
    pub(super) eni_configs: Option<EniConfigWatch>,
}

impl std::fmt::Debug for ClusterHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterHandle").finish_non_exhaustive()
    }
}

impl ClusterHandle {
    /// The newest snapshot. Costs a few pointers.
    pub fn snapshot(&self) -> Snapshot {
        self.snapshot.borrow().clone()
    }

    /// Wakes when there is a newer snapshot. Changes that come together are told once.
    pub fn changed(&self) -> watch::Receiver<Snapshot> {
        self.snapshot.clone()
    }

    /// Which pods of this node wait for an address, and our turn at EC2 among all nodes; None
    /// until all pods were listed.
    pub fn waiting(&self) -> watch::Receiver<Option<Waiting>> {
        self.waiting.clone()
    }

    /// Pods of aws-node's DaemonSet on this node; None until all pods were listed.
    pub fn incumbents(&self) -> watch::Receiver<Option<Incumbents>> {
        self.incumbents.clone()
    }

    /// Whether every kind was listed whole since the start.
    pub fn synced(&self) -> bool {
        self.snapshot.borrow().synced
    }

    /// Waits until [`ClusterHandle::synced`]; false when `deadline` came first.
    pub async fn wait_synced(&self, deadline: Instant) -> bool {
        let mut snapshots = self.snapshot.clone();
        let synced = timeout_at(deadline, snapshots.wait_for(|snapshot| snapshot.synced)).await;
        matches!(synced, Ok(Ok(_)))
    }

    /// This node; None while its object is not there.
    pub fn node(&self) -> Option<Arc<NodeFacts>> {
        self.snapshot.borrow().node.clone()
    }

    /// ENIConfigs, where they are watched.
    pub fn eni_configs(&self) -> Option<EniConfigWatch> {
        self.eni_configs.clone()
    }

    /// How each watch fares.
    pub fn watches(&self) -> Vec<WatchStatus> {
        self.status.iter().map(|status| status.borrow().clone()).collect()
    }

    /// A pod of this node: from the table, or else by asking the API once, since the watch
    /// may be behind the kubelet. When this returns, the newest snapshot has the pod.
    pub async fn local_pod(&self, wanted: &PodIdentity, deadline: Instant) -> Result<Arc<Pod>, PodError> {
        if let Some(pod) = self.snapshot.borrow().cluster.pod(wanted) {
            return Ok(Arc::clone(pod));
        }
        let fetched = self.get_pod(wanted, deadline).await?;
        let late = || PodError::Late(wanted.clone());
        self.updates
            .send_timeout(
                Update::Fetched(Box::new(fetched)),
                deadline.saturating_duration_since(Instant::now()),
            )
            .await
            .map_err(|_| late())?;
        let mut snapshots = self.snapshot.clone();
        let known = timeout_at(deadline, snapshots.wait_for(|s| s.cluster.pod(wanted).is_some())).await;
        match known {
            Ok(Ok(snapshot)) => snapshot.cluster.pod(wanted).map(Arc::clone).ok_or_else(late),
            _ => Err(late()),
        }
    }

    async fn get_pod(&self, wanted: &PodIdentity, deadline: Instant) -> Result<PodLite, PodError> {
        let path = format!("/api/v1/namespaces/{}/pods", wanted.namespace);
        let unasked = |source| PodError::Unasked { pod: wanted.clone(), source };
        let failed = |fault: kube::Error| Error::Request {
            operation: "get",
            path: path.clone(),
            source: Box::new(fault),
        };
        let request = Request::new(path.as_str())
            .get(&wanted.name, &GetParams::default())
            .map_err(|fault| unasked(failed(kube::Error::BuildRequest(fault))))?;
        let patience = deadline.saturating_duration_since(Instant::now());
        let text = tokio::time::timeout(patience, self.client.request_text(request))
            .await
            .map_err(|_| unasked(Error::Silent { operation: "get", path: path.clone(), after: patience }))?
            .map_err(|fault| match failed(fault) {
                error if error.class() == ErrorClass::Missing => PodError::Absent(wanted.clone()),
                error => unasked(error),
            })?;
        let pod: PodLite = serde_json::from_str(&text).map_err(|fault| {
            unasked(Error::Answer { operation: "get", path: path.clone(), what: fault.to_string() })
        })?;
        let found = pod.metadata.annotations.mirror.as_ref().unwrap_or(&pod.metadata.uid);
        match &wanted.uid {
            Some(uid) if **uid != **found => {
                Err(PodError::Other { wanted: wanted.clone(), found: found.clone() })
            }
            _ => Ok(pod),
        }
    }

    /// Publishes an Event, soon and at best: equal ones within ten minutes are one, a full
    /// queue or an API that refuses loses it.
    pub fn publish_event(&self, event: EventSpec) {
        self.events.publish(event);
    }

    /// Tells the other nodes of a pod's address, soon and at best: its kubelet does so in a second or two.
    pub fn announce(&self, announcement: Announcement) {
        self.announcer.tell(News::Attached(announcement));
    }

    /// Takes back what [`ClusterHandle::announce`] told, soon and at best, where it may still count.
    pub fn withdraw(&self, announcement: Announcement) {
        self.announcer.tell(News::Detached(announcement));
    }

    /// Publishes a finding as an Event on its object. False: too many wait, and it is to be told later.
    pub fn publish_finding(&self, finding: &Finding) -> bool {
        self.events.publish_finding(EventSpec::from(finding))
    }
}
