//! Events: what an operator sees in `kubectl describe`.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::core::Request;
use kube::core::params::PostParams;
use policy_core::{Finding, ObjectKind};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

/// Events about single pods and nodes that wait; more are dropped.
const QUEUE: usize = 256;
/// Likewise findings in policies and Services, which come hundreds at once. In places of their own: they must not
/// crowd out what keeps a pod from running.
const FINDINGS: usize = 256;
/// The API takes no longer messages, in bytes.
const LONGEST_MESSAGE: usize = 1024;
/// Equal events within this time are one.
const WINDOW: Duration = Duration::from_secs(600);
/// The least time between two requests: a node must not flood the API when all its pods fail.
const PAUSE: Duration = Duration::from_millis(500);
const REQUEST: Duration = Duration::from_secs(10);

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// For information.
    Normal,
    /// Somebody should look.
    Warning,
}

/// The object that an Event is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EventObject {
    /// For example `v1`.
    pub api_version: &'static str,
    /// For example `Pod`.
    pub kind: &'static str,
    /// Empty for objects without one.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID, where it is known.
    pub uid: Option<String>,
}

/// An Event to publish.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EventSpec {
    /// What it is about.
    pub object: EventObject,
    /// How bad it is.
    pub kind: EventKind,
    /// One word in upper camel case, from a closed set.
    pub reason: &'static str,
    /// One sentence.
    pub message: String,
}

impl From<&Finding> for EventSpec {
    fn from(finding: &Finding) -> Self {
        let (api_version, kind) = match finding.kind {
            ObjectKind::NetworkPolicy => ("networking.k8s.io/v1", "NetworkPolicy"),
            ObjectKind::ClusterNetworkPolicy => ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy"),
            ObjectKind::Pod => ("v1", "Pod"),
            ObjectKind::Service => ("v1", "Service"),
        };
        let mut message = if finding.path.is_empty() {
            finding.message.clone()
        } else {
            format!("{}: {}", finding.path, finding.message)
        };
        message.truncate(message.floor_char_boundary(LONGEST_MESSAGE));
        Self {
            object: EventObject {
                api_version,
                kind,
                namespace: finding.namespace.to_string(),
                name: finding.name.to_string(),
                uid: None,
            },
            kind: EventKind::Warning,
            reason: finding.reason.as_str(),
            message,
        }
    }
}

/// Takes events without waiting. Sends to the loop of [`publish`]; a full queue drops what comes.
#[derive(Clone, Debug)]
pub(super) struct Publisher {
    events: mpsc::Sender<EventSpec>,
    findings: mpsc::Sender<EventSpec>,
}

/// What a [`Publisher`] was given.
#[derive(Debug)]
pub(super) struct Outbox {
    events: mpsc::Receiver<EventSpec>,
    findings: mpsc::Receiver<EventSpec>,
}

impl Publisher {
    pub(super) fn new() -> (Self, Outbox) {
        let ((events, from_events), (findings, from_findings)) =
            (mpsc::channel(QUEUE), mpsc::channel(FINDINGS));
        (Self { events, findings }, Outbox { events: from_events, findings: from_findings })
    }

    /// What concerns one pod or node.
    pub(super) fn publish(&self, event: EventSpec) {
        put(&self.events, event);
    }

    /// What was found in an object that is read.
    /// False: the queue is full.
    pub(super) fn publish_finding(&self, event: EventSpec) -> bool {
        self.findings.try_send(event).is_ok()
    }
}

fn put(queue: &mpsc::Sender<EventSpec>, event: EventSpec) {
    if let Err(lost) = queue.try_send(event) {
        tracing::debug!(error = %lost, "an Event was dropped");
    }
}

impl Outbox {
    /// The next event, findings last; None when nobody can send any more.
    async fn next(&mut self) -> Option<EventSpec> {
        tokio::select! {
            biased;
            Some(event) = self.events.recv() => Some(event),
            Some(finding) = self.findings.recv() => Some(finding),
            else => None,
        }
    }
}

