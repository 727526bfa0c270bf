//! Leases for pods that run already.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipam_core::{EniId, Lease, MacAddr, Owner, PoolState, SandboxKey, Saved, SavedLease};
use tracing::info;

use super::checkpoint::{AdoptedLease, Content};
use super::handle::{Adopted, Adoption};
use super::task::PoolTask;

/// The ENI of an address that EC2 has on none of this instance's.
const UNKNOWN_ENI: &str = "unknown";

/// What the last process left beside the pool's state.
#[derive(Default)]
pub(super) struct Left {
    /// Journal lines that are still open.
    pub(super) journal_lines: Vec<u64>,
    /// Leases that were made of what stood on the node, with their links' MAC
    /// addresses.
    pub(super) adopted: BTreeMap<SandboxKey, MacAddr>,
    /// Pods may run that have no lease.
    pub(super) adopting: bool,
}

impl Left {
    /// What is to be written down beside `pool`.
    pub(super) fn content(&self, pool: Saved) -> Content {
        let leases = self.adopted.iter();
        let adopted = leases.map(|(key, mac)| AdoptedLease { key: key.clone(), host_mac: *mac }).collect();
        Content { pool, adopted, adopting: self.adopting }
    }
}

/// Whether EC2 has `address` on an ENI that pods may use.
pub(super) fn is_on_ours(state: &PoolState, address: IpAddr) -> bool {
    state.enis().any(|eni| {
        matches!(eni.owner, Owner::Primary | Owner::Ours) && !eni.is_missing() && eni.carries(address)
    })
}

impl PoolTask {
    /// A lease for a pod that runs already. One whose address EC2 does not have
    /// on an ENI of ours is held all the same: nobody else may get it.
    pub(super) fn adopt(&mut self, adoption: Adoption) -> Adopted {
        let Adoption { key, pod, address, host_ifname, host_mac } = adoption;
        let mut leases = self.state.leases();
        if leases.any(|lease| lease.key == key || lease.address == address) {
            return Adopted::Taken;
        }
        drop(leases);
        let now = self.clock.now();
        let host_ifname = Some(host_ifname);
        self.left.adopted.insert(key.clone(), host_mac);
        if is_on_ours(&self.state, address)
            && self.state.adopt(key.clone(), pod.clone(), address, host_ifname.clone(), now)
        {
            return Adopted::Confirmed;
        }
        let carrier = self.state.enis().find(|eni| eni.carries(address));
        let eni = carrier.map_or_else(|| EniId::new(UNKNOWN_ENI), |eni| eni.id.clone());
        let lease = SavedLease { key, pod, address, eni, since: now, host_ifname };
        self.state.restore(Saved { leases: vec![lease], ..Saved::default() });
        self.contradicted.insert(address);
        Adopted::Unconfirmed
    }

    /// Adopted leases whose address EC2 did not have on an ENI of ours, and has
    /// now: they belong to that ENI, which must not be given back under them.
    pub(super) fn confirm_adopted(&mut self) {
        let late: Vec<Lease> = self
            .state
            .leases()
            .filter(|lease| self.left.adopted.contains_key(&lease.key))
            .filter(|lease| self.contradicted.contains(&lease.address))
            .filter(|lease| is_on_ours(&self.state, lease.address))
            .cloned()
            .collect();
        for lease in late {
            let Some(mac) = self.left.adopted.get(&lease.key).copied() else { continue };
            let Lease { key, pod, address, host_ifname, .. } = lease;
            info!(%address, sandbox = %key.container_id, "EC2 has the address of an adopted pod now");
            self.release(&key);
            self.left.adopted.insert(key.clone(), mac);
            self.state.adopt(key, pod, address, host_ifname, self.clock.now());
        }
    }
}
