//! The things in the cloud, as EC2 keeps them.

use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use super::address_space::AddressSpace;
use super::address_space6::AddressSpace6;
use super::clock::SimTime;
use super::ids::{
    AttachmentId, EniId, GroupId, InstanceId, Mac, ReservationId, SubnetId, TrunkAssociationId, VpcId,
};
use super::instance_types::InstanceType;
use super::metadata::Metadata;
use super::tags::Tags;

/// The region that everything is in.
pub const REGION: &str = "us-west-2";
/// The account that owns everything.
pub const ACCOUNT: &str = "123456789012";
/// IPv4 addresses on an interface that is attached to nothing: what the largest
/// instance type takes.
pub(crate) const UNATTACHED_ADDRESSES: u32 = 50;

#[derive(Debug, Clone)]
pub(crate) struct Vpc {
    pub(crate) id: VpcId,
    pub(crate) cidr: Ipv4Network,
    pub(crate) ipv6_cidr: Option<Ipv6Network>,
    pub(crate) default_group: GroupId,
    pub(crate) tags: Tags,
}

#[derive(Debug, Clone)]
pub(crate) struct Subnet {
    pub(crate) id: SubnetId,
    pub(crate) vpc: VpcId,
    pub(crate) zone: String,
    pub(crate) space: AddressSpace,
    pub(crate) space6: Option<AddressSpace6>,
    pub(crate) tags: Tags,
}

impl Subnet {
    /// The subnet's router.
    pub(crate) fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.space.cidr().network().to_bits() + 1)
    }
}

/// The id of a zone: the same for all accounts, unlike its name.
pub(crate) fn zone_id(zone: &str) -> String {
    let number = match zone.bytes().last() {
        Some(letter @ b'a'..=b'z') => letter - b'a' + 1,
        _ => 1,
    };
    format!("usw2-az{number}")
}

#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) id: GroupId,
    pub(crate) vpc: VpcId,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) tags: Tags,
}

