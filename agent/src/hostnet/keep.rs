//! Putting back what somebody else removes.

use std::time::Duration;

use netlink::monitor::{Change, Changes};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{HostNet, HostNetError, Report};

/// Changes come in swarms: one look at the state a little later does for all of them.
const GATHER: Duration = Duration::from_millis(50);
/// As long may a DEL take from the end of a pod's link to its end here: the kernel needs tens of milliseconds.
const FAREWELL: Duration = Duration::from_millis(300);
/// Pause before the announcements are asked for again after they failed.
const REOPEN: Duration = Duration::from_secs(1);

/// Reconciles on every change of others, and every ten seconds, until `stop`. Where somebody undoes the same again
/// and again it is put back ever more seldom, up to once in five seconds. Each outcome goes to `told`. Must run in
/// the network namespace that `hostnet` works on.
pub async fn keep(
    hostnet: HostNet,
    stop: CancellationToken,
    mut told: impl FnMut(Result<Report, HostNetError>),
) {
    let mut changes = open(&hostnet);
    loop {
        // Made once for each look: changes that call for none must not put it off.
        let latest = hostnet.pace().period();
        let reopen = Instant::now() + REOPEN;
        let called = tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep_until(latest) => true,
            () = tokio::time::sleep_until(reopen), if changes.is_none() => true,
            () = hostnet.wake.notified() => true,
            change = relevant(&hostnet, &mut changes) => tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep_until(latest) => true,
                () = hostnet.wake.notified() => true,
                called = gather(&hostnet, &mut changes, change) => called,
            },
        };
        if changes.is_none() {
            changes = open(&hostnet);
        }
        if !called {
            continue;
        }
        let worker = hostnet.clone();
        let outcome = tokio::task::spawn_blocking(move || worker.reconcile()).await;
        told(outcome.unwrap_or(Err(HostNetError::Cancelled)));
    }
}

/// Lets a swarm pass that begins with `first`, none for an end of the announcements; what is announced until its end
/// needs no look of its own. Whether it calls for one at all: a link that went may have been of a pod that was
/// deleted, as is known by now.
async fn gather(hostnet: &HostNet, changes: &mut Option<Changes>, first: Option<Change>) -> bool {
    let Some(first) = first else {
        tokio::time::sleep(GATHER).await;
        return true;
    };
    let due = |change: &Change| {
        let soon = Instant::now() + if hostnet.is_farewell(change) { FAREWELL } else { GATHER };
        hostnet.pace().not_before(change).map_or(soon, |time| time.max(soon))
    };
    let mut until = due(&first);
    let mut heard = vec![(until, first)];
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(until) => {
                heard.retain(|(_, change)| hostnet.concerned_by(change));
                let Some(next) = heard.iter().map(|(due, _)| *due).min() else { return false };
                if next <= Instant::now() {
                    return true;
                }
                until = next;
            }
            change = relevant(hostnet, changes) => {
                let Some(change) = change else { return true };
                // The earlier one of two that are the same decides.
                if heard.iter().all(|(_, one)| *one != change) {
                    heard.push((due(&change), change));
                    until = heard.last().map_or(until, |(due, _)| until.min(*due));
                }
            }
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

/// Ends with a change that may concern us; or with none, and `changes` cleared, when announcements failed. Never
/// without them.
async fn relevant(hostnet: &HostNet, changes: &mut Option<Changes>) -> Option<Change> {
    let Some(stream) = changes else {
        return std::future::pending().await;
    };
    loop {
        match stream.next().await {
            None => {
                *changes = None;
                return None;
            }
            Some(change) if hostnet.concerned_by(&change) => return Some(change),
            Some(_) => {}
        }
    }
}
