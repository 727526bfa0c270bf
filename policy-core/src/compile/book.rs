//! Who has which address: pods in groups that are of one class, namespace by namespace.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::ids::{ClassId, TermId};
use crate::model::{Cluster, ContainerPort, Labels, Name, Namespace, Pod};

/// Everything that the class of an address depends on, within its namespace. Label sets
/// and port lists are known by where they stand; the group keeps them there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct GroupKey {
    pub(super) labels: usize,
    pub(super) ports: usize,
    pub(super) ipv4: bool,
    /// The blocks that the address is in.
    pub(super) blocks: Arc<[TermId]>,
    /// On the way from a former agent's maps, the class that the address has there.
    pub(super) of: Option<ClassId>,
}

/// Addresses of one class.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) space: Name,
    pub(super) key: GroupKey,
    pub(super) labels: Arc<Labels>,
    pub(super) ports: Arc<[ContainerPort]>,
    pub(super) class: u32,
    pub(super) members: Vec<IpAddr>,
}

/// A namespace as it was last seen.
#[derive(Clone, Debug)]
pub(super) struct Space {
    pub(super) content: Arc<Namespace>,
    pub(super) groups: HashMap<GroupKey, u32>,
    /// The terms for some pods that speak of this namespace.
    pub(super) terms: Vec<TermId>,
}

/// Where an address stands.
#[derive(Clone, Copy, Debug)]
struct Place {
    group: u32,
    at: u32,
}

/// All namespaces and the addresses of their pods.
#[derive(Clone, Debug, Default)]
pub(super) struct Book {
    pub(super) spaces: BTreeMap<Name, Space>,
    groups: Vec<Option<Group>>,
    free: Vec<u32>,
    addresses: BTreeMap<IpAddr, Place>,
    /// Groups that may have lost their last address.
    emptied: Vec<u32>,
}

/// What happened to one pod.
#[derive(Clone, Debug)]
pub(super) struct PodChange {
    pub(super) name: Name,
    pub(super) old: Option<Arc<Pod>>,
    pub(super) new: Option<Arc<Pod>>,
}

/// What happened to one namespace.
#[derive(Clone, Debug)]
pub(super) struct SpaceChange {
    pub(super) name: Name,
    pub(super) old: Option<Arc<Namespace>>,
    pub(super) new: Option<Arc<Namespace>>,
    pub(super) pods: Vec<PodChange>,
}

impl Book {
    /// The namespaces that are others now, by where they stand in memory.
    pub(super) fn changes(&self, cluster: &Cluster) -> Vec<SpaceChange> {
        let old = self.spaces.iter().map(|(name, space)| (name, &space.content));
        let mut list = Vec::new();
        merge(old, cluster.namespaces.iter(), |name: &Name, old, new| {
            let mut pods = Vec::new();
            let before = old.map(|content| content.pods.iter()).into_iter().flatten();
            let after = new.map(|content| content.pods.iter()).into_iter().flatten();
            merge(before, after, |name: &Name, old, new| {
                let (old, new) = (old.map(Arc::clone), new.map(Arc::clone));
                pods.push(PodChange { name: Name::clone(name), old, new });
            });
            let (old, new) = (old.map(Arc::clone), new.map(Arc::clone));
            list.push(SpaceChange { name: Name::clone(name), old, new, pods });
        });
        list
    }

    /// Namespaces to change, with the groups to look at.
    pub(super) fn parts(&mut self) -> (&mut BTreeMap<Name, Space>, &[Option<Group>]) {
        (&mut self.spaces, &self.groups)
    }

    pub(super) fn group(&self, id: u32) -> Option<&Group> {
        self.groups.get(id as usize)?.as_ref()
    }

    pub(super) fn group_mut(&mut self, id: u32) -> Option<&mut Group> {
        self.groups.get_mut(id as usize)?.as_mut()
    }

