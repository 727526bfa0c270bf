//! Peers of ClusterNetworkPolicies.

use super::block::parse_cidr;
use super::raw_cluster::{RawClusterPeer, RawNamespacedPod};
use super::selector::{SelectorFault, parse_selector};
use crate::finding::FindingReason;
use crate::model::{Direction, IpBlock, NamespaceMatch, Peer, Selector};

pub(super) fn is_domains_only(peer: &RawClusterPeer) -> bool {
    let others = peer.namespaces.is_some() || peer.pods.is_some() || peer.nodes.is_some();
    !peer.domain_names.is_empty() && !others && peer.networks.is_empty()
}

/// The field at fault, why, and what to say.
pub(super) type PeerFault = (String, FindingReason, String);

pub(super) fn read_peer(direction: Direction, raw: &RawClusterPeer) -> Result<Vec<Peer>, PeerFault> {
    let selector = |field: &'static str| {
        move |fault: SelectorFault| (field.to_owned(), FindingReason::InvalidSelector, fault.to_string())
    };
    let invalid = |message: &str| Err((String::new(), FindingReason::InvalidPeer, message.to_owned()));
    let outside = direction == Direction::Egress;
    let set = [
        raw.namespaces.is_some(),
        raw.pods.is_some(),
        outside && raw.nodes.is_some(),
        outside && !raw.networks.is_empty(),
        outside && !raw.domain_names.is_empty(),
    ];
    match set {
        [true, false, false, false, false] => {
            let raw = raw.namespaces.as_ref().into_iter();
            raw.map(|raw| {
                let namespaces = parse_selector(raw).map_err(selector(".namespaces"))?;
                Ok(pods_of(namespaces, Selector::everything()))
            })
            .collect()
        }
        [false, true, false, false, false] => {
            let raw = raw.pods.as_ref().into_iter();
            raw.map(|raw| match namespaced(raw) {
                Ok((namespaces, pods)) => Ok(pods_of(namespaces, pods)),
                Err(message) => Err((".pods".to_owned(), FindingReason::InvalidSelector, message)),
            })
            .collect()
        }
        [false, false, true, false, false] => {
            let raw = raw.nodes.as_ref().into_iter();
            raw.map(|raw| Ok(Peer::Nodes(parse_selector(raw).map_err(selector(".nodes"))?))).collect()
        }
        [false, false, false, true, false] => raw
            .networks
            .iter()
            .enumerate()
            .map(|(index, text)| match parse_cidr(text) {
                Ok(cidr) => Ok(Peer::Block(IpBlock { cidr, except: Vec::new() })),
                Err(fault) => {
                    Err((format!(".networks[{index}]"), FindingReason::InvalidPeer, fault.to_string()))
                }
            })
            .collect(),
        [false, false, false, false, true] => {
            let message = "domain names can only be accepted".to_owned();
            Err((".domainNames".to_owned(), FindingReason::NotSupported, message))
        }
        _ if set.contains(&true) => invalid("a peer says more than one thing; split it"),
        _ if outside => invalid("a peer says nothing that is known here"),
        _ => invalid("a peer says nothing that is known here: namespaces or pods"),
    }
}

fn pods_of(namespaces: Selector, pods: Selector) -> Peer {
    Peer::Pods { namespaces: NamespaceMatch::Selected(namespaces), pods }
}

pub(super) fn namespaced(raw: &RawNamespacedPod) -> Result<(Selector, Selector), String> {
    let part = |field: &str, fault: SelectorFault| format!("{field}: {fault}");
    let namespaces =
        parse_selector(&raw.namespace_selector).map_err(|fault| part("namespaceSelector", fault))?;
    let pods = raw.pod_selector.as_ref().ok_or("podSelector is missing; write {} for all pods")?;
    let pods = parse_selector(pods).map_err(|fault| part("podSelector", fault))?;
    Ok((namespaces, pods))
}
