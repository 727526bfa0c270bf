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
/// Findings that were too many at once are told again after this long.
const RETELL: Duration = Duration::from_secs(10);
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
    let mut told = Told::default();
    loop {
        let snapshot = changes.borrow_and_update().clone();
        enforcer.cluster_changed(snapshot.since.unwrap_or_else(std::time::Instant::now)).await;
        loop {
            told.tell(&snapshot.findings, Instant::now(), |finding| cluster.publish_finding(finding));
            tokio::select! {
                changed = changes.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return "cluster",
                },
                () = tokio::time::sleep(RETELL), if told.behind => {}
            }
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

/// Findings that were published.
#[derive(Default)]
struct Told {
    list: Arc<[Finding]>,
    set: HashSet<Finding>,
    /// Some were too many at once.
    behind: bool,
    at: Option<Instant>,
}

impl Told {
    /// Publishes those that were not there before: what stands must not crowd out a pod's own Events. What `publish`
    /// does not take is told again later.
    fn tell(&mut self, findings: &Arc<[Finding]>, now: Instant, mut publish: impl FnMut(&Finding) -> bool) {
        let early = self.at.is_some_and(|at| now < at + RETELL);
        if Arc::ptr_eq(&self.list, findings) && (!self.behind || early) {
            return;
        }
        let told = findings.iter().filter(|finding| self.set.contains(*finding) || publish(finding));
        self.set = told.cloned().collect();
        self.behind = findings.iter().any(|finding| !self.set.contains(finding));
        self.list = Arc::clone(findings);
        self.at = Some(now);
    }
}

/// What the compiler found goes out as Events; what cannot be put in force makes the node unready.
pub(super) async fn policy(
    enforcer: Arc<Enforcer<ClusterPort>>,
    cluster: ClusterHandle,
    readiness: Readiness,
) -> &'static str {
    let (mut reports, mut told, mut told_of_filters) = (enforcer.report(), Told::default(), Told::default());
    loop {
        let report = reports.borrow_and_update().clone();
        let now = Instant::now();
        told.tell(&report.findings, now, |finding| cluster.publish_finding(finding));
        told_of_filters.tell(&report.filters, now, |finding| cluster.publish_finding(finding));
        match &report.error {
            None => readiness.reached(Part::Datapath),
            Some(error) => readiness.lost(Part::Datapath, error.clone()),
        }
        let failed = report.error.is_some();
        let behind = told.behind || told_of_filters.behind;
        tokio::select! {
            changed = reports.changed() => if changed.is_err() { return "policy" },
            () = tokio::time::sleep(RETRY), if failed => enforcer.cluster_changed(std::time::Instant::now()).await,
            () = tokio::time::sleep(RETELL), if behind => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use policy_core::{Finding, FindingReason, ObjectKind};
    use tokio::time::Instant;

    use super::{RETELL, Told};

    #[test]
    fn what_found_no_place_is_told_again() {
        let finding = |name: &str| Finding {
            kind: ObjectKind::NetworkPolicy,
            namespace: "shop".into(),
            name: name.into(),
            path: String::new(),
            reason: FindingReason::InvalidPeer,
            message: String::new(),
        };
        let list: Arc<[Finding]> = ["a", "b", "c"].map(finding).into();
        let (mut told, start) = (Told::default(), Instant::now());
        let tell = |told: &mut Told, list: &Arc<[Finding]>, now, places: usize| {
            let mut took = Vec::new();
            told.tell(list, now, |finding| {
                let room = took.len() < places;
                if room {
                    took.push(finding.name.to_string());
                }
                room
            });
            took
        };
        assert_eq!(tell(&mut told, &list, start, 1), ["a"]);
        assert!(told.behind && tell(&mut told, &list, start, 9).is_empty(), "not at once");
        assert_eq!(tell(&mut told, &list, start + RETELL, 1), ["b"]);
        // Another list is looked at whenever it comes.
        let longer: Arc<[Finding]> = ["a", "b", "c", "d"].map(finding).into();
        assert_eq!(tell(&mut told, &longer, start + RETELL, 9), ["c", "d"]);
        assert!(!told.behind && tell(&mut told, &longer, start + 3 * RETELL, 9).is_empty());
    }
}
