//! The pool as the source of addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use rpc::{PodRef, Refusal, SandboxKey, code};

use super::{CallPort, Teller};
use crate::endpoint::{Addresses, Adopted, Claim, Grant, Surviving};
use crate::hostnet::table_of;
use crate::ipam::{self, LeaseError, LeaseRequest, Pool};
use crate::metrics::Metrics;

/// The pool, and where its refusals are told.
#[derive(Debug)]
pub struct PoolPort {
    pool: Pool,
    teller: Teller,
    calls: CallPort,
    metrics: Metrics,
    patience: Duration,
}

/// What the plugin needs after a lease: to wire, and to hear a refusal before its own deadline.
const AFTER_LEASE: Duration = Duration::from_secs(3);

impl PoolPort {
    /// Leases from `pool`, where an ADD may wait for `patience`; tells refusals as Events on pods and on the node,
    /// with what EC2 said to `calls`.
    #[must_use]
    pub fn new(pool: Pool, teller: Teller, calls: CallPort, metrics: Metrics, patience: Duration) -> Self {
        Self { pool, teller, calls, metrics, patience }
    }

    /// The refusal for the plugin: the reason as a word, and a sentence with what EC2 said, the time of the next
    /// attempt and the remedy. Told on the pod and on the node too.
    fn refused(&self, pod: Option<&PodRef>, error: &LeaseError) -> Refusal {
        let message = match error {
            LeaseError::Refused(refusal) => {
                self.metrics.none_available();
                let said = refusal.operation().and_then(|operation| self.calls.said(operation));
                let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                format!("no address: {}", refusal.explain(said.as_deref(), unix))
            }
            other => other.to_string(),
        };
        if let Some(reason) = event(error) {
            if let Some(pod) = pod.filter(|_| !passes_by_itself(error)) {
                self.teller.pod(pod, if reason == MISSING { MISSING } else { "NoAddress" }, message.clone());
            }
            let who =
                pod.map_or_else(|| "a pod".to_owned(), |pod| format!("pod {}/{}", pod.namespace, pod.name));
            self.teller.node(reason, &format!("{who}: {message}"));
        }
        // The plugin's own patience is used up: the runtime tries again.
        Refusal::new(code::TRY_AGAIN_LATER, error.reason(), message)
    }
}

/// The incumbent's word.
const MISSING: &str = "MissingIAMPermissions";

/// What needs nobody's help is told on the node only: where a fleet scales out, each of 150,000 pods may be refused
/// once, and the kubelet's own Event on the pod carries the sentence anyway.
const fn passes_by_itself(error: &LeaseError) -> bool {
    matches!(
        error,
        LeaseError::Refused(
            ipam::Refusal::Starting
                | ipam::Refusal::AllCooling { .. }
                | ipam::Refusal::Throttled { .. }
                | ipam::Refusal::Queued { .. }
                | ipam::Refusal::StillGrowing
        )
    )
}