/// Publishes what comes until nobody can send any more.
pub(super) async fn publish(client: Client, node: String, mut outbox: Outbox) {
    let mut told: HashMap<u64, Instant> = HashMap::new();
    while let Some(event) = outbox.next().await {
        let key = fingerprint(&event);
        let now = Instant::now();
        told.retain(|_, at| now.duration_since(*at) < WINDOW);
        // Each repetition prolongs the silence: a fault that stands is told once.
        if told.insert(key, now).is_some() {
            continue;
        }
        if let Err(error) = create(&client, &node, &event, key).await {
            tracing::debug!(error, reason = event.reason, "an Event could not be published");
        }
        sleep(PAUSE).await;
    }
}

fn fingerprint(event: &EventSpec) -> u64 {
    let mut hasher = DefaultHasher::new();
    event.hash(&mut hasher);
    hasher.finish()
}

async fn create(client: &Client, node: &str, event: &EventSpec, key: u64) -> Result<(), String> {
    let object = &event.object;
    // Events about objects without a namespace live in `default`.
    let namespace = if object.namespace.is_empty() { "default" } else { object.namespace.as_str() };
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let mut involved = json!({
        "apiVersion": object.api_version,
        "kind": object.kind,
        "name": object.name,
    });
    if !object.namespace.is_empty() {
        involved["namespace"] = json!(object.namespace);
    }
    if let Some(uid) = &object.uid {
        involved["uid"] = json!(uid);
    }
    // The name is made of the content and the hour: where every node of a cluster has the
    // same to say of an object, the first says it and the others are told that it exists.
    let hour = Timestamp::now().as_second() / 3600;
    let body = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": format!("{}.{:08x}{:08x}", event_stem(&object.name), key as u32, hour as u32),
            "namespace": namespace,
        },
        "involvedObject": involved,
        "reason": event.reason,
        "message": event.message,
        "type": match event.kind { EventKind::Normal => "Normal", EventKind::Warning => "Warning" },
        "source": { "component": "tidepool-agent", "host": node },
        "reportingComponent": "tidepool-agent",
        "reportingInstance": node,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    });
    let body = serde_json::to_vec(&body).map_err(|fault| fault.to_string())?;
    let request = Request::new(format!("/api/v1/namespaces/{namespace}/events"))
        .create(&PostParams::default(), body)
        .map_err(|fault| fault.to_string())?;
    match timeout(REQUEST, client.request_text(request)).await {
        Err(_) => Err("no answer".to_owned()),
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => Ok(()),
        Ok(Err(fault)) => Err(fault.to_string()),
        Ok(Ok(_)) => Ok(()),
    }
}

/// The name of an object, short enough to leave room for the rest: 253 in all.
fn event_stem(name: &str) -> &str {
    let mut end = name.len().min(220);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].trim_end_matches(['.', '-'])
}

#[cfg(test)]
mod tests {
    use super::{EventKind, EventObject, EventSpec, FINDINGS, Publisher, QUEUE};

    fn event(kind: &'static str, number: usize) -> EventSpec {
        EventSpec {
            object: EventObject {
                api_version: "v1",
                kind,
                namespace: "default".to_owned(),
                name: format!("one-{number}"),
                uid: None,
            },
            kind: EventKind::Warning,
            reason: "Test",
            message: "said".to_owned(),
        }
    }

    #[tokio::test]
    async fn findings_do_not_crowd_out_a_pods_events() {
        let (publisher, mut outbox) = Publisher::new();
        for number in 0..FINDINGS + 100 {
            publisher.publish_finding(event("NetworkPolicy", number));
        }
        for number in 0..QUEUE {
            publisher.publish(event("Pod", number));
        }
        drop(publisher);
        let mut taken = Vec::new();
        while let Some(event) = outbox.next().await {
            taken.push((event.object.kind, event.object.name));
        }
        let of_pods = (0..QUEUE).map(|number| ("Pod", format!("one-{number}")));
        let of_policies = (0..FINDINGS).map(|number| ("NetworkPolicy", format!("one-{number}")));
        // Those that found no place any more are the last of the findings.
        assert_eq!(taken, of_pods.chain(of_policies).collect::<Vec<_>>());
    }
}
