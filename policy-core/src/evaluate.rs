//! Walks tables as the programs walk the maps, for tests, `explain` and audits.

use std::net::IpAddr;

use ebpf_common::abi::{PROFILE_ALLOW_ALL, PROFILE_DENY_ALL, PortValue, RowKey, RowValue};

use crate::ids::{ClassId, RuleId};
use crate::model::{Direction, Protocol};
use crate::tables::{Tables, VipAddress};

/// A new flow at one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// The endpoint's slot.
    pub slot: u32,
    /// Whether the pod is asked or asks.
    pub direction: Direction,
    /// The address at the other end; a Service's for egress before translation.
    pub peer: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// Destination port, host byte order; 0 for protocols without.
    pub port: u16,
}

/// What the tables say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether the packet passes.
    pub allowed: bool,
    /// What decided; None where nothing denies it or the slot is empty.
    pub rule: Option<RuleId>,
    /// The class of the peer, as it was judged.
    pub class: ClassId,
}

/// Judges queries by tables. New flows only: there is no connection tracking here, and
/// traffic of the node itself and of a pod with itself never comes to this point.
#[derive(Clone, Copy, Debug)]
pub struct Evaluator<'a> {
    tables: &'a Tables,
}

impl<'a> Evaluator<'a> {
    /// An evaluator of these tables.
    pub fn new(tables: &'a Tables) -> Self {
        Self { tables }
    }

    /// What the tables say about a query.
    pub fn decide(&self, query: &Query) -> Decision {
        let none = ClassId(0);
        let Some(endpoint) = self.tables.endpoints.get(&query.slot) else {
            return Decision { allowed: false, rule: None, class: none };
        };
        let set = match query.direction {
            Direction::Ingress => endpoint.ingress,
            Direction::Egress => endpoint.egress,
        };
        if set.0 == 0 {
            return Decision { allowed: true, rule: None, class: none };
        }
        let (class, port) = match self.vip(query) {
            Some(found) => found,
            None if query.direction == Direction::Egress && self.is_local_node(query.peer) => {
                let class = self.tables.class_of(query.peer);
                // No fall back to class 0: what nothing speaks of passes.
                let row = self.tables.rows.get(&RowKey { set: set.0, class: class.0 });
                return row.map_or(Decision { allowed: true, rule: None, class }, |row| {
                    self.by_row(*row, class, query.protocol, query.port)
                });
            }
            None if query.direction == Direction::Egress && self.is_unknown_vip(query.peer) => {
                return Decision { allowed: false, rule: None, class: none };
            }
            None => (self.tables.class_of(query.peer), query.port),
        };
        let Some(row) = self.tables.row(set, class) else {
            return Decision { allowed: false, rule: None, class };
        };
        self.by_row(row, class, query.protocol, port)
    }

    fn by_row(&self, row: RowValue, class: ClassId, protocol: u8, port: u16) -> Decision {
        let (allowed, rule) = match row.profile {
            PROFILE_DENY_ALL => (false, row.rule),
            PROFILE_ALLOW_ALL => (true, row.rule),
            profile => self.port(profile, protocol, port).unwrap_or((false, row.rule)),
        };
        Decision { allowed, rule: (rule != 0).then_some(RuleId(rule)), class }
    }

    fn vip(&self, query: &Query) -> Option<(ClassId, u16)> {
        if query.direction == Direction::Ingress {
            return None;
        }
        let protocol = Protocol::from_number(query.protocol)?;
        let key = VipAddress { address: query.peer, port: query.port, protocol };
        self.tables.vips.get(&key).map(|target| (target.class, target.port))
    }

    fn is_local_node(&self, address: IpAddr) -> bool {
        self.tables.peers.get(&address).is_some_and(|value| value.is_local_node())
    }

    fn is_unknown_vip(&self, address: IpAddr) -> bool {
        !self.tables.peers.contains_key(&address)
            && self.tables.cidr_of(address).flags & ebpf_common::abi::CIDR_SERVICE != 0
    }

    fn port(&self, profile: u32, protocol: u8, port: u16) -> Option<(bool, u32)> {
        PortValue::find(profile, protocol, port, |key| self.tables.ports.get(key).copied())
            .map(|value| (value.allows(), value.rule))
    }
}
