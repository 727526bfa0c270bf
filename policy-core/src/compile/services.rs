//! Where the addresses of Services lead.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ebpf_common::abi::CLASS_NONE;

use super::book::{SpaceChange, merge, place_of};
use super::class::{Backend, Class, Front};
use super::engine::Compiler;
use crate::finding::{Finding, FindingReason, ObjectKind};
use crate::ids::ClassId;
use crate::model::{Backends, Cluster, Labels, Name, Namespace, Pod, Service, ServicePort, TargetPort};
use crate::tables::{VipAddress, VipTarget};

/// What leads from one address to others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// A Service, by namespace and name.
    Service(Name, Name),
    /// The host ports of a pod of this node, by namespace and name.
    HostPorts(Name, Name),
}

/// Where one source leads.
#[derive(Clone, Debug, Default)]
struct Lead {
    fronts: Vec<Led>,
    watched: Vec<IpAddr>,
}

/// Where one address and port of a source leads.
#[derive(Clone, Debug)]
struct Led {
    key: VipAddress,
    backends: Vec<Backend>,
    /// Whether nothing vouches for the address.
    external: bool,
}

/// All that lead somewhere.
#[derive(Clone, Debug, Default)]
pub(super) struct Services {
    leads: BTreeMap<Source, Lead>,
    sources: BTreeMap<VipAddress, BTreeSet<Source>>,
    /// Sources with a backend that is no pod of the source's namespace under its own address.
    watch: HashMap<IpAddr, BTreeSet<Source>>,
    /// The keys that lead to a class of unlike backends.
    pub(super) unlike: BTreeMap<u32, BTreeSet<VipAddress>>,
    /// Groups of pods (namespace, labels) that are of another class now.
    pub(super) moved: HashMap<(Name, usize), Arc<Labels>>,
    /// To be followed anew.
    dirty: BTreeSet<Source>,
    /// Whether findings about unlike backends may be others.
    pub(super) retell: bool,
}

impl Services {
    /// An address may be of another class now.
    pub(super) fn address_moved(&mut self, address: IpAddr) {
        if let Some(sources) = self.watch.get(&address) {
            self.dirty.extend(sources.iter().cloned());
        }
    }

    /// The Services that lead on from an address.
    pub(super) fn at(&self, key: &VipAddress) -> impl Iterator<Item = (&Name, &Name)> {
        self.sources.get(key).into_iter().flatten().filter_map(|source| match source {
            Source::Service(namespace, name) => Some((namespace, name)),
            Source::HostPorts(..) => None,
        })
    }
}

impl Compiler {
    /// Follows all sources that may lead elsewhere now.
    pub(super) fn lead_services(&mut self, cluster: &Cluster, changes: &[SpaceChange], cut: bool) {
        self.find_dirty(cluster, changes, cut);
        self.state.node.clone_from(&cluster.node);
        let mut keys: BTreeSet<VipAddress> = BTreeSet::new();
        for source in std::mem::take(&mut self.state.services.dirty) {
            let lead = self.follow(cluster, &source);
            let services = &mut self.state.services;
            if let Some(old) = services.leads.remove(&source) {
                for Led { key, .. } in old.fronts {
                    if let Some(sources) = services.sources.get_mut(&key) {
                        sources.remove(&source);
                    }
                    keys.insert(key);
                }
                for address in old.watched {
                    if let Some(sources) = services.watch.get_mut(&address) {
                        sources.remove(&source);
                        if sources.is_empty() {
                            services.watch.remove(&address);
                        }
                    }
                }
            }
            let Some(lead) = lead else { continue };
            for Led { key, .. } in &lead.fronts {
                services.sources.entry(*key).or_default().insert(source.clone());
                keys.insert(*key);
            }
            for address in &lead.watched {
                services.watch.entry(*address).or_default().insert(source.clone());
            }
            services.leads.insert(source, lead);
        }
        for key in keys {
            self.point(key);
        }
    }

