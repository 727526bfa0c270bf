//! The nftables table: packets that leave the VPC, and NodePort's way back.
//!
//! It works the same beside kube-proxy in any mode, or without one:
//! - `arrive` stands before kube-proxy's translation (-150) and marks connections that come in by the primary ENI
//!   to an address of that ENI: their replies must leave by it, also when the pod is on another ENI.
//! - `leave` stands after the translation of destinations (-90, translation is at -100), but in a chain of kind
//!   filter: the kernel skips later chains of kind nat for a connection that is translated already. It marks what
//!   is really bound for outside the VPC, and puts the connection's mark on the packet, where rule 1024 sees it.
//! - `translate` stands after kube-proxy's masquerading (+10).
//!
//! Every mark is set and read under its mask; other bits are other programs'.

use std::net::IpAddr;

use netlink::nft::{
    AddressType, Chain, ChainKind, Compare, Expression, Hook, MarkSource, NatFlags, Rule, Set, Table,
    TableFamily, merge,
};

use super::{NodeNet, PortChoice, SnatMode};

/// The table's name.
pub(super) const TABLE: &str = "tidepool";
/// The set of destinations that see the pod's own address.
const SET: &str = "untranslated";

/// Priority after the translation of destinations (-100), before filtering (0).
const AFTER_DESTINATION_NAT: i32 = -90;
/// Priority before the translation of destinations, where others mark too.
const MANGLE: i32 = -150;
/// Priority after the other translations of sources (100).
const AFTER_SOURCE_NAT: i32 = 110;

/// `ct state new`, host order.
const STATE_NEW: u32 = 8;

/// Whether there is anything for the table to do.
pub(super) fn is_wanted(node: &NodeNet) -> bool {
    node.node_port || matches!(node.snat, SnatMode::Internal(_))
}

/// The table for a node whose primary ENI's link is called `primary`.
pub(super) fn table(node: &NodeNet, primary: &str) -> Table {
    let mut chains = Vec::new();
    if node.node_port {
        chains.push(arrive(node, primary));
    }
    chains.push(leave(node));
    let mut sets = Vec::new();
    if let SnatMode::Internal(port) = node.snat {
        let networks = [&node.vpc_cidrs[..], &node.exclude_snat[..]].concat();
        let v4 = node.primary.primary_ip.is_ipv4();
        let same: Vec<_> = networks.into_iter().filter(|network| network.is_ipv4() == v4).collect();
        sets.push(Set { name: SET.into(), ranges: merge(&same) });
        chains.push(translate(node, primary, port));
    }
    Table { family: TableFamily::of(node.primary.primary_ip), name: TABLE.into(), sets, chains }
}

fn arrive(node: &NodeNet, primary: &str) -> Chain {
    let rule = Rule {
        comment: format!("connections to this node by {primary} are answered by it, mark {:#x}", node.mark),
        expressions: [
            &Expression::input_is(primary)[..],
            &Expression::destination_local(AddressType::OfArrival, Compare::Equal),
            &Expression::set_mark(MarkSource::Connection, node.mark),
            &[Expression::Counter],
        ]
        .concat(),
    };
    chain("arrive", ChainKind::Filter, Hook::Prerouting, MANGLE, vec![rule])
}

fn leave(node: &NodeNet) -> Chain {
    let from_pod = Expression::input_begins(&node.veth_prefix);
    let mut rules = Vec::new();
    if matches!(node.snat, SnatMode::Internal(_)) {
        rules.push(Rule {
            comment: format!(
                "pods' connections out of the VPC leave by the primary ENI, mark {:#x}",
                node.mark
            ),
            expressions: [
                &from_pod[..],
                &first_packet(),
                &Expression::destination_local(AddressType::OfHost, Compare::Different),
                &outside(node),
                &Expression::set_mark(MarkSource::Connection, node.mark),
                &[Expression::Counter],
            ]
            .concat(),
        });
    }
    rules.push(Rule {
        comment: format!(
            "pods' packets of connections with mark {0:#x} get it, for the rule by mark",
            node.mark
        ),
        expressions: [
            &from_pod[..],
            &Expression::has_mark(MarkSource::Connection, node.mark),
            &Expression::set_mark(MarkSource::Packet, node.mark),
            &[Expression::Counter],
        ]
        .concat(),
    });
    chain("leave", ChainKind::Filter, Hook::Prerouting, AFTER_DESTINATION_NAT, rules)
}

fn translate(node: &NodeNet, primary: &str, port: PortChoice) -> Chain {
    let flags = match port {
        PortChoice::Own => NatFlags::None,
        PortChoice::Hash => NatFlags::Random,
        PortChoice::Random => NatFlags::FullyRandom,
    };
    let to = node.primary.primary_ip;
    // The node's own packets have the address already; translating them would only change their ports.
    let (offset, octets) = match to {
        IpAddr::V4(address) => (12, address.octets().to_vec()),
        IpAddr::V6(address) => (8, address.octets().to_vec()),
    };
    let len = if to.is_ipv4() { 4 } else { 16 };
    let of_others = [
        Expression::LoadNetworkHeader { offset, len },
        Expression::Compare { compare: Compare::Different, data: octets },
    ];
    let rule = Rule {
        comment: format!("out of the VPC by {primary} as {to}"),
        expressions: [
            &Expression::output_is(primary)[..],
            &of_others,
            &outside(node),
            &[Expression::Counter, Expression::SourceNat { to, flags }],
        ]
        .concat(),
    };
    chain("translate", ChainKind::Nat, Hook::Postrouting, AFTER_SOURCE_NAT, vec![rule])
}

fn chain(name: &str, kind: ChainKind, hook: Hook, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain { name: name.into(), kind, hook, priority, rules }
}

/// `ct state new ct direction original`.
fn first_packet() -> [Expression; 5] {
    [
        Expression::LoadState,
        Expression::Bitwise { mask: STATE_NEW, xor: 0 },
        Expression::Compare { compare: Compare::Different, data: vec![0; 4] },
        Expression::LoadDirection,
        Expression::Compare { compare: Compare::Equal, data: vec![0] },
    ]
}

/// `ip daddr != @untranslated`.
fn outside(node: &NodeNet) -> [Expression; 2] {
    // Destination address in the IPv4 and the IPv6 header.
    let (offset, len) = if node.primary.primary_ip.is_ipv4() { (16, 4) } else { (24, 16) };
    [Expression::LoadNetworkHeader { offset, len }, Expression::Lookup { set: SET.into(), absent: true }]
}
