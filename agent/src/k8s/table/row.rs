//! How each kind of object stands in the table.

use std::collections::BTreeMap;
use std::sync::Arc;

use policy_core::ObjectKind;
use policy_core::model::{Cluster, Name, Namespace, Pod, Policy, Service};

use super::{Key, Table};
use crate::k8s::convert;
use crate::k8s::node::NodeFacts;
use crate::k8s::object::{NamespaceLite, NodeLite, Object, PodLite, PolicyLite, ServiceLite, SliceLite};

/// The label by which a slice names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A kind of the table.
pub(super) trait Row: Object {
    /// Puts the object in, under its key; true: something that matters is different.
    fn put(self, table: &mut Table, key: Key) -> bool;
    /// Takes an object out; true: it was there.
    fn remove(table: &mut Table, key: &Key) -> bool;
    /// What is there.
    fn keys(table: &Table) -> Vec<Key>;
}

/// A part of a namespace.
pub(super) trait Part: Sized + PartialEq {
    fn of(content: &Namespace) -> &BTreeMap<Name, Arc<Self>>;
    fn of_mut(content: &mut Namespace) -> &mut BTreeMap<Name, Arc<Self>>;
}

macro_rules! part {
    ($kind:ty, $field:ident) => {
        impl Part for $kind {
            fn of(content: &Namespace) -> &BTreeMap<Name, Arc<Self>> {
                &content.$field
            }

            fn of_mut(content: &mut Namespace) -> &mut BTreeMap<Name, Arc<Self>> {
                &mut content.$field
            }
        }
    };
}

part!(Pod, pods);
part!(Policy, policies);
part!(Service, services);

/// Puts a value into its namespace, unless an equal one is there: a namespace that a
/// snapshot shares is copied by a write.
pub(super) fn put<T: Part>(cluster: &mut Cluster, namespace: &Name, name: &Name, value: T) -> bool {
    let old = cluster.namespaces.get(namespace).and_then(|content| T::of(content).get(name));
    if old.is_some_and(|old| **old == value) {
        return false;
    }
    let content = cluster.namespace_mut(namespace);
    T::of_mut(content).insert(Name::clone(name), Arc::new(value));
    true
}

fn take<T: Part>(table: &mut Table, key: &Key) -> bool {
    let there = table.cluster.namespaces.get(&key.0).is_some_and(|c| T::of(c).contains_key(&key.1));
    if there {
        T::of_mut(table.cluster.namespace_mut(&key.0)).remove(&key.1);
        table.prune(&key.0);
    }
    there
}

fn keys<T: Part>(table: &Table) -> Vec<Key> {
    let namespaces = table.cluster.namespaces.iter();
    namespaces
        .flat_map(|(namespace, content)| {
            T::of(content).keys().map(|name| (Name::clone(namespace), Name::clone(name)))
        })
        .collect()
}

impl Row for PodLite {
    fn put(self, table: &mut Table, key: Key) -> bool {
        let node = Name::clone(&table.node);
        let home = table.interner.name(&self.spec.node_name);
        table.count(&key, Some((&self, home)));
        let finding = convert::pod_finding(&self, &node, table.pod_audit);
        let found_other = table.findings.set(ObjectKind::Pod, &key, finding.into_iter().collect());
        match convert::pod(&mut table.interner, &self, &node) {
            Some(mut pod) => {
                pod.audit &= table.pod_audit;
                put(&mut table.cluster, &key.0, &key.1, pod) || found_other
            }
            None => take::<Pod>(table, &key) || found_other,
        }
    }

    fn remove(table: &mut Table, key: &Key) -> bool {
        table.count(key, None);
        table.findings.forget(ObjectKind::Pod, key);
        take::<Pod>(table, key)
    }

    fn keys(table: &Table) -> Vec<Key> {
        keys::<Pod>(table)
    }
}

