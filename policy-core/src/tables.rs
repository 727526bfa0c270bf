//! What the maps hold, as ordered values.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ebpf_common::abi::{CidrValue, PeerValue, PortKey, PortValue, RowKey, RowValue, VipKey, VipValue};
use ipnetwork::IpNetwork;

use crate::ids::{ClassId, SetId};
use crate::model::{Name, Protocol};

/// An address, port and protocol of a Service, or of a node where it leads to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VipAddress {
    /// The address that pods ask for.
    pub address: IpAddr,
    /// The port that pods ask for, host byte order.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

impl VipAddress {
    /// The key of the map.
    pub fn key(&self) -> VipKey {
        VipKey::new(self.address, self.port, self.protocol.number())
    }
}

/// What a Service's address leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VipTarget {
    /// The backends' class.
    pub class: ClassId,
    /// The backends' port, host byte order.
    pub port: u16,
}

impl VipTarget {
    /// The value of the map for a key.
    pub fn value(&self, key: &VipKey) -> VipValue {
        VipValue::new(key, self.class.0, self.port)
    }
}

/// The policy part of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSets {
    /// The sandbox in the slot; another one never inherits an epoch.
    pub sandbox: Name,
    /// The rules for what comes in; 0: not isolated.
    pub ingress: SetId,
    /// The rules for what goes out; 0: not isolated.
    pub egress: SetId,
    /// Flows of an older epoch are judged again.
    pub epoch: u32,
    /// What its policy would deny passes and is told.
    pub audit: bool,
}

/// The whole policy state of a node's maps.
///
/// Rows and ports of a key never change while a packet could meet them: their numbers
/// belong to contents. Cidr, peer, vip and endpoint entries are overwritten in place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// (profile, protocol, port prefix) → verdict.
    pub ports: BTreeMap<PortKey, PortValue>,
    /// (set, class) → profile.
    pub rows: BTreeMap<RowKey, RowValue>,
    /// Elementary prefix → class.
    pub cidrs: BTreeMap<IpNetwork, CidrValue>,
    /// Address of a pod, or of this node → class.
    pub peers: BTreeMap<IpAddr, PeerValue>,
    /// Address of a Service → class and port of its backends.
    pub vips: BTreeMap<VipAddress, VipTarget>,
    /// Slot → sets and epoch.
    pub endpoints: BTreeMap<u32, EndpointSets>,
}

impl Tables {
    /// The class that the prefixes give an address, and the flags of the prefix.
    pub fn cidr_of(&self, address: IpAddr) -> CidrValue {
        let longest = match address {
            IpAddr::V4(_) => 32,
            IpAddr::V6(_) => 128,
        };
        (0..=longest)
            .rev()
            .find_map(|bits| self.cidrs.get(&prefix_of(address, bits)))
            .copied()
            .unwrap_or(CidrValue::new(0))
    }

    /// The class of an address: that of the pod or node that has it, else of its prefix.
    pub fn class_of(&self, address: IpAddr) -> ClassId {
        match self.peers.get(&address) {
            Some(peer) => ClassId(peer.class()),
            None => ClassId(self.cidr_of(address).class),
        }
    }

    /// The row for a set and class, with the fall back to that of class 0.
    pub fn row(&self, set: SetId, class: ClassId) -> Option<RowValue> {
        let key = |class: u32| RowKey { set: set.0, class };
        self.rows.get(&key(class.0)).or_else(|| self.rows.get(&key(0))).copied()
    }
}

/// The prefix of a length that an address is in.
pub(crate) fn prefix_of(address: IpAddr, bits: u8) -> IpNetwork {
    let masked = match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::from((u32::from(v4) & mask).to_be_bytes())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::from((u128::from(v6) & mask).to_be_bytes())
        }
    };
    IpNetwork::new(masked, bits).expect("bits are at most the family's length")
}
