//! What of the pool outlives the process, within one boot.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::eni::{Attachment, Eni, ForeignReason, Owner, Phase};
use crate::lease::{Lease, PodRef, SandboxKey};
use crate::state::PoolState;
use crate::{EniId, MacAddr, Now, SecurityGroupId, SubnetId};

/// Whether it is remembered who had which address, and until when.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum History {
    /// Nothing is: no checkpoint of this boot was found, and no describe seen.
    #[default]
    Unknown,
    /// Nothing was when the first describe was taken in, then. What it showed
    /// cools down and is looked at once more before it is leased, and so is
    /// what others show that may still lag behind that moment.
    UnknownBefore(Now),
    /// Since this kernel booted, or longer than a cooldown ago.
    Known,
}

impl History {
    /// What a checkpoint without the field means: it was written by a version
    /// that kept one only once it knew.
    fn known() -> Self {
        Self::Known
    }
}

/// Leases, cooldowns, and what EC2 has confirmed since this boot.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    /// Whether the rest is all that there is to remember.
    #[serde(default = "History::known")]
    pub history: History,
    /// Every lease, provisional ones included.
    pub leases: Vec<SavedLease>,
    /// Addresses that rest.
    pub cooling: Vec<SavedCooling>,
    /// Blocks given back lately: EC2's describe may list them still.
    #[serde(default)]
    pub gone: Vec<(IpNetwork, Now)>,
    /// ENIs deleted lately: likewise.
    #[serde(default)]
    pub buried: Vec<(EniId, Now)>,
    /// ENIs that are ours, or were when their pods began, with their confirmed
    /// addresses: served when EC2 cannot be asked.
    pub enis: Vec<SavedEni>,
}

/// A lease on file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedLease {
    /// Whose it is.
    pub key: SandboxKey,
    /// The pod, where it is known.
    pub pod: Option<PodRef>,
    /// The address.
    pub address: IpAddr,
    /// The ENI that carries it.
    pub eni: EniId,
    /// When it was given.
    pub since: Now,
    /// The host end of the veth pair; `None` for a provisional lease.
    pub host_ifname: Option<String>,
}

impl From<&Lease> for SavedLease {
    fn from(lease: &Lease) -> Self {
        Self {
            key: lease.key.clone(),
            pod: lease.pod.clone(),
            address: lease.address,
            eni: lease.eni.clone(),
            since: lease.since,
            host_ifname: lease.host_ifname.clone(),
        }
    }
}

/// A resting address on file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedCooling {
    /// The address.
    pub address: IpAddr,
    /// The end of its rest.
    pub until: Now,
}

/// An ENI on file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedEni {
    /// Its id.
    pub id: EniId,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Whether it is the instance's first.
    pub primary: bool,
    /// Why it is not ours any more; only its pods' routes are kept.
    #[serde(default)]
    pub foreign: Option<ForeignReason>,
    /// Whether EC2 has shown our tag on it.
    #[serde(default)]
    pub tagged: bool,
    /// Since when EC2 leaves it out, if it does.
    #[serde(default)]
    pub missing_since: Option<Now>,
    /// Its subnet.
    pub subnet: SubnetId,
    /// The subnet's block, where it is known.
    pub subnet_cidr: Option<IpNetwork>,
    /// Its primary address.
    pub primary_ip: IpAddr,
    /// Its security groups.
    pub groups: Vec<SecurityGroupId>,
    /// Where it stands: one that is being given back must not be taken for
    /// attached because EC2's describe lags.
    pub phase: Phase,
    /// Its attachment.
    pub attachment: Option<Attachment>,
    /// When the pool first knew it.
    pub first_seen: Now,
    /// Secondary addresses and when EC2 confirmed them.
    pub singles: Vec<(IpAddr, Now)>,
    /// Prefixes and when EC2 confirmed them.
    pub prefixes: Vec<(IpNetwork, Now)>,
    /// Blocks on which EC2's word is awaited before they are leased.
    #[serde(default)]
    pub suspect: Vec<IpNetwork>,
}

impl PoolState {
    /// What is to be written down now.
    pub fn save(&self) -> Saved {
        Saved { leases: self.leases.values().map(SavedLease::from).collect(), ..self.save_beside_leases() }
    }

