//! One story for each guard that no other story needs. They were found by taking the guards out one by one.
//!
//! | guard | story |
//! |---|---|
//! | ports and type of a flow's packet on the fast path | a_connection_in_the_reply_direction_of_one_that_runs_is_judged_by_itself |
//! | one way in `ct_new`, both ways in `ct`; each entry's age | flows_seen_one_way_stay_apart_and_age |
//! | zero is no address | a_pod_without_ipv4_has_no_address_zero |
//! | the slot is in use | a_slot_that_is_not_in_use_drops |
//! | tag of a peer | another_addresss_value_is_not_believed |
//! | tag of an interface's slot | another_interfaces_slot_is_not_believed |
//! | check word of a fragment's ports | kept_ports_verify_only_whole_and_for_their_packet |
//! | origin and its interface are kept; the endpoint's address, not the packet's | who_began_a_flow_is_kept_for_its_life |
//! | a denied flow's new connection | a_new_connection_of_a_denied_flow_is_judged_by_itself |
//! | redirect, quench and what is no error | other_messages_that_quote_a_flow_are_not_related |
//! | errors of denied flows | errors_of_a_denied_flow_are_denied |
//! | errors write nothing | an_error_of_no_flow_makes_none |
//! | the quoted packet's length, fragment and type | quoted_packets_are_read_as_carefully |
//! | a fragment's pod, direction, protocol and age | fragments_go_with_their_own_first_one_only |
//! | node addresses are judged | the_node_is_told_by_what_the_socket_buffer_says |
//! | IHL, payload length, tiny first fragment | headers_that_lie_about_their_length_are_refused |
//! | ARP's types | arp_is_for_ethernet_and_ipv4 |
//! | hop limit, fragments and options of neighbour and listener discovery | discovery_is_plain_and_its_options_are_whole |
//! | a profile without an entry | a_profile_that_says_nothing_denies |

use super::*;
use crate::abi::{FragKey, FragValue, SlotValue};
use crate::packet::Facts;

fn raw(host: &Host, dir: Direction, bytes: &[u8], from: u32) -> Reason {
    host.run(dir, bytes, Host::facts(bytes, A, from)).reason
}

fn b6() -> IpAddr {
    IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 2])
}

#[test]
fn a_slot_that_is_not_in_use_drops() {
    let mut host = world(0);
    let idle = Endpoint { flags: 0, ..endpoint(A, 1, 0, 1) };
    host.put_endpoint(1, idle);
    assert_eq!(out(&host, &tcp(a4(), 1, remote(), 80, SYN)), Reason::NoEndpoint);
}

#[test]
fn another_addresss_value_is_not_believed() {
    let mut host = world(ISOLATED);
    host.peer4.insert(PeerKey4 { addr: [10, 0, 9, 9] }, PeerValue::new(b4(), 6));
    assert_eq!(out(&host, &tcp(a4(), 1, remote(), 80, SYN)), Reason::Torn);
    let IpAddr::V6(six) = remote6() else { unreachable!("it is one") };
    host.peer6.insert(PeerKey6 { addr: six.octets() }, PeerValue::new(b6(), 6));
    assert_eq!(out(&host, &tcp(a6(), 1, remote6(), 80, SYN)), Reason::Torn);
}

#[test]
fn another_interfaces_slot_is_not_believed() {
    let mut host = world(0);
    host.ifslot.insert(A, SlotValue::new(B, 1));
    assert_eq!(out(&host, &tcp(a4(), 1, remote(), 80, SYN)), Reason::Torn);
    let mut host = world(ISOLATED);
    host.ifslot.insert(B, SlotValue::new(ETH0, 2));
    assert_eq!(into(&host, B, &tcp(b4(), 1, a4(), 80, SYN)), Reason::Torn);
}

#[test]
fn kept_ports_verify_only_whole_and_for_their_packet() {
    let key = FragKey {
        id: 7,
        ifindex: A,
        proto: proto::UDP,
        family: 4,
        src: [1; 16],
        dst: [2; 16],
        ..FragKey::NONE
    };
    let value = FragValue::new(&key, 4000, 53, 9);
    assert!(value.verify(&key));
    for other in [
        FragKey { id: 8, ..key },
        FragKey { ifindex: B, ..key },
        FragKey { proto: proto::TCP, ..key },
        FragKey { family: 6, ..key },
        FragKey { direction: 1, ..key },
        FragKey { src: [3; 16], ..key },
        FragKey { dst: [3; 16], ..key },
    ] {
        assert!(!value.verify(&other), "{other:?}");
    }
    assert!(!FragValue { src_port: 1, ..value }.verify(&key));
    assert!(!FragValue { dst_port: 1, ..value }.verify(&key));
    assert!(!FragValue { seen: 1, ..value }.verify(&key));
}

