//! Pods that run when the agent starts: who they are, and what gets the pool going with them.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rpc::{PodRef, Refusal, SandboxKey};

use crate::cause::chain;
use crate::config::Config;
use crate::ec2::{Ec2, EniListing};
use crate::endpoint::{Addresses, Endpoints, Enforcement, Record, Wiring, cni_cache};
use crate::ipam::{Allocation, Incumbent, IncumbentError, Past, Pool, PoolConfig, PoolView, StateDirs};
use crate::k8s::ClusterHandle;
use crate::readiness::{Part, Readiness};
use crate::takeover;

/// Between two attempts at what an operator has to mend.
const PAUSE: Duration = Duration::from_secs(2);
/// Between two questions to a pod that does not answer.
const ASK_PERIOD: Duration = Duration::from_secs(10);

/// Sets our checkpoint aside where aws-node served this node since it was written.
///
/// # Errors
///
/// Where it cannot be: by what it says, addresses of running pods would be given away.
pub(super) fn without_superseded(config: &Config) -> anyhow::Result<()> {
    let superseded = takeover::set_superseded_aside(&config.state_dir, &config.incumbent_checkpoint)
        .context("our checkpoint is older than aws-node's and cannot be set aside")?;
    if superseded {
        tracing::warn!("aws-node served this node since we did; its pods are looked for anew");
    }
    Ok(())
}

