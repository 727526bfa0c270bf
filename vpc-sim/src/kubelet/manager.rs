//! Watches pods and nodes, binds pods, and keeps one worker per pod.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::schedule::{Place, choose};
use super::worker::{self, Desired};
use super::{Shared, now, spec, status};

/// How often pods that found no node, or whose binding failed, are looked at again.
const AGAIN: Duration = Duration::from_secs(1);

struct Manager {
    shared: Arc<Shared>,
    nodes: HashMap<String, Node>,
    /// Pods without a node, by uid.
    unbound: BTreeMap<String, Arc<Pod>>,
    /// Where pods are or are about to be, by uid: for counting.
    placed: HashMap<String, String>,
    /// What each worker is told, by uid.
    workers: HashMap<String, watch::Sender<Desired>>,
    tasks: JoinSet<()>,
    /// The uids that a list in progress has shown so far.
    listed: Option<HashSet<String>>,
}

/// Runs until it is dropped.
pub(super) async fn run(shared: Arc<Shared>) {
    let client = shared.client.clone();
    let config = watcher::Config::default();
    let pods = watcher(Api::<Pod>::all(client.clone()), config.clone()).default_backoff();
    let nodes = watcher(Api::<Node>::all(client), config).default_backoff();
    let mut pods = std::pin::pin!(pods);
    let mut nodes = std::pin::pin!(nodes);
    let mut again = tokio::time::interval(AGAIN);
    again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut manager = Manager {
        shared,
        nodes: HashMap::new(),
        unbound: BTreeMap::new(),
        placed: HashMap::new(),
        workers: HashMap::new(),
        tasks: JoinSet::new(),
        listed: None,
    };
    loop {
        tokio::select! {
            Some(event) = pods.next() => match event {
                Ok(event) => manager.pod_event(event),
                Err(error) => tracing::warn!(%error, "watch pods"),
            },
            Some(event) = nodes.next() => match event {
                Ok(event) => manager.node_event(event),
                Err(error) => tracing::warn!(%error, "watch nodes"),
            },
            Some(_) = manager.tasks.join_next() => {}
            _ = again.tick() => {}
        }
        manager.bind_all().await;
    }
}

impl Manager {
    fn pod_event(&mut self, event: Event<Pod>) {
        match event {
            Event::Init => self.listed = Some(HashSet::new()),
            Event::InitApply(pod) => {
                if let (Some(listed), Some(uid)) = (&mut self.listed, pod.uid()) {
                    listed.insert(uid);
                }
                self.pod(pod);
            }
            Event::InitDone => {
                let listed = self.listed.take().unwrap_or_default();
                let known = self.workers.keys().chain(self.unbound.keys());
                let gone: Vec<String> = known.filter(|uid| !listed.contains(*uid)).cloned().collect();
                gone.iter().for_each(|uid| self.gone(uid));
            }
            Event::Apply(pod) => self.pod(pod),
            Event::Delete(pod) => {
                if let Some(uid) = pod.uid() {
                    self.gone(&uid);
                }
            }
        }
    }

    fn node_event(&mut self, event: Event<Node>) {
        match event {
            Event::Apply(node) | Event::InitApply(node) => {
                self.nodes.insert(node.name_any(), node);
            }
            Event::Delete(node) => {
                self.nodes.remove(&node.name_any());
            }
            Event::Init | Event::InitDone => {}
        }
    }

    fn pod(&mut self, pod: Pod) {
        let Some(identity) = spec::identity(&pod) else {
            return;
        };
        let uid = identity.uid.clone();
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        let pod = Arc::new(pod);
        let Some(node) = node.filter(|node| !node.is_empty()) else {
            if is_ours_to_bind(&pod) {
                self.shared.records.note(&identity, None);
                self.unbound.insert(uid, pod);
            }
            return;
        };
        self.unbound.remove(&uid);
        self.placed.insert(uid.clone(), node.clone());
        if let Some(worker) = self.workers.get(&uid) {
            worker.send_replace(Desired { pod, gone: false });
            return;
        }
        let Some(node) = self.shared.node(&node).cloned() else {
            return;
        };
        self.shared.records.note(&identity, Some(&node.name));
        let (sender, receiver) = watch::channel(Desired { pod, gone: false });
        self.tasks.spawn(worker::run(self.shared.clone(), node, identity, receiver));
        self.workers.insert(uid, sender);
    }

