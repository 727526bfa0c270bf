//! The adapter against a small API server that misbehaves on demand: every answer below was
//! seen from a real one.

mod announcements;
mod census;
mod cluster_policies;
mod eniconfigs;
mod fake;
mod pods;
mod scale;
mod watches;

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{ClusterHandle, Driver, Fleet, Options, Snapshot, WatchPace, start};
use fake::FakeApi;

/// Long enough for the busiest machine; no test waits it out unless it fails.
const BOUND: Duration = Duration::from_secs(30);

const NODE: &str = "node-a";

fn fleet() -> Fleet {
    Fleet {
        account: ipam_core::AccountLimits::default(),
        shape: ipam_core::Shape { per_eni: 9, uses_primary: true, warm: 9 },
    }
}

fn pace() -> WatchPace {
    WatchPace {
        request: Duration::from_secs(5),
        watch: Duration::from_secs(60),
        margin: Duration::from_secs(5),
        initial: Duration::from_secs(5),
        backoff_min: Duration::from_millis(5),
        backoff_max: Duration::from_millis(50),
        silent_watches: 10,
    }
}

fn options(pace: WatchPace) -> Options {
    Options {
        node: NODE.into(),
        pod_audit: true,
        eni_configs: false,
        service_cidrs: Vec::new(),
        fleet: fleet(),
        pace,
    }
}

/// The adapter on a server; what it runs ends with the second value.
async fn connected(api: &FakeApi, pace: WatchPace) -> (ClusterHandle, Driver) {
    start(api.client().await, options(pace))
}

async fn synced(api: &FakeApi, pace: WatchPace) -> (ClusterHandle, Driver) {
    let (handle, driver) = connected(api, pace).await;
    assert!(handle.wait_synced(Instant::now() + BOUND).await, "not synced: {:?}", handle.watches());
    (handle, driver)
}

/// Waits for a snapshot with some property.
async fn until(handle: &ClusterHandle, what: &str, holds: impl Fn(&Snapshot) -> bool) -> Snapshot {
    let mut snapshots = handle.changed();
    let found = timeout(BOUND, snapshots.wait_for(|snapshot| holds(snapshot))).await;
    match found {
        Ok(Ok(snapshot)) => snapshot.clone(),
        _ => panic!("waited for {what}; watches: {:#?}", handle.watches()),
    }
}

/// Waits for something that no snapshot tells.
async fn server_shows(holds: impl Fn() -> bool) {
    let end = Instant::now() + BOUND;
    while !holds() {
        assert!(Instant::now() < end, "waited too long");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn pod_names(snapshot: &Snapshot) -> Vec<String> {
    snapshot.cluster.pods().map(|(namespace, name, _)| format!("{namespace}/{name}")).collect()
}
