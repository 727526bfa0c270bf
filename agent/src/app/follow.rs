//! Small loops that carry news from one part to another.

use std::sync::Arc;
use std::time::Duration;

use policy_core::Finding;
use policy_core::model::PodState;

use super::targets;
use crate::config::Config;
use crate::ipam::{Pool, Targets};
use crate::k8s::ClusterHandle;
use crate::metrics::Metrics;
use crate::policy::Enforcer;
use crate::ports::ClusterPort;
use crate::readiness::{Part, Readiness};

/// What was not put in force is tried again after this long, also when nothing changes.
const RETRY: Duration = Duration::from_secs(5);
/// How often every link's filters are looked at: nothing announces that they are gone.
const FILTER_PERIOD: Duration = Duration::from_secs(1);

/// Puts back filters that something else took off.
pub(super) async fn filters(enforcer: Arc<Enforcer<ClusterPort>>) -> &'static str {
    let mut period = tokio::time::interval(FILTER_PERIOD);
    loop {
        period.tick().await;
        enforcer.verify().await;
    }
}

/// The pool's counts into the metrics.
pub(super) async fn pool(pool: Pool, metrics: Metrics) -> &'static str {
    let mut view = pool.view();
    loop {
        let counts = view.borrow_and_update().counts;
        metrics.pool(&counts);
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

/// Changes of the cluster: policy is compiled anew, the pool hears of the node and of pods on their way.
pub(super) async fn cluster(
    cluster: ClusterHandle,
    enforcer: Arc<Enforcer<ClusterPort>>,
    pool: Pool,
    config: Config,
    base: Targets,
) -> &'static str {
    let mut changes = cluster.changed();
    let (mut node, mut told) = (None, Vec::new());
    loop {
        let snapshot = changes.borrow_and_update().clone();
        enforcer.cluster_changed().await;
        tell_new(&cluster, &mut told, &snapshot.findings);
        if let Some(facts) = &snapshot.node
            && node.as_ref() != Some(facts)
        {
            pool.retarget(targets(&base, &config, facts));
            node = Some(Arc::clone(facts));
        }
        let pods = snapshot.cluster.namespaces.values().flat_map(|namespace| namespace.pods.values());
        let expected = pods.filter(|pod| {
            pod.node.as_deref() == Some(config.node_name.as_str())
                && !pod.host_network
                && pod.addresses.is_empty()
                && pod.state == PodState::Live
        });
        pool.announce(u32::try_from(expected.count()).unwrap_or(u32::MAX));
        if changes.changed().await.is_err() {
            return "cluster";
        }
    }
}

/// Publishes the findings that were not there before: those that stand must not crowd out a pod's own Events.
fn tell_new(cluster: &ClusterHandle, told: &mut Vec<Finding>, findings: &[Finding]) {
    cluster.publish_findings(findings.iter().filter(|finding| !told.contains(finding)));
    *told = findings.to_vec();
}

/// What the compiler found goes out as Events; what cannot be put in force makes the node unready.
pub(super) async fn policy(
    enforcer: Arc<Enforcer<ClusterPort>>,
    cluster: ClusterHandle,
    readiness: Readiness,
) -> &'static str {
    let (mut reports, mut told) = (enforcer.report(), Vec::new());
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
