//! Who is at the end of a flow.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::model::{Cluster, Name, Owner, Pod};

/// One end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party<'a> {
    /// A pod that policy knows, reached by one of its addresses.
    Pod {
        /// Its namespace.
        namespace: &'a Name,
        /// Its name.
        name: &'a Name,
        /// Its content.
        pod: &'a Pod,
        /// The address.
        address: IpAddr,
    },
    /// A node, reached by one of its addresses and not through a Service.
    Node(IpAddr),
    /// Any other address.
    Outside(IpAddr),
}

impl<'a> Party<'a> {
    /// Who has an address that a flow names.
    pub fn at(cluster: &'a Cluster, address: IpAddr) -> Self {
        Self::known(cluster, &cluster.owners([address]), address)
    }

    /// Who has an address that a Service leads to: there a node is like any other.
    pub fn behind(cluster: &'a Cluster, address: IpAddr) -> Self {
        Self::owned(&cluster.owners([address]), address)
    }

    /// As [`Party::at`], where it was asked already which pods have this address and others.
    pub fn known(cluster: &'a Cluster, owners: &HashMap<IpAddr, Owner<'a>>, address: IpAddr) -> Self {
        let of_node = || {
            let mut others = cluster.nodes.values().flat_map(|node| &node.addresses);
            cluster.node.addresses.contains(&address) || others.any(|one| *one == address)
        };
        match Self::owned(owners, address) {
            Self::Outside(address) if of_node() => Self::Node(address),
            other => other,
        }
    }

    /// As [`Party::behind`], likewise.
    pub fn owned(owners: &HashMap<IpAddr, Owner<'a>>, address: IpAddr) -> Self {
        match owners.get(&address).copied() {
            Some((namespace, name, pod)) => Self::Pod { namespace, name, pod, address },
            None => Self::Outside(address),
        }
    }

    /// The address.
    pub fn address(&self) -> IpAddr {
        match self {
            Self::Pod { address, .. } | Self::Node(address) | Self::Outside(address) => *address,
        }
    }

    /// Whether both are one pod.
    pub fn is_same_pod(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Pod { namespace, name, .. },
                Self::Pod { namespace: other_namespace, name: other_name, .. },
            ) => namespace == other_namespace && name == other_name,
            _ => false,
        }
    }

    /// Whether this is a pod and `other` the node that it runs on.
    pub fn runs_on(&self, cluster: &Cluster, other: &Self) -> bool {
        let (Self::Pod { pod: Pod { node: Some(name), .. }, .. }, Self::Node(address)) = (self, other) else {
            return false;
        };
        let this = *name == cluster.node.name && cluster.node.addresses.contains(address);
        this || cluster.nodes.get(name).is_some_and(|node| node.addresses.contains(address))
    }
}
