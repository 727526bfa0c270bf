//! The steps of an update.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ebpf_common::abi::{PROFILE_ALLOW_ALL, PortKey, PortValue, RowKey, RowValue};
use ipnetwork::IpNetwork;

use super::engine::Compiler;
use super::maps::Pending;
use crate::plan::Step;

impl Compiler {
    /// From what the maps hold to what they shall hold.
    pub(super) fn plan(&self) -> Vec<Step> {
        let maps = &self.maps;
        let (rows, mut rows_gone): (Vec<(RowKey, RowValue)>, Vec<RowKey>) = split(&maps.rows);
        let leaving = self.leaving().into_iter().flat_map(|set| maps.rows_of(set));
        rows_gone.extend(leaving);
        rows_gone.sort_unstable();
        rows_gone.dedup();

        let mut ports: BTreeMap<PortKey, PortValue> = BTreeMap::new();
        let profiles: BTreeSet<u32> = rows.iter().map(|(_, row)| row.profile).collect();
        for profile in profiles.into_iter().filter(|profile| *profile > PROFILE_ALLOW_ALL) {
            let entries = self.port_entries(profile).into_iter();
            ports.extend(entries.filter(|(key, _)| !maps.installed.ports.contains_key(key)));
        }
        let mut fewer: BTreeMap<u32, u32> = maps.idle_profiles.iter().map(|id| (*id, 0)).collect();
        for key in &rows_gone {
            let row = maps.installed.rows.get(key).copied().or_else(|| maps.row(*key));
            if let Some(row) = row.filter(|row| row.profile > PROFILE_ALLOW_ALL) {
                *fewer.entry(row.profile).or_insert(0) += 1;
            }
        }
        let unused = fewer.into_iter().filter(|(id, count)| maps.profile_rows.get(*id) <= *count);
        let ports_gone = unused.flat_map(|(id, _)| self.ports_of(id));
        let ports_gone: Vec<PortKey> = ports_gone
            .filter(|key| maps.installed.ports.contains_key(key) || ports.contains_key(key))
            .collect();

        let (mut cidrs, mut cidrs_gone) = split(&maps.cidrs);
        cidrs.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.prefix()));
        cidrs_gone.sort_by_key(IpNetwork::prefix);
        let (peers, peers_gone): (Vec<_>, Vec<IpAddr>) = split(&maps.peers);
        let (vips, vips_gone) = split(&maps.vips);
        let (endpoints, _) = split(&maps.endpoints);
        let grace = !(rows_gone.is_empty() && ports_gone.is_empty()) || maps.owes_grace();

        let steps = [
            Step::AddPorts(ports.into_iter().collect()),
            Step::AddRows(rows),
            // What is asked first is set first and removed last: it hides what is written meanwhile behind it.
            Step::SetVips(vips),
            Step::SetPeers(peers),
            Step::SetCidrs(cidrs),
            Step::RemoveCidrs(cidrs_gone),
            Step::RemovePeers(peers_gone),
            Step::RemoveVips(vips_gone),
            Step::SetEndpoints(endpoints),
            Step::Grace,
            Step::RemoveRows(rows_gone),
            Step::RemovePorts(ports_gone),
        ];
        let needed = |step: &Step| if *step == Step::Grace { grace } else { !step.is_empty() };
        steps.into_iter().filter(needed).collect()
    }
}

/// What is to be set, and what is to be removed.
fn split<K: Copy, V: Clone>(pending: &Pending<K, V>) -> (Vec<(K, V)>, Vec<K>) {
    let (mut set, mut removed) = (Vec::new(), Vec::new());
    for (key, value) in pending {
        match value {
            Some(value) => set.push((*key, value.clone())),
            None => removed.push(*key),
        }
    }
    (set, removed)
}
