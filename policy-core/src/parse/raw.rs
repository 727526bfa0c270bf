//! Policies as they were written, in plain strings and numbers.

use std::collections::BTreeMap;

/// A NetworkPolicy as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawPolicy {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// spec.podSelector.
    pub pod_selector: RawSelector,
    /// spec.policyTypes; empty means that the rules say which.
    pub policy_types: Vec<String>,
    /// spec.ingress.
    pub ingress: Vec<RawRule>,
    /// spec.egress.
    pub egress: Vec<RawRule>,
}

/// A label selector as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawSelector {
    /// matchLabels.
    pub match_labels: BTreeMap<String, String>,
    /// matchExpressions.
    pub match_expressions: Vec<RawRequirement>,
}

/// One of matchExpressions as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawRequirement {
    /// The label's key.
    pub key: String,
    /// The operator.
    pub operator: String,
    /// The values.
    pub values: Vec<String>,
}

/// One rule as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawRule {
    /// `from` or `to`; missing and empty mean the same.
    pub peers: Vec<RawPeer>,
    /// `ports`; missing and empty mean the same.
    pub ports: Vec<RawPort>,
}

/// One peer as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawPeer {
    /// podSelector; an empty one is not a missing one.
    pub pod_selector: Option<RawSelector>,
    /// namespaceSelector; an empty one is not a missing one.
    pub namespace_selector: Option<RawSelector>,
    /// ipBlock.
    pub ip_block: Option<RawBlock>,
}

/// An ipBlock as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawBlock {
    /// cidr.
    pub cidr: String,
    /// except.
    pub except: Vec<String>,
}

/// One port as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawPort {
    /// protocol; TCP when missing.
    pub protocol: Option<String>,
    /// port; every port of the protocol when missing.
    pub port: Option<RawPortValue>,
    /// endPort.
    pub end_port: Option<i32>,
}

/// A port by number or name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RawPortValue {
    /// A number.
    Number(i32),
    /// A name.
    Name(String),
}
