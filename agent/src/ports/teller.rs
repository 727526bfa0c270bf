//! What the pool tells on objects: Events on pods and on this node's own, gathered so that a hundred pods that wait
//! for the same thing make one Event of the node and one of each pod, however often they are tried again.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rpc::PodRef;

use crate::k8s::{Announcement, ClusterHandle, EventKind, EventObject, EventSpec};

/// For so long the same is not told again of the same object.
const WINDOW: Duration = Duration::from_secs(600);

/// Publishes Events; clones share what was told.
#[derive(Debug, Clone)]
pub struct Teller {
    cluster: ClusterHandle,
    node: String,
    /// Protects what was told and when; held for look-ups only, never across an await.
    told: Arc<Mutex<Told>>,
}

impl Teller {
    /// Tells on pods, and on the Node object `node`.
    #[must_use]
    pub fn new(cluster: ClusterHandle, node: impl Into<String>) -> Self {
        Self { cluster, node: node.into(), told: Arc::default() }
    }

    /// One sentence on a pod.
    pub fn pod(&self, pod: &PodRef, reason: &'static str, message: String) {
        let name = format!("{}/{}/{}", pod.namespace, pod.name, pod.uid.as_deref().unwrap_or(""));
        if self.admit(name, reason).is_none() {
            return;
        }
        self.publish(
            EventObject {
                api_version: "v1",
                kind: "Pod",
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                uid: pod.uid.clone(),
            },
            reason,
            message,
        );
    }

    /// A pod's address, for the other nodes.
    pub fn address(&self, pod: &PodRef, address: IpAddr) {
        self.cluster.announce(announcement(pod, address));
    }

    /// The pod has that address no more.
    pub fn no_address(&self, pod: &PodRef, address: IpAddr) {
        self.cluster.withdraw(announcement(pod, address));
    }

    /// One sentence on this node's object; how often it was held back is added.
    pub fn node(&self, reason: &'static str, message: &str) {
        self.node_about(reason, "", message);
    }

    /// The same about one of several: what was told of another `subject` does not hold it back.
    pub fn node_about(&self, reason: &'static str, subject: &str, message: &str) {
        let Some(before) = self.admit(format!("//{subject}"), reason) else { return };
        let message = match before {
            0 => message.to_owned(),
            times => format!("{message} ({times} more times since this was last told)"),
        };
        let object = EventObject {
            api_version: "v1",
            kind: "Node",
            namespace: String::new(),
            name: self.node.clone(),
            // The kubelet's convention: `kubectl describe node` looks for Events with the node's name there.
            uid: Some(self.node.clone()),
        };
        self.publish(object, reason, message);
    }

    fn admit(&self, object: String, reason: &'static str) -> Option<u32> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.admit((object, reason), Instant::now())
    }

    fn publish(&self, object: EventObject, reason: &'static str, message: String) {
        self.cluster.publish_event(EventSpec { object, kind: EventKind::Warning, reason, message });
    }
}

fn announcement(pod: &PodRef, address: IpAddr) -> Announcement {
    Announcement {
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        addresses: vec![address],
    }
}

/// What was told of which object (by name; the node's is `//` and the subject) for which reason.
#[derive(Debug, Default)]
struct Told(HashMap<(String, &'static str), Telling>);

#[derive(Debug, Clone, Copy)]
struct Telling {
    at: Instant,
    /// Held back since.
    held: u32,
}

impl Told {
    /// Whether it is to be told now; with it, how often it was not told since the last time.
    fn admit(&mut self, key: (String, &'static str), now: Instant) -> Option<u32> {
        // What was neither told nor asked for within two windows is forgotten.
        self.0.retain(|_, telling| now.duration_since(telling.at) < 2 * WINDOW);
        match self.0.get_mut(&key) {
            Some(telling) if now.duration_since(telling.at) < WINDOW => {
                telling.held += 1;
                None
            }
            known => {
                let held = known.map_or(0, |telling| telling.held);
                self.0.insert(key, Telling { at: now, held: 0 });
                Some(held)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Told, WINDOW};
    use std::time::{Duration, Instant};

    #[test]
    fn the_same_is_told_once_in_a_window() {
        let (mut told, start) = (Told::default(), Instant::now());
        let node = || (String::new(), "Ec2Throttled");
        assert_eq!(told.admit(node(), start), Some(0));
        for second in 1..100 {
            assert_eq!(told.admit(node(), start + Duration::from_secs(second)), None);
        }
        assert_eq!(told.admit((String::new(), "SubnetFull"), start), Some(0), "another reason");
        assert_eq!(told.admit(("default/web/1".into(), "Ec2Throttled"), start), Some(0), "another object");
        assert_eq!(told.admit(("//c1".into(), "Ec2Throttled"), start), Some(0), "another subject");
        assert_eq!(told.admit(node(), start + WINDOW), Some(99));
        assert_eq!(told.admit(node(), start + 4 * WINDOW), Some(0), "forgotten");
        assert_eq!(told.0.len(), 1, "and so is the rest");
    }
}
