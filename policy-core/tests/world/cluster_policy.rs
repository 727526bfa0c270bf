//! Random ClusterNetworkPolicies and nodes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use policy_core::model::{Labels, Node};
use policy_core::parse::{
    RawClusterPeer, RawClusterPolicy, RawClusterProtocol, RawClusterRule, RawDestinationPort,
    RawNamespacedPod, RawSubject, RawTransport,
};
use proptest::prelude::*;

use super::{NODE, OTHER_NODE, labels, port, port_name, selector};

pub(super) fn cluster_policy(place: usize) -> impl Strategy<Value = RawClusterPolicy> {
    // Of what no policy can be made without a finding there is a little, too.
    let tier =
        prop::sample::select(vec!["Admin", "Admin", "Admin", "Baseline", "Baseline", "Baseline", "Middle"]);
    let priority = prop::sample::select(vec![Some(0), Some(1), Some(1), Some(1000), Some(2), Some(3), None]);
    let rules = |egress| prop::collection::vec(rule(egress), 0..4);
    (tier, priority, subject(), rules(false), rules(true)).prop_map(
        move |(tier, priority, subject, ingress, egress)| RawClusterPolicy {
            name: format!("cnp{place}"),
            tier: tier.to_owned(),
            priority,
            subject,
            ingress,
            egress,
        },
    )
}

fn pods() -> impl Strategy<Value = RawNamespacedPod> {
    (selector(), selector()).prop_map(|(namespace_selector, pods)| RawNamespacedPod {
        namespace_selector,
        pod_selector: Some(pods),
    })
}

fn subject() -> impl Strategy<Value = RawSubject> {
    prop_oneof![
        selector().prop_map(|namespaces| RawSubject { namespaces: Some(namespaces), pods: None }),
        pods().prop_map(|pods| RawSubject { namespaces: None, pods: Some(pods) }),
    ]
}

fn rule(egress: bool) -> impl Strategy<Value = RawClusterRule> {
    let action = prop::sample::select(vec!["Accept", "Deny", "Pass"]);
    let peers = prop::collection::vec(peer(egress), 1..3);
    let protocols = prop::collection::vec(protocol(), 0..3);
    (action, peers, protocols, prop::bool::weighted(0.9)).prop_map(
        |(action, peers, mut protocols, fitting)| {
            let outside = peers.iter().any(|peer| peer.namespaces.is_none() && peer.pods.is_none());
            if fitting && outside {
                protocols.retain(|entry| entry.destination_named_port.is_empty());
            }
            RawClusterRule { name: String::new(), action: action.to_owned(), peers, protocols }
        },
    )
}

fn peer(egress: bool) -> BoxedStrategy<RawClusterPeer> {
    let namespaces = selector()
        .prop_map(|namespaces| RawClusterPeer { namespaces: Some(namespaces), ..Default::default() });
    let pods = pods().prop_map(|pods| RawClusterPeer { pods: Some(pods), ..Default::default() });
    if !egress {
        return prop_oneof![namespaces, pods].boxed();
    }
    let network =
        vec!["0.0.0.0/0", "10.0.0.0/24", "10.0.1.0/24", "10.0.0.4/32", "::/0", "fd00::/112", "10.0.1.254/32"];
    let networks = prop::collection::vec(prop::sample::select(network), 1..3).prop_map(|list| {
        RawClusterPeer { networks: list.into_iter().map(str::to_owned).collect(), ..Default::default() }
    });
    let nodes = selector().prop_map(|nodes| RawClusterPeer { nodes: Some(nodes), ..Default::default() });
    prop_oneof![namespaces, pods, networks, nodes].boxed()
}

fn protocol() -> impl Strategy<Value = RawClusterProtocol> {
    let number = |number: u16| RawDestinationPort { number: Some(i64::from(number)), range: None };
    let range = |(a, b): (u16, u16)| RawDestinationPort {
        number: None,
        range: Some((i64::from(a.min(b)), i64::from(a.max(b)))),
    };
    let port = prop_oneof![port().prop_map(number), (port(), port()).prop_map(range)];
    let transport = port.prop_map(|port| Some(RawTransport { destination_port: Some(port) }));
    prop_oneof![
        3 => (transport, 0..3).prop_map(|(transport, which)| {
            let mut entry = RawClusterProtocol::default();
            match which {
                0 => entry.tcp = transport,
                1 => entry.udp = transport,
                _ => entry.sctp = transport,
            }
            entry
        }),
        1 => port_name().prop_map(|name| RawClusterProtocol { destination_named_port: name, ..Default::default() }),
    ]
}

/// This node and another by their labels; None: not listed.
pub(super) fn nodes(list: &[Option<BTreeMap<String, String>>]) -> Vec<(&'static str, Arc<Node>)> {
    let of = [("here", NODE), ("there", OTHER_NODE)];
    of.into_iter()
        .zip(list)
        .filter_map(|((name, address), labels)| {
            let labels: Labels = labels.as_ref()?.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            let addresses: Box<[IpAddr]> = [address].into();
            Some((name, Arc::new(Node { labels: Arc::new(labels), addresses })))
        })
        .collect()
}

/// The labels of the two nodes.
pub(super) fn node_labels() -> impl Strategy<Value = Vec<Option<BTreeMap<String, String>>>> {
    prop::collection::vec(prop::option::weighted(0.9, labels()), 2)
}