/// The Event on the node; none for what is nobody's fault.
const fn event(error: &LeaseError) -> Option<&'static str> {
    let refusal = match error {
        LeaseError::Refused(refusal) => refusal,
        LeaseError::Lost { .. } => return Some("EniLost"),
        LeaseError::NotWritten(_) => return Some("StateNotWritten"),
        LeaseError::Withdrawn | LeaseError::Stopped => return None,
    };
    Some(match refusal {
        ipam::Refusal::Starting => "AgentStarting",
        ipam::Refusal::Ec2Unreachable { .. } => "Ec2Unreachable",
        ipam::Refusal::MaxPods { .. } => "MaxPodsReached",
        ipam::Refusal::SubnetFull { .. } => "SubnetFull",
        ipam::Refusal::Fragmented { .. } => "SubnetFragmented",
        ipam::Refusal::EniLimit { .. } => "EniLimitReached",
        ipam::Refusal::AllCooling { .. } => "AddressesCooling",
        ipam::Refusal::Throttled { .. } => "Ec2Throttled",
        ipam::Refusal::Queued { .. } => "Ec2Queued",
        ipam::Refusal::PermissionDenied { .. } => MISSING,
        ipam::Refusal::Configuration { .. } => "Ec2Configuration",
        ipam::Refusal::NoEniConfig { .. } => "NoEniConfig",
        ipam::Refusal::ProvisioningOff => "ProvisioningDisabled",
        ipam::Refusal::Terminating => "NodeTerminating",
        ipam::Refusal::LinkMissing { .. } => "EniLinkMissing",
        ipam::Refusal::CallFails { .. } => "Ec2CallRefused",
        ipam::Refusal::StillGrowing => "PoolGrowing",
    })
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
        self.metrics.address_asked();
        let now = Instant::now();
        let heard = deadline.checked_sub(AFTER_LEASE).unwrap_or(now).max(now);
        let deadline = heard.min(now + self.patience);
        let request = LeaseRequest { key: pool_key(key), pod: pod.map(pool_pod), deadline: deadline.into() };
        match self.pool.lease(request).await {
            Ok(grant) => Ok(Grant {
                address: grant.address,
                table: Some(table_of(grant.device_index, grant.network_card)),
                eni: grant.eni.to_string(),
            }),
            Err(error) => Err(self.refused(pod, &error)),
        }
    }

    async fn commit(&self, key: &SandboxKey, host_ifname: &str) -> Result<(), Refusal> {
        if self.pool.commit(&pool_key(key), host_ifname).await {
            return Ok(());
        }
        let message = format!("the lease of {key} is not known any more or could not be written down");
        Err(Refusal::retryable(code::TRY_AGAIN_LATER, rpc::reason::UNKNOWN_LEASE, message))
    }

    fn announce(&self, pod: &PodRef, address: IpAddr) {
        self.teller.address(pod, address);
    }

    fn withdraw(&self, pod: &PodRef, address: IpAddr) {
        self.teller.no_address(pod, address);
    }

    async fn release(&self, key: &SandboxKey) -> Result<(), Refusal> {
        if let Some(lease) = self.pool.release(&pool_key(key)).await {
            self.metrics.address_given_back(lease.host_ifname.is_some());
        }
        Ok(())
    }

    async fn surviving(&self) -> Vec<Surviving> {
        let view = self.pool.view().borrow().clone();
        let tables: BTreeMap<_, _> = view
            .enis
            .iter()
            .filter_map(|eni| Some((eni.id.clone(), table_of(eni.device_index?, eni.network_card))))
            .collect();
        let (leases, adopted) = (self.pool.leases().await, self.pool.adopted().await);
        leases
            .into_iter()
            .map(|lease| Surviving {
                host_mac: adopted.get(&lease.key).map(|mac| mac.0),
                key: SandboxKey {
                    network: lease.key.network,
                    container_id: lease.key.container_id,
                    ifname: lease.key.ifname,
                },
                pod: lease.pod.map(|pod| PodRef { namespace: pod.namespace, name: pod.name, uid: pod.uid }),
                grant: Grant {
                    address: lease.address,
                    // None of an ENI that EC2 does not list (yet): what leads its pods stays as it stands.
                    table: tables.get(&lease.eni).copied(),
                    eni: lease.eni.to_string(),
                },
                host_ifname: lease.host_ifname,
            })
            .collect()
    }

    async fn adopt(&self, claim: &Claim) -> Result<Adopted, Refusal> {
        let adoption = ipam::Adoption {
            key: pool_key(&claim.key),
            pod: claim.pod.as_ref().map(pool_pod),
            address: claim.address,
            host_ifname: claim.end.ifname.clone(),
            host_mac: ipam::MacAddr(claim.end.host_mac),
        };
        match self.pool.adopt(adoption).await {
            ipam::Adopted::Confirmed => Ok(Adopted::Confirmed),
            ipam::Adopted::Unconfirmed => Ok(Adopted::Unconfirmed),
            ipam::Adopted::Taken => Ok(Adopted::Taken),
            ipam::Adopted::NotWritten => Err(not_written(&format!("the adopted lease of {}", claim.key))),
        }
    }

    async fn adopted(&self) -> Result<(), Refusal> {
        let written = self.pool.adoption_ended().await;
        if written { Ok(()) } else { Err(not_written("that every pod has its lease")) }
    }
}

fn not_written(what: &str) -> Refusal {
    let message = format!("{what} could not be written down; is there room in the state directory?");
    Refusal::retryable(code::TRY_AGAIN_LATER, "state_not_written", message)
}
