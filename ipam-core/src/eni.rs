//! One ENI as the pool knows it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::{AttachmentId, EniId, MacAddr, Now, SecurityGroupId, SubnetId};

/// No delegated prefix that we ask for is larger; keeps a walk over the
/// addresses of a strange (IPv6) block finite.
const BLOCK_WALK_LIMIT: usize = 256;

/// Why an ENI is not ours to use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForeignReason {
    /// It carries branch ENIs.
    Trunk,
    /// It has an Elastic Fabric Adapter.
    Efa,
    /// An operator tagged it `no_manage`.
    NoManage,
    /// Without the tag that says that this node made it.
    Untagged,
    /// Managed by an AWS service, or of an unknown kind.
    Managed,
    /// On another network card than the instance's default one.
    OtherCard,
}

/// Whose an ENI is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// The instance's first ENI: used for pods, never changed in its groups,
    /// never detached.
    Primary,
    /// Made by this node's agent (or its predecessor).
    Ours,
    /// Counted against the limits; never used, changed or freed.
    Foreign(ForeignReason),
}

/// Where an ENI stands between create and delete.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Created and not attached. `wanted` says that it was made to be attached;
    /// one that is not wanted is given up after a while.
    Unattached {
        /// Since when.
        since: Now,
        /// Whether the pool means to attach it.
        wanted: bool,
    },
    /// Attached, or EC2 has accepted the attach.
    Attached {
        /// Since when.
        since: Now,
    },
    /// A detach is under way; nothing on it is leased any more.
    Draining {
        /// Since when.
        since: Now,
    },
    /// Detached by us; it is to be deleted.
    Detached {
        /// Since when.
        since: Now,
    },
}

/// An attachment to this instance.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Attachment {
    /// Its id; what a detach needs.
    pub id: AttachmentId,
    /// The device index on the network card.
    pub device_index: u32,
    /// The network card.
    pub network_card: u32,
    /// Whether EC2 deletes the ENI with the instance.
    pub delete_on_termination: bool,
}

/// One ENI of this instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Eni {
    /// Its id.
    pub id: EniId,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Whose it is.
    pub owner: Owner,
    /// Its subnet.
    pub subnet: SubnetId,
    /// Its primary address; never leased to a pod.
    pub primary_ip: IpAddr,
    /// Its security groups.
    pub groups: BTreeSet<SecurityGroupId>,
    /// Where it stands.
    pub phase: Phase,
    /// Its attachment to this instance.
    pub attachment: Option<Attachment>,
    /// When the pool first knew it.
    pub first_seen: Now,
    /// Secondary addresses, with the time of EC2's last word on them.
    pub singles: BTreeMap<IpAddr, Now>,
    /// Delegated prefixes, with the time of EC2's last word on them.
    pub prefixes: BTreeMap<IpNetwork, Now>,
    /// Blocks that we may have given back and EC2 lists: not to be leased, but
    /// perhaps still in their slots.
    pub doubtful: BTreeSet<IpNetwork>,
    /// A describe of this process has shown it attached.
    pub(crate) shown_attached: bool,
    /// Blocks that a describe of this process has shown.
    pub(crate) listed: BTreeSet<IpNetwork>,
    /// Blocks on which EC2's word is awaited before they are leased: a describe
    /// has shown them and the last did not, or nobody knows what was done with
    /// them just before this process began.
    pub(crate) suspect: BTreeSet<IpNetwork>,
    /// EC2 has shown our tag on it. Without (`MANAGE_UNTAGGED_ENI`) it may not
    /// be detached or deleted: the agent's permissions end there.
    pub(crate) is_tagged: bool,
    /// When the first of the describes was asked for that have left it out,
    /// one after the other. Until EC2 shows it again nothing is leased from it
    /// and nothing asked of it.
    pub(crate) missing_since: Option<Now>,
}

impl Eni {
    /// Whether the pool may lease its addresses, once it is attached.
    pub fn is_managed(&self, use_primary: bool) -> bool {
        match self.owner {
            Owner::Primary => use_primary,
            Owner::Ours => true,
            Owner::Foreign(_) => false,
        }
    }

    /// Slots in use beside the primary address: each single address and each
    /// prefix takes one, those in doubt included.
    pub fn slots_used(&self) -> u32 {
        u32::try_from(self.singles.len() + self.prefixes.len() + self.doubtful.len()).unwrap_or(u32::MAX)
    }

    /// Every address that a pod could have from this ENI.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.singles.keys().copied().chain(self.prefixes.keys().flat_map(|prefix| block(*prefix)))
    }

    /// Whether EC2's word on `address` is awaited before it is leased.
    pub fn is_suspect(&self, address: IpAddr) -> bool {
        self.suspect.iter().any(|block| block.contains(address))
    }

    /// Whether EC2's last describe left it out, although it was there before.
    pub fn is_missing(&self) -> bool {
        self.missing_since.is_some()
    }

    /// Whether EC2 has put `address` on this ENI.
    pub fn carries(&self, address: IpAddr) -> bool {
        self.singles.contains_key(&address) || self.prefixes.keys().any(|prefix| prefix.contains(address))
    }

    /// Whether it is attached, as far as EC2 is concerned.
    pub fn is_attached(&self) -> bool {
        matches!(self.phase, Phase::Attached { .. })
    }
}

/// The addresses of a prefix; all of them can be leased, the first and last
/// included.
pub(crate) fn block(prefix: IpNetwork) -> impl Iterator<Item = IpAddr> {
    prefix.iter().take(BLOCK_WALK_LIMIT)
}
