//! Which class each address is of.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ebpf_common::abi::{CLASS_NONE, CidrValue, PeerValue};
use ipnetwork::IpNetwork;

use super::book::{Group, GroupKey, Space, SpaceChange, merge, place_of};
use super::cidr::{Recut, encloses};
use super::class::{Class, Home};
use super::engine::Compiler;
use super::force::TermChange;
use super::term::Term;
use crate::finding::{Finding, FindingReason, ObjectKind};
use crate::ids::{ClassId, TermId};
use crate::model::{Cluster, ContainerPort, Labels, LocalPod, Name, Pod, PodIdentity, PodState, claim};

/// Who has an address by what this node itself knows.
#[derive(Clone, Debug)]
pub(super) struct LocalOwner {
    identity: Option<PodIdentity>,
    pod: Option<Arc<Pod>>,
}

/// An address of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NodeEntry {
    pub(super) class: u32,
    /// Of this node: the class that judges what a Service leads there.
    pub(super) behind: Option<u32>,
}

impl Compiler {
    /// Cuts the address space anew where blocks came or went, and gives prefixes their
    /// classes.
    pub(super) fn cut(&mut self, cluster: &Cluster, change: &TermChange) -> Recut {
        let state = &mut self.state;
        let services_differ = state.service_cidrs != cluster.service_cidrs;
        let first = state.book.spaces.is_empty();
        if !services_differ && !first && change.blocks.is_empty() && change.removed.is_empty() {
            return Recut::default();
        }
        state.service_cidrs.clone_from(&cluster.service_cidrs);
        let former = self.maps.installed.cidrs.keys().copied().filter(|_| state.heirs);
        let marks = cluster.service_cidrs.iter().copied().chain(former);
        let mut recut = state.elementary.recut(change.blocks.clone(), &change.removed, marks, state.split);
        if services_differ {
            recut.prefixes = state.elementary.prefixes().chain(recut.prefixes).collect();
        }
        recut.prefixes.sort_unstable();
        recut.prefixes.dedup();
        for prefix in &recut.prefixes {
            let members = self.state.elementary.get(*prefix);
            let class = members.map(|members| Class::Outside { terms: members.all.as_ref().into() });
            let class = class.map(|class| self.numbers.class(self.heir_of_prefix(*prefix, class)));
            let before = self.maps.cidr(*prefix);
            class.iter().for_each(|class| self.state.usage.add(*class));
            before.iter().for_each(|before| self.state.usage.take(before.class));
            let service = cluster.service_cidrs.iter().any(|range| encloses(*range, *prefix));
            let value = class.map(|id| if service { CidrValue::service(id) } else { CidrValue::new(id) });
            self.maps.want_cidr(*prefix, value);
        }
        recut
    }

    /// Groups take up terms that came into force and drop those that went.
    pub(super) fn regroup(&mut self, change: &TermChange) {
        if !change.concerns_groups() {
            return;
        }
        let gone = |id: TermId| change.removed.binary_search(&id).is_ok();
        let mut memo: HashMap<(TermId, usize), bool> = HashMap::new();
        let mut moves: Vec<(u32, Class)> = Vec::new();
        let (spaces, groups) = self.state.book.parts();
        for (name, space) in spaces {
            let before = space.terms.len();
            space.terms.retain(|id| !gone(*id));
            let shrunk = space.terms.len() != before;
            let labels = space.content.labels.as_deref();
            let new: Vec<&(TermId, Arc<Term>)> =
                change.pods.iter().filter(|(_, term)| speaks_of(term, name, labels)).collect();
            space.terms.extend(new.iter().map(|(id, _)| *id));
            // Blocks that went take their addresses to other groups.
            if !shrunk && new.is_empty() && change.ports.is_empty() && !change.ports_went {
                continue;
            }
            for id in space.groups.values() {
                let Some(group) = groups.get(*id as usize).and_then(Option::as_ref) else { continue };
                let Some(class) = self.numbers.classes.get(group.class) else { continue };
                let Class::Pod { home, terms, ports } = class.present() else { continue };
                let came = |(id, term): &&&(TermId, Arc<Term>)| {
                    let known = memo.entry((*id, group.key.labels));
                    *known.or_insert_with(|| selects(term, &group.labels))
                };
                let mut came: Vec<TermId> = new.iter().filter(came).map(|(id, _)| *id).collect();
                let open = named_ports(change.ports.iter().map(|(id, term)| (*id, term)), &group.ports);
                let loses = terms.iter().any(|id| gone(*id)) || ports.iter().any(|(id, _)| gone(*id));
                if !loses && came.is_empty() && open.is_empty() {
                    continue;
                }
                came.extend(terms.iter().copied().filter(|id| !gone(*id)));
                came.sort_unstable();
                let mut open = open;
                open.extend(ports.iter().copied().filter(|(id, _)| !gone(*id)));
                open.sort_unstable();
                moves.push((*id, Class::Pod { home: home.clone(), terms: came.into(), ports: open.into() }));
            }
        }
        for (id, class) in moves {
            self.set_class(id, class);
        }
    }

