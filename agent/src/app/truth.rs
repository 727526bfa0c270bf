//! Where EC2's truth and the pool's part: looks at the metadata service between two periodic readings, and tells of
//! pods whose address EC2 has taken.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rpc::PodRef;
use tokio::time::Instant;

use super::hint::{Hints, Listing};
use crate::cause::chain;
use crate::ec2::{ImdsClient, ImdsError};
use crate::ipam::{Pool, PoolView, TruthView};
use crate::metrics::Metrics;
use crate::ports::Teller;

/// The times that the look goes by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Between two looks; jittered by a quarter, so that a fleet that started together does not look together.
    pub(super) period: Duration,
    /// How far the metadata service may be behind EC2.
    pub(super) lag: Duration,
}

/// Asks EC2 when the metadata service shows something else than the pool believes. One request, and one for each ENI
/// of ours (two where it has prefixes).
pub(super) async fn metadata(
    pool: Pool,
    imds: Arc<ImdsClient>,
    metrics: Metrics,
    pace: Pace,
) -> &'static str {
    let mut views = pool.view();
    let mut hints = Hints::default();
    let mut next = Instant::now() + jittered(pace.period);
    loop {
        tokio::select! {
            changed = views.changed() => {
                if changed.is_err() {
                    return "metadata";
                }
                let view = views.borrow_and_update().clone();
                hints.believe(&view, Instant::now());
            }
            () = tokio::time::sleep_until(next) => {
                let view = views.borrow_and_update().clone();
                hints.believe(&view, Instant::now());
                if view.truth == TruthView::Ec2 {
                    look(&pool, &imds, &metrics, &view, &mut hints, pace.lag).await;
                }
                next = Instant::now() + jittered(pace.period);
            }
        }
    }
}

async fn look(
    pool: &Pool,
    imds: &ImdsClient,
    metrics: &Metrics,
    view: &PoolView,
    hints: &mut Hints,
    lag: Duration,
) {
    let listing = match list(imds, view).await {
        Ok(listing) => listing,
        Err(error) => {
            tracing::debug!(error = chain(&error), "the metadata service does not list the ENIs");
            return;
        }
    };
    let differences = hints.differences(view, &listing, Instant::now(), lag);
    if !differences.is_empty() {
        tracing::info!(?differences, "the metadata service differs from the pool; EC2 is asked");
        metrics.metadata_differences.inc();
        pool.resync();
    }
}

async fn list(imds: &ImdsClient, view: &PoolView) -> Result<Listing, ImdsError> {
    let mut listing = Listing { enis: imds.macs().await?, ..Listing::default() };
    let ours = view.enis.iter().filter(|eni| eni.is_wanted_on_host() && eni.foreign.is_none());
    let ours = ours.filter(|eni| listing.enis.contains(&eni.mac));
    for eni in ours {
        let blocks = imds.blocks(eni.mac, !eni.prefixes.is_empty()).await?;
        listing.blocks.insert(eni.mac, blocks);
    }
    Ok(listing)
}

fn jittered(period: Duration) -> Duration {
    period.mul_f64(0.75 + 0.5 * rand::random::<f64>())
}

/// Tells of every running pod whose address is no longer on its ENI, on the pod and on the node.
pub(super) async fn contradicted(pool: Pool, teller: Teller) -> &'static str {
    let mut views = pool.view();
    let mut known = BTreeSet::new();
    loop {
        let now = views.borrow_and_update().contradicted.clone();
        let fresh: Vec<IpAddr> = now.difference(&known).copied().collect();
        if !fresh.is_empty() {
            for lease in pool.leases().await.into_iter().filter(|lease| fresh.contains(&lease.address)) {
                let message = lost(lease.address, lease.eni.as_str());
                if let Some(pod) = lease.pod {
                    let pod = PodRef { namespace: pod.namespace, name: pod.name, uid: pod.uid };
                    teller.pod(&pod, LOST, message.clone());
                }
                teller.node_about(LOST, &lease.address.to_string(), &message);
            }
        }
        known = now;
        if views.changed().await.is_err() {
            return "contradicted";
        }
    }
}

/// The reason of the Event.
const LOST: &str = "AddressLost";

fn lost(address: IpAddr, eni: &str) -> String {
    format!(
        "EC2 no longer has the pod's address {address} on {eni}: something else took it away, and the pod reaches \
         only this node; delete the pod, or give the address back to the ENI"
    )
}
