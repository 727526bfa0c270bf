//! Which entry a flow that the kernel tracks has in our own table. Pure.
//!
//! The kernel has one entry for a flow and both of its tuples; the filters see a flow at each pod's link as that pod
//! does, before translation where the pod began it, and after where the pod answers. So the beginner's entry comes of
//! the original tuple, and the answering pod's of the reply tuple turned around.
//!
//! | who began it | told by | origin |
//! |---|---|---|
//! | this pod | source of the original tuple | none is needed: policy is asked for its egress |
//! | the answering pod itself, by a service | both tuples have the same source | hairpin |
//! | another pod of this node, whatever address it was translated to | source of the original tuple | that pod |
//! | the node (IPv4 only: no other may send from its addresses) | source of the original tuple | the node |
//! | anybody else, and the node over IPv6 | | outside: policy is asked about the address that the pod sees |
//!
//! A flow that has not been answered is known to be allowed only to the pod that began it: what a filter in front of
//! the answering pod drops has been tracked before.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use ebpf_common::abi::{Addr, CtKey, CtState, CtValue, Direction, Origin, proto};
use ebpf_common::env::Table;
use netlink::conntrack::{Flow, Icmp, Tcp, Tuple};

/// A pod's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Its slot.
    pub(super) slot: u32,
    /// Its link.
    pub(super) ifindex: u32,
    /// Its epoch: an entry of it is not evaluated before its policy changes.
    pub(super) epoch: u32,
}

/// Whose addresses are on this node.
#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) pods: HashMap<IpAddr, Place>,
    pub(super) own: HashSet<IpAddr>,
}

/// An entry to be written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seed {
    pub(super) slot: u32,
    pub(super) table: Table,
    pub(super) key: CtKey,
    pub(super) value: CtValue,
}

/// The entries of a flow that was last `seen` then, in ticks: of the pod that began it, and of the one that answers.
pub(super) fn entries(flow: &Flow, node: &Node, seen: u32) -> [Option<Seed>; 2] {
    [began(flow, node, seen), answers(flow, node, seen)]
}

fn began(flow: &Flow, node: &Node, seen: u32) -> Option<Seed> {
    let tuple = &flow.original;
    let place = node.pods.get(&tuple.src)?;
    let (own, other) = ports(tuple)?;
    let key = CtKey::new(place.ifindex, &addr(tuple.dst), own, other, tuple.proto);
    Some(seed(flow, *place, key, Direction::Out, Origin::Outside, 0, seen))
}

fn answers(flow: &Flow, node: &Node, seen: u32) -> Option<Seed> {
    if !flow.seen_reply {
        return None;
    }
    let tuple = &flow.reply;
    let place = node.pods.get(&tuple.src)?;
    let (other, own) = match tuple.icmp {
        // The identifier belongs to who asks, and its reply tuple has the type of a reply.
        Some(_) => ports(&flow.original)?,
        None => (tuple.dst_port, tuple.src_port),
    };
    let key = CtKey::new(place.ifindex, &addr(tuple.dst), own, other, tuple.proto);
    let began = flow.original.src;
    let (origin, by) = if began == tuple.src {
        (Origin::Hairpin, 0)
    } else if let Some(pod) = node.pods.get(&began) {
        (Origin::Endpoint, pod.ifindex)
    } else if began.is_ipv4() && (began.is_loopback() || node.own.contains(&began)) {
        (Origin::LocalNode, 0)
    } else {
        (Origin::Outside, 0)
    };
    Some(seed(flow, *place, key, Direction::In, origin, by, seen))
}

fn seed(
    flow: &Flow,
    place: Place,
    key: CtKey,
    dir: Direction,
    origin: Origin,
    origin_ifindex: u32,
    seen: u32,
) -> Seed {
    let mut state = CtState::new(key.tag(), place.epoch, dir, origin);
    if flow.seen_reply {
        state = state.with(CtState::SEEN_REPLY);
        state = match flow.tcp {
            Some(Tcp::Established) => state.with(CtState::ESTABLISHED),
            Some(Tcp::Closing) => state.with(CtState::ESTABLISHED | CtState::CLOSING),
            Some(Tcp::Opening) | None => state,
        };
    }
    let table = if flow.seen_reply { Table::Settled } else { Table::New };
    let value = CtValue { state: state.0, last_seen: seen, rule: 0, origin_ifindex, pad: 0 };
    Seed { slot: place.slot, table, key, value }
}