    /// Takes note of new namespaces and of their labels.
    pub(super) fn respace(&mut self, changes: &[SpaceChange]) {
        for change in changes {
            let Some(new) = &change.new else { continue };
            let same = change.old.as_ref().is_some_and(|old| old.labels == new.labels);
            if same && let Some(space) = self.state.book.spaces.get_mut(&change.name) {
                space.content = Arc::clone(new);
                continue;
            }
            let terms = self.state.terms.pods.iter();
            let terms = terms.filter(|(_, term)| speaks_of(term, &change.name, new.labels.as_deref()));
            let terms: Vec<TermId> = terms.map(|(id, _)| *id).collect();
            let groups = self.state.book.spaces.remove(&change.name).map(|space| space.groups);
            let space = Space { content: Arc::clone(new), groups: groups.unwrap_or_default(), terms };
            let groups: Vec<u32> = space.groups.values().copied().collect();
            self.state.book.spaces.insert(Name::clone(&change.name), space);
            for id in groups {
                let Some(group) = self.state.book.group(id) else { continue };
                let class = self.class_of_group(&group.space, &group.key, &group.labels, &group.ports);
                self.set_class(id, class);
            }
        }
    }

    /// Addresses in these ranges may be in other blocks now.
    pub(super) fn recheck(&mut self, ranges: &[IpNetwork]) {
        for range in ranges {
            for (address, id) in self.state.book.between(range.network(), range.broadcast()) {
                let Some(group) = self.state.book.group(id) else { continue };
                let blocks = self.blocks_of(address);
                if group.key.blocks == blocks {
                    continue;
                }
                let key = GroupKey { blocks, ..group.key.clone() };
                let (space, labels) = (Name::clone(&group.space), Arc::clone(&group.labels));
                let ports = Arc::clone(&group.ports);
                self.put(address, &space, key, &labels, &ports);
            }
        }
    }

    /// The addresses of nodes, as far as they matter.
    pub(super) fn place_nodes(&mut self, cluster: &Cluster, cut: bool) {
        let state = &self.state;
        let mut others = cut || state.node != cluster.node;
        if !state.terms.nodes.is_empty() {
            merge(state.nodes.iter(), cluster.nodes.iter(), |_, _, _| others = true);
        }
        if !others {
            return;
        }
        let mut found: BTreeMap<IpAddr, (bool, BTreeSet<TermId>)> = BTreeMap::new();
        for address in &cluster.node.addresses {
            found.entry(*address).or_default().0 = true;
        }
        if !state.terms.nodes.is_empty() {
            for node in cluster.nodes.values() {
                let terms = state.terms.nodes.iter().filter(|(_, term)| match term.as_ref() {
                    Term::Nodes(selector) => selector.matches(&node.labels),
                    _ => false,
                });
                let terms: Vec<TermId> = terms.map(|(id, _)| *id).collect();
                if !terms.is_empty() {
                    for address in &node.addresses {
                        found.entry(*address).or_default().1.extend(terms.iter().copied());
                    }
                }
            }
        }
        let mut entries = BTreeMap::new();
        for (address, (local, mut terms)) in found {
            if let Some((_, members)) = self.state.elementary.longest(address) {
                terms.extend(members.all.iter().copied());
            }
            let terms: Box<[TermId]> = terms.into_iter().collect();
            let outside = Class::Outside { terms: terms.clone() };
            let behind = local.then(|| self.numbers.class(outside.clone()));
            let class = if local { Class::LocalNode { terms } } else { outside };
            let class = self.numbers.class(self.heir_of_address(address, class));
            behind.iter().for_each(|class| self.state.usage.add(*class));
            self.state.usage.add(class);
            entries.insert(address, NodeEntry { class, behind });
        }
        let before = std::mem::replace(&mut self.state.node_entries, entries);
        for entry in before.values() {
            entry.behind.iter().for_each(|class| self.state.usage.take(*class));
            self.state.usage.take(entry.class);
        }
        let addresses: BTreeSet<IpAddr> =
            before.keys().chain(self.state.node_entries.keys()).copied().collect();
        for address in addresses {
            if before.get(&address) != self.state.node_entries.get(&address) {
                self.refresh(address);
            }
        }
        self.state.nodes.clone_from(&cluster.nodes);
    }