    /// The same without leases: of these there are hundreds, and one changes at a time.
    pub fn save_beside_leases(&self) -> Saved {
        Saved {
            history: self.history,
            leases: Vec::new(),
            cooling: self
                .cooling
                .iter()
                .map(|(address, until)| SavedCooling { address: *address, until: *until })
                .collect(),
            gone: self.gone.iter().map(|(block, until)| (*block, *until)).collect(),
            buried: self.buried.iter().map(|(eni, until)| (eni.clone(), *until)).collect(),
            enis: self.enis.values().filter_map(|eni| self.save_eni(eni)).collect(),
        }
    }

    fn save_eni(&self, eni: &Eni) -> Option<SavedEni> {
        let foreign = match eni.owner {
            Owner::Foreign(_) if self.leased_on(eni) == 0 => return None,
            Owner::Foreign(reason) => Some(reason),
            Owner::Primary | Owner::Ours => None,
        };
        Some(SavedEni {
            id: eni.id.clone(),
            mac: eni.mac,
            primary: eni.owner == Owner::Primary,
            foreign,
            tagged: eni.is_tagged,
            missing_since: eni.missing_since,
            subnet: eni.subnet.clone(),
            subnet_cidr: self.subnet_cidr(&eni.subnet),
            primary_ip: eni.primary_ip,
            groups: eni.groups.iter().cloned().collect(),
            phase: eni.phase,
            attachment: eni.attachment.clone(),
            first_seen: eni.first_seen,
            singles: eni.singles.iter().map(|(a, at)| (*a, *at)).collect(),
            prefixes: eni.prefixes.iter().map(|(p, at)| (*p, *at)).collect(),
            suspect: eni.suspect.iter().copied().collect(),
        })
    }

    /// Takes in what an earlier process of this boot wrote. Its ENIs are a
    /// hint until EC2 is asked; a provisional lease may have reached the wire,
    /// so it cools down when it is released. Two leases of one address cannot
    /// have been written; should a file hold them, the first stays.
    pub fn restore(&mut self, saved: Saved) {
        if self.history == History::Unknown {
            self.history = saved.history;
        }
        for eni in saved.enis {
            let state = self.subnets.entry(eni.subnet.clone()).or_default();
            state.cidr = state.cidr.or(eni.subnet_cidr);
            let known = Eni {
                id: eni.id.clone(),
                mac: eni.mac,
                owner: match eni.foreign {
                    Some(reason) => Owner::Foreign(reason),
                    None if eni.primary => Owner::Primary,
                    None => Owner::Ours,
                },
                subnet: eni.subnet,
                primary_ip: eni.primary_ip,
                groups: eni.groups.into_iter().collect(),
                phase: eni.phase,
                attachment: eni.attachment,
                first_seen: eni.first_seen,
                singles: eni.singles.into_iter().collect(),
                prefixes: eni.prefixes.into_iter().collect(),
                doubtful: BTreeSet::new(),
                shown_attached: false,
                listed: BTreeSet::new(),
                suspect: eni.suspect.into_iter().collect(),
                is_tagged: eni.tagged,
                missing_since: eni.missing_since,
            };
            self.enis.insert(eni.id, known);
        }
        self.gone.extend(saved.gone);
        self.buried.extend(saved.buried);
        for lease in saved.leases {
            if self.holders.contains_key(&lease.address) || self.leases.contains_key(&lease.key) {
                continue;
            }
            self.holders.insert(lease.address, lease.key.clone());
            self.leases.insert(
                lease.key.clone(),
                Lease {
                    key: lease.key,
                    pod: lease.pod,
                    address: lease.address,
                    eni: lease.eni,
                    since: lease.since,
                    host_ifname: lease.host_ifname,
                    history_known: false,
                },
            );
        }
        self.cooling.extend(saved.cooling.into_iter().map(|c| (c.address, c.until)));
    }

    /// IMDS does not list `address` on its ENI, and EC2 cannot be asked: it is
    /// not served from the checkpoint. Prefixes likewise.
    pub fn contradict(&mut self, is_listed: impl Fn(&Eni, IpNetwork) -> bool) {
        for eni in self.enis.values_mut() {
            let view = eni.clone();
            eni.singles.retain(|address, _| is_listed(&view, IpNetwork::from(*address)));
            eni.prefixes.retain(|prefix, _| is_listed(&view, *prefix));
        }
    }
}
