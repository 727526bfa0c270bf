//! What the kubelets know of pods, for those who ask them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;

use super::cni::PodIdentity;
use crate::fabric::ns::NetNs;

/// A pod as its kubelet sees it.
#[derive(Debug, Clone)]
pub struct PodRecord {
    pub namespace: String,
    pub name: String,
    /// `None` as long as it is bound to no node of ours.
    pub node: Option<String>,
    /// Empty as long as it has no network.
    pub addresses: Vec<IpAddr>,
    pub phase: &'static str,
    pub ready: bool,
    /// What keeps it from running, if something does.
    pub message: Option<String>,
    /// Its namespace, while it has one. The node's own for host network pods.
    pub netns: Option<NetNs>,
}

/// Durations of ADD, each of the whole list.
#[derive(Debug, Clone, Default, Serialize)]
pub struct AddTimes {
    /// Of those that succeeded, in milliseconds, in the order of their end.
    pub ms: Vec<f64>,
    /// How many failed.
    pub failed: u64,
}

/// The records of all pods, by uid.
#[derive(Debug, Default)]
pub(super) struct Records {
    /// Held for single reads and writes only.
    pods: Mutex<HashMap<String, PodRecord>>,
    /// Likewise.
    adds: Mutex<AddTimes>,
}

impl Records {
    /// Notes a pod, if it is new, or the node of one that is known.
    pub(super) fn note(&self, pod: &PodIdentity, node: Option<&str>) {
        let mut pods = lock(&self.pods);
        let record = pods.entry(pod.uid.clone()).or_insert_with(|| PodRecord {
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            node: None,
            addresses: Vec::new(),
            phase: "Pending",
            ready: false,
            message: None,
            netns: None,
        });
        record.node = node.map(str::to_owned);
    }

    /// Changes the record of a pod that was noted.
    pub(super) fn update(&self, uid: &str, change: impl FnOnce(&mut PodRecord)) {
        if let Some(record) = lock(&self.pods).get_mut(uid) {
            change(record);
        }
    }

    /// Forgets a pod.
    pub(super) fn forget(&self, uid: &str) {
        lock(&self.pods).remove(uid);
    }

    pub(super) fn pods(&self) -> Vec<PodRecord> {
        let mut pods: Vec<PodRecord> = lock(&self.pods).values().cloned().collect();
        pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        pods
    }

    pub(super) fn added(&self, took: Duration, succeeded: bool) {
        let mut adds = lock(&self.adds);
        if succeeded {
            adds.ms.push(took.as_secs_f64() * 1000.0);
        } else {
            adds.failed += 1;
        }
    }

    pub(super) fn add_times(&self) -> AddTimes {
        lock(&self.adds).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No write leaves a record half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