    /// What a former agent knew of addresses that nobody has any more. Removed before the flip they would fall to
    /// their prefixes, of which the old sets may think otherwise; the next update removes them.
    pub(super) fn keep_former(&mut self) {
        if !self.state.heirs {
            return;
        }
        let installed = self.maps.installed.peers.iter();
        let former = installed
            .filter(|(address, value)| self.maps.peer(**address).is_none() && !value.is_local_node());
        let former: Vec<IpAddr> = former.map(|(address, _)| *address).collect();
        for address in former {
            let longest = self.state.elementary.longest(address);
            let terms = longest.map(|(_, members)| members.all.iter().copied().collect()).unwrap_or_default();
            let class = self.heir_of_address(address, Class::Outside { terms });
            let class = self.numbers.class(class);
            self.state.usage.add(class);
            self.maps.want_peer(address, Some(PeerValue::new(address, class)));
        }
    }

    /// Every pod's addresses get their place.
    pub(super) fn place_pods(&mut self, cluster: &Cluster, local: &[LocalPod], changes: &[SpaceChange]) {
        self.note_local(cluster, local);
        for change in changes {
            for pod in change.pods.iter().filter_map(|pod| pod.old.as_ref()).filter(|pod| pod.counts()) {
                pod.addresses.iter().for_each(|address| self.release(*address));
            }
        }
        for change in changes {
            for pod in change.pods.iter().filter_map(|pod| pod.new.as_ref()).filter(|pod| pod.counts()) {
                pod.addresses.iter().for_each(|address| self.claim(*address, &change.name, pod));
            }
        }
        for address in std::mem::take(&mut self.state.disputes.open) {
            self.settle(cluster, address);
        }
        for group in self.state.book.sweep() {
            self.state.usage.take(group.class);
        }
        for change in changes.iter().filter(|change| change.new.is_none()) {
            self.state.book.spaces.remove(&change.name);
        }
    }

    fn note_local(&mut self, cluster: &Cluster, local: &[LocalPod]) {
        let mut owners = BTreeMap::new();
        for one in local {
            let pod = one.identity.as_ref().and_then(|identity| cluster.pod(identity));
            for address in &one.addresses {
                let owner = LocalOwner { identity: one.identity.clone(), pod: pod.map(Arc::clone) };
                owners.insert(*address, owner);
            }
        }
        let before = std::mem::replace(&mut self.state.local, owners);
        let all: BTreeSet<IpAddr> = before.keys().chain(self.state.local.keys()).copied().collect();
        for address in all {
            let same = match (before.get(&address), self.state.local.get(&address)) {
                (Some(old), Some(new)) => old.is(new),
                _ => false,
            };
            if same {
                continue;
            }
            if !before.contains_key(&address) {
                // Who has it by the API alone is remembered until it has it again.
                let claims = self.state.disputes.claims.entry(address).or_default();
                claims.extend(self.state.book.group_at(address).map(|(_, group)| Name::clone(&group.space)));
            }
            self.state.disputes.open.insert(address);
        }
    }

    fn release(&mut self, address: IpAddr) {
        if self.state.local.contains_key(&address) || self.state.disputes.claims.contains_key(&address) {
            self.state.disputes.open.insert(address);
        } else {
            self.take(address);
        }
    }

