//! What no DEL comes for: leases whose link is gone, and sandboxes whose pod is.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use policy_core::PodIdentity;
use rpc::{PodRef, SandboxKey};
use tokio::sync::watch;

use crate::endpoint::{Addresses, Endpoints, Enforcement, Wiring};
use crate::k8s::{ClusterHandle, PodError};
use crate::metrics::Metrics;
use crate::ports::Teller;

/// Between two looks while a link is missing.
const LINK_PERIOD: Duration = Duration::from_secs(2);
/// Between two looks for pods that are gone.
const POD_PERIOD: Duration = Duration::from_secs(30);
/// How long the Kubernetes API may take to say whether it has a pod.
const ANSWER: Duration = Duration::from_secs(5);

/// Gives leases back whose link is gone. `missing` tells the addresses of such pods, by every look at the host.
pub(super) async fn links<A: Addresses, W: Wiring, E: Enforcement>(
    endpoints: Arc<Endpoints<A, W, E>>,
    mut missing: watch::Receiver<BTreeSet<IpAddr>>,
    metrics: Metrics,
) -> &'static str {
    loop {
        let suspects = missing.borrow_and_update().clone();
        if !suspects.is_empty() {
            endpoints.give_back_vanished().await;
            let released = endpoints.give_back_orphans(&suspects, Instant::now()).await;
            metrics.orphaned_leases.inc_by(released.try_into().unwrap_or(u64::MAX));
        }
        tokio::select! {
            changed = missing.changed() => if changed.is_err() { return "orphaned links" },
            () = tokio::time::sleep(LINK_PERIOD), if !suspects.is_empty() => {}
        }
    }
}

/// Tells, once each, of sandboxes that run for pods which the API no longer has. They are not touched: whoever
/// started them ends them. `patience` is how long a pod may be gone before.
pub(super) async fn pods<A: Addresses, W: Wiring, E: Enforcement>(
    endpoints: Arc<Endpoints<A, W, E>>,
    cluster: ClusterHandle,
    teller: Teller,
    metrics: Metrics,
    patience: Duration,
) -> &'static str {
    let mut told: BTreeSet<SandboxKey> = BTreeSet::new();
    let mut period = tokio::time::interval(POD_PERIOD.min(patience));
    loop {
        period.tick().await;
        let snapshot = cluster.snapshot();
        if !snapshot.synced {
            continue;
        }
        let is_known = |pod: &PodRef| snapshot.cluster.pod(&identity(pod)).is_some();
        let mut strangers = BTreeSet::new();
        for view in endpoints.strangers(is_known, Instant::now(), patience) {
            let Some(pod) = view.pod.filter(|_| !strangers.contains(&view.key)) else { continue };
            // The snapshot leaves out pods that ended.
            if !told.contains(&view.key) && !is_absent(&cluster, &pod).await {
                continue;
            }
            if told.insert(view.key.clone()) {
                let link = view.endpoint.map(|endpoint| endpoint.end.ifname).unwrap_or_default();
                let (namespace, name, uid) = (&pod.namespace, &pod.name, pod.uid.as_deref().unwrap_or(""));
                let message = format!(
                    "sandbox {} ({}, link {link}) runs for pod {namespace}/{name} with UID {uid}, which the \
                     Kubernetes API does not have; it is left alone: remove it with the container runtime (crictl rmp)",
                    view.key.container_id, view.grant.address
                );
                tracing::warn!(sandbox = %view.key, message, "a sandbox without a pod");
                teller.node_about("SandboxWithoutPod", &view.key.container_id, &message);
            }
            strangers.insert(view.key);
        }
        metrics.sandboxes_without_pod.set(strangers.len().try_into().unwrap_or(i64::MAX));
        told = strangers;
    }
}

fn identity(pod: &PodRef) -> PodIdentity {
    PodIdentity {
        namespace: pod.namespace.as_str().into(),
        name: pod.name.as_str().into(),
        uid: pod.uid.as_deref().map(Into::into),
    }
}

/// Whether the API itself says that it has no such pod, or another of this name.
async fn is_absent(cluster: &ClusterHandle, pod: &PodRef) -> bool {
    let answer = cluster.local_pod(&identity(pod), tokio::time::Instant::now() + ANSWER).await;
    matches!(answer, Err(PodError::Absent(_) | PodError::Other { .. }))
}
