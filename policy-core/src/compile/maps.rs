//! What stands in the maps, and what of it shall be otherwise.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ebpf_common::abi::{CidrValue, PROFILE_ALLOW_ALL, PeerValue, PortKey, RowKey, RowValue};
use ipnetwork::IpNetwork;

use super::registry::Counts;
use crate::ids::ClassId;
use crate::plan::Step;
use crate::tables::{EndpointSets, Tables, VipAddress, VipTarget};

/// So many numbers at most wait for a grace that is needed for something else.
const LEFT: usize = 256;

/// Keys whose value shall be another than the maps hold; None: they shall have none.
pub(super) type Pending<K, V> = BTreeMap<K, Option<V>>;

/// The maps as they are, and the differences from what they shall be. The work of an
/// update is that of its differences, and what was not carried out stays one.
#[derive(Clone, Debug, Default)]
pub(super) struct Maps {
    pub(super) installed: Tables,
    pub(super) rows: Pending<RowKey, RowValue>,
    pub(super) cidrs: Pending<IpNetwork, CidrValue>,
    pub(super) peers: Pending<IpAddr, PeerValue>,
    pub(super) vips: Pending<VipAddress, VipTarget>,
    pub(super) endpoints: Pending<u32, EndpointSets>,
    /// How often the maps name a class.
    pub(super) mentions: Counts,
    /// Rows in the maps, or to be there, that lead to a profile.
    pub(super) profile_rows: Counts,
    /// Classes that the maps have ceased to name.
    pub(super) idle_classes: BTreeSet<u32>,
    /// Classes that led somewhere: a program may have read one just before its address was given another, and asks for
    /// a row yet. Until the next grace.
    left_classes: BTreeSet<u32>,
    /// Sets that an endpoint had, likewise.
    pub(super) left_sets: BTreeSet<u32>,
    /// Profiles that no row leads to any more.
    pub(super) idle_profiles: BTreeSet<u32>,
    /// The ports of profiles of a former agent.
    pub(super) foreign_ports: HashMap<u32, Vec<PortKey>>,
}

/// What a key shall have.
pub(super) fn wanted<'a, K: Ord, V>(
    installed: &'a BTreeMap<K, V>,
    pending: &'a Pending<K, V>,
    key: &K,
) -> Option<&'a V> {
    match pending.get(key) {
        Some(value) => value.as_ref(),
        None => installed.get(key),
    }
}

fn want<K: Ord, V: PartialEq>(
    installed: &BTreeMap<K, V>,
    pending: &mut Pending<K, V>,
    key: K,
    value: Option<V>,
) {
    if installed.get(&key) == value.as_ref() {
        pending.remove(&key);
    } else {
        pending.insert(key, value);
    }
}

/// A key has a value in the maps now. What it shall have stays the same.
fn has_now<K: Ord + Copy, V: Clone + PartialEq>(
    installed: &mut BTreeMap<K, V>,
    pending: &mut Pending<K, V>,
    key: K,
    value: Option<V>,
) -> Option<V> {
    let wish = wanted(installed, pending, &key).cloned();
    let before = match value {
        Some(value) => installed.insert(key, value),
        None => installed.remove(&key),
    };
    want(installed, pending, key, wish);
    before
}

/// The profile that a row leads to.
fn profile_of(row: Option<RowValue>) -> Option<u32> {
    row.map(|row| row.profile).filter(|profile| *profile > PROFILE_ALLOW_ALL)
}

/// The sets of an endpoint.
fn sets_of(endpoint: &EndpointSets) -> [u32; 2] {
    [endpoint.ingress.0, endpoint.egress.0]
}

impl Maps {
    pub(super) fn new(installed: Tables) -> Self {
        let mut maps = Self::default();
        for class in installed.cidrs.values().map(|value| value.class) {
            maps.mentions.add(class);
        }
        for class in installed.peers.values().map(|value| value.class()) {
            maps.mentions.add(class);
        }
        for class in installed.vips.values().map(|target| target.class.0) {
            maps.mentions.add(class);
        }
        for (key, row) in &installed.rows {
            maps.mentions.add(key.class);
            if row.profile > PROFILE_ALLOW_ALL {
                maps.profile_rows.add(row.profile);
            }
        }
        for key in installed.ports.keys() {
            let profile = u32::from_be_bytes(key.profile_be);
            maps.foreign_ports.entry(profile).or_default().push(*key);
            if !maps.profile_rows.has(profile) {
                maps.idle_profiles.insert(profile);
            }
        }
        maps.installed = installed;
        maps
    }