    fn find_dirty(&mut self, cluster: &Cluster, changes: &[SpaceChange], cut: bool) {
        let services = &mut self.state.services;
        let dirty = &mut services.dirty;
        if self.state.node != cluster.node {
            dirty.extend(services.leads.keys().cloned());
        }
        if cut {
            dirty.extend(services.watch.values().flatten().cloned());
        }
        for change in changes {
            let here = |pod: &Arc<Pod>| pod.node.as_ref() == Some(&cluster.node.name);
            for pod in &change.pods {
                let both = || [&pod.old, &pod.new].into_iter().flatten();
                let source = || Source::HostPorts(Name::clone(&change.name), Name::clone(&pod.name));
                let open = |pod: &Arc<Pod>| pod.ports.iter().any(|port| port.host_port.is_some());
                if both().any(|pod| here(pod) && open(pod)) {
                    dirty.insert(source());
                }
            }
            let list = |content: &'_ Option<Arc<Namespace>>| content.clone().unwrap_or_default();
            let (old, new) = (list(&change.old), list(&change.new));
            let source = |name: &Name| Source::Service(Name::clone(&change.name), Name::clone(name));
            merge(old.services.iter(), new.services.iter(), |name, _, _| {
                dirty.insert(source(name));
            });
            for (name, service) in &new.services {
                let Backends::Pods(selector) = &service.backends else { continue };
                let touched = |pod: &Arc<Pod>| selector.matches(&pod.labels);
                let both = change.pods.iter().flat_map(|pod| [&pod.old, &pod.new]).flatten();
                if change.old.is_some() && both.into_iter().any(touched) {
                    dirty.insert(source(name));
                }
            }
        }
        let first = Source::HostPorts(Name::from(""), Name::from(""));
        let host_ports = services.leads.range(first..).next().is_some();
        for ((space, _), labels) in std::mem::take(&mut services.moved) {
            let Some(content) = cluster.namespaces.get(&space) else { continue };
            for (name, service) in &content.services {
                if matches!(&service.backends, Backends::Pods(selector) if selector.matches(&labels)) {
                    dirty.insert(Source::Service(Name::clone(&space), Name::clone(name)));
                }
            }
            if !host_ports {
                continue;
            }
            let pods = content.pods.iter().filter(|(_, pod)| place_of(&pod.labels) == place_of(&labels));
            let open = |pod: &Pod| pod.ports.iter().any(|port| port.host_port.is_some());
            for (name, _) in
                pods.filter(|(_, pod)| open(pod) && pod.node.as_ref() == Some(&cluster.node.name))
            {
                dirty.insert(Source::HostPorts(Name::clone(&space), Name::clone(name)));
            }
        }
    }

    fn follow(&self, cluster: &Cluster, source: &Source) -> Option<Lead> {
        match source {
            Source::Service(namespace, name) => {
                let content = cluster.namespaces.get(namespace)?;
                Some(self.follow_service(cluster, namespace, content, content.services.get(name)?))
            }
            Source::HostPorts(namespace, name) => {
                let pod = cluster.namespaces.get(namespace)?.pods.get(name)?;
                let here = pod.counts() && pod.node.as_ref() == Some(&cluster.node.name);
                here.then(|| self.follow_host_ports(cluster, pod))
            }
        }
    }

    fn follow_service(
        &self,
        cluster: &Cluster,
        space: &Name,
        content: &Namespace,
        service: &Service,
    ) -> Lead {
        let mut lead = Lead::default();
        let pods: Vec<&Arc<Pod>> = match &service.backends {
            Backends::Pods(selector) => {
                let pods = content.pods.values();
                pods.filter(|pod| pod.serves() && selector.matches(&pod.labels)).collect()
            }
            Backends::Listed(_) => Vec::new(),
        };
        for port in &service.ports {
            let fronts = service.addresses.iter().map(|address| (*address, port.port));
            let nodes = &cluster.node.addresses;
            let node_port = port.node_port.into_iter().flat_map(|n| nodes.iter().map(move |a| (*a, n)));
            let mut by_family: [Option<Vec<Backend>>; 2] = [None, None];
            for (address, number) in fronts.chain(node_port) {
                let key = VipAddress { address, port: number, protocol: port.protocol };
                let found = &mut by_family[usize::from(address.is_ipv4())];
                let watched = &mut lead.watched;
                let found = found.get_or_insert_with(|| {
                    self.backends(space, &pods, service, port, address.is_ipv4(), watched)
                });
                let external = number == port.port && service.external.contains(&address);
                lead.watched.extend(external.then_some(address));
                lead.fronts.push(Led { key, backends: found.clone(), external });
            }
        }
        lead
    }

