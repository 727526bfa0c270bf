//! What the Node object says of this node.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::object::{IntOrString, NodeLite};

/// The longest name of a Kubernetes object.
const LONGEST_NAME: usize = 253;

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
    /// Its annotations, as far as they could be the name of an object: controllers keep whole documents in others.
    pub annotations: BTreeMap<String, String>,
    /// Whether it is being deleted: something drains it, and waits for that.
    pub terminating: bool,
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
        let meta = &node.metadata.meta;
        Self {
            name: meta.name.clone(),
            uid: meta.uid.clone(),
            max_pods,
            internal_addresses: node
                .status
                .addresses
                .iter()
                .filter(|address| address.kind == "InternalIP")
                .filter_map(|address| address.address.parse().ok())
                .collect(),
            unschedulable: node.spec.unschedulable,
            labels: meta.labels.clone(),
            annotations: node
                .metadata
                .annotations
                .iter()
                .filter(|(_, value)| value.len() <= LONGEST_NAME)
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            terminating: meta.deletion_timestamp.is_some(),
            provider_id: Some(node.spec.provider_id.clone()).filter(|id| !id.is_empty()),
        }
    }
}
