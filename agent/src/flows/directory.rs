//! Who has an address. Kept only while somebody follows; a change costs what its namespaces hold.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use policy_core::Cluster;
use policy_core::model::{Name, Namespace, claim};

use super::Kind;

/// An address with whose it is: one that several claim is there for each of them.
type Entry = (IpAddr, Name, Name);

/// Names by address.
#[derive(Debug, Default)]
pub(super) struct Directory {
    seen: BTreeMap<Name, Arc<Namespace>>,
    pods: BTreeSet<Entry>,
    services: BTreeSet<Entry>,
    nodes: BTreeMap<IpAddr, Name>,
}

impl Directory {
    /// Takes a newer snapshot.
    pub(super) fn refresh(&mut self, cluster: &Cluster) {
        let gone: Vec<Name> =
            self.seen.keys().filter(|name| !cluster.namespaces.contains_key(*name)).cloned().collect();
        for name in gone {
            self.replace(&name, None);
        }
        for (name, namespace) in &cluster.namespaces {
            if !self.seen.get(name).is_some_and(|seen| Arc::ptr_eq(seen, namespace)) {
                self.replace(name, Some(Arc::clone(namespace)));
            }
        }
        let here = cluster.node.addresses.iter().map(|address| (*address, cluster.node.name.clone()));
        let others = cluster
            .nodes
            .iter()
            .flat_map(|(name, node)| node.addresses.iter().map(move |address| (*address, Name::clone(name))));
        self.nodes = others.chain(here).collect();
    }

    fn replace(&mut self, name: &Name, newer: Option<Arc<Namespace>>) {
        if let Some(older) = self.seen.remove(name) {
            for entry in pods(name, &older) {
                self.pods.remove(&entry);
            }
            for entry in services(name, &older) {
                self.services.remove(&entry);
            }
        }
        if let Some(newer) = newer {
            self.pods.extend(pods(name, &newer));
            self.services.extend(services(name, &newer));
            self.seen.insert(name.clone(), newer);
        }
    }

    /// Whose an address is.
    pub(super) fn find(&self, address: IpAddr) -> (Kind, Option<String>) {
        let pod = claims(&self.pods, address)
            .filter_map(|(_, namespace, name)| {
                let pod = self.seen.get(namespace)?.pods.get(name)?;
                // As policy ranks those that claim one address.
                Some((claim(namespace, name, pod), namespace, name))
            })
            .max_by(|(one, ..), (other, ..)| one.cmp(other));
        if let Some((_, namespace, name)) = pod {
            return (Kind::Pod, Some(format!("{namespace}/{name}")));
        }
        if let Some((_, namespace, name)) = claims(&self.services, address).next() {
            return (Kind::Service, Some(format!("{namespace}/{name}")));
        }
        match self.nodes.get(&address) {
            Some(name) => (Kind::Node, Some(name.to_string())),
            None => (Kind::Outside, None),
        }
    }
}

fn claims(entries: &BTreeSet<Entry>, address: IpAddr) -> impl Iterator<Item = &Entry> {
    let nameless = || Name::from("");
    entries.range((address, nameless(), nameless())..).take_while(move |(found, _, _)| *found == address)
}

fn pods(namespace: &Name, content: &Namespace) -> Vec<Entry> {
    let counted = content.pods.iter().filter(|(_, pod)| pod.counts());
    let addressed = counted.flat_map(|(name, pod)| {
        pod.addresses.iter().map(|address| (*address, namespace.clone(), name.clone()))
    });
    addressed.collect()
}

fn services(namespace: &Name, content: &Namespace) -> Vec<Entry> {
    let addressed = content.services.iter().flat_map(|(name, service)| {
        service.addresses.iter().map(|address| (*address, namespace.clone(), name.clone()))
    });
    addressed.collect()
}
