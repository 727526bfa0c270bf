//! ClusterNetworkPolicies as they were written, in plain strings and numbers.

use super::raw::RawSelector;

/// A ClusterNetworkPolicy as written, `policy.networking.k8s.io/v1alpha2`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawClusterPolicy {
    /// Its name.
    pub name: String,
    /// spec.tier.
    pub tier: String,
    /// spec.priority; None when it is missing.
    pub priority: Option<i64>,
    /// spec.subject.
    pub subject: RawSubject,
    /// spec.ingress.
    pub ingress: Vec<RawClusterRule>,
    /// spec.egress.
    pub egress: Vec<RawClusterRule>,
}

/// A subject as written; one of the two is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawSubject {
    /// namespaces.
    pub namespaces: Option<RawSelector>,
    /// pods.
    pub pods: Option<RawNamespacedPod>,
}

/// Pods of namespaces as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawNamespacedPod {
    /// namespaceSelector; missing and empty mean the same.
    pub namespace_selector: RawSelector,
    /// podSelector, which must be there; an empty one is not a missing one.
    pub pod_selector: Option<RawSelector>,
}

/// One rule as written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawClusterRule {
    /// name; empty when it has none.
    pub name: String,
    /// action.
    pub action: String,
    /// `from` or `to`, at least one.
    pub peers: Vec<RawClusterPeer>,
    /// `protocols`; None and empty: every packet.
    pub protocols: Vec<RawClusterProtocol>,
}

/// One peer as written; one of the fields is set. Peers of ingress know the first two only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawClusterPeer {
    /// namespaces.
    pub namespaces: Option<RawSelector>,
    /// pods.
    pub pods: Option<RawNamespacedPod>,
    /// nodes.
    pub nodes: Option<RawSelector>,
    /// networks; empty is missing.
    pub networks: Vec<String>,
    /// domainNames; empty is missing.
    pub domain_names: Vec<String>,
}

/// One of protocols as written; one of the fields is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawClusterProtocol {
    /// tcp.
    pub tcp: Option<RawTransport>,
    /// udp.
    pub udp: Option<RawTransport>,
    /// sctp.
    pub sctp: Option<RawTransport>,
    /// destinationNamedPort; empty is missing.
    pub destination_named_port: String,
}

/// What is written below tcp, udp or sctp.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawTransport {
    /// destinationPort, without which the whole entry is not understood.
    pub destination_port: Option<RawDestinationPort>,
}

/// A destinationPort as written; one of the two is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawDestinationPort {
    /// number.
    pub number: Option<i64>,
    /// range: start and end, both in it.
    pub range: Option<(i64, i64)>,
}
