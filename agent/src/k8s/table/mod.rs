//! The table of what the cluster has.

mod census;
mod findings;
mod global;
mod incumbent;
mod row;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use policy_core::model::{Backends, Cluster, Name, Service, ServiceBackend};
use policy_core::{Finding, model::LocalNode};

use super::cluster_policy::ClusterPolicyLite;
use super::intern::Interner;
use super::node::NodeFacts;
use super::object::{
    Meta, NamespaceLite, NodeLite, PeerNodeLite, PodLite, PolicyLite, ServiceLite, SliceLite,
};
use super::watch::Change;
use census::Census;
pub use census::{Fleet, Waiting};
use findings::Findings;
use global::NodeWants;
use incumbent::IncumbentPods;
pub use incumbent::Incumbents;
use row::{Row, put};

/// What changes the table.
pub(super) enum Update {
    Pods(Change<PodLite>),
    Namespaces(Change<NamespaceLite>),
    Policies(Change<PolicyLite>),
    Services(Change<ServiceLite>),
    Slices(Change<SliceLite>),
    Node(Change<NodeLite>),
    ClusterPolicies(Change<ClusterPolicyLite>),
    /// All nodes, as peers; with the number of the watch, since one that was stopped may have told something yet.
    PeerNodes(u64, Change<PeerNodeLite>),
    /// A pod that was asked for by itself because no watch had told of it yet.
    Fetched(Box<PodLite>),
}

/// The kinds that are always watched.
pub(super) const KINDS: usize = 7;
/// Which of them pods are.
const PODS: usize = 0;
/// Nodes as peers, which are watched at times, after the others.
const NODES: usize = KINDS;

type Key = (Name, Name);

/// What a list has mentioned so far; None while there is none under way.
type Seen = Option<HashSet<Key>>;

pub(super) struct Table {
    node: Name,
    /// The annotation for audit is heeded.
    pub(super) pod_audit: bool,
    cluster: Cluster,
    facts: Option<Arc<NodeFacts>>,
    findings: Findings,
    interner: Interner,
    /// Backends of hand-written slices, by slice; with the Service that they are for.
    slices: BTreeMap<Key, (Name, Vec<ServiceBackend>)>,
    seen: [Seen; KINDS + 1],
    complete: [bool; KINDS + 1],
    /// Whether everything was complete once.
    was_complete: bool,
    wants: NodeWants,
    /// The number of the watch of nodes whose word counts.
    node_watch: u64,
    census: Census,
    incumbents: IncumbentPods,
}

impl Table {
    pub(super) fn new(node: &str, service_cidrs: Vec<ipnetwork::IpNetwork>, fleet: Fleet) -> Self {
        let cluster = Cluster {
            node: LocalNode { name: node.into(), addresses: Vec::new() },
            service_cidrs,
            ..Cluster::default()
        };
        Self {
            node: node.into(),
            pod_audit: false,
            cluster,
            facts: None,
            findings: Findings::default(),
            interner: Interner::default(),
            slices: BTreeMap::new(),
            seen: std::array::from_fn(|_| None),
            complete: [false; KINDS + 1],
            was_complete: false,
            wants: NodeWants::default(),
            node_watch: 0,
            census: Census::new(node, fleet),
            incumbents: IncumbentPods::default(),
        }
    }

    /// Who needs EC2, if that is different from what was told last.
    pub(super) fn waiting(&mut self) -> Option<Waiting> {
        self.census.news()
    }

    /// Pods of aws-node on this node, if they are others than were told last.
    pub(super) fn incumbents(&mut self) -> Option<Incumbents> {
        self.incumbents.news()
    }

    /// Counts a pod anew, before the table takes it.
    fn count(&mut self, key: &Key, pod: Option<(&PodLite, Name)>) {
        self.incumbents.note(key, pod.as_ref().map(|(pod, _)| *pod), &self.node);
        let content = self.cluster.namespaces.get(&key.0);
        let stored = content.and_then(|content| content.pods.get(&key.1));
        self.census.note(key, stored.map(AsRef::as_ref), pod);
    }

    /// Whether every kind was listed whole; nodes too, where a policy that was there from the start waits for them.
    pub(super) fn is_complete(&mut self) -> bool {
        self.was_complete |= self.complete[..KINDS].iter().all(|complete| *complete) && !self.wants.holds();
        self.was_complete
    }

    /// From now on nodes are watched by the watch of this number.
    pub(super) fn expect_nodes(&mut self, watch: u64) {
        self.node_watch = watch;
    }