    fn backends(
        &self,
        space: &Name,
        pods: &[&Arc<Pod>],
        service: &Service,
        port: &ServicePort,
        ipv4: bool,
        watched: &mut Vec<IpAddr>,
    ) -> Vec<Backend> {
        let protocol = port.protocol.number();
        let mut found: Vec<Backend> = Vec::new();
        for pod in pods {
            let Some(address) = pod.addresses.iter().find(|address| address.is_ipv4() == ipv4) else {
                continue;
            };
            let Some(target) = target(pod, port) else { continue };
            let own = self.state.book.group_at(*address);
            let own = own.filter(|_| !self.state.node_entries.contains_key(address));
            let own =
                own.filter(|(_, group)| group.space == *space && group.key.labels == place_of(&pod.labels));
            let class = match own {
                Some((_, group)) => ClassId(group.class),
                None => {
                    watched.push(*address);
                    self.class_behind(*address)
                }
            };
            found.push(Backend { class, protocol, port: target });
        }
        if let Backends::Listed(list) = &service.backends {
            let mine = |one: &&crate::model::ServiceBackend| {
                one.port_name == port.name && one.protocol == port.protocol && one.address.is_ipv4() == ipv4
            };
            for one in list.iter().filter(mine) {
                watched.push(one.address);
                found.push(Backend { class: self.class_behind(one.address), protocol, port: one.port });
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    fn follow_host_ports(&self, cluster: &Cluster, pod: &Pod) -> Lead {
        let mut lead = Lead::default();
        for port in pod.ports.iter() {
            let Some(host_port) = port.host_port else { continue };
            for front in &cluster.node.addresses {
                let same_family = |address: &&IpAddr| address.is_ipv4() == front.is_ipv4();
                let Some(address) = pod.addresses.iter().find(same_family) else { continue };
                let key = VipAddress { address: *front, port: host_port, protocol: port.protocol };
                let class = self.class_behind(*address);
                lead.watched.push(*address);
                let protocol = port.protocol.number();
                let backends = vec![Backend { class, protocol, port: port.port }];
                lead.fronts.push(Led { key, backends, external: false });
            }
        }
        lead
    }

    /// The class of a backend. One on this node is judged as any other address is.
    fn class_behind(&self, address: IpAddr) -> ClassId {
        let behind = self.state.node_entries.get(&address).and_then(|entry| entry.behind);
        behind.map_or_else(|| self.class_of(address), ClassId)
    }

    /// Points a key to what all its sources lead to.
    fn point(&mut self, key: VipAddress) {
        let services = &self.state.services;
        let sources = services.sources.get(&key);
        let mut backends: BTreeSet<Backend> = BTreeSet::new();
        let mut external = false;
        for lead in sources.into_iter().flatten().filter_map(|source| services.leads.get(source)) {
            for front in lead.fronts.iter().filter(|front| front.key == key) {
                backends.extend(front.backends.iter().copied());
                external |= front.external;
            }
        }
        let known = sources.is_some_and(|sources| !sources.is_empty());
        let nowhere = Backend { class: ClassId(CLASS_NONE), protocol: key.protocol.number(), port: key.port };
        let unlike = backends.len() > 1;
        let front = external.then(|| Front { class: self.class_of(key.address), key });
        let one = backends.first().copied().unwrap_or(nowhere);
        let target = known.then(|| {
            if front.is_none() && !unlike {
                return VipTarget { class: one.class, port: one.port };
            }
            let rest = backends.into_iter().skip(1);
            let class = Class::Service { backends: [one].into_iter().chain(rest).collect(), front };
            let (class, port) = self.heir_of_service(&key, class);
            VipTarget { class: ClassId(self.numbers.class(class)), port }
        });
        let before = self.maps.vip(key);
        target.iter().for_each(|target| self.state.usage.add(target.class.0));
        before.iter().for_each(|before| self.state.usage.take(before.class.0));
        self.maps.want_vip(key, target);
        let services = &mut self.state.services;
        services.retell = true;
        if let Some(before) = before
            && let Some(keys) = services.unlike.get_mut(&before.class.0)
        {
            keys.remove(&key);
            if keys.is_empty() {
                services.unlike.remove(&before.class.0);
            }
        }
        if let Some(target) = target.filter(|_| unlike) {
            services.unlike.entry(target.class.0).or_default().insert(key);
        }
        if !known {
            services.sources.remove(&key);
        }
        self.tell_claims(key);
    }

    fn tell_claims(&mut self, key: VipAddress) {
        let mut findings = Vec::new();
        let mut last: Option<(&Name, &Name)> = None;
        for (namespace, name) in self.state.services.at(&key) {
            if let Some(other) = last.replace((namespace, name)) {
                findings.push(conflict(namespace, name, other, &key));
            }
        }
        let before = match findings.is_empty() {
            true => self.state.service_conflicts.remove(&key),
            false => self.state.service_conflicts.insert(key, findings),
        };
        self.state.told &= before.as_ref() == self.state.service_conflicts.get(&key);
    }
}

/// The port of a pod behind a Service's port: of several containers with a port of
/// that name, the first has it, as the endpoints controller decides too.
pub(crate) fn target(pod: &Pod, port: &ServicePort) -> Option<u16> {
    match &port.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Named(name) => pod
            .ports
            .iter()
            .find(|one| one.protocol == port.protocol && one.name.as_ref() == Some(name))
            .map(|one| one.port),
    }
}

fn conflict(namespace: &Name, name: &Name, other: (&Name, &Name), at: &VipAddress) -> Finding {
    Finding {
        kind: ObjectKind::Service,
        namespace: Name::clone(namespace),
        name: Name::clone(name),
        path: "spec".into(),
        reason: FindingReason::ServiceConflict,
        message: format!(
            "{} {}/{} is also claimed by {}/{}; allowed only where both would be",
            at.address, at.protocol, at.port, other.0, other.1
        ),
    }
}