/// A pod that came by a node port is itself when its flow is judged again, too.
#[test]
fn who_began_a_flow_is_kept_for_its_life() {
    let mut host = world(EndpointFlags::ISOLATED_IN);
    assert_eq!(into(&host, B, &tcp(node(), 1, a4(), 9999, SYN)), Reason::New, "B by a node port");
    bump(&mut host, 2, EndpointFlags::ISOLATED_IN);
    assert_eq!(out(&host, &tcp(a4(), 9999, node(), 1, SYN_ACK)), Reason::Reevaluated);
    bump(&mut host, 3, EndpointFlags::ISOLATED_IN);
    assert_eq!(into(&host, B, &tcp(node(), 1, a4(), 9999, ACK)), Reason::Reevaluated);
    put_peer(&mut host, b4(), PeerValue::new(b4(), 0));
    bump(&mut host, 4, EndpointFlags::ISOLATED_IN);
    assert_eq!(out(&host, &tcp(a4(), 9999, node(), 1, ACK)), Reason::Revoked);
}

#[test]
fn a_new_connection_of_a_denied_flow_is_judged_by_itself() {
    let mut host = world(EndpointFlags::ISOLATED_IN);
    assert_eq!(into(&host, ETH0, &tcp(remote(), 5000, a4(), 80, SYN)), Reason::New);
    let allowed = host.row.insert(RowKey { set: 1, class: 5 }, RowValue { profile: 0, rule: 45 });
    bump(&mut host, 2, EndpointFlags::ISOLATED_IN);
    assert_eq!(into(&host, ETH0, &tcp(remote(), 5000, a4(), 80, ACK)), Reason::Revoked);
    assert_eq!(into(&host, ETH0, &tcp(remote(), 5000, a4(), 80, SYN)), Reason::Policy);
    assert_eq!(into(&host, ETH0, &tcp(remote(), 5000, a4(), 80, ACK)), Reason::Revoked, "the entry stays");
    host.row.insert(RowKey { set: 1, class: 5 }, allowed.expect("there was one"));
    assert_eq!(
        into(&host, ETH0, &tcp(remote(), 5000, a4(), 80, SYN)),
        Reason::New,
        "and goes when one is allowed"
    );
}

#[test]
fn a_connection_in_the_reply_direction_of_one_that_runs_is_judged_by_itself() {
    let host = world(ISOLATED);
    open_from_remote(&host);
    assert_eq!(into(&host, ETH0, &tcp(remote(), 5000, a4(), 80, ACK)), Reason::Established);
    assert_eq!(out(&host, &tcp(a4(), 80, remote(), 5000, SYN)), Reason::Policy);
    assert_eq!(out(&host, &tcp(a4(), 80, remote(), 5000, ACK)), Reason::Established);
    // Echo requests of both sides share an entry where the identifier is zero.
    let mut host = world(EndpointFlags::ISOLATED_IN);
    for round in 0..2 {
        assert!(out(&host, &Frame::icmp(a4(), remote(), 8, 0, &[])).passes());
        assert_eq!(into(&host, ETH0, &Frame::icmp(remote(), a4(), 0, 0, &[])), Reason::Established);
        assert_eq!(into(&host, ETH0, &Frame::icmp(remote(), a4(), 8, 0, &[])), Reason::Policy, "{round}");
        host.now += 1;
    }
    // A connection that ended does not live as long as one that runs.
    let mut host = world(EndpointFlags::ISOLATED_IN);
    open_from_remote(&host);
    assert_eq!(into(&host, ETH0, &tcp(remote(), 5000, a4(), 80, ACK)), Reason::Established);
    assert_eq!(out(&host, &tcp(a4(), 80, remote(), 5000, 17)), Reason::Established, "FIN");
    host.now += age::HANDSHAKE + 1;
    host.row.insert(RowKey { set: 1, class: 5 }, RowValue { profile: 0, rule: 45 });
    assert_eq!(into(&host, ETH0, &tcp(remote(), 5000, a4(), 80, ACK)), Reason::Policy);
}

