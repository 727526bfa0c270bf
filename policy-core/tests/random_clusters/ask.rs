//! What is asked of the tables, and what the oracle says to it.

use std::net::IpAddr;

use policy_core::model::{Direction, Protocol};
use policy_core::oracle::{self, Party, Reason};
use policy_core::{Cluster, Evaluator, LocalPod, Query, Tables};
use proptest::prelude::*;

use super::world::{NODE, OTHER_NODE};

/// Peers worth asking about: every address that anything in the cluster has, and some outside.
pub(super) fn peers(clusters: &[&Cluster]) -> Vec<IpAddr> {
    let mut list: Vec<IpAddr> = [
        IpAddr::from([10, 0, 0, 200]),
        IpAddr::from([10, 0, 1, 77]),
        NODE,
        OTHER_NODE,
        IpAddr::from([198, 51, 100, 10]),
        IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 0x200]),
        IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
    ]
    .into();
    for cluster in clusters {
        list.extend(cluster.pods().flat_map(|(_, _, pod)| pod.addresses.iter().copied()));
        let services = cluster.namespaces.values().flat_map(|content| content.services.values());
        list.extend(services.flat_map(|service| service.addresses.iter().copied()));
    }
    list.sort();
    list.dedup();
    list
}

/// Protocols with ports; the last has none.
const ASKED: [(u8, u16); 9] =
    [(6, 0), (6, 80), (6, 8080), (6, 65535), (17, 80), (17, 65535), (132, 80), (132, 8080), (1, 0)];

pub(super) fn queries(local: &[LocalPod], clusters: &[&Cluster]) -> Vec<Query> {
    let peers = peers(clusters);
    let mut list = Vec::new();
    for one in local {
        for direction in [Direction::Ingress, Direction::Egress] {
            for peer in &peers {
                for (protocol, port) in ASKED {
                    list.push(Query { slot: one.slot, direction, peer: *peer, protocol, port });
                }
            }
        }
    }
    list
}

/// What the oracle says of a query: `subject` from the one cluster, everything else from
/// the other. None: the specification does not say.
pub(super) fn ruling(
    subject: &Cluster,
    cluster: &Cluster,
    local: &[LocalPod],
    query: &Query,
) -> Option<bool> {
    let one = local.iter().find(|one| one.slot == query.slot)?;
    let identity = one.identity.as_ref()?;
    let to_node = query.direction == Direction::Egress && query.peer == NODE;
    let Some(pod) = subject.pod(identity) else { return (!to_node).then_some(false) };
    let address = *pod.addresses.first()?;
    let party = Party::Pod { namespace: &identity.namespace, name: &identity.name, pod, address };
    let rule = |cluster: &Cluster, peer: Party<'_>, port: u16| {
        oracle::rule(cluster, query.direction, party, peer, query.protocol, port)
    };
    if rule(subject, Party::Outside(query.peer), query.port).reason == Reason::UnknownNamespace {
        return (!to_node).then_some(false);
    }
    let party_at = |peer: IpAddr, service: bool| {
        // What this node's own pods have is known better here than in the API.
        let mine =
            local.iter().find(|one| one.addresses.contains(&peer)).and_then(|one| one.identity.as_ref());
        match mine.map(|mine| (mine, cluster.pod(mine))) {
            None if service => Party::behind(cluster, peer),
            None => Party::at(cluster, peer),
            Some((_, None)) => Party::Outside(peer),
            Some((mine, Some(pod))) => {
                Party::Pod { namespace: &mine.namespace, name: &mine.name, pod, address: peer }
            }
        }
    };
    let judge =
        |peer: IpAddr, port: u16, service: bool| rule(cluster, party_at(peer, service), port).allows();
    if query.direction == Direction::Egress {
        let backends = Protocol::from_number(query.protocol)
            .and_then(|protocol| oracle::resolve(cluster, query.peer, protocol, query.port));
        let denied = Protocol::from_number(query.protocol).and_then(|protocol| {
            oracle::front(cluster, party, party_at(query.peer, false), protocol, query.port)
        });
        match backends {
            Some(_) if denied.is_some() => return Some(false),
            Some(list) if list.is_empty() => return None,
            Some(list) => return Some(list.iter().all(|(peer, port)| judge(*peer, *port, true))),
            None => {}
        }
    }
    Some(judge(query.peer, query.port, false))
}

pub(super) fn check_tables(
    cluster: &Cluster,
    local: &[LocalPod],
    tables: &Tables,
) -> Result<(), TestCaseError> {
    let evaluator = Evaluator::new(tables);
    for query in queries(local, &[cluster]) {
        let Some(expected) = ruling(cluster, cluster, local, &query) else { continue };
        prop_assert_eq!(evaluator.decide(&query).allowed, expected, "{:?}", query);
    }
    Ok(())
}
