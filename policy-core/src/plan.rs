//! From what the maps hold to what they shall hold, in an order in which no packet
//! meets half a change.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ebpf_common::abi::{CidrValue, PeerValue, PortKey, PortValue, RowKey, RowValue};
use ipnetwork::IpNetwork;

use crate::tables::{EndpointSets, Tables, Transition, VipAddress, VipTarget};

/// One step; its entries are written in the order of the list. A step that fails part
/// way may be repeated.
///
/// The order of a plan: ports, rows, cidrs, peers, vips, endpoints, grace, then the
/// removal of rows and ports that nothing can reach any more. Until the endpoints every
/// packet is judged by the old rules, from there on by the new ones.
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
    /// Waits until no program that started before the flip runs any more.
    Grace,
    /// Removes rows that nothing leads to any more.
    RemoveRows(Vec<RowKey>),
    /// Removes ports that no row names any more.
    RemovePorts(Vec<PortKey>),
}

/// The steps from `old` to `new` by way of `transition`; none when they are equal.
///
/// Endpoints that are in `old` only need no step: who clears their slot has cleared
/// the whole entry.
pub fn plan(old: &Tables, new: &Tables, transition: &Transition) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut push = |step: Step| {
        if !step.is_empty() {
            steps.push(step);
        }
    };
    push(Step::AddPorts(added(&old.ports, new.ports.iter().chain(&transition.ports))));
    push(Step::AddRows(added(&old.rows, new.rows.iter().chain(&transition.rows))));

    let mut cidrs = changed(&old.cidrs, &new.cidrs);
    cidrs.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.prefix()));
    push(Step::SetCidrs(cidrs));
    let mut cidrs = removed(&old.cidrs, &new.cidrs);
    cidrs.sort_by_key(IpNetwork::prefix);
    push(Step::RemoveCidrs(cidrs));

    push(Step::SetPeers(changed(&old.peers, &new.peers)));
    push(Step::RemovePeers(removed(&old.peers, &new.peers)));
    push(Step::SetVips(changed(&old.vips, &new.vips)));
    push(Step::RemoveVips(removed(&old.vips, &new.vips)));
    push(Step::SetEndpoints(changed(&old.endpoints, &new.endpoints)));

    let mut rows = removed(&old.rows, &new.rows);
    rows.extend(transition.rows.keys().filter(|key| !new.rows.contains_key(key)));
    let mut ports = removed(&old.ports, &new.ports);
    ports.extend(transition.ports.keys().filter(|key| !new.ports.contains_key(key)));
    if !rows.is_empty() || !ports.is_empty() {
        steps.push(Step::Grace);
    }
    let mut push = |step: Step| {
        if !step.is_empty() {
            steps.push(step);
        }
    };
    push(Step::RemoveRows(rows));
    push(Step::RemovePorts(ports));
    steps
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

/// Entries whose key is not in `old`: values of these keys never change.
fn added<'a, K: Ord + Copy + 'a, V: Copy + 'a>(
    old: &BTreeMap<K, V>,
    new: impl Iterator<Item = (&'a K, &'a V)>,
) -> Vec<(K, V)> {
    new.filter(|(key, _)| !old.contains_key(key)).map(|(key, value)| (*key, *value)).collect()
}

fn changed<K: Ord + Copy, V: Clone + PartialEq>(old: &BTreeMap<K, V>, new: &BTreeMap<K, V>) -> Vec<(K, V)> {
    new.iter()
        .filter(|(key, value)| old.get(key) != Some(value))
        .map(|(key, value)| (*key, value.clone()))
        .collect()
}

fn removed<K: Ord + Copy, V>(old: &BTreeMap<K, V>, new: &BTreeMap<K, V>) -> Vec<K> {
    old.keys().filter(|key| !new.contains_key(key)).copied().collect()
}

fn forget<K: Ord, V>(map: &mut BTreeMap<K, V>, keys: &[K]) {
    for key in keys {
        map.remove(key);
    }
}
