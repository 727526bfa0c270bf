//! Which class each address is of.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::cidr::Elementary;
use super::class::{Class, Home};
use super::term::Term;
use crate::finding::{Finding, FindingReason, ObjectKind};
use crate::ids::TermId;
use crate::model::{Cluster, ContainerPort, Labels, LocalPod, Name, Namespace, Pod, PodState, claim};

/// The terms in force, sorted by what they are judged on.
pub(super) struct Terms<'a> {
    pods: Vec<(TermId, &'a Term)>,
    ports: Vec<(TermId, &'a Term)>,
    whole_families: Vec<TermId>,
    pub(super) blocks: Elementary,
    split: bool,
}

/// The pod that has an address.
#[derive(Clone, Copy)]
pub(super) struct Owner<'a> {
    pub(super) namespace: &'a Name,
    pub(super) content: &'a Arc<Namespace>,
    pub(super) name: &'a Name,
    pub(super) pod: &'a Arc<Pod>,
}

impl<'a> Terms<'a> {
    /// Sorts terms; `split`: classes are split by namespace and family beforehand.
    pub(super) fn new(terms: &'a [(TermId, Arc<Term>)], marks: &[ipnetwork::IpNetwork], split: bool) -> Self {
        let mut sorted = Self {
            pods: Vec::new(),
            ports: Vec::new(),
            whole_families: Vec::new(),
            blocks: Elementary::default(),
            split,
        };
        let mut blocks = Vec::new();
        for (id, term) in terms {
            match term.as_ref() {
                Term::Pods { .. } if split && term.is_whole_namespace() => {}
                Term::Pods { .. } => sorted.pods.push((*id, term)),
                Term::Port { .. } => sorted.ports.push((*id, term)),
                Term::Block(block) => {
                    if split && term.is_whole_family() {
                        sorted.whole_families.push(*id);
                    }
                    blocks.push((*id, block));
                }
            }
        }
        sorted.blocks = Elementary::new(&blocks, marks);
        sorted
    }

    /// The classes of addresses of one namespace's pods.
    pub(super) fn of_namespace(&self, namespace: &'a Name, content: &'a Namespace) -> InNamespace<'a, '_> {
        let labels = content.labels.as_deref();
        let pods = self.pods.iter().filter(|(_, term)| match term {
            Term::Pods { namespaces, .. } => namespaces.matches(namespace, labels),
            _ => false,
        });
        InNamespace {
            terms: self,
            pods: pods.copied().collect(),
            namespace,
            labels: content.labels.clone(),
            by_labels: HashMap::new(),
        }
    }
}

/// The same for one namespace: what depends on it only is judged once.
pub(super) struct InNamespace<'a, 't> {
    terms: &'t Terms<'a>,
    pods: Vec<(TermId, &'a Term)>,
    namespace: &'a Name,
    labels: Option<Arc<Labels>>,
    /// Label sets are shared, so their address names them.
    by_labels: HashMap<*const Labels, Vec<TermId>>,
}

impl InNamespace<'_, '_> {
    /// The class of an address of a pod.
    pub(super) fn class(&mut self, pod: &Pod, address: IpAddr) -> Class {
        let mut terms = self
            .by_labels
            .entry(Arc::as_ptr(&pod.labels))
            .or_insert_with(|| {
                let matching = self.pods.iter().filter(|(_, term)| match term {
                    Term::Pods { pods, .. } => pods.matches(&pod.labels),
                    _ => false,
                });
                matching.map(|(id, _)| *id).collect()
            })
            .clone();
        let whole = &self.terms.whole_families;
        terms.extend(self.terms.blocks.of(address).iter().filter(|id| !whole.contains(id)));
        terms.sort_unstable();
        Class::Pod {
            home: self.terms.split.then(|| Home {
                ipv4: address.is_ipv4(),
                namespace: Name::clone(self.namespace),
                labels: self.labels.clone(),
            }),
            terms: terms.into_boxed_slice(),
            ports: self.ports(&pod.ports),
        }
    }

    fn ports(&self, ports: &[ContainerPort]) -> Box<[(TermId, u16)]> {
        let mut numbers: Vec<(TermId, u16)> = Vec::new();
        for (id, term) in &self.terms.ports {
            let Term::Port { protocol, name } = term else { continue };
            numbers.extend(
                ports
                    .iter()
                    .filter(|port| port.protocol == *protocol && port.name.as_ref() == Some(name))
                    .map(|port| (*id, port.port)),
            );
        }
        numbers.sort_unstable();
        numbers.dedup();
        numbers.into_boxed_slice()
    }
}

/// Which pod has each address. What this node's own pods have is known for certain;
/// of others that claim one address, the higher ranked has it.
pub(super) fn owners<'a>(
    cluster: &'a Cluster,
    local: &'a [LocalPod],
    findings: &mut Vec<Finding>,
) -> BTreeMap<IpAddr, Owner<'a>> {
    let mut owners: HashMap<IpAddr, Owner<'a>> = HashMap::new();
    for (namespace, content) in &cluster.namespaces {
        for (name, pod) in content.pods.iter().filter(|(_, pod)| pod.counts()) {
            for address in &pod.addresses {
                let owner = Owner { namespace, content, name, pod };
                match owners.entry(*address) {
                    std::collections::hash_map::Entry::Vacant(place) => {
                        place.insert(owner);
                    }
                    std::collections::hash_map::Entry::Occupied(mut place) => {
                        let other = *place.get();
                        if other.pod.state == PodState::Live && pod.state == PodState::Live {
                            findings.push(conflict(owner, other, *address));
                        }
                        if claim(pod) > claim(other.pod) {
                            place.insert(owner);
                        }
                    }
                }
            }
        }
    }
    for one in local {
        let known = one.identity.as_ref().and_then(|identity| {
            let pod = cluster.pod(identity)?;
            let (namespace, content) = cluster.namespaces.get_key_value(&identity.namespace)?;
            let (name, _) = content.pods.get_key_value(&identity.name)?;
            Some(Owner { namespace, content, name, pod })
        });
        for address in &one.addresses {
            match known {
                Some(owner) => owners.insert(*address, owner),
                None => owners.remove(address),
            };
        }
    }
    owners.into_iter().collect()
}

fn conflict(one: Owner<'_>, other: Owner<'_>, address: IpAddr) -> Finding {
    Finding {
        kind: ObjectKind::Pod,
        namespace: Name::clone(one.namespace),
        name: Name::clone(one.name),
        path: "status.podIPs".into(),
        reason: FindingReason::AddressConflict,
        message: format!("{address} is also claimed by {}/{}", other.namespace, other.name),
    }
}