#[derive(Debug, Clone)]
pub(crate) struct Instance {
    pub(crate) id: InstanceId,
    pub(crate) reservation: ReservationId,
    /// The node's name, which is not EC2's business.
    pub(crate) node: String,
    pub(crate) kind: &'static InstanceType,
    pub(crate) subnet: SubnetId,
    pub(crate) vpc: VpcId,
    pub(crate) zone: String,
    pub(crate) launched: SimTime,
    pub(crate) state: InstanceState,
    pub(crate) primary_eni: EniId,
    /// Attached interfaces, those on their way included.
    pub(crate) enis: BTreeSet<EniId>,
    pub(crate) tags: Tags,
    pub(crate) metadata: Metadata,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InstanceState {
    Running,
    ShuttingDown,
    Terminated,
}

impl InstanceState {
    /// EC2's code and name.
    pub(crate) fn code_and_name(self) -> (u16, &'static str) {
        match self {
            Self::Running => (16, "running"),
            Self::ShuttingDown => (32, "shutting-down"),
            Self::Terminated => (48, "terminated"),
        }
    }
}

/// An interface as it is at one time.
#[derive(Debug, Clone)]
pub(crate) struct Eni {
    pub(crate) id: EniId,
    pub(crate) vpc: VpcId,
    pub(crate) subnet: SubnetId,
    pub(crate) zone: String,
    pub(crate) mac: Mac,
    pub(crate) description: String,
    pub(crate) kind: EniKind,
    pub(crate) groups: Vec<GroupId>,
    /// None on an `efa-only` interface.
    pub(crate) primary: Option<Ipv4Addr>,
    pub(crate) secondaries: Vec<Ipv4Addr>,
    pub(crate) prefixes: Vec<Ipv4Network>,
    pub(crate) ipv6: Vec<Ipv6Addr>,
    pub(crate) ipv6_prefixes: Vec<Ipv6Network>,
    /// Whether the first IPv6 address is a primary one.
    pub(crate) primary_ipv6: bool,
    pub(crate) source_dest_check: bool,
    pub(crate) pending_until: SimTime,
    pub(crate) attachment: Option<Attachment>,
    pub(crate) trunk: Option<TrunkAssociationId>,
    pub(crate) tags: Tags,
}

impl Eni {
    /// Places taken of those for IPv4: a prefix takes one.
    pub(crate) fn ipv4_places(&self) -> u32 {
        let count = usize::from(self.primary.is_some()) + self.secondaries.len() + self.prefixes.len();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Places taken of those for IPv6.
    pub(crate) fn ipv6_places(&self) -> u32 {
        u32::try_from(self.ipv6.len() + self.ipv6_prefixes.len()).unwrap_or(u32::MAX)
    }

    /// All that the VPC delivers to it, the primary address first.
    pub(crate) fn networks(&self) -> Vec<IpNetwork> {
        let single = |address: Ipv4Addr| IpNetwork::from(IpAddr::from(address));
        let single6 = |address: Ipv6Addr| IpNetwork::from(IpAddr::from(address));
        self.primary
            .iter()
            .chain(&self.secondaries)
            .map(|address| single(*address))
            .chain(self.prefixes.iter().map(|prefix| IpNetwork::V4(*prefix)))
            .chain(self.ipv6.iter().map(|address| single6(*address)))
            .chain(self.ipv6_prefixes.iter().map(|prefix| IpNetwork::V6(*prefix)))
            .collect()
    }

    /// EC2's word for how it is.
    pub(crate) fn status(&self, now: SimTime) -> &'static str {
        match &self.attachment {
            Some(attachment) => match attachment.status(now) {
                "attached" => "in-use",
                passing => passing,
            },
            None if self.trunk.is_some() => "associated",
            None if now < self.pending_until => "pending",
            None => "available",
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Attachment {
    pub(crate) id: AttachmentId,
    pub(crate) instance: InstanceId,
    pub(crate) device_index: u32,
    pub(crate) network_card: u32,
    pub(crate) delete_on_termination: bool,
    /// When it was asked for.
    pub(crate) began: SimTime,
    /// When the device is there.
    pub(crate) attached_at: SimTime,
    /// When it is gone, once that was asked for.
    pub(crate) gone_at: Option<SimTime>,
}

impl Attachment {
    /// EC2's word for how it is.
    pub(crate) fn status(&self, now: SimTime) -> &'static str {
        if self.gone_at.is_some() {
            "detaching"
        } else if now < self.attached_at {
            "attaching"
        } else {
            "attached"
        }
    }
}

/// What an interface is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EniKind {
    Interface,
    Efa,
    EfaOnly,
    Trunk,
    Branch,
}

impl EniKind {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Interface, "interface"),
        (Self::Efa, "efa"),
        (Self::EfaOnly, "efa-only"),
        (Self::Trunk, "trunk"),
        (Self::Branch, "branch"),
    ];

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, name)| *name == text).map(|(kind, _)| *kind)
    }

    pub(crate) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(kind, _)| *kind == self).map_or("interface", |(_, name)| name)
    }
}

/// A branch interface on its trunk.
#[derive(Debug, Clone)]
pub(crate) struct TrunkAssociation {
    pub(crate) id: TrunkAssociationId,
    pub(crate) trunk: EniId,
    pub(crate) branch: EniId,
    pub(crate) tunnel: Tunnel,
}

/// How the trunk tells its branches apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tunnel {
    Vlan(u16),
    Gre(u32),
}

/// An interface, and how it was: what Describe shows can be older than what is.
#[derive(Debug, Clone)]
pub(crate) struct EniRecord {
    pub(crate) eni: Eni,
    /// Before this time no call but the one that created it finds it.
    pub(crate) found_from: SimTime,
    /// Former states, each with the time until which it is shown, oldest first.
    pub(crate) shown: VecDeque<(SimTime, Eni)>,
}

impl EniRecord {
    /// The interface as Describe shows it.
    pub(crate) fn as_shown(&self, now: SimTime) -> &Eni {
        self.shown.iter().find(|(until, _)| now < *until).map_or(&self.eni, |(_, eni)| eni)
    }
}

/// The name that Route 53 gives an address inside a VPC.
pub(crate) fn private_dns_name(address: Ipv4Addr) -> String {
    let [a, b, c, d] = address.octets();
    format!("ip-{a}-{b}-{c}-{d}.{REGION}.compute.internal")
}