    pub(super) fn row(&self, key: RowKey) -> Option<RowValue> {
        wanted(&self.installed.rows, &self.rows, &key).copied()
    }

    pub(super) fn cidr(&self, key: IpNetwork) -> Option<CidrValue> {
        wanted(&self.installed.cidrs, &self.cidrs, &key).copied()
    }

    pub(super) fn peer(&self, key: IpAddr) -> Option<PeerValue> {
        wanted(&self.installed.peers, &self.peers, &key).copied()
    }

    pub(super) fn vip(&self, key: VipAddress) -> Option<VipTarget> {
        wanted(&self.installed.vips, &self.vips, &key).copied()
    }

    pub(super) fn endpoint(&self, slot: u32) -> Option<&EndpointSets> {
        wanted(&self.installed.endpoints, &self.endpoints, &slot)
    }

    pub(super) fn want_row(&mut self, key: RowKey, value: Option<RowValue>) {
        // Asked thousands of times where a set comes: each map once.
        let stands = self.installed.rows.get(&key).copied();
        let wanted = match stands == value {
            true => self.rows.remove(&key),
            false => self.rows.insert(key, value),
        };
        let profile = |pending: Option<RowValue>| profile_of(stands.or(pending));
        self.recount(profile(wanted.flatten()), profile(value));
    }

    pub(super) fn want_cidr(&mut self, key: IpNetwork, value: Option<CidrValue>) {
        want(&self.installed.cidrs, &mut self.cidrs, key, value);
    }

    pub(super) fn want_peer(&mut self, key: IpAddr, value: Option<PeerValue>) {
        want(&self.installed.peers, &mut self.peers, key, value);
    }

    pub(super) fn want_vip(&mut self, key: VipAddress, value: Option<VipTarget>) {
        want(&self.installed.vips, &mut self.vips, key, value);
    }

    pub(super) fn want_endpoint(&mut self, slot: u32, value: EndpointSets) {
        want(&self.installed.endpoints, &mut self.endpoints, slot, Some(value));
    }

    /// Everything but endpoints shall be gone, until it is wanted anew.
    pub(super) fn want_nothing(&mut self) {
        let rows: Vec<RowKey> = self.installed.rows.keys().chain(self.rows.keys()).copied().collect();
        for key in rows {
            self.want_row(key, None);
        }
        self.cidrs = self.installed.cidrs.keys().map(|key| (*key, None)).collect();
        self.peers = self.installed.peers.keys().map(|key| (*key, None)).collect();
        self.vips = self.installed.vips.keys().map(|key| (*key, None)).collect();
    }

    /// The keys of a set's rows, in the maps or to be there.
    pub(super) fn rows_of(&self, set: u32) -> BTreeSet<RowKey> {
        let range = RowKey { set, class: 0 }..=RowKey { set, class: u32::MAX };
        let pending = self.rows.range(range.clone()).filter(|(_, value)| value.is_some());
        let pending = pending.map(|(key, _)| *key);
        self.installed.rows.range(range).map(|(key, _)| *key).chain(pending).collect()
    }

    fn recount(&mut self, before: Option<u32>, after: Option<u32>) {
        if before == after {
            return;
        }
        if let Some(profile) = after {
            self.profile_rows.add(profile);
        }
        if let Some(profile) = before.filter(|profile| self.profile_rows.take(*profile)) {
            self.idle_profiles.insert(profile);
        }
    }

    fn mention(&mut self, before: Option<u32>, after: Option<u32>) {
        if before == after {
            return;
        }
        if let Some(class) = after {
            self.mentions.add(class);
        }
        if let Some(class) = before.filter(|class| self.mentions.take(*class)) {
            self.idle_classes.insert(class);
        }
    }

    /// Something leads to another class now.
    fn lead(&mut self, before: Option<u32>, after: Option<u32>) {
        self.left_classes.extend(before.filter(|_| before != after));
        self.mention(before, after);
    }