    fn gone(&mut self, uid: &str) {
        self.placed.remove(uid);
        if self.unbound.remove(uid).is_some() {
            self.shared.records.forget(uid);
        }
        if let Some(worker) = self.workers.remove(uid) {
            // Its end forgets the record: until then the sandbox is there.
            worker.send_modify(|desired| desired.gone = true);
        }
    }

    /// Binds what has no node, by the age of the pods.
    async fn bind_all(&mut self) {
        if self.unbound.is_empty() || self.nodes.is_empty() {
            return;
        }
        let mut waiting: Vec<Arc<Pod>> = self.unbound.values().cloned().collect();
        waiting.sort_by_key(|pod| {
            (pod.metadata.creation_timestamp.clone().map(|at| at.0), pod.namespace(), pod.name_any())
        });
        for pod in waiting {
            let Some(uid) = pod.uid() else { continue };
            let selector = pod.spec.as_ref().and_then(|spec| spec.node_selector.clone()).unwrap_or_default();
            let places = self.places();
            match choose(&places, &selector) {
                Ok(node) => match bind(&self.shared, &pod, node).await {
                    Ok(()) => {
                        self.placed.insert(uid.clone(), node.to_owned());
                        self.unbound.remove(&uid);
                    }
                    Err(error) => tracing::warn!(%error, pod = pod.name_any(), node, "bind"),
                },
                Err(why) => self.cannot_place(&pod, &uid, &why).await,
            }
        }
    }

    async fn cannot_place(&self, pod: &Pod, uid: &str, why: &str) {
        let mut known = false;
        self.shared.records.update(uid, |record| {
            known = record.message.as_deref() == Some(why);
            record.message = Some(why.to_owned());
        });
        if known {
            return;
        }
        let api: Api<Pod> = Api::namespaced(self.shared.client.clone(), &pod.namespace().unwrap_or_default());
        let patch = Patch::Merge(status::unschedulable(&now(), why));
        if let Err(error) = api.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await {
            tracing::warn!(%error, pod = pod.name_any(), "say that a pod fits nowhere");
        }
    }

    fn places(&self) -> Vec<Place> {
        self.shared
            .nodes
            .iter()
            .map(|node| {
                let name = node.name.clone();
                let pods = self.placed.values().filter(|at| **at == name).count();
                let Some(object) = self.nodes.get(&name) else {
                    return Place { name, pods, ..Place::default() };
                };
                let cordoned = object.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
                Place {
                    labels: object.labels().clone(),
                    schedulable: !cordoned,
                    capacity: pod_capacity(object),
                    name,
                    pods,
                }
            })
            .collect()
    }
}

/// How many pods a node takes; without a word about it, any number.
fn pod_capacity(node: &Node) -> usize {
    let status = node.status.as_ref();
    let allocatable = status.and_then(|status| status.allocatable.as_ref());
    let capacity = status.and_then(|status| status.capacity.as_ref());
    allocatable
        .or(capacity)
        .and_then(|resources| resources.get("pods"))
        .and_then(|quantity| quantity.0.parse().ok())
        .unwrap_or(usize::MAX)
}

fn is_ours_to_bind(pod: &Pod) -> bool {
    let scheduler = pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref());
    matches!(scheduler, None | Some("" | "default-scheduler"))
        && !spec::is_terminating(pod)
        && !spec::is_over(pod)
}

async fn bind(shared: &Shared, pod: &Pod, node: &str) -> Result<(), kube::Error> {
    let namespace = pod.namespace().unwrap_or_default();
    let name = pod.name_any();
    let api: Api<Pod> = Api::namespaced(shared.client.clone(), &namespace);
    let binding = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": name, "namespace": namespace, "uid": pod.uid()},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    let _: Value = api.create_subresource("binding", &name, &PostParams::default(), &binding).await?;
    Ok(())
}