/// Starts the pool. A file that may not be used (a newer agent's above all) is told by `/readyz`, with the remedy, and
/// looked at again: when it is put right, the start goes on.
pub(super) async fn start_pool(
    config: &PoolConfig,
    ec2: &Arc<dyn Ec2>,
    imds: &Arc<dyn EniListing>,
    dirs: &StateDirs,
    readiness: &Readiness,
) -> Pool {
    loop {
        match Pool::start(config.clone(), Arc::clone(ec2), Arc::clone(imds), dirs) {
            Ok(pool) => return pool,
            Err(error) => readiness.lost(Part::Pool, chain(&error)),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Gives every pod that runs its lease and its endpoint back. The pool must know EC2's truth.
///
/// # Errors
///
/// Where the links cannot be read: nothing may be given back or taken away then.
pub(super) async fn recover<A: Addresses, W: Wiring, E: Enforcement>(
    endpoints: &Endpoints<A, W, E>,
    pool: &Pool,
    config: &Config,
    readiness: &Readiness,
) -> anyhow::Result<()> {
    let failed = |refusal| anyhow::anyhow!("the pods that run could not be looked up: {refusal}");
    let past = pool.past();
    let mut records = match past {
        // Where there was a checkpoint of ours, aws-node's is older.
        Past::Known | Past::Torn => Vec::new(),
        Past::Missing => of_incumbent(&config.incumbent_checkpoint, readiness).await,
    };
    let of_incumbent = records.len();
    let cache = config.cni_cache_dir.clone();
    records.extend(tokio::task::spawn_blocking(move || cni_cache::read(&cache)).await?);
    without_strays(endpoints, pool, &records, readiness).await.map_err(failed)?;
    let recovered = endpoints.recover(&records).await.map_err(failed)?;
    if past != Past::Known || recovered != crate::endpoint::Recovered::default() {
        tracing::info!(
            ?past,
            of_incumbent,
            of_cache = records.len() - of_incumbent,
            confirmed = recovered.confirmed,
            unconfirmed = recovered.unconfirmed,
            without_sandbox = recovered.made_up,
            nameless = recovered.nameless,
            "pods that ran without a lease of ours were adopted; every other address cools down first"
        );
    }
    endpoints.restore().await.map_err(failed)
}

/// Waits until no pod runs behind a link that we do not look at: the agent before this one may have had another prefix
/// for their names. Nothing is leased until then, since it might be what such a pod has.
async fn without_strays<A: Addresses, W: Wiring, E: Enforcement>(
    endpoints: &Endpoints<A, W, E>,
    pool: &Pool,
    records: &[Record],
    readiness: &Readiness,
) -> Result<(), Refusal> {
    let views = pool.view();
    loop {
        let view = views.borrow().clone();
        let strays = endpoints.strays(records, |address| is_on_ours(&view, address)).await?;
        let Some((address, link)) = strays.first() else { return Ok(()) };
        let others = match strays.len() - 1 {
            0 => String::new(),
            more => format!(" ({more} more like it)"),
        };
        readiness.lost(
            Part::Pool,
            format!(
                "is AWS_VPC_K8S_CNI_VETHPREFIX right? address {address} has no lease and is routed to link {link}{others}; \
                 set it to what those links' names begin with, or drain the node"
            ),
        );
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether EC2 has the address on an ENI that pods may use.
fn is_on_ours(view: &PoolView, address: IpAddr) -> bool {
    view.enis.iter().filter(|eni| eni.foreign.is_none()).any(|eni| {
        eni.addresses.contains(&address) || eni.prefixes.iter().any(|prefix| prefix.contains(address))
    })
}

/// Leads what pods send to the ENI that has their address, whenever the pool learns that it is another.
pub(super) async fn follow_enis<A: Addresses, W: Wiring, E: Enforcement>(
    endpoints: Arc<Endpoints<A, W, E>>,
    pool: Pool,
) -> &'static str {
    let mut views = pool.view();
    let mut followed = None;
    loop {
        let view = views.borrow_and_update().clone();
        let places = view.enis.iter().map(|eni| (eni.id.clone(), eni.device_index, eni.network_card));
        let current = Some((places.collect::<Vec<_>>(), view.contradicted.clone()));
        if followed != current {
            endpoints.follow_enis().await;
            followed = current;
        }
        if views.changed().await.is_err() {
            return "ENIs of pods";
        }
    }
}

/// What aws-node wrote down. Its file is read again while it is of a version that nobody may guess at.
async fn of_incumbent(path: &Path, readiness: &Readiness) -> Vec<Record> {
    loop {
        let path = path.to_owned();
        let read = tokio::task::spawn_blocking(move || Incumbent::read(&path)).await;
        match read {
            Ok(Ok(Incumbent::Missing)) => return Vec::new(),
            Ok(Ok(Incumbent::Torn(error))) => {
                tracing::warn!(
                    error,
                    "aws-node's checkpoint cannot be read; its pods are found by their links"
                );
                return Vec::new();
            }
            Ok(Ok(Incumbent::Read { allocations, unusable, .. })) => {
                tracing::info!(allocations = allocations.len(), ?unusable, "aws-node's checkpoint read");
                return allocations.into_iter().map(record).collect();
            }
            Ok(Err(error @ IncumbentError::Version { .. })) => readiness.lost(Part::Pool, chain(&error)),
            Ok(Err(error)) => {
                tracing::warn!(error = chain(&error), "aws-node's pods are found by their links");
                return Vec::new();
            }
            // The runtime is shutting down.
            Err(_) => return Vec::new(),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn record(allocation: Allocation) -> Record {
    let Allocation { key, pod, address } = allocation;
    Record {
        key: SandboxKey { network: key.network, container_id: key.container_id, ifname: key.ifname },
        pod: pod.map(|pod| PodRef { namespace: pod.namespace, name: pod.name, uid: pod.uid }),
        addresses: vec![address],
        host_end: None,
    }
}

/// The pods of this node that may have an address, as the Kubernetes API has them.
pub(super) fn local_pods(cluster: &ClusterHandle, node: &str) -> Vec<(PodRef, Vec<IpAddr>)> {
    let snapshot = cluster.snapshot();
    let mut pods = Vec::new();
    for (namespace, content) in &snapshot.cluster.namespaces {
        for (name, pod) in &content.pods {
            if pod.node.as_deref() == Some(node) && pod.counts() {
                let uid = Some(pod.uid.to_string());
                let reference = PodRef { namespace: namespace.to_string(), name: name.to_string(), uid };
                pods.push((reference, pod.addresses.to_vec()));
            }
        }
    }
    pods
}

/// Asks pods that have not told their Ethernet address.
pub(super) async fn ask_again<A: Addresses, W: Wiring, E: Enforcement>(
    endpoints: Arc<Endpoints<A, W, E>>,
) -> &'static str {
    let mut period = tokio::time::interval(ASK_PERIOD);
    loop {
        period.tick().await;
        endpoints.ask_again().await;
    }
}
