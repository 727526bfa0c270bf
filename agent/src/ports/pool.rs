//! The pool as the source of addresses.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rpc::{PodRef, Refusal, SandboxKey, code};

use crate::endpoint::{Addresses, Grant, Surviving};
use crate::hostnet::table_of;
use crate::ipam::{self, LeaseRequest, Pool};
use crate::k8s::{ClusterHandle, EventKind, EventObject, EventSpec};

/// The pool, and where its refusals are told.
#[derive(Debug)]
pub struct PoolPort {
    pool: Pool,
    cluster: ClusterHandle,
    patience: Duration,
}

/// What the plugin needs after a lease: to wire, and to hear a refusal before its own deadline.
const AFTER_LEASE: Duration = Duration::from_secs(3);

impl PoolPort {
    /// Leases from `pool`, where an ADD may wait for `patience`; tells refusals as Events on pods.
    #[must_use]
    pub fn new(pool: Pool, cluster: ClusterHandle, patience: Duration) -> Self {
        Self { pool, cluster, patience }
    }

    fn tell(&self, pod: Option<&PodRef>, message: String) {
        let Some(pod) = pod else { return };
        self.cluster.publish_event(EventSpec {
            object: EventObject {
                api_version: "v1",
                kind: "Pod",
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                uid: pod.uid.clone(),
            },
            kind: EventKind::Warning,
            reason: "NoAddress",
            message,
        });
    }
}

fn pool_key(key: &SandboxKey) -> ipam::SandboxKey {
    ipam::SandboxKey {
        network: key.network.clone(),
        container_id: key.container_id.clone(),
        ifname: key.ifname.clone(),
    }
}

fn pool_pod(pod: &PodRef) -> ipam::PodRef {
    ipam::PodRef { namespace: pod.namespace.clone(), name: pod.name.clone(), uid: pod.uid.clone() }
}

impl Addresses for PoolPort {
    async fn lease(
        &self,
        key: &SandboxKey,
        pod: Option<&PodRef>,
        deadline: Instant,
    ) -> Result<Grant, Refusal> {
        let now = Instant::now();
        let heard = deadline.checked_sub(AFTER_LEASE).unwrap_or(now).max(now);
        let deadline = heard.min(now + self.patience);
        let request = LeaseRequest { key: pool_key(key), pod: pod.map(pool_pod), deadline: deadline.into() };
        match self.pool.lease(request).await {
            Ok(grant) => Ok(Grant {
                address: grant.address,
                table: table_of(grant.device_index, grant.network_card),
                eni: grant.eni.to_string(),
            }),
            Err(error) => {
                let message = error.to_string();
                self.tell(pod, message.clone());
                // The plugin's own patience is used up: the runtime tries again.
                Err(Refusal::new(code::TRY_AGAIN_LATER, error.reason(), message))
            }
        }
    }

    async fn commit(&self, key: &SandboxKey, host_ifname: &str) -> Result<(), Refusal> {
        if self.pool.commit(&pool_key(key), host_ifname).await {
            return Ok(());
        }
        let message = format!("the lease of {key} is not known any more or could not be written down");
        Err(Refusal::retryable(code::TRY_AGAIN_LATER, rpc::reason::UNKNOWN_LEASE, message))
    }

    async fn release(&self, key: &SandboxKey) -> Result<(), Refusal> {
        self.pool.release(&pool_key(key)).await;
        Ok(())
    }

    async fn surviving(&self) -> Vec<Surviving> {
        let view = self.pool.view().borrow().clone();
        let tables: BTreeMap<_, _> = view
            .enis
            .iter()
            .filter_map(|eni| Some((eni.id.clone(), table_of(eni.device_index?, eni.network_card))))
            .collect();
        let leases = self.pool.leases().await;
        leases
            .into_iter()
            .map(|lease| Surviving {
                key: SandboxKey {
                    network: lease.key.network,
                    container_id: lease.key.container_id,
                    ifname: lease.key.ifname,
                },
                pod: lease.pod.map(|pod| PodRef { namespace: pod.namespace, name: pod.name, uid: pod.uid }),
                grant: Grant {
                    address: lease.address,
                    // An ENI that EC2 no longer lists: its pods can reach nobody but this node.
                    table: tables.get(&lease.eni).copied().unwrap_or(netlink::TABLE_MAIN),
                    eni: lease.eni.to_string(),
                },
                host_ifname: lease.host_ifname,
            })
            .collect()
    }
}