#[test]
fn other_messages_that_quote_a_flow_are_not_related() {
    let host = world(ISOLATED);
    let (four, six) = (tcp(a4(), 1000, remote(), 80, SYN), tcp(a6(), 1000, remote6(), 80, SYN));
    assert_eq!((out(&host, &four), out(&host, &six)), (Reason::New, Reason::New));
    for kind in [4, 5, 6, 9, 10, 13, 30] {
        let frame = Frame::icmp(remote(), a4(), kind, 0, &four.packet()[..28]);
        assert_eq!(into(&host, ETH0, &frame), Reason::Policy, "{kind}");
    }
    for kind in [0, 5, 100, 127, 138, 200] {
        let frame = Frame::icmp(remote6(), a6(), kind, 0, &six.packet());
        assert_eq!(into(&host, ETH0, &frame), Reason::Policy, "{kind}");
    }
}

#[test]
fn errors_of_a_denied_flow_are_denied() {
    let mut host = world(EndpointFlags::ISOLATED_IN);
    open_from_remote(&host);
    host.row.insert(RowKey { set: 1, class: 5 }, RowValue { profile: 0, rule: 45 });
    bump(&mut host, 2, EndpointFlags::ISOLATED_IN);
    assert_eq!(into(&host, ETH0, &tcp(remote(), 5000, a4(), 80, ACK)), Reason::Revoked);
    let sent = tcp(a4(), 80, remote(), 5000, ACK).packet();
    let error = Frame::icmp(remote(), a4(), 3, 0, &sent[..28]);
    assert_eq!(into(&host, ETH0, &error), Reason::Revoked, "it is marked already");
}

#[test]
fn an_error_of_no_flow_makes_none() {
    let host = world(0);
    let sent = tcp(a4(), 1000, remote(), 80, SYN).packet();
    assert_eq!(
        into(&host, ETH0, &Frame::icmp(remote(), a4(), 3, 0, &sent[..28])),
        Reason::New,
        "not isolated"
    );
    assert!(host.flows().is_empty());
}

#[test]
fn quoted_packets_are_read_as_carefully() {
    let host = world(ISOLATED);
    let error = |quoted: &[u8]| Frame::icmp(remote(), a4(), 3, 0, quoted);
    let mut sent = tcp(a4(), 1000, remote(), 80, SYN);
    sent.options = vec![1, 1, 1, 0];
    assert_eq!(out(&host, &sent), Reason::New);
    assert_eq!(into(&host, ETH0, &error(&sent.packet()[..32])), Reason::Related, "behind its options");
    // What stands behind the packet's end is no part of it.
    let plain = tcp(a4(), 1000, remote(), 80, SYN).packet();
    let mut bytes = error(&plain[..20]).bytes();
    bytes.extend_from_slice(&plain[20..28]);
    assert_eq!(raw(&host, In, &bytes, ETH0), Reason::Policy, "beyond the end");
    let mut later = tcp(a4(), 1000, remote(), 80, SYN);
    later.fragment = (64, false);
    assert_eq!(into(&host, ETH0, &error(&later.packet()[..28])), Reason::Policy, "a later fragment");
    let mut later = tcp(a6(), 1000, remote6(), 80, SYN);
    assert_eq!(out(&host, &later), Reason::New);
    later.extensions = vec![Frame::fragment_header(64, false, 5)];
    assert_eq!(into(&host, ETH0, &Frame::icmp(remote6(), a6(), 1, 0, &later.packet())), Reason::Policy);
    // An error about an error is of no flow, least of all of one without ports.
    assert_eq!(out(&host, &Frame::icmp(a4(), b4(), 13, 0, &[0; 12])), Reason::New);
    let inner = Frame::icmp(a4(), b4(), 3, 0, &[0; 28]).packet();
    assert_eq!(into(&host, ETH0, &error(&inner)), Reason::Policy);
}

