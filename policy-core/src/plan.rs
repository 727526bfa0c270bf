//! From what the maps hold to what they shall hold, in an order in which no packet
//! meets half a change.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ebpf_common::abi::{CidrValue, PeerValue, PortKey, PortValue, RowKey, RowValue};
use ipnetwork::IpNetwork;

use crate::tables::{EndpointSets, Tables, VipAddress, VipTarget};

/// One step; its entries are written in the order of the list. Of one that fails part
/// way, what stands is its [`prefix`](Self::prefix), which is to be recorded.
///
/// The order of a plan: ports and rows; then vips, peers and cidrs are set, and removed the
/// other way round, so that the place that a packet finds first changes once, from the old
/// to the new; endpoints, grace, then the removal of rows and ports that nothing can reach
/// any more. Until the endpoints every packet is judged by the old rules, from there on by
/// the new ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Adds port prefixes of profiles that no row names yet.
    AddPorts(Vec<(PortKey, PortValue)>),
    /// Adds rows of sets or classes that nothing leads to yet.
    AddRows(Vec<(RowKey, RowValue)>),
    /// Sets prefixes, nested ones before those around them.
    SetCidrs(Vec<(IpNetwork, CidrValue)>),
    /// Removes prefixes, those around others first.
    RemoveCidrs(Vec<IpNetwork>),
    /// Sets the classes of addresses.
    SetPeers(Vec<(IpAddr, PeerValue)>),
    /// Removes addresses; they are then judged by their prefixes.
    RemovePeers(Vec<IpAddr>),
    /// Sets where Services lead.
    SetVips(Vec<(VipAddress, VipTarget)>),
    /// Removes addresses of Services.
    RemoveVips(Vec<VipAddress>),
    /// Sets sets and epoch of endpoints: the flip.
    SetEndpoints(Vec<(u32, EndpointSets)>),
    /// Waits until no program that started before it runs any more.
    Grace,
    /// Removes rows that nothing leads to any more.
    RemoveRows(Vec<RowKey>),
    /// Removes ports that no row names any more.
    RemovePorts(Vec<PortKey>),
}

impl Step {
    /// How many entries this step writes or removes.
    pub fn len(&self) -> usize {
        match self {
            Self::AddPorts(list) => list.len(),
            Self::AddRows(list) => list.len(),
            Self::SetCidrs(list) => list.len(),
            Self::RemoveCidrs(list) => list.len(),
            Self::SetPeers(list) => list.len(),
            Self::RemovePeers(list) => list.len(),
            Self::SetVips(list) => list.len(),
            Self::RemoveVips(list) => list.len(),
            Self::SetEndpoints(list) => list.len(),
            Self::Grace => 0,
            Self::RemoveRows(list) => list.len(),
            Self::RemovePorts(list) => list.len(),
        }
    }

    /// Whether this step writes nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first entries of this step: what of it was carried out where it failed after so many.
    #[must_use]
    pub fn prefix(&self, count: usize) -> Self {
        fn first<T: Clone>(list: &[T], count: usize) -> Vec<T> {
            list.iter().take(count).cloned().collect()
        }
        match self {
            Self::AddPorts(list) => Self::AddPorts(first(list, count)),
            Self::AddRows(list) => Self::AddRows(first(list, count)),
            Self::SetCidrs(list) => Self::SetCidrs(first(list, count)),
            Self::RemoveCidrs(list) => Self::RemoveCidrs(first(list, count)),
            Self::SetPeers(list) => Self::SetPeers(first(list, count)),
            Self::RemovePeers(list) => Self::RemovePeers(first(list, count)),
            Self::SetVips(list) => Self::SetVips(first(list, count)),
            Self::RemoveVips(list) => Self::RemoveVips(first(list, count)),
            Self::SetEndpoints(list) => Self::SetEndpoints(first(list, count)),
            Self::Grace => Self::Grace,
            Self::RemoveRows(list) => Self::RemoveRows(first(list, count)),
            Self::RemovePorts(list) => Self::RemovePorts(first(list, count)),
        }
    }

    /// The step's name, for errors and metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::AddPorts(_) => "add_ports",
            Self::AddRows(_) => "add_rows",
            Self::SetCidrs(_) => "set_cidrs",
            Self::RemoveCidrs(_) => "remove_cidrs",
            Self::SetPeers(_) => "set_peers",
            Self::RemovePeers(_) => "remove_peers",
            Self::SetVips(_) => "set_vips",
            Self::RemoveVips(_) => "remove_vips",
            Self::SetEndpoints(_) => "set_endpoints",
            Self::Grace => "grace",
            Self::RemoveRows(_) => "remove_rows",
            Self::RemovePorts(_) => "remove_ports",
        }
    }
}

impl Tables {
    /// Notes that a step was applied to the maps that these tables describe.
    pub fn record(&mut self, step: &Step) {
        match step {
            Step::AddPorts(list) => self.ports.extend(list.iter().copied()),
            Step::AddRows(list) => self.rows.extend(list.iter().copied()),
            Step::SetCidrs(list) => self.cidrs.extend(list.iter().copied()),
            Step::RemoveCidrs(list) => forget(&mut self.cidrs, list),
            Step::SetPeers(list) => self.peers.extend(list.iter().copied()),
            Step::RemovePeers(list) => forget(&mut self.peers, list),
            Step::SetVips(list) => self.vips.extend(list.iter().copied()),
            Step::RemoveVips(list) => forget(&mut self.vips, list),
            Step::SetEndpoints(list) => self.endpoints.extend(list.iter().cloned()),
            Step::Grace => {}
            Step::RemoveRows(list) => forget(&mut self.rows, list),
            Step::RemovePorts(list) => forget(&mut self.ports, list),
        }
    }

    /// Notes that a slot was cleared.
    pub fn clear_endpoint(&mut self, slot: u32) {
        self.endpoints.remove(&slot);
    }
}

fn forget<K: Ord, V>(map: &mut BTreeMap<K, V>, keys: &[K]) {
    for key in keys {
        map.remove(key);
    }
}
