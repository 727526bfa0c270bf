//! A cluster as one node sees it at one moment.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use super::{Labels, NAMESPACE_NAME_LABEL, Name, NamespaceMatch, Pod, Policy, Service};

/// Everything that policy depends on. Cloning copies pointers, one per namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// All namespaces by name, also those that so far only pods have named.
    pub namespaces: BTreeMap<Name, Arc<Namespace>>,
    /// The node that the pods to be filtered run on.
    pub node: LocalNode,
    /// Where cluster IPs are given from; empty if that is not known. An address in it
    /// that is no Service's is denied to isolated pods.
    pub service_cidrs: Vec<IpNetwork>,
}

/// A namespace with what is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Its labels with that of its name; None until the namespace itself was seen.
    pub labels: Option<Arc<Labels>>,
    /// Its pods by name.
    pub pods: BTreeMap<Name, Arc<Pod>>,
    /// Its policies by name.
    pub policies: BTreeMap<Name, Arc<Policy>>,
    /// Its Services by name.
    pub services: BTreeMap<Name, Arc<Service>>,
}

/// This node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalNode {
    /// Its name.
    pub name: Name,
    /// The addresses on which its node ports and host ports answer.
    pub addresses: Vec<IpAddr>,
}

/// A pod of this node that is to be filtered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPod {
    /// Its place in the endpoint map.
    pub slot: u32,
    /// The sandbox that has the slot now; another sandbox never inherits an epoch.
    pub sandbox: Name,
    /// Which pod it is; None: it was added without a pod's name and nothing isolates it.
    pub identity: Option<PodIdentity>,
    /// Its addresses; what the API says about them comes later and is not waited for.
    pub addresses: Vec<IpAddr>,
}

/// Names a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodIdentity {
    /// Its namespace.
    pub namespace: Name,
    /// Its name.
    pub name: Name,
    /// Its UID, where it is known: another pod of the same name is another pod.
    pub uid: Option<Name>,
}

impl fmt::Display for PodIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Cluster {
    /// The pod that an identity names, if it is known and is that very pod.
    pub fn pod(&self, identity: &PodIdentity) -> Option<&Arc<Pod>> {
        let pod = self.namespaces.get(&identity.namespace)?.pods.get(&identity.name)?;
        match &identity.uid {
            Some(uid) if *uid != pod.uid => None,
            _ => Some(pod),
        }
    }

    /// Every pod with its namespace and name.
    pub fn pods(&self) -> impl Iterator<Item = (&Name, &Name, &Arc<Pod>)> {
        self.namespaces.iter().flat_map(|(namespace, content)| {
            content.pods.iter().map(move |(name, pod)| (namespace, name, pod))
        })
    }

    /// A namespace to write into; made when it is not there, copied when it is shared.
    pub fn namespace_mut(&mut self, name: &Name) -> &mut Namespace {
        Arc::make_mut(self.namespaces.entry(Name::clone(name)).or_default())
    }

    /// Which pod uses an address; of several that claim it, the one that [`Pod`]s are
    /// ranked first by: live before terminating, then the greater UID. An order is all
    /// that is needed: the claim of the other is withdrawn within moments.
    pub fn owner(&self, address: IpAddr) -> Option<(&Name, &Name, &Arc<Pod>)> {
        self.pods()
            .filter(|(_, _, pod)| pod.counts() && pod.addresses.contains(&address))
            .max_by(|a, b| claim(a.2).cmp(&claim(b.2)))
    }
}

/// The rank of a pod's claim to an address.
pub(crate) fn claim(pod: &Pod) -> (super::PodState, &str) {
    (pod.state, pod.uid.as_ref())
}

impl Namespace {
    /// A namespace with its labels; the one of its name is put in, whatever was given.
    pub fn with_labels<K: Into<Name>, V: Into<Name>>(
        name: &str,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let own = (Name::from(NAMESPACE_NAME_LABEL), Name::from(name));
        let labels =
            pairs.into_iter().map(|(key, value)| (key.into(), value.into())).chain([own]).collect::<Labels>();
        Self { labels: Some(Arc::new(labels)), ..Self::default() }
    }
}

impl NamespaceMatch {
    /// Whether this speaks of a namespace. One whose labels are not known yet is only
    /// reached by its name and by the selector that reaches all.
    pub fn matches(&self, name: &str, labels: Option<&Labels>) -> bool {
        match self {
            Self::Named(own) => own.as_ref() == name,
            Self::Selected(selector) => match labels {
                Some(labels) => selector.matches(labels),
                None => selector.is_everything(),
            },
        }
    }
}