impl Row for NamespaceLite {
    fn put(self, table: &mut Table, _: Key) -> bool {
        let name = table.interner.name(&self.metadata.name);
        let labels = convert::namespace(&mut table.interner, &self);
        let old = table.cluster.namespaces.get(&name).and_then(|content| content.labels.as_ref());
        if old == Some(&labels) {
            return false;
        }
        table.cluster.namespace_mut(&name).labels = Some(labels);
        true
    }

    fn remove(table: &mut Table, key: &Key) -> bool {
        let name = &key.1;
        let there = table.cluster.namespaces.get(name).is_some_and(|c| c.labels.is_some());
        if there {
            table.cluster.namespace_mut(name).labels = None;
            table.prune(name);
        }
        there
    }

    fn keys(table: &Table) -> Vec<Key> {
        let known = table.cluster.namespaces.iter().filter(|(_, content)| content.labels.is_some());
        known.map(|(name, _)| (Name::from(""), Name::clone(name))).collect()
    }
}

impl Row for PolicyLite {
    fn put(self, table: &mut Table, key: Key) -> bool {
        let (policy, findings) = convert::policy(&self);
        let found_other = table.findings.set(ObjectKind::NetworkPolicy, &key, findings);
        put(&mut table.cluster, &key.0, &key.1, policy) || found_other
    }

    fn remove(table: &mut Table, key: &Key) -> bool {
        table.findings.forget(ObjectKind::NetworkPolicy, key);
        take::<Policy>(table, key)
    }

    fn keys(table: &Table) -> Vec<Key> {
        keys::<Policy>(table)
    }
}

impl Row for ServiceLite {
    fn put(self, table: &mut Table, key: Key) -> bool {
        match convert::service(&mut table.interner, &self) {
            Some(service) => {
                let service = table.filled(&key.0, &key.1, service);
                put(&mut table.cluster, &key.0, &key.1, service)
            }
            None => take::<Service>(table, &key),
        }
    }

    fn remove(table: &mut Table, key: &Key) -> bool {
        take::<Service>(table, key)
    }

    fn keys(table: &Table) -> Vec<Key> {
        keys::<Service>(table)
    }
}

impl Row for SliceLite {
    fn put(self, table: &mut Table, key: Key) -> bool {
        let Some(owner) = self.metadata.labels.get(SERVICE_NAME) else {
            return Self::remove(table, &key);
        };
        let owner = table.interner.name(owner);
        let list = convert::slice(&mut table.interner, &self);
        let before = table.slices.insert(key.clone(), (Name::clone(&owner), list));
        let former = before.map(|(owner, _)| owner).filter(|former| *former != owner);
        let left = former.is_some_and(|former| table.refill(&key.0, &former));
        table.refill(&key.0, &owner) || left
    }

    fn remove(table: &mut Table, key: &Key) -> bool {
        match table.slices.remove(key) {
            Some((owner, _)) => table.refill(&key.0, &owner),
            None => false,
        }
    }

    fn keys(table: &Table) -> Vec<Key> {
        table.slices.keys().cloned().collect()
    }
}

impl Row for NodeLite {
    fn put(self, table: &mut Table, _: Key) -> bool {
        if self.meta().name != *table.node {
            return false;
        }
        let facts = NodeFacts::from(&self);
        // The facts hold internal ones only.
        let addresses = convert::node_addresses(&self.status.addresses);
        if table.facts.as_deref() == Some(&facts) && table.cluster.node.addresses == addresses {
            return false;
        }
        table.cluster.node.addresses = addresses;
        table.facts = Some(Arc::new(facts));
        true
    }

    fn remove(table: &mut Table, key: &Key) -> bool {
        // The addresses stay: they do not leave the machine with the object.
        key.1 == table.node && table.facts.take().is_some()
    }

    fn keys(table: &Table) -> Vec<Key> {
        let there = table.facts.iter();
        there.map(|_| (Name::from(""), Name::clone(&table.node))).collect()
    }
}