    /// Whether a program may still ask for a class to which nothing leads any more.
    pub(super) fn is_left(&self, class: u32) -> bool {
        self.left_classes.contains(&class)
    }

    /// Whether more numbers wait for a grace than are to be kept for one that comes anyway.
    pub(super) fn owes_grace(&self) -> bool {
        self.left_classes.len() > LEFT
    }

    /// Notes that a step was carried out.
    pub(super) fn record(&mut self, step: &Step) {
        match step {
            Step::AddPorts(list) => self.installed.ports.extend(list.iter().copied()),
            Step::AddRows(list) => list.iter().for_each(|(key, row)| self.has_row(*key, Some(*row))),
            Step::RemoveRows(list) => list.iter().for_each(|key| self.has_row(*key, None)),
            Step::SetCidrs(list) => list.iter().for_each(|(key, value)| self.has_cidr(*key, Some(*value))),
            Step::RemoveCidrs(list) => list.iter().for_each(|key| self.has_cidr(*key, None)),
            Step::SetPeers(list) => list.iter().for_each(|(key, value)| self.has_peer(*key, Some(*value))),
            Step::RemovePeers(list) => list.iter().for_each(|key| self.has_peer(*key, None)),
            Step::SetVips(list) => list.iter().for_each(|(key, value)| self.has_vip(*key, Some(*value))),
            Step::RemoveVips(list) => list.iter().for_each(|key| self.has_vip(*key, None)),
            Step::SetEndpoints(list) => {
                for (slot, sets) in list {
                    let installed = &mut self.installed.endpoints;
                    let before = has_now(installed, &mut self.endpoints, *slot, Some(sets.clone()));
                    let left = before.iter().flat_map(sets_of);
                    self.left_sets.extend(left.filter(|set| !sets_of(sets).contains(set)));
                }
            }
            Step::Grace => {
                self.idle_classes.append(&mut self.left_classes);
                self.left_sets.clear();
            }
            Step::RemovePorts(list) => {
                for key in list {
                    self.installed.ports.remove(key);
                }
            }
        }
    }

    fn has_row(&mut self, key: RowKey, row: Option<RowValue>) {
        // As `has_now`, and as often asked as `want_row`.
        let pending = self.rows.get(&key).copied();
        let before = match row {
            Some(row) => self.installed.rows.insert(key, row),
            None => self.installed.rows.remove(&key),
        };
        let wish = pending.unwrap_or(before);
        let owed = (wish != row).then_some(wish);
        match (owed, pending) {
            (Some(_), Some(_)) | (None, None) => {}
            (Some(wish), None) => drop(self.rows.insert(key, wish)),
            (None, Some(_)) => drop(self.rows.remove(&key)),
        }
        let led = profile_of(before.or(pending.flatten()));
        self.recount(led, profile_of(row.or(owed.flatten())));
        self.mention(before.map(|_| key.class), row.map(|_| key.class));
    }

    fn has_cidr(&mut self, key: IpNetwork, value: Option<CidrValue>) {
        let before = has_now(&mut self.installed.cidrs, &mut self.cidrs, key, value);
        self.lead(before.map(|value| value.class), value.map(|value| value.class));
    }

    fn has_peer(&mut self, key: IpAddr, value: Option<PeerValue>) {
        let before = has_now(&mut self.installed.peers, &mut self.peers, key, value);
        self.lead(before.map(PeerValue::class), value.map(PeerValue::class));
    }

    fn has_vip(&mut self, key: VipAddress, value: Option<VipTarget>) {
        let before = has_now(&mut self.installed.vips, &mut self.vips, key, value);
        let class = |target: VipTarget| target.class.0;
        self.lead(before.map(class), value.map(class));
    }

    /// Notes that a slot was cleared.
    pub(super) fn clear_endpoint(&mut self, slot: u32) {
        self.left_sets.extend(self.installed.endpoints.get(&slot).iter().flat_map(|one| sets_of(one)));
        self.installed.clear_endpoint(slot);
        self.endpoints.remove(&slot);
    }

    /// The class that an address has now.
    pub(super) fn class_of(&self, address: IpAddr) -> ClassId {
        self.installed.class_of(address)
    }
}
