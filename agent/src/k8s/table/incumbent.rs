//! Which pods of aws-node's DaemonSet are on this node.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Key;
use crate::k8s::object::PodLite;

/// The kind and the name of what owns its pods.
const OWNER: (&str, &str) = ("DaemonSet", "aws-node");

/// Names of these pods (`namespace/name`), in order.
pub type Incumbents = Arc<[String]>;

/// Kept by change, beside the table: policy knows nothing of them.
#[derive(Default)]
pub(super) struct IncumbentPods {
    here: BTreeSet<Key>,
    /// Whether all pods were listed once.
    listed: bool,
    told: Option<Incumbents>,
}

impl IncumbentPods {
    /// Takes a pod; none for one that is gone. One that is being deleted counts until its object is gone: its
    /// containers may still run.
    pub(super) fn note(&mut self, key: &Key, pod: Option<&PodLite>, node: &str) {
        let counts = pod.is_some_and(|pod| {
            let mut owners = pod.metadata.owner_references.iter();
            pod.spec.node_name == node
                && !matches!(pod.status.phase.as_str(), "Succeeded" | "Failed")
                && owners.any(|owner| (owner.kind.as_str(), owner.name.as_str()) == OWNER)
        });
        if counts {
            self.here.insert(key.clone());
        } else {
            self.here.remove(key);
        }
    }

    /// A whole list was seen: what it did not mention is gone.
    pub(super) fn list_ends(&mut self, was_seen: impl Fn(&Key) -> bool) {
        self.here.retain(was_seen);
        self.listed = true;
    }

    /// What is to be told, if it is different from what was told last.
    pub(super) fn news(&mut self) -> Option<Incumbents> {
        if !self.listed {
            return None;
        }
        let now: Incumbents =
            self.here.iter().map(|(namespace, name)| format!("{namespace}/{name}")).collect();
        if self.told.as_ref() == Some(&now) {
            return None;
        }
        self.told = Some(Arc::clone(&now));
        Some(now)
    }
}
