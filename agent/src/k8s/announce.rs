//! A new pod's address, told to the other nodes before its kubelet gets round to it.
//!
//! A kubelet writes a pod's address into its status up to two seconds after the pod has it, and until then no other
//! node can let it in by its labels. So its agent writes it right after the ADD, as a condition of the pod's status:
//! the kubelet leaves conditions alone that are not its own, and whoever may only write pods cannot forge one, as
//! they could an annotation. Off the ADD's path, at best, and only while there is a policy. When the sandbox goes it is
//! taken back where it may still count, so that whoever gets the address next is not taken for the pod.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::core::Request;
use kube::core::params::{Patch, PatchParams};
use policy_core::model::{Pod, PodState};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::error::{Error, ErrorClass};
use super::handle::Snapshot;
use super::object::Condition;

/// The condition's type. It is true, and its message is the addresses with commas between them.
const CONDITION: &str = "tidepool.dev/Attached";

/// Pods whose last word is remembered before those that are gone are forgotten.
const MOST_TOLD: usize = 1024;
/// Pods that wait for their turn; of more the kubelet tells in its time.
const QUEUE: usize = 256;
/// Requests under way.
const AT_ONCE: usize = 8;
/// Between the beginnings of two requests.
const PAUSE: Duration = Duration::from_millis(10);
/// For one answer; after it the kubelet has been there.
const REQUEST: Duration = Duration::from_secs(3);
const TRIES: u32 = 3;
/// Before a request that failed is made again.
const AGAIN: Duration = Duration::from_millis(100);
/// Where it is forbidden, nothing is tried for so long.
const FORBIDDEN: Duration = Duration::from_secs(60);

/// The addresses that a pod's conditions tell.
pub(super) fn addresses(conditions: &[Condition]) -> Vec<IpAddr> {
    let ours = conditions.iter().find(|one| one.kind == CONDITION && one.status == "True");
    let texts = ours.into_iter().flat_map(|one| one.message.split(','));
    texts.filter_map(|text| text.trim().parse().ok()).collect()
}

/// A pod with what it has or had as addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID, where it is known: another pod of that name has other addresses.
    pub uid: Option<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// What became of a pod.
#[derive(Debug)]
pub(super) enum News {
    /// It has these addresses now.
    Attached(Announcement),
    /// It has them no more.
    Detached(Announcement),
}

/// Takes news without waiting; a full queue drops what comes.
#[derive(Clone, Debug)]
pub(super) struct Announcer(mpsc::Sender<News>);

impl Announcer {
    pub(super) fn new() -> (Self, mpsc::Receiver<News>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self(sender), receiver)
    }

    pub(super) fn tell(&self, news: News) {
        if let Err(lost) = self.0.try_send(news) {
            tracing::debug!(error = %lost, "an address is not announced or taken back");
        }
    }
}

/// Announces what comes until nobody can send any more.
pub(super) async fn announce(
    client: Client,
    snapshot: watch::Receiver<Snapshot>,
    mut inbox: mpsc::Receiver<News>,
) {
    let mut running: JoinSet<Result<(), Error>> = JoinSet::new();
    let mut forbidden: Option<Instant> = None;
    let mut told = Told::default();
    while let Some(next) = inbox.recv().await {
        let needed = match &next {
            News::Attached(pod) => is_needed(&snapshot.borrow(), pod),
            News::Detached(pod) => told.takes_back(&snapshot.borrow(), pod),
        };
        // What is taken back must not be told by a request that is still under way.
        let at_once = if needed && matches!(next, News::Detached(_)) { 1 } else { AT_ONCE };
        while running.len() >= at_once {
            note(running.join_next().await, &mut forbidden);
        }
        while let Some(ended) = running.try_join_next() {
            note(Some(ended), &mut forbidden);
        }
        let allowed = forbidden.is_none_or(|since| since.elapsed() >= FORBIDDEN);
        if needed && allowed {
            if let News::Attached(pod) = &next {
                told.note(&snapshot.borrow(), pod);
            }
            running.spawn(write(client.clone(), next));
            sleep(PAUSE).await;
        }
    }
}

/// What was told last of each pod.
#[derive(Default)]
struct Told(HashMap<(String, String), Vec<IpAddr>>);

impl Told {
    fn note(&mut self, snapshot: &Snapshot, pod: &Announcement) {
        if self.0.len() >= MOST_TOLD {
            self.0.retain(|(namespace, name), _| find(snapshot, namespace, name).is_some());
        }
        self.0.insert((pod.namespace.clone(), pod.name.clone()), pod.addresses.clone());
    }