#[test]
fn flows_seen_one_way_stay_apart_and_age() {
    let mut host = world(EndpointFlags::ISOLATED_IN);
    let eight = IpAddr::from([8, 8, 8, 8]);
    let (ask, answer) = (Frame::udp((a4(), 1000), (eight, 53)), Frame::udp((eight, 53), (a4(), 1000)));
    assert_eq!(out(&host, &ask), Reason::New);
    assert_eq!(out(&host, &ask), Reason::Established);
    assert_eq!(host.flows()[0].0, Table::New);
    host.now += age::DATAGRAM;
    assert_eq!(out(&host, &ask), Reason::Established);
    host.now += age::DATAGRAM;
    assert_eq!(into(&host, ETH0, &answer), Reason::Established, "each packet counts");
    assert_eq!((host.flows().len(), host.flows()[0].0), (1, Table::Settled));
    host.now += age::DATAGRAM;
    assert_eq!(out(&host, &ask), Reason::Established);
    host.now += age::DATAGRAM;
    assert_eq!(into(&host, ETH0, &answer), Reason::Established, "here too");
    let other = (Frame::udp((a4(), 2000), (eight, 53)), Frame::udp((eight, 53), (a4(), 2000)));
    assert_eq!(out(&host, &other.0), Reason::New);
    host.now += age::DATAGRAM + 1;
    assert_eq!(into(&host, ETH0, &other.1), Reason::Policy);
    // Nor is there an error of a flow that has ended.
    let quoted = ask.packet();
    assert_eq!(into(&host, ETH0, &Frame::icmp(eight, a4(), 3, 0, &quoted[..28])), Reason::Policy);
}

#[test]
fn fragments_go_with_their_own_first_one_only() {
    let mut host = world(ISOLATED);
    let pair = |number: u8, id: u32| {
        let mut first = Frame::new(
            remote6(),
            a6(),
            number,
            vec![0x12, 0x34, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 80, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        );
        first.extensions = vec![Frame::fragment_header(0, true, id)];
        let mut later = Frame::new(remote6(), a6(), number, vec![0; 64]);
        later.extensions = vec![Frame::fragment_header(24, false, id)];
        (first, later)
    };
    let (first, later) = pair(proto::TCP, 5);
    assert_eq!(into(&host, ETH0, &later), Reason::Fragment, "nobody came before it");
    assert_eq!(into(&host, ETH0, &first), Reason::New);
    assert_eq!(into(&host, ETH0, &later), Reason::Established);
    assert_eq!(into(&host, ETH0, &pair(proto::UDP, 5).1), Reason::Fragment, "of another protocol");
    assert_eq!(into(&host, ETH0, &pair(proto::TCP, 6).1), Reason::Fragment, "of another packet");
    host.now += age::FRAGMENT + 1;
    assert_eq!(into(&host, ETH0, &later), Reason::Fragment, "too late");
    assert_eq!(into(&host, ETH0, &first), Reason::Established);
    // A pod that has the address after it is another one.
    host.put_endpoint(1, endpoint(21, 1, ISOLATED, 9));
    let bytes = later.bytes();
    assert_eq!(host.run(In, &bytes, Host::facts(&bytes, 21, ETH0)).reason, Reason::Fragment);
    // And what a pod sends is not what it gets, be it from itself.
    let host = world(0);
    let mut own = tcp(a4(), 1, a4(), 80, SYN);
    own.fragment = (0, true);
    assert_eq!(out(&host, &own), Reason::New);
    let mut rest = Frame::new(a4(), a4(), proto::TCP, vec![0; 64]);
    rest.fragment = (24, false);
    assert_eq!(into(&host, A, &rest), Reason::Fragment);
}

#[test]
fn a_pod_without_ipv4_has_no_address_zero() {
    let mut host = world(0);
    host.put_endpoint(1, Endpoint { addr4: [0; 4], ..endpoint(A, 1, 0, 1) });
    let zero = IpAddr::from([0; 4]);
    assert_eq!(out(&host, &tcp(zero, 1, remote(), 80, SYN)), Reason::Spoofed);
    assert_eq!(into(&host, ETH0, &tcp(remote(), 1, zero, 80, SYN)), Reason::NotOurs);
}

#[test]
fn a_profile_that_says_nothing_denies() {
    let mut host = world(ISOLATED);
    host.port.remove(&PortKey::any(9));
    let bytes = tcp(a4(), 1, remote(), 81, SYN).bytes();
    let decision = host.run(Out, &bytes, Host::facts(&bytes, A, A));
    assert_eq!((decision.reason, decision.rule), (Reason::Policy, 0));
}

#[test]
fn arp_is_for_ethernet_and_ipv4() {
    let host = world(0);
    let mut bytes = vec![0xff; 6];
    bytes.extend_from_slice(&MAC);
    bytes.extend_from_slice(&[8, 6, 0, 6, 8, 0, 6, 4, 0, 1]);
    bytes.extend_from_slice(&MAC);
    bytes.extend_from_slice(&[10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 169, 254, 1, 1]);
    assert_eq!(raw(&host, Out, &bytes, A), Reason::Malformed);
}

#[test]
fn discovery_is_plain_and_its_options_are_whole() {
    let host = world(0);
    let link_local = IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, 5]);
    let check = |option: &[u8], expected: Reason| {
        assert_eq!(out(&host, &nd(a6(), 136, a6(), option, 255)), expected, "{option:02x?}");
    };
    check(&[2, 1, 2, 0, 0, 0, 0, 1], Reason::Link);
    check(&[2, 0, 2, 0, 0, 0, 0, 1], Reason::Malformed);
    check(&[14, 2, 0, 0, 0, 0, 0, 0], Reason::Malformed);
    check(&[2, 2, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], Reason::Neighbor);
    check(&[14, 1, 0, 0, 0, 0, 0, 0].repeat(4), Reason::Link);
    check(&[14, 1, 0, 0, 0, 0, 0, 0].repeat(5), Reason::Neighbor);
    for extension in [(60, vec![0; 8]), Frame::fragment_header(0, false, 3)] {
        let mut frame = nd(a6(), 136, a6(), &[], 255);
        frame.extensions = vec![extension];
        assert_eq!(out(&host, &frame), Reason::Neighbor);
    }
    assert_eq!(into(&host, 0, &nd(link_local, 133, a6(), &[], 255)), Reason::Neighbor, "pods are no routers");

    let mut report = nd(link_local, 143, link_local, &[], 1);
    report.dst = IpAddr::from([0xff02, 0, 0, 0, 0, 0, 0, 0x16]);
    report.extensions = vec![(0, vec![0, 0, 5, 2, 0, 0, 1, 0])];
    let changed = |change: &dyn Fn(&mut Frame)| {
        let mut frame = report.clone();
        change(&mut frame);
        frame
    };
    assert_eq!(out(&host, &report), Reason::Link);
    assert_eq!(into(&host, 0, &report), Reason::Link);
    assert_eq!(into(&host, ETH0, &report), Reason::Neighbor, "from elsewhere");
    assert_eq!(out(&host, &changed(&|frame| frame.hop_limit = 2)), Reason::Neighbor);
    assert_eq!(out(&host, &changed(&|frame| frame.src = remote6())), Reason::Neighbor);
    let cut = changed(&|frame| frame.extensions.push(Frame::fragment_header(0, false, 3)));
    assert_eq!(out(&host, &cut), Reason::Neighbor);
}

