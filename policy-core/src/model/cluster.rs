//! A cluster as one node sees it at one moment.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use super::{
    ClusterPolicy, Labels, NAMESPACE_NAME_LABEL, Name, NamespaceMatch, OrderedPolicy, Pod, Policy, Service,
};

/// Everything that policy depends on. Cloning copies pointers, one per namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// All namespaces by name, also those that so far only pods have named.
    pub namespaces: BTreeMap<Name, Arc<Namespace>>,
    /// All ClusterNetworkPolicies by name.
    pub cluster_policies: BTreeMap<Name, Arc<ClusterPolicy>>,
    /// The nodes by name; they need not be known while no policy speaks of nodes.
    pub nodes: BTreeMap<Name, Arc<Node>>,
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

/// A node of the cluster, as a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its labels.
    pub labels: Arc<Labels>,
    /// The addresses of its status, of every type.
    pub addresses: Box<[IpAddr]>,
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

    /// The ClusterNetworkPolicies in the order in which they are asked: by tier, priority
    /// and, where the API leaves it open, name.
    pub fn ordered_policies(&self) -> Vec<OrderedPolicy> {
        let mut list: Vec<OrderedPolicy> = self
            .cluster_policies
            .iter()
            .map(|(name, policy)| (Name::clone(name), Arc::clone(policy)))
            .collect();
        list.sort_by_key(|(_, policy)| (policy.tier, policy.priority));
        list
    }

    /// A namespace to write into; made when it is not there, copied when it is shared.
    pub fn namespace_mut(&mut self, name: &Name) -> &mut Namespace {
        Arc::make_mut(self.namespaces.entry(Name::clone(name)).or_default())
    }

    /// Which pod uses an address; of several that claim it, the one with the highest
    /// claim. Asks every pod: for more than one address see [`Cluster::owners`].
    pub fn owner(&self, address: IpAddr) -> Option<Owner<'_>> {
        self.owners([address]).remove(&address)
    }

    /// Which pods use these addresses, as far as pods do, by asking every pod once.
    pub fn owners(&self, addresses: impl IntoIterator<Item = IpAddr>) -> HashMap<IpAddr, Owner<'_>> {
        let mut found: HashMap<IpAddr, Option<Owner<'_>>> =
            addresses.into_iter().map(|address| (address, None)).collect();
        for (namespace, name, pod) in self.pods().filter(|(_, _, pod)| pod.counts()) {
            for address in &pod.addresses {
                let Some(owner) = found.get_mut(address) else { continue };
                let other = owner.map(|(namespace, name, pod)| claim(namespace, name, pod));
                if other.is_none_or(|other| other < claim(namespace, name, pod)) {
                    *owner = Some((namespace, name, pod));
                }
            }
        }
        found.into_iter().filter_map(|(address, owner)| Some((address, owner?))).collect()
    }
}

/// The pod that has an address, after its namespace and its name.
pub type Owner<'a> = (&'a Name, &'a Name, &'a Arc<Pod>);

/// The rank of a pod's claim to an address: live before terminating before announced, then the greater UID where
/// UIDs are known, then the first by name. An order is all that is needed: the claim of the other is withdrawn soon.
pub fn claim<'a>(namespace: &'a Name, name: &'a Name, pod: &'a Pod) -> impl Ord + 'a {
    (pod.state, pod.uid.as_ref(), Reverse((namespace, name)))
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