    fn claim(&mut self, address: IpAddr, space: &Name, pod: &Arc<Pod>) {
        let disputes = &mut self.state.disputes;
        let owner = self.state.book.group_at(address).map(|(_, group)| Name::clone(&group.space));
        let disputed = disputes.claims.contains_key(&address);
        if disputed || owner.is_some() || self.state.local.contains_key(&address) {
            let claims = disputes.claims.entry(address).or_default();
            claims.insert(Name::clone(space));
            if !disputed {
                claims.extend(owner);
            }
            disputes.open.insert(address);
        } else {
            self.place(address, space, pod);
        }
    }

    /// Which pod has an address. What this node's own pods have is known for certain; of
    /// others that claim one address, the higher ranked has it.
    fn settle(&mut self, cluster: &Cluster, address: IpAddr) {
        let mut owner: Option<(&Name, &Name, &Arc<Pod>)> = None;
        let (mut spaces, mut count, mut findings) = (BTreeSet::new(), 0, Vec::new());
        for space in self.state.disputes.claims.remove(&address).unwrap_or_default() {
            let Some((space, content)) = cluster.namespaces.get_key_value(&space) else { continue };
            for (name, pod) in content.pods.iter().filter(|(_, pod)| pod.counts()) {
                if !pod.addresses.contains(&address) {
                    continue;
                }
                spaces.insert(Name::clone(space));
                count += 1;
                let Some(other) = owner else {
                    owner = Some((space, name, pod));
                    continue;
                };
                if other.2.state == PodState::Live && pod.state == PodState::Live {
                    findings.push(conflict((space, name), (other.0, other.1), address));
                }
                if claim(space, name, pod) > claim(other.0, other.1, other.2) {
                    owner = Some((space, name, pod));
                }
            }
        }
        let local = self.state.local.get(&address).cloned();
        if count > 1 || local.is_some() {
            self.state.disputes.claims.insert(address, spaces);
        }
        let owner = match &local {
            Some(local) => {
                local.identity.as_ref().zip(local.pod.as_ref()).map(|(id, pod)| (&id.namespace, pod))
            }
            None => owner.map(|(space, _, pod)| (space, pod)),
        };
        match owner {
            Some((space, pod)) => self.place(address, space, pod),
            None => self.take(address),
        }
        let before = match findings.is_empty() {
            true => self.state.conflicts.remove(&address),
            false => self.state.conflicts.insert(address, findings),
        };
        self.state.told &= before.as_ref() == self.state.conflicts.get(&address);
    }

    fn place(&mut self, address: IpAddr, space: &Name, pod: &Arc<Pod>) {
        let key = GroupKey {
            labels: place_of(&pod.labels),
            ports: place_of(&pod.ports),
            ipv4: address.is_ipv4(),
            blocks: self.blocks_of(address),
            of: self.state.heirs.then(|| self.maps.class_of(address)),
        };
        self.put(address, space, key, &pod.labels, &pod.ports);
    }

    fn put(
        &mut self,
        address: IpAddr,
        space: &Name,
        key: GroupKey,
        labels: &Arc<Labels>,
        ports: &Arc<[ContainerPort]>,
    ) {
        let Some(known) = self.state.book.spaces.get(space) else { return };
        let id = match known.groups.get(&key) {
            Some(id) => *id,
            None => {
                let class = self.numbers.class(self.class_of_group(space, &key, labels, ports));
                self.state.usage.add(class);
                let (labels, ports) = (Arc::clone(labels), Arc::clone(ports));
                let space = Name::clone(space);
                self.state.book.add(Group { space, key, labels, ports, class, members: Vec::new() })
            }
        };
        let before = self.state.book.group_at(address).map(|(id, _)| id);
        if before != Some(id) {
            self.state.book.take(address);
            self.state.book.put(address, id);
            before.into_iter().chain([id]).for_each(|id| self.note_moved(id));
        }
        self.refresh(address);
    }

    fn take(&mut self, address: IpAddr) {
        if let Some(id) = self.state.book.take(address) {
            self.note_moved(id);
            self.refresh(address);
        }
    }

    /// Services that select pods of a group may lead elsewhere now.
    fn note_moved(&mut self, id: u32) {
        if let Some(group) = self.state.book.group(id) {
            self.state
                .services
                .moved
                .entry((Name::clone(&group.space), group.key.labels))
                .or_insert_with(|| Arc::clone(&group.labels));
        }
    }