#[test]
fn headers_that_lie_about_their_length_are_refused() {
    let host = world(0);
    let mut bytes = Frame::udp((a4(), 1), (remote(), 53)).bytes();
    bytes.resize(60, 0);
    bytes[14] = 0x44;
    assert_eq!(raw(&host, Out, &bytes, A), Reason::Malformed, "IPv4 of sixteen bytes");
    let mut bytes = Frame::udp((a6(), 1), (remote6(), 53)).bytes();
    bytes[19] += 8;
    assert_eq!(raw(&host, Out, &bytes, A), Reason::Truncated, "IPv6 longer than its frame");
    // Padding of the link is no part of the packet.
    let mut tiny = [tcp(a4(), 1, remote(), 80, SYN), tcp(a6(), 1, remote6(), 80, SYN)];
    for cut in [false, true] {
        for frame in &mut tiny {
            frame.payload.truncate(8);
            frame.fragment = (0, cut);
            if cut {
                frame.extensions = vec![Frame::fragment_header(0, true, 7)];
            }
            let mut bytes = frame.bytes();
            bytes.extend_from_slice(&[0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0]);
            assert_eq!(raw(&host, Out, &bytes, A), Reason::Truncated, "TCP of eight bytes");
        }
    }
    let mut six = Frame::new(a6(), remote6(), 47, Vec::new());
    six.extensions = vec![(60, vec![0, 9, 0, 0, 0, 0, 0, 0])];
    assert_eq!(out(&host, &six), Reason::Truncated, "an extension header beyond the end");
}

#[test]
fn the_node_is_told_by_what_the_socket_buffer_says() {
    let host = world(EndpointFlags::ISOLATED_IN);
    let bytes = tcp(node(), 1, a4(), 9999, SYN).bytes();
    for (ingress_ifindex, expected) in [(ETH0, Reason::Policy), (99, Reason::Policy), (0, Reason::LocalNode)]
    {
        let facts = Facts { ingress_ifindex, ..Host::facts(&bytes, A, 0) };
        assert_eq!(host.run(In, &bytes, facts).reason, expected, "{ingress_ifindex}");
    }
}