/// Ports of the beginner and of the other end, as the filters number them.
fn ports(tuple: &Tuple) -> Option<(u16, u16)> {
    match (tuple.proto, tuple.icmp) {
        (proto::ICMP, Some(Icmp { kind: 8, id })) | (proto::ICMPV6, Some(Icmp { kind: 128, id })) => {
            Some((id, 0))
        }
        (proto::ICMP | proto::ICMPV6, _) => None,
        _ => Some((tuple.src_port, tuple.dst_port)),
    }
}

fn addr(address: IpAddr) -> Addr {
    match address {
        IpAddr::V4(v4) => Addr::v4(v4.octets()),
        IpAddr::V6(v6) => Addr::v6(v6.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Place = Place { slot: 1, ifindex: 11, epoch: 7 };
    const B: Place = Place { slot: 2, ifindex: 12, epoch: 8 };

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn node() -> Node {
        Node {
            pods: [(ip("10.0.0.1"), A), (ip("10.0.0.2"), B)].into(),
            own: [ip("10.0.0.100"), ip("fd00::100")].into(),
        }
    }

    fn tuple(src: &str, src_port: u16, dst: &str, dst_port: u16) -> Tuple {
        Tuple { src: ip(src), dst: ip(dst), proto: proto::TCP, src_port, dst_port, icmp: None }
    }

    fn flow(original: Tuple, reply: Tuple) -> Flow {
        Flow {
            original,
            reply,
            seen_reply: true,
            tcp: Some(Tcp::Established),
            assured: true,
            remaining: None,
        }
    }

    /// Interface, peer, its port, the pod's port, who began it and from where.
    type Told = (u32, IpAddr, u16, u16, Direction, Origin, u32);

    fn told(seed: Option<Seed>) -> Option<Told> {
        let Seed { key, value, .. } = seed?;
        let peer = IpAddr::from(key.peer_addr());
        assert_eq!(value.state().tag(), key.tag());
        Some((
            key.ifindex,
            peer,
            key.peer_port,
            key.pod_port,
            value.state().direction(),
            value.state().origin(),
            value.origin_ifindex,
        ))
    }

    fn both(original: Tuple, reply: Tuple) -> [Option<Told>; 2] {
        entries(&flow(original, reply), &node(), 100).map(told)
    }

    use Direction::{In, Out};

    #[test]
    fn a_pod_by_a_service_to_another_pod_of_the_node() {
        let told =
            both(tuple("10.0.0.1", 4000, "172.20.0.10", 80), tuple("10.0.0.2", 8080, "10.0.0.1", 4000));
        assert_eq!(told[0], Some((11, ip("172.20.0.10"), 80, 4000, Out, Origin::Outside, 0)));
        assert_eq!(told[1], Some((12, ip("10.0.0.1"), 4000, 8080, In, Origin::Endpoint, 11)));
    }

    #[test]
    fn a_pod_by_its_own_service() {
        let told =
            both(tuple("10.0.0.1", 4000, "172.20.0.10", 80), tuple("10.0.0.1", 8080, "10.0.0.100", 777));
        assert_eq!(told[0], Some((11, ip("172.20.0.10"), 80, 4000, Out, Origin::Outside, 0)));
        assert_eq!(told[1], Some((11, ip("10.0.0.100"), 777, 8080, In, Origin::Hairpin, 0)));
    }

    #[test]
    fn a_pod_to_the_internet_by_translation() {
        let told = both(tuple("10.0.0.1", 4000, "8.8.8.8", 443), tuple("8.8.8.8", 443, "10.0.0.100", 31_000));
        assert_eq!(told, [Some((11, ip("8.8.8.8"), 443, 4000, Out, Origin::Outside, 0)), None]);
    }

    #[test]
    fn the_node_to_a_pod_directly_and_by_loopback() {
        let told = both(tuple("10.0.0.100", 4000, "10.0.0.2", 80), tuple("10.0.0.2", 80, "10.0.0.100", 4000));
        assert_eq!(told, [None, Some((12, ip("10.0.0.100"), 4000, 80, In, Origin::LocalNode, 0))]);
        let told =
            both(tuple("127.0.0.1", 4000, "127.0.0.1", 30_080), tuple("10.0.0.2", 80, "10.0.0.100", 777));
        assert_eq!(told, [None, Some((12, ip("10.0.0.100"), 777, 80, In, Origin::LocalNode, 0))]);
    }

    #[test]
    fn from_outside_by_a_node_port_is_not_the_node() {
        let told =
            both(tuple("10.9.0.1", 4000, "10.0.0.100", 30_080), tuple("10.0.0.2", 80, "10.0.0.100", 777));
        assert_eq!(told, [None, Some((12, ip("10.0.0.100"), 777, 80, In, Origin::Outside, 0))]);
    }

    #[test]
    fn the_node_over_ipv6_can_be_forged() {
        let mut node = node();
        node.pods.insert(ip("fd00::2"), B);
        let flow = flow(tuple("fd00::100", 4000, "fd00::2", 80), tuple("fd00::2", 80, "fd00::100", 4000));
        let [began, answers] = entries(&flow, &node, 1).map(told);
        assert_eq!((began, answers), (None, Some((12, ip("fd00::100"), 4000, 80, In, Origin::Outside, 0))));
    }

    #[test]
    fn an_unanswered_flow_is_known_to_its_beginner_only() {
        let unanswered = Flow {
            seen_reply: false,
            tcp: Some(Tcp::Opening),
            ..flow(tuple("10.0.0.1", 4000, "10.0.0.2", 80), tuple("10.0.0.2", 80, "10.0.0.1", 4000))
        };
        let [began, answers] = entries(&unanswered, &node(), 1);
        assert!(answers.is_none());
        let began = began.expect("the beginner's");
        assert_eq!(began.table, Table::New);
        assert!(!began.value.state().has(CtState::SEEN_REPLY));
    }

    #[test]
    fn states_epochs_and_ages_are_those_of_a_flow_that_runs() {
        for (tcp, established, closing) in
            [(Tcp::Opening, false, false), (Tcp::Established, true, false), (Tcp::Closing, true, true)]
        {
            let mut flow =
                flow(tuple("10.0.0.1", 4000, "10.0.0.2", 80), tuple("10.0.0.2", 80, "10.0.0.1", 4000));
            flow.tcp = Some(tcp);
            for (seed, epoch) in entries(&flow, &node(), 55).into_iter().zip([7, 8]) {
                let Seed { value, table, .. } = seed.expect("both are of this node");
                let state = value.state();
                assert_eq!((state.epoch(), value.last_seen, table), (epoch, 55, Table::Settled));
                assert_eq!(state.has(CtState::ESTABLISHED), established);
                assert_eq!(state.has(CtState::CLOSING), closing);
                assert!(state.has(CtState::SEEN_REPLY) && !state.has(CtState::DENIED));
            }
        }
    }

    #[test]
    fn echoes_are_keyed_by_who_asks() {
        let echo = |kind, src, dst| Tuple {
            proto: proto::ICMP,
            src_port: 0,
            dst_port: 0,
            icmp: Some(Icmp { kind, id: 77 }),
            ..tuple(src, 0, dst, 0)
        };
        let asked = echo(8, "10.0.0.1", "10.0.0.2");
        let answered = echo(0, "10.0.0.2", "10.0.0.1");
        let flow = Flow { tcp: None, ..flow(asked, answered) };
        let [began, answers] = entries(&flow, &node(), 1).map(|seed| seed.expect("both").key);
        assert_eq!((began.pod_port, began.peer_port), (77, 0));
        assert_eq!((answers.pod_port, answers.peer_port), (0, 77));
        let stamp = Tuple { icmp: Some(Icmp { kind: 13, id: 77 }), ..asked };
        assert!(began_of(&Flow { original: stamp, ..flow }).is_none(), "timestamps are no flow of ours");
    }

    fn began_of(flow: &Flow) -> Option<Seed> {
        began(flow, &node(), 1)
    }
}