    /// Whether what the API says of a pod is these addresses by our word, or may come to be.
    fn takes_back(&mut self, snapshot: &Snapshot, pod: &Announcement) -> bool {
        let key = (pod.namespace.clone(), pod.name.clone());
        let last = match self.0.get(&key) {
            // Another sandbox of the pod has others already.
            Some(last) if *last != pod.addresses => return false,
            _ => self.0.remove(&key),
        };
        let Some(known) = find(snapshot, &pod.namespace, &pod.name) else { return false };
        if pod.uid.as_deref().is_some_and(|uid| uid != known.uid.as_ref()) {
            return false;
        }
        match known.state {
            PodState::Announced => {
                last.is_some() || pod.addresses.iter().any(|address| known.addresses.contains(address))
            }
            // Its status is emptied where its node starts anew, and then our word would count.
            PodState::Live => last.is_some(),
            PodState::Terminating => last.is_some() && known.addresses.is_empty(),
            PodState::Completed => false,
        }
    }
}

fn find<'a>(snapshot: &'a Snapshot, namespace: &str, name: &str) -> Option<&'a Pod> {
    Some(snapshot.cluster.namespaces.get(namespace)?.pods.get(name)?.as_ref())
}

fn note(ended: Option<Result<Result<(), Error>, tokio::task::JoinError>>, forbidden: &mut Option<Instant>) {
    let Some(Ok(Err(error))) = ended else { return };
    if error.class() == ErrorClass::Denied {
        if forbidden.replace(Instant::now()).is_none() {
            tracing::warn!(
                %error,
                "addresses of new pods may not be announced (pods/status, verb patch); other nodes hear of them \
                 seconds later"
            );
        }
    } else {
        tracing::debug!(%error, "an address was not announced");
    }
}

/// Whether any node could want to know, and does not know yet.
fn is_needed(snapshot: &Snapshot, pod: &Announcement) -> bool {
    let cluster = &snapshot.cluster;
    let any_policy = !cluster.cluster_policies.is_empty()
        || cluster.namespaces.values().any(|namespace| !namespace.policies.is_empty());
    let known = find(snapshot, &pod.namespace, &pod.name)
        .is_some_and(|known| pod.addresses.iter().all(|address| known.addresses.contains(address)));
    any_policy && !known
}

async fn write(client: Client, news: News) -> Result<(), Error> {
    let (status, reason, pod) = match news {
        News::Attached(pod) => ("True", "Attached", pod),
        News::Detached(pod) => ("False", "Detached", pod),
    };
    let path = format!("/api/v1/namespaces/{}/pods", pod.namespace);
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let message: Vec<String> = pod.addresses.iter().map(IpAddr::to_string).collect();
    let mut patch = json!({"status": {"conditions": [{
        "type": CONDITION,
        "status": status,
        "reason": reason,
        "message": message.join(","),
        "lastTransitionTime": now,
    }]}});
    if let Some(uid) = &pod.uid {
        patch["metadata"] = json!({ "uid": uid });
    }
    let patch = Patch::Strategic(patch);
    let mut tries = 0;
    loop {
        tries += 1;
        let failed = |fault: kube::Error| Error::Request {
            operation: "patch",
            path: path.clone(),
            source: Box::new(fault),
        };
        let request = Request::new(path.as_str())
            .patch_subresource("status", &pod.name, &PatchParams::default(), &patch)
            .map_err(|fault| failed(kube::Error::BuildRequest(fault)))?;
        let error = match timeout(REQUEST, client.request_text(request)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(fault)) => failed(fault),
            Err(_) => Error::Silent { operation: "patch", path: path.clone(), after: REQUEST },
        };
        let passes = matches!(error.class(), ErrorClass::Retry | ErrorClass::Throttled);
        let is_conflict = matches!(&error, Error::Request { source, .. }
            if matches!(source.as_ref(), kube::Error::Api(status) if status.code == 409));
        // Of another pod of that name there is nothing to tell.
        if !passes || is_conflict || tries == TRIES {
            return Err(error);
        }
        sleep(AGAIN * tries).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_condition_tells_addresses() {
        let condition = |kind: &str, status: &str, message: &str| Condition {
            kind: kind.to_owned(),
            status: status.to_owned(),
            message: message.to_owned(),
            ..Condition::default()
        };
        let told = |one: Condition| addresses(&[condition("Ready", "True", "10.0.0.9"), one]);
        let both: Vec<IpAddr> = vec![[10, 0, 0, 1].into(), "fd00::1".parse().expect("an address")];
        assert_eq!(told(condition(CONDITION, "True", "10.0.0.1,fd00::1")), both);
        assert!(told(condition(CONDITION, "False", "10.0.0.1")).is_empty());
        assert!(told(condition("other/Attached", "True", "10.0.0.1")).is_empty());
        assert!(told(condition(CONDITION, "True", "soon")).is_empty());
    }
}