    /// The group that has an address.
    pub(super) fn group_at(&self, address: IpAddr) -> Option<(u32, &Group)> {
        let id = self.addresses.get(&address)?.group;
        Some((id, self.group(id)?))
    }

    /// The addresses of pods from the first to the last.
    pub(super) fn between(&self, first: IpAddr, last: IpAddr) -> Vec<(IpAddr, u32)> {
        self.addresses.range(first..=last).map(|(address, place)| (*address, place.group)).collect()
    }

    /// A new group.
    pub(super) fn add(&mut self, group: Group) -> u32 {
        let (space, key) = (Name::clone(&group.space), group.key.clone());
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                self.groups.push(None);
                u32::try_from(self.groups.len() - 1).unwrap_or(u32::MAX)
            }
        };
        if let Some(place) = self.groups.get_mut(id as usize) {
            *place = Some(group);
        }
        if let Some(space) = self.spaces.get_mut(&space) {
            space.groups.insert(key, id);
        }
        id
    }

    /// Takes an address out of its group.
    pub(super) fn take(&mut self, address: IpAddr) -> Option<u32> {
        let place = self.addresses.remove(&address)?;
        let group = self.groups.get_mut(place.group as usize)?.as_mut()?;
        group.members.swap_remove(place.at as usize);
        if let Some(moved) = group.members.get(place.at as usize)
            && let Some(other) = self.addresses.get_mut(moved)
        {
            other.at = place.at;
        }
        if group.members.is_empty() {
            self.emptied.push(place.group);
        }
        Some(place.group)
    }

    /// Puts an address into a group.
    pub(super) fn put(&mut self, address: IpAddr, id: u32) {
        let Some(group) = self.groups.get_mut(id as usize).and_then(Option::as_mut) else { return };
        let at = u32::try_from(group.members.len()).unwrap_or(u32::MAX);
        group.members.push(address);
        self.addresses.insert(address, Place { group: id, at });
    }

    /// Removes the groups that have no address any more.
    pub(super) fn sweep(&mut self) -> Vec<Group> {
        let mut gone = Vec::new();
        for id in std::mem::take(&mut self.emptied) {
            let Some(place) = self.groups.get_mut(id as usize) else { continue };
            let Some(group) = place.take_if(|group| group.members.is_empty()) else { continue };
            self.free.push(id);
            if let Some(space) = self.spaces.get_mut(&group.space) {
                space.groups.remove(&group.key);
            }
            gone.push(group);
        }
        gone
    }
}

/// Walks two sorted lists side by side and yields every key whose values are not the very
/// same.
pub(super) fn merge<'a, K: Ord + 'a, V: 'a>(
    old: impl Iterator<Item = (&'a K, &'a Arc<V>)>,
    new: impl Iterator<Item = (&'a K, &'a Arc<V>)>,
    mut each: impl FnMut(&'a K, Option<&'a Arc<V>>, Option<&'a Arc<V>>),
) {
    let (mut old, mut new) = (old.peekable(), new.peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        let gone = if order.is_le() { old.next() } else { None };
        let come = if order.is_ge() { new.next() } else { None };
        match (gone, come) {
            (Some((_, a)), Some((_, b))) if Arc::ptr_eq(a, b) => {}
            (Some((key, a)), come) => each(key, Some(a), come.map(|(_, b)| b)),
            (None, Some((key, b))) => each(key, None, Some(b)),
            (None, None) => return,
        }
    }
}

/// Where a value stands in memory.
pub(super) fn place_of<T: ?Sized>(value: &Arc<T>) -> usize {
    Arc::as_ptr(value).cast::<()>() as usize
}

/// Addresses whose owner has to be looked for: more than one pod claims them, or a pod of
/// this node has them, whatever the API says.
#[derive(Clone, Debug, Default)]
pub(super) struct Disputes {
    /// The namespaces of those that claim it.
    pub(super) claims: HashMap<IpAddr, BTreeSet<Name>>,
    /// To be decided anew.
    pub(super) open: BTreeSet<IpAddr>,
}
