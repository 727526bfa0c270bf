//! ClusterNetworkPolicies as they come: `policy.networking.k8s.io/v1alpha2`.
//!
//! Their kind is a custom one that need not be there; then there are none. An entry that is not known here comes out
//! empty, which the parser takes for something that it does not understand.

use policy_core::Finding;
use policy_core::model::{ClusterPolicy, Peer, Peers};
use policy_core::parse::{
    RawClusterPeer, RawClusterPolicy, RawClusterProtocol, RawClusterRule, RawDestinationPort,
    RawNamespacedPod, RawSubject, RawTransport, parse_cluster_policy,
};
use serde::Deserialize;

use super::convert::selector;
use super::object::{LabelSelector, Meta, Object, nullable};

/// Where they are listed.
pub(super) const PATH: &str = "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies";

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ClusterPolicyLite {
    pub(super) metadata: Meta,
    #[serde(deserialize_with = "nullable")]
    pub(super) spec: Spec,
}

impl Object for ClusterPolicyLite {
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Spec {
    #[serde(deserialize_with = "nullable")]
    tier: String,
    priority: Option<i64>,
    #[serde(deserialize_with = "nullable")]
    subject: Subject,
    #[serde(deserialize_with = "nullable")]
    ingress: Vec<Rule>,
    #[serde(deserialize_with = "nullable")]
    egress: Vec<Rule>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Subject {
    namespaces: Option<LabelSelector>,
    pods: Option<NamespacedPod>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NamespacedPod {
    #[serde(deserialize_with = "nullable")]
    namespace_selector: LabelSelector,
    pod_selector: Option<LabelSelector>,
}

/// Of either direction.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Rule {
    #[serde(deserialize_with = "nullable")]
    name: String,
    #[serde(deserialize_with = "nullable")]
    action: String,
    #[serde(deserialize_with = "nullable")]
    from: Vec<ClusterPeer>,
    #[serde(deserialize_with = "nullable")]
    to: Vec<ClusterPeer>,
    #[serde(deserialize_with = "nullable")]
    protocols: Vec<ClusterProtocol>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClusterPeer {
    namespaces: Option<LabelSelector>,
    pods: Option<NamespacedPod>,
    nodes: Option<LabelSelector>,
    #[serde(deserialize_with = "nullable")]
    networks: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    domain_names: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClusterProtocol {
    tcp: Option<Transport>,
    udp: Option<Transport>,
    sctp: Option<Transport>,
    #[serde(deserialize_with = "nullable")]
    destination_named_port: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Transport {
    destination_port: Option<DestinationPort>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct DestinationPort {
    number: Option<i64>,
    range: Option<PortRange>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PortRange {
    start: i64,
    end: i64,
}

/// The policy, and what in it could not be understood.
pub(super) fn policy(lite: &ClusterPolicyLite) -> (ClusterPolicy, Vec<Finding>) {
    let spec = &lite.spec;
    parse_cluster_policy(&RawClusterPolicy {
        name: lite.metadata.name.clone(),
        tier: spec.tier.clone(),
        priority: spec.priority,
        subject: RawSubject {
            namespaces: spec.subject.namespaces.as_ref().map(selector),
            pods: spec.subject.pods.as_ref().map(pods),
        },
        ingress: spec.ingress.iter().map(|one| rule(one, &one.from)).collect(),
        egress: spec.egress.iter().map(|one| rule(one, &one.to)).collect(),
    })
}

fn rule(lite: &Rule, peers: &[ClusterPeer]) -> RawClusterRule {
    RawClusterRule {
        name: lite.name.clone(),
        action: lite.action.clone(),
        peers: peers
            .iter()
            .map(|peer| RawClusterPeer {
                namespaces: peer.namespaces.as_ref().map(selector),
                pods: peer.pods.as_ref().map(pods),
                nodes: peer.nodes.as_ref().map(selector),
                networks: peer.networks.clone(),
                domain_names: peer.domain_names.clone(),
            })
            .collect(),
        protocols: lite
            .protocols
            .iter()
            .map(|protocol| RawClusterProtocol {
                tcp: protocol.tcp.as_ref().map(transport),
                udp: protocol.udp.as_ref().map(transport),
                sctp: protocol.sctp.as_ref().map(transport),
                destination_named_port: protocol.destination_named_port.clone(),
            })
            .collect(),
    }
}

fn pods(lite: &NamespacedPod) -> RawNamespacedPod {
    RawNamespacedPod {
        namespace_selector: selector(&lite.namespace_selector),
        pod_selector: lite.pod_selector.as_ref().map(selector),
    }
}

fn transport(lite: &Transport) -> RawTransport {
    RawTransport {
        destination_port: lite.destination_port.as_ref().map(|port| RawDestinationPort {
            number: port.number,
            range: port.range.as_ref().map(|range| (range.start, range.end)),
        }),
    }
}

/// Whether a rule speaks of nodes, so that they must be known.
pub(super) fn speaks_of_nodes(policy: &ClusterPolicy) -> bool {
    policy.ingress.iter().chain(&policy.egress).any(|rule| match &rule.peers {
        Peers::Any => false,
        Peers::Only(peers) => peers.iter().any(|peer| matches!(peer, Peer::Nodes(_))),
    })
}

#[cfg(test)]
mod tests {
    use policy_core::model::{Action, PortMatch, PortRange, Ports, Protocol, Tier};

    use super::*;

    #[test]
    fn every_field_is_read() {
        let json = r#"{"metadata": {"name": "p"}, "spec": {
            "tier": "Baseline", "priority": 7,
            "subject": {"pods": {"namespaceSelector": {"matchLabels": {"h": "g"}}, "podSelector": {}}},
            "ingress": [{"name": "in", "action": "Pass", "from": [{"namespaces": {}}], "protocols": null}],
            "egress": [{"action": "Deny", "to": [
                {"nodes": {"matchExpressions": [{"key": "os", "operator": "Exists"}]}},
                {"networks": ["10.0.0.0/8", "fd00::/8"]},
                {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"a": "b"}}}}
            ], "protocols": [
                {"udp": {"destinationPort": {"range": {"start": 5, "end": 9}}}},
                {"tcp": {"destinationPort": {"number": 80}}}
            ]}]
        }}"#;
        let (policy, findings) = policy(&serde_json::from_str(json).expect("what the API sends"));
        assert_eq!(findings, []);
        assert_eq!((policy.tier, policy.priority), (Tier::Baseline, 7));
        assert!(!policy.subject.namespaces.is_everything() && policy.subject.pods.is_everything());
        let [ingress] = &policy.ingress[..] else { panic!("{policy:#?}") };
        assert_eq!((ingress.name.as_deref(), ingress.action), (Some("in"), Action::Pass));
        let [egress] = &policy.egress[..] else { panic!("{policy:#?}") };
        assert_eq!((egress.name.as_deref(), egress.action), (None, Action::Deny));
        assert!(matches!(&egress.peers, Peers::Only(peers) if peers.len() == 4), "{egress:#?}");
        let ports =
            [PortRange { protocol: Protocol::Udp, first: 5, last: 9 }, PortRange::single(Protocol::Tcp, 80)];
        assert_eq!(egress.ports, Ports::Only(ports.map(PortMatch::Numbers).into()));
        assert!(speaks_of_nodes(&policy));
    }

    #[test]
    fn what_is_not_known_is_a_finding_and_lets_nothing_pass() {
        let json = r#"{"metadata": {"name": "p"}, "spec": {
            "tier": "Admin", "priority": 1, "subject": {"namespaces": {}},
            "egress": [
                {"action": "Accept", "to": [{"services": {"name": "x"}}]},
                {"action": "Accept", "to": [{"domainNames": ["example.com"]}]},
                {"action": "Deny", "to": [{"services": {"name": "x"}}]}
            ]
        }}"#;
        let (policy, findings) = policy(&serde_json::from_str(json).expect("what the API sends"));
        assert_eq!(findings.len(), 3, "{findings:#?}");
        assert_eq!(policy.egress[0].peers, Peers::Only(Vec::new()));
        assert_eq!(policy.egress[1].peers, Peers::Only(Vec::new()));
        assert_eq!(policy.egress[2].peers, Peers::Any);
        assert!(!speaks_of_nodes(&policy));
    }
}
