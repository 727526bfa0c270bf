//! What the Node object says of this node.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::object::{IntOrString, NodeLite};

/// This node by its Node object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// status.capacity.pods; None if it is not there or is no number.
    pub max_pods: Option<u32>,
    /// status.addresses of type InternalIP.
    pub internal_addresses: Vec<IpAddr>,
    /// Whether it is cordoned.
    pub unschedulable: bool,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// spec.providerID.
    pub provider_id: Option<String>,
}

impl From<&NodeLite> for NodeFacts {
    fn from(node: &NodeLite) -> Self {
        let max_pods = match &node.status.capacity.pods {
            Some(IntOrString::Int(number)) => u32::try_from(*number).ok(),
            Some(IntOrString::String(text)) => text.parse().ok(),
            None => None,
        };
        Self {
            name: node.metadata.name.clone(),
            uid: node.metadata.uid.clone(),
            max_pods,
            internal_addresses: node
                .status
                .addresses
                .iter()
                .filter(|address| address.kind == "InternalIP")
                .filter_map(|address| address.address.parse().ok())
                .collect(),
            unschedulable: node.spec.unschedulable,
            labels: node.metadata.labels.clone(),
            provider_id: Some(node.spec.provider_id.clone()).filter(|id| !id.is_empty()),
        }
    }
}
