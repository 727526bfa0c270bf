//! Putting back what somebody else removes.

use std::time::Duration;

use futures::FutureExt;
use netlink::{
    PROTOCOL,
    monitor::{Change, Changes},
};
use tokio_util::sync::CancellationToken;

use super::{HostNet, HostNetError, Report};

/// Changes come in swarms: one look at the state a little later does for all of them.
const GATHER: Duration = Duration::from_millis(50);
/// Without any change that is announced: sysctls are not.
const PERIOD: Duration = Duration::from_secs(10);
/// Pause before the announcements are asked for again after they failed.
const REOPEN: Duration = Duration::from_secs(1);

/// Reconciles on every change of others, and every ten seconds, until `stop`. Each outcome goes to `told`. Must run
/// in the network namespace that `hostnet` works on.
pub async fn keep(
    hostnet: HostNet,
    stop: CancellationToken,
    mut told: impl FnMut(Result<Report, HostNetError>),
) {
    let mut changes = open(&hostnet);
    loop {
        let period = if changes.is_some() { PERIOD } else { REOPEN };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(period) => {}
            () = relevant(&hostnet, &mut changes) => gather(&mut changes).await,
        }
        if changes.is_none() {
            changes = open(&hostnet);
        }
        let worker = hostnet.clone();
        let outcome = tokio::task::spawn_blocking(move || worker.reconcile()).await;
        told(outcome.unwrap_or(Err(HostNetError::Cancelled)));
    }
}

/// Lets a swarm pass; what is announced until its end needs no look of its own.
async fn gather(changes: &mut Option<Changes>) {
    tokio::time::sleep(GATHER).await;
    while let Some(stream) = changes {
        match stream.next().now_or_never() {
            Some(Some(_)) => {}
            Some(None) => *changes = None,
            None => return,
        }
    }
}

fn open(hostnet: &HostNet) -> Option<Changes> {
    Changes::open(hostnet.ports())
        .inspect_err(|error| {
            tracing::warn!(error = error as &dyn std::error::Error, "changes are not announced")
        })
        .ok()
}

/// Ends with a change that may concern us; clears `changes` when announcements failed. Never without them.
async fn relevant(hostnet: &HostNet, changes: &mut Option<Changes>) {
    let Some(stream) = changes else {
        return std::future::pending().await;
    };
    loop {
        match stream.next().await {
            None => {
                *changes = None;
                return;
            }
            Some(change) if concerns(hostnet, &change) => return,
            Some(_) => {}
        }
    }
}

fn concerns(hostnet: &HostNet, change: &Change) -> bool {
    match change {
        Change::Link { index, name, up } => hostnet.concerns_link(*index, name, *up),
        // A route of another's may stand in the place of ours now.
        Change::Route { protocol, gone } => *gone == (*protocol == PROTOCOL),
        Change::Rule { gone } => *gone,
        Change::LinkGone { .. }
        | Change::Address
        | Change::NeighbourGone
        | Change::Nftables
        | Change::Lost => true,
    }
}