    fn set_class(&mut self, id: u32, class: Class) {
        let class = self.numbers.class(class);
        let Some(group) = self.state.book.group_mut(id) else { return };
        if group.class == class {
            return;
        }
        let before = std::mem::replace(&mut group.class, class);
        let members = group.members.clone();
        self.state.usage.add(class);
        self.state.usage.take(before);
        self.note_moved(id);
        members.into_iter().for_each(|address| self.refresh(address));
    }

    /// What the maps shall have for an address: the pod's class, else the node's, else none.
    fn refresh(&mut self, address: IpAddr) {
        let value = match self.state.book.group_at(address) {
            Some((_, group)) => Some(PeerValue::new(address, group.class)),
            None => self.state.node_entries.get(&address).map(|entry| {
                let value = PeerValue::new(address, entry.class);
                if entry.behind.is_some() { value.local_node() } else { value }
            }),
        };
        self.maps.want_peer(address, value);
        self.state.services.address_moved(address);
    }

    fn blocks_of(&self, address: IpAddr) -> Arc<[TermId]> {
        self.state
            .elementary
            .longest(address)
            .map(|(_, members)| Arc::clone(&members.of_pods))
            .unwrap_or_default()
    }

    /// The class that prefixes give an address, as it shall be.
    pub(super) fn outside_class(&self, address: IpAddr) -> ClassId {
        let longest = self.state.elementary.longest(address);
        let value = longest.and_then(|(prefix, _)| self.maps.cidr(prefix));
        ClassId(value.map_or(CLASS_NONE, |value| value.class))
    }

    /// The class that an address shall have.
    pub(super) fn class_of(&self, address: IpAddr) -> ClassId {
        match self.maps.peer(address) {
            Some(value) => ClassId(value.class()),
            None => self.outside_class(address),
        }
    }

    fn class_of_group(
        &self,
        space: &Name,
        key: &GroupKey,
        labels: &Labels,
        ports: &[ContainerPort],
    ) -> Class {
        let known = self.state.book.spaces.get(space);
        let force = &self.state.terms;
        let speaking = known.map(|space| space.terms.as_slice()).unwrap_or_default();
        let mut terms: Vec<TermId> = speaking
            .iter()
            .filter(|id| force.pods.get(id).is_some_and(|term| selects(term, labels)))
            .chain(key.blocks.iter())
            .copied()
            .collect();
        terms.sort_unstable();
        let mut ports = named_ports(force.ports.iter().map(|(id, term)| (*id, term)), ports);
        ports.sort_unstable();
        let class = Class::Pod {
            home: self.state.split.then(|| Home {
                ipv4: key.ipv4,
                namespace: Name::clone(space),
                labels: known.and_then(|space| space.content.labels.clone()),
            }),
            terms: terms.into_boxed_slice(),
            ports: ports.into_boxed_slice(),
        };
        self.heir(class, key.of)
    }
}

impl LocalOwner {
    fn is(&self, other: &Self) -> bool {
        let same_pod = match (&self.pod, &other.pod) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        };
        same_pod && self.identity == other.identity
    }
}

/// Whether a term for some pods speaks of a namespace.
fn speaks_of(term: &Term, name: &str, labels: Option<&Labels>) -> bool {
    matches!(term, Term::Pods { namespaces, .. } if namespaces.matches(name, labels))
}

/// Whether a term for some pods means pods with these labels.
fn selects(term: &Term, labels: &Labels) -> bool {
    matches!(term, Term::Pods { pods, .. } if pods.matches(labels))
}

/// The numbers that ports by name have, each once.
fn named_ports<'a>(
    terms: impl Iterator<Item = (TermId, &'a Arc<Term>)>,
    ports: &[ContainerPort],
) -> Vec<(TermId, u16)> {
    let mut numbers = Vec::new();
    for (id, term) in terms {
        let Term::Port { protocol, name } = term.as_ref() else { continue };
        let named =
            ports.iter().filter(|port| port.protocol == *protocol && port.name.as_ref() == Some(name));
        numbers.extend(named.map(|port| (id, port.port)));
    }
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

fn conflict(one: (&Name, &Name), other: (&Name, &Name), address: IpAddr) -> Finding {
    Finding {
        kind: ObjectKind::Pod,
        namespace: Name::clone(one.0),
        name: Name::clone(one.1),
        path: "status.podIPs".into(),
        reason: FindingReason::AddressConflict,
        message: format!("{address} is also claimed by {}/{}", other.0, other.1),
    }
}
