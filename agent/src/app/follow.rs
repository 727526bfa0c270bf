//! Small loops that carry news from one part to another.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use policy_core::Finding;
use tokio::time::Instant;

use crate::ipam::Pool;
use crate::k8s::ClusterHandle;
use crate::metrics::Metrics;
use crate::policy::Enforcer;
use crate::ports::ClusterPort;
use crate::readiness::{Part, Readiness};

/// What was not put in force is tried again after this long, also when nothing changes.
const RETRY: Duration = Duration::from_secs(5);
/// How long a starting agent waits for the cluster to say who else needs EC2, before it asks EC2 about its ENIs.
/// Nothing is leased before the cluster is known anyway.
pub(super) const QUEUE_PATIENCE: Duration = Duration::from_secs(5);
/// Between two readings of the line of nodes that concern other nodes only.
const QUEUE_PERIOD: Duration = Duration::from_millis(500);
/// Between two readings of the pool's counts, at least.
const COUNT_PERIOD: Duration = Duration::from_millis(50);
/// How often filters are looked at on links where something changed; the policy thread knows which.
const FILTER_PERIOD: Duration = Duration::from_secs(1);

/// Puts back filters that something else took off.
pub(super) async fn filters(enforcer: Arc<Enforcer<ClusterPort>>) -> &'static str {
    let mut period = tokio::time::interval(FILTER_PERIOD);
    loop {
        period.tick().await;
        enforcer.verify().await;
    }
}

/// The pool's counts into the metrics. A burst of pods changes them hundreds of times a second, and nobody reads them
/// as often.
pub(super) async fn pool(pool: Pool, metrics: Metrics) -> &'static str {
    let mut view = pool.view();
    loop {
        let seen = view.borrow_and_update().clone();
        metrics.pool(&seen);
        tokio::time::sleep(COUNT_PERIOD).await;
        if view.changed().await.is_err() {
            return "pool metrics";
        }
    }
}

/// Readiness into the metrics.
pub(super) async fn readiness(readiness: Readiness, metrics: Metrics) -> &'static str {
    let mut changes = readiness.changes();
    loop {
        metrics.ready.set(i64::from(changes.borrow_and_update().is_empty()));
        if changes.changed().await.is_err() {
            return "readiness";
        }
    }
}

/// Changes of the cluster: policy is compiled anew.
pub(super) async fn cluster(cluster: ClusterHandle, enforcer: Arc<Enforcer<ClusterPort>>) -> &'static str {
    let mut changes = cluster.changed();
    let mut told = HashSet::new();
    loop {
        let snapshot = changes.borrow_and_update().clone();
        enforcer.cluster_changed().await;
        tell_new(&cluster, &mut told, &snapshot.findings);
        if changes.changed().await.is_err() {
            return "cluster";
        }
    }
}

/// The pool hears of pods on their way, and when its turn at EC2 comes among all nodes. What concerns other nodes
/// only is told twice a second at most.
pub(super) async fn queue(cluster: ClusterHandle, pool: Pool) -> &'static str {
    let mut waiting = cluster.waiting();
    waiting.mark_changed();
    let mut here = Vec::new();
    let mut due = Instant::now();
    let mut put_off = false;
    loop {
        tokio::select! {
            changed = waiting.changed() => if changed.is_err() { return "queue" },
            () = tokio::time::sleep_until(due), if put_off => {}
        }
        let Some(news) = waiting.borrow_and_update().clone() else { continue };
        if here != news.here {
            pool.announce_pods(news.here.clone());
            here = news.here;
        } else if Instant::now() < due {
            put_off = true;
            continue;
        }
        pool.queue(news.queue);
        due = Instant::now() + QUEUE_PERIOD;
        put_off = false;
    }
}

/// Publishes the findings that were not there before: those that stand must not crowd out a pod's own Events.
fn tell_new(cluster: &ClusterHandle, told: &mut HashSet<Finding>, findings: &[Finding]) {
    cluster.publish_findings(findings.iter().filter(|finding| !told.contains(finding)));
    *told = findings.iter().cloned().collect();
}

/// What the compiler found goes out as Events; what cannot be put in force makes the node unready.
pub(super) async fn policy(
    enforcer: Arc<Enforcer<ClusterPort>>,
    cluster: ClusterHandle,
    readiness: Readiness,
) -> &'static str {
    let (mut reports, mut told) = (enforcer.report(), HashSet::new());
    loop {
        let report = reports.borrow_and_update().clone();
        tell_new(&cluster, &mut told, &report.findings);
        match &report.error {
            None => readiness.reached(Part::Datapath),
            Some(error) => readiness.lost(Part::Datapath, error.clone()),
        }
        let failed = report.error.is_some();
        tokio::select! {
            changed = reports.changed() => if changed.is_err() { return "policy" },
            () = tokio::time::sleep(RETRY), if failed => enforcer.cluster_changed().await,
        }
    }
}