    /// What stands now. Pointers only.
    pub(super) fn cluster(&self) -> Arc<Cluster> {
        Arc::new(self.cluster.clone())
    }

    pub(super) fn facts(&self) -> Option<Arc<NodeFacts>> {
        self.facts.clone()
    }

    /// What in policies could not be taken as written.
    pub(super) fn findings(&mut self) -> Arc<[Finding]> {
        self.findings.all()
    }

    /// Takes an update; true: something that matters is different.
    pub(super) fn apply(&mut self, update: Update) -> bool {
        match update {
            Update::Pods(change) => self.take(PODS, change),
            Update::Namespaces(change) => self.take(1, change),
            Update::Policies(change) => self.take(2, change),
            Update::Services(change) => self.take(3, change),
            Update::Slices(change) => self.take(4, change),
            Update::Node(change) => self.take(5, change),
            Update::ClusterPolicies(change) => self.take(6, change),
            Update::PeerNodes(watch, _) if watch != self.node_watch || !self.wants.any() => false,
            Update::PeerNodes(_, change) => self.take(NODES, change),
            Update::Fetched(pod) => {
                // A list that began before the pod was there must not take it for gone.
                let key = self.key(&pod.metadata);
                if let Some(seen) = &mut self.seen[PODS] {
                    seen.insert(key.clone());
                }
                pod.put(self, key)
            }
        }
    }

    fn take<T: Row>(&mut self, kind: usize, change: Change<T>) -> bool {
        match change {
            Change::Begins => {
                if kind == PODS {
                    self.census.list_begins();
                }
                self.seen[kind] = Some(HashSet::new());
                false
            }
            Change::Listed(object) => {
                let key = self.key(object.meta());
                if let Some(seen) = &mut self.seen[kind] {
                    // The name is the one that the table holds, too: a list of all pods is long.
                    seen.insert(key.clone());
                }
                object.put(self, key)
            }
            Change::Applied(object) => {
                let key = self.key(object.meta());
                object.put(self, key)
            }
            Change::Deleted(object) => {
                let key = self.key(object.meta());
                T::remove(self, &key)
            }
            Change::Complete => {
                let first = !std::mem::replace(&mut self.complete[kind], true);
                let seen = self.seen[kind].take();
                let gone: Vec<Key> = match &seen {
                    Some(seen) => T::keys(self).into_iter().filter(|key| !seen.contains(key)).collect(),
                    None => Vec::new(),
                };
                let removed = gone.iter().filter(|key| T::remove(self, key)).count();
                if kind == PODS {
                    let seen = seen.as_ref();
                    self.census.list_ends(|key| seen.is_none_or(|seen| seen.contains(key)));
                    self.incumbents.list_ends(|key| seen.is_none_or(|seen| seen.contains(key)));
                }
                if kind == NODES {
                    self.release_held();
                }
                first || removed > 0
            }
        }
    }

    fn key(&mut self, meta: &Meta) -> Key {
        // The name of an object is rarely shared; only namespaces are interned.
        (self.interner.name(&meta.namespace), meta.name.as_str().into())
    }

    /// Removes a namespace that has neither labels nor content.
    fn prune(&mut self, name: &Name) {
        let empty = self.cluster.namespaces.get(name).is_some_and(|content| {
            content.labels.is_none()
                && content.pods.is_empty()
                && content.policies.is_empty()
                && content.services.is_empty()
        });
        if empty {
            self.cluster.namespaces.remove(name);
        }
    }

    /// Brings the listed backends of a Service up to what the slices say.
    fn refill(&mut self, namespace: &Name, name: &Name) -> bool {
        let Some(service) =
            self.cluster.namespaces.get(namespace).and_then(|content| content.services.get(name))
        else {
            return false;
        };
        if !matches!(service.backends, Backends::Listed(_)) {
            return false;
        }
        let filled = self.filled(namespace, name, service.as_ref().clone());
        self.put_service(namespace, name, filled)
    }

    fn filled(&self, namespace: &Name, name: &Name, mut service: Service) -> Service {
        if let Backends::Listed(backends) = &mut service.backends {
            *backends = self
                .slices
                .iter()
                .filter(|((home, _), (owner, _))| home == namespace && owner == name)
                .flat_map(|(_, (_, list))| list.iter().cloned())
                .collect();
            backends.sort();
            backends.dedup();
        }
        service
    }

    fn put_service(&mut self, namespace: &Name, name: &Name, service: Service) -> bool {
        put(&mut self.cluster, namespace, name, service)
    }
}
