//! Stories of packets: each names the rule that it holds, and fails without it.

use core::net::IpAddr;
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use crate::abi::{
    CidrKey4, CidrKey6, CidrValue, CtState, Direction, Endpoint, EndpointFlags, PeerKey4, PeerKey6,
    PeerValue, PortAction, PortKey, PortValue, Reason, RowKey, RowValue, VipKey, VipValue, proto,
};
use crate::conntrack::age;
use crate::env::Table;
use crate::frame::Frame;
use crate::host::Host;
use crate::packet::Facts;

mod again;
mod guards;
mod meanwhile;
mod slots;

use Direction::{In, Out};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const A: u32 = 11;
const B: u32 = 12;
const ETH0: u32 = 2;

fn a4() -> IpAddr {
    IpAddr::from([10, 0, 0, 1])
}
fn b4() -> IpAddr {
    IpAddr::from([10, 0, 0, 2])
}
fn remote() -> IpAddr {
    IpAddr::from([10, 0, 9, 9])
}
fn node() -> IpAddr {
    IpAddr::from([10, 0, 0, 100])
}
fn vip() -> IpAddr {
    IpAddr::from([172, 20, 0, 10])
}
fn a6() -> IpAddr {
    IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1])
}
fn remote6() -> IpAddr {
    IpAddr::from([0xfd00, 0, 0, 9, 0, 0, 0, 9])
}

const ISOLATED: u32 = EndpointFlags::ISOLATED_IN | EndpointFlags::ISOLATED_OUT;

fn endpoint(ifindex: u32, last: u8, flags: u32, epoch: u32) -> Endpoint {
    let mut addr6 = [0; 16];
    addr6[0] = 0xfd;
    addr6[15] = last;
    Endpoint {
        ifindex,
        flags: EndpointFlags::ACTIVE | flags,
        set_in: 1,
        set_out: 1,
        epoch,
        addr4: [10, 0, 0, last],
        addr6,
        mac: MAC,
        ..Endpoint::EMPTY
    }
}

fn put_peer(host: &mut Host, ip: IpAddr, value: PeerValue) {
    match ip {
        IpAddr::V4(v4) => drop(host.peer4.insert(PeerKey4 { addr: v4.octets() }, value)),
        IpAddr::V6(v6) => drop(host.peer6.insert(PeerKey6 { addr: v6.octets() }, value)),
    }
}

/// Pods A (isolated as said) and B (not isolated). Set 1 allows class 5 on TCP/80
/// (profile 9, rule 42), class 6 everything, nobody else anything. The remote pod
/// is of class 5, B of 6.
fn world(flags: u32) -> Host {
    let mut host = Host::default();
    host.now = 1000;
    host.put_endpoint(1, endpoint(A, 1, flags, 1));
    host.put_endpoint(2, endpoint(B, 2, 0, 1));
    for (ip, class) in [(a4(), 0), (b4(), 6), (remote(), 5), (remote6(), 5)] {
        put_peer(&mut host, ip, PeerValue::new(ip, class));
    }
    put_peer(&mut host, node(), PeerValue::new(node(), 0).local_node());
    host.row.insert(RowKey { set: 1, class: 0 }, RowValue { profile: 0, rule: 40 });
    host.row.insert(RowKey { set: 1, class: 5 }, RowValue { profile: 9, rule: 41 });
    host.row.insert(RowKey { set: 1, class: 6 }, RowValue { profile: 1, rule: 43 });
    host.port.insert(PortKey::any(9), PortValue::new(PortAction::Deny, 44));
    host.port.insert(PortKey::new(9, proto::TCP, 80, 16), PortValue::new(PortAction::Allow, 42));
    host.cidr4.insert(CidrKey4::new([172, 20, 0, 0], 16), CidrValue::service(0));
    host
}

#[track_caller]
fn out(host: &Host, frame: &Frame) -> Reason {
    let bytes = frame.bytes();
    host.run(Out, &bytes, Host::facts(&bytes, A, A)).reason
}

#[track_caller]
fn into(host: &Host, from: u32, frame: &Frame) -> Reason {
    let mut frame = frame.clone();
    frame.src_mac = [2, 9, 9, 9, 9, 9];
    let bytes = frame.bytes();
    host.run(In, &bytes, Host::facts(&bytes, A, from)).reason
}

fn tcp(src: IpAddr, sport: u16, dst: IpAddr, dport: u16, flags: u8) -> Frame {
    Frame::tcp((src, sport), (dst, dport), flags)
}

const SYN: u8 = 2;
const SYN_ACK: u8 = 18;
const ACK: u8 = 16;

fn bump(host: &mut Host, epoch: u32, flags: u32) {
    host.put_endpoint(1, endpoint(A, 1, flags, epoch));
}

/// A connection from the remote to the pod, both ways.
fn open_from_remote(host: &Host) {
    assert!(into(host, ETH0, &tcp(remote(), 5000, a4(), 80, SYN)).passes());
    assert_eq!(out(host, &tcp(a4(), 80, remote(), 5000, SYN_ACK)), Reason::Established);
    assert_eq!(into(host, ETH0, &tcp(remote(), 5000, a4(), 80, ACK)), Reason::Established);
}

#[test]
fn class_row_and_port_decide_both_directions_and_families() {
    let host = world(ISOLATED);
    assert_eq!(out(&host, &tcp(a4(), 1, remote(), 80, SYN)), Reason::New);
    assert_eq!(out(&host, &tcp(a4(), 1, remote(), 81, SYN)), Reason::Policy);
    assert_eq!(out(&host, &Frame::udp((a4(), 1), (remote(), 80))), Reason::Policy, "UDP is not TCP");
    assert_eq!(out(&host, &Frame::sctp((a4(), 1), (remote(), 80), 1)), Reason::Policy, "SCTP is not TCP");
    assert_eq!(out(&host, &tcp(a4(), 1, IpAddr::from([8, 8, 8, 8]), 80, SYN)), Reason::Policy);
    assert_eq!(into(&host, ETH0, &tcp(remote(), 7, a4(), 80, SYN)), Reason::New);
    assert_eq!(into(&host, ETH0, &tcp(remote(), 7, a4(), 81, SYN)), Reason::Policy);
    assert_eq!(out(&host, &tcp(a6(), 1, remote6(), 80, SYN)), Reason::New);
    assert_eq!(into(&host, ETH0, &tcp(remote6(), 1, a6(), 81, SYN)), Reason::Policy);
    let bytes = tcp(a4(), 3, remote(), 80, SYN).bytes();
    let decision = host.run(Out, &bytes, Host::facts(&bytes, A, A));
    assert_eq!((decision.rule, decision.class), (42, 5));
}

#[test]
fn cidr_says_the_class_where_no_pod_has_the_address() {
    let mut host = world(ISOLATED);
    host.cidr4.insert(CidrKey4::new([192, 168, 0, 0], 16), CidrValue::new(6));
    host.cidr4.insert(CidrKey4::new([192, 168, 7, 0], 24), CidrValue::new(0));
    host.cidr6.insert(CidrKey6::new([0x20; 16], 8), CidrValue::new(6));
    assert_eq!(out(&host, &tcp(a4(), 1, IpAddr::from([192, 168, 1, 1]), 443, SYN)), Reason::New);
    assert_eq!(out(&host, &tcp(a4(), 1, IpAddr::from([192, 168, 7, 1]), 443, SYN)), Reason::Policy, "nested");
    assert_eq!(out(&host, &tcp(a6(), 1, IpAddr::from([0x20ff, 0, 0, 0, 0, 0, 0, 1]), 443, SYN)), Reason::New);
}

#[test]
fn a_set_without_rows_denies() {
    let mut host = world(ISOLATED);
    host.row.clear();
    assert_eq!(out(&host, &tcp(a4(), 1, remote(), 80, SYN)), Reason::NoRow);
    host.switches.audit = true;
    assert_eq!(out(&host, &tcp(a4(), 1, remote(), 80, SYN)), Reason::NoRow, "there is nothing to audit yet");
}

#[test]
fn replies_pass_whatever_the_other_direction_says() {
    let host = world(EndpointFlags::ISOLATED_IN);
    let eight = IpAddr::from([8, 8, 8, 8]);
    assert_eq!(out(&host, &Frame::udp((a4(), 1000), (eight, 53))), Reason::New);
    assert_eq!(into(&host, ETH0, &Frame::udp((eight, 53), (a4(), 1000))), Reason::Established);
    assert_eq!(into(&host, ETH0, &Frame::udp((eight, 53), (a4(), 1001))), Reason::Policy);
    assert_eq!(host.flows()[0].0, Table::Settled, "seen both ways");
}

#[test]
fn flows_of_an_unisolated_pod_survive_a_policy_that_comes_later() {
    let mut host = world(0);
    let eight = IpAddr::from([8, 8, 8, 8]);
    assert_eq!(out(&host, &tcp(a4(), 1000, eight, 443, SYN)), Reason::New);
    bump(&mut host, 2, EndpointFlags::ISOLATED_IN);
    assert_eq!(into(&host, ETH0, &tcp(eight, 443, a4(), 1000, SYN_ACK)), Reason::Reevaluated);
}

#[test]
fn a_revoked_flow_is_dead_in_both_directions_and_is_not_revived() {
    let mut host = world(EndpointFlags::ISOLATED_IN);
    open_from_remote(&host);
    host.row.insert(RowKey { set: 1, class: 5 }, RowValue { profile: 0, rule: 45 });
    bump(&mut host, 2, EndpointFlags::ISOLATED_IN);
    assert_eq!(into(&host, ETH0, &tcp(remote(), 5000, a4(), 80, ACK)), Reason::Revoked);
    // Egress is not isolated: a deleted entry would come back to life here.
    assert_eq!(out(&host, &tcp(a4(), 80, remote(), 5000, ACK)), Reason::Revoked);
    assert_eq!(into(&host, ETH0, &tcp(remote(), 5000, a4(), 80, ACK)), Reason::Revoked);
    // The pod's own new connection with the same ports is allowed, and takes its place.
    assert_eq!(out(&host, &tcp(a4(), 80, remote(), 5000, SYN)), Reason::New);
    assert_eq!(into(&host, ETH0, &tcp(remote(), 5000, a4(), 80, SYN_ACK)), Reason::Established);
}

#[test]
fn a_later_epoch_may_allow_a_revoked_flow_again() {
    let mut host = world(EndpointFlags::ISOLATED_IN);
    open_from_remote(&host);
    let allowed = host.row.insert(RowKey { set: 1, class: 5 }, RowValue { profile: 0, rule: 45 });
    bump(&mut host, 2, EndpointFlags::ISOLATED_IN);
    assert_eq!(out(&host, &tcp(a4(), 80, remote(), 5000, ACK)), Reason::Revoked, "by the reply's own packet");
    host.row.insert(RowKey { set: 1, class: 5 }, allowed.expect("there was one"));
    bump(&mut host, 3, EndpointFlags::ISOLATED_IN);
    assert_eq!(out(&host, &tcp(a4(), 80, remote(), 5000, ACK)), Reason::Reevaluated);
    assert_eq!(into(&host, ETH0, &tcp(remote(), 5000, a4(), 80, ACK)), Reason::Established);
}

#[test]
fn a_connection_in_the_reply_direction_is_judged_as_one() {
    let host = world(EndpointFlags::ISOLATED_IN);
    // The pod called the remote's port 80 from its own port 9000.
    assert_eq!(out(&host, &tcp(a4(), 9000, remote(), 80, SYN)), Reason::New);
    assert_eq!(into(&host, ETH0, &tcp(remote(), 80, a4(), 9000, SYN_ACK)), Reason::Established);
    // The remote may not call port 9000, entry or not, and the flow goes on.
    assert_eq!(into(&host, ETH0, &tcp(remote(), 80, a4(), 9000, SYN)), Reason::Policy);
    assert_eq!(into(&host, ETH0, &tcp(remote(), 80, a4(), 9000, ACK)), Reason::Established);
    // Echo requests of one side are not the other's replies.
    assert_eq!(out(&host, &Frame::icmp(a4(), remote(), 8, 7, &[])), Reason::New);
    assert_eq!(into(&host, ETH0, &Frame::icmp(remote(), a4(), 0, 7, &[])), Reason::Established);
    assert_eq!(into(&host, ETH0, &Frame::icmp(remote(), a4(), 8, 7, &[])), Reason::Policy);
}

#[test]
fn entries_age() {
    let mut host = world(EndpointFlags::ISOLATED_IN);
    let eight = IpAddr::from([8, 8, 8, 8]);
    assert_eq!(out(&host, &Frame::udp((a4(), 1000), (eight, 53))), Reason::New);
    host.now += age::DATAGRAM;
    assert_eq!(into(&host, ETH0, &Frame::udp((eight, 53), (a4(), 1000))), Reason::Established);
    host.now += age::DATAGRAM + 1;
    assert_eq!(into(&host, ETH0, &Frame::udp((eight, 53), (a4(), 1000))), Reason::Policy);
    // A dead entry in `ct` does not hide its successor.
    assert_eq!(out(&host, &Frame::udp((a4(), 1000), (eight, 53))), Reason::New);
    assert_eq!(into(&host, ETH0, &Frame::udp((eight, 53), (a4(), 1000))), Reason::Established);
    open_from_remote(&host);
    host.now += age::ESTABLISHED;
    assert_eq!(out(&host, &tcp(a4(), 80, remote(), 5000, ACK)), Reason::Established);
    assert_eq!(out(&host, &tcp(a4(), 80, remote(), 5000, 4)), Reason::Established, "RST");
    host.now += age::HANDSHAKE + 1;
    assert_eq!(into(&host, ETH0, &tcp(remote(), 5000, a4(), 81, ACK)), Reason::Policy);
}

#[test]
fn only_errors_of_a_flow_are_related() {
    let host = world(ISOLATED);
    assert_eq!(out(&host, &tcp(a4(), 1000, remote(), 80, SYN)), Reason::New);
    let sent = tcp(a4(), 1000, remote(), 80, SYN).packet();
    let router = IpAddr::from([10, 0, 5, 5]);
    for kind in [3, 11, 12] {
        assert_eq!(into(&host, ETH0, &Frame::icmp(router, a4(), kind, 0, &sent[..28])), Reason::Related);
    }
    assert_eq!(into(&host, ETH0, &Frame::icmp(router, a4(), 5, 0, &sent[..28])), Reason::Policy, "redirect");
    let other = tcp(a4(), 1001, remote(), 80, SYN).packet();
    assert_eq!(into(&host, ETH0, &Frame::icmp(router, a4(), 3, 0, &other[..28])), Reason::Policy);
    // The quoted packet must be the pod's own, and the right way round.
    let foreign = tcp(b4(), 1000, remote(), 80, SYN).packet();
    assert_eq!(into(&host, ETH0, &Frame::icmp(router, a4(), 3, 0, &foreign[..28])), Reason::Policy);
    let reversed = tcp(remote(), 80, a4(), 1000, SYN).packet();
    assert_eq!(into(&host, ETH0, &Frame::icmp(router, a4(), 3, 0, &reversed[..28])), Reason::Policy);
    // A pod tells the remote that a port is closed.
    assert_eq!(into(&host, ETH0, &tcp(remote(), 7, a4(), 80, SYN)), Reason::New);
    let got = tcp(remote(), 7, a4(), 80, SYN).packet();
    assert_eq!(out(&host, &Frame::icmp(a4(), remote(), 3, 0, &got[..28])), Reason::Related);
    let six = tcp(a6(), 1000, remote6(), 80, SYN);
    assert_eq!(out(&host, &six), Reason::New);
    assert_eq!(into(&host, ETH0, &Frame::icmp(remote6(), a6(), 2, 0, &six.packet())), Reason::Related);
}

#[test]
fn a_revoked_flow_has_no_related_errors() {
    let mut host = world(ISOLATED);
    assert_eq!(out(&host, &tcp(a4(), 1000, remote(), 80, SYN)), Reason::New);
    host.row.insert(RowKey { set: 1, class: 5 }, RowValue { profile: 0, rule: 45 });
    bump(&mut host, 2, ISOLATED);
    let sent = tcp(a4(), 1000, remote(), 80, SYN).packet();
    assert_eq!(into(&host, ETH0, &Frame::icmp(remote(), a4(), 3, 0, &sent[..28])), Reason::Revoked);
}

#[test]
fn who_sent_it_is_told_by_the_interface_first() {
    let mut host = world(EndpointFlags::ISOLATED_IN);
    assert_eq!(into(&host, 0, &tcp(node(), 1, a4(), 9999, SYN)), Reason::LocalNode);
    assert_eq!(into(&host, A, &tcp(node(), 2, a4(), 9999, SYN)), Reason::Hairpin);
    // NodePort and masquerade: from a node's address, but not from the node.
    assert_eq!(into(&host, ETH0, &tcp(node(), 3, a4(), 9999, SYN)), Reason::Policy);
    // B by a NodePort of its own node is B, whatever the source says.
    assert_eq!(into(&host, B, &tcp(node(), 4, a4(), 9999, SYN)), Reason::New);
    put_peer(&mut host, b4(), PeerValue::new(b4(), 0));
    assert_eq!(into(&host, B, &tcp(node(), 5, a4(), 9999, SYN)), Reason::Policy);
    // And one that claims to be the remote is still B.
    assert_eq!(into(&host, B, &tcp(remote(), 6, a4(), 80, SYN)), Reason::Policy);
    host.switches.trust_node_addresses = true;
    assert_eq!(into(&host, ETH0, &tcp(node(), 3, a4(), 9999, SYN)), Reason::LocalNode);
}

#[test]
fn what_trust_in_the_nodes_addresses_let_in_ends_with_it() {
    let mut host = world(EndpointFlags::ISOLATED_IN);
    host.switches.trust_node_addresses = true;
    assert_eq!(into(&host, ETH0, &tcp(node(), 3, a4(), 9999, SYN)), Reason::LocalNode);
    assert_eq!(out(&host, &tcp(a4(), 9999, node(), 3, ACK)), Reason::Established);
    let more = tcp(node(), 3, a4(), 9999, ACK);
    assert_eq!(into(&host, ETH0, &more), Reason::Established);
    bump(&mut host, 2, EndpointFlags::ISOLATED_IN);
    assert_eq!(into(&host, ETH0, &more), Reason::Reevaluated);
    host.switches.trust_node_addresses = false;
    // No epoch moves by it.
    assert_eq!(into(&host, ETH0, &more), Reason::Revoked);
    assert_eq!(out(&host, &tcp(a4(), 9999, node(), 3, ACK)), Reason::Revoked);
    host.switches.trust_node_addresses = true;
    host.now += 1;
    assert_eq!(into(&host, ETH0, &more), Reason::Reevaluated);
    host.switches.trust_node_addresses = false;
    let sent = tcp(a4(), 9999, node(), 3, ACK).packet();
    let error = Frame::icmp(node(), a4(), 3, 0, &sent[..28]);
    assert_eq!(into(&host, ETH0, &error), Reason::Revoked);
    // The node itself is another matter.
    assert_eq!(into(&host, 0, &tcp(node(), 4, a4(), 9999, SYN)), Reason::LocalNode);
    assert_eq!(out(&host, &tcp(a4(), 9999, node(), 4, ACK)), Reason::Established);
    assert_eq!(into(&host, 0, &tcp(node(), 4, a4(), 9999, ACK)), Reason::Established);
}

#[test]
fn flows_that_the_node_began_are_never_judged_again() {
    let mut host = world(EndpointFlags::ISOLATED_IN);
    assert_eq!(into(&host, 0, &tcp(node(), 1, a4(), 9999, SYN)), Reason::LocalNode);
    bump(&mut host, 2, ISOLATED);
    // The pod pushes first: its packet alone does not tell who began.
    assert_eq!(out(&host, &tcp(a4(), 9999, node(), 1, ACK)), Reason::Established);
    bump(&mut host, 3, ISOLATED);
    assert_eq!(into(&host, 0, &tcp(node(), 1, a4(), 9999, ACK)), Reason::Established);
}

#[test]
fn an_ipv6_fragment_is_never_the_local_node() {
    let host = world(EndpointFlags::ISOLATED_IN);
    let whole = tcp(remote6(), 1, a6(), 9999, SYN);
    assert_eq!(into(&host, 0, &whole), Reason::LocalNode);
    let mut fragment = tcp(remote6(), 2, a6(), 9999, SYN);
    fragment.extensions = vec![Frame::fragment_header(0, true, 77)];
    assert_eq!(into(&host, 0, &fragment), Reason::Policy);
    fragment.extensions = vec![Frame::fragment_header(0, false, 78)];
    assert_eq!(into(&host, 0, &fragment), Reason::Policy);
}

#[test]
fn services_are_judged_by_their_backends() {
    let mut host = world(EndpointFlags::ISOLATED_OUT);
    let key = VipKey::new(vip(), 8000, proto::TCP);
    host.vip.insert(key, VipValue::new(&key, 5, 80));
    assert_eq!(out(&host, &tcp(a4(), 1, vip(), 8000, SYN)), Reason::New);
    assert_eq!(out(&host, &tcp(a4(), 1, vip(), 80, SYN)), Reason::NoService);
    let key = VipKey::new(vip(), 8001, proto::TCP);
    host.vip.insert(key, VipValue::new(&key, 5, 81));
    assert_eq!(out(&host, &tcp(a4(), 1, vip(), 8001, SYN)), Reason::Policy, "by the backends' port");
    // A torn value is not believed.
    let torn = VipValue { class: 6, ..VipValue::new(&key, 5, 81) };
    host.vip.insert(key, torn);
    assert_eq!(out(&host, &tcp(a4(), 2, vip(), 8001, SYN)), Reason::Torn);
}

#[test]
fn the_own_node_is_open_but_for_its_service_ports() {
    let mut host = world(ISOLATED);
    assert_eq!(out(&host, &tcp(a4(), 1, node(), 10250, SYN)), Reason::ToNode);
    let key = VipKey::new(node(), 30080, proto::TCP);
    host.vip.insert(key, VipValue::new(&key, 0, 80));
    assert_eq!(out(&host, &tcp(a4(), 1, node(), 30080, SYN)), Reason::Policy);
}

#[test]
fn the_own_node_is_closed_where_a_row_of_its_own_class_says_so() {
    let mut host = world(ISOLATED);
    put_peer(&mut host, node(), PeerValue::new(node(), 8).local_node());
    assert_eq!(out(&host, &tcp(a4(), 1, node(), 81, SYN)), Reason::ToNode, "what holds for all is not asked");
    host.row.insert(RowKey { set: 1, class: 8 }, RowValue { profile: 9, rule: 41 });
    assert_eq!(out(&host, &tcp(a4(), 2, node(), 80, SYN)), Reason::ToNode);
    let bytes = tcp(a4(), 2, node(), 81, SYN).bytes();
    let denied = host.run(Out, &bytes, Host::facts(&bytes, A, A));
    assert_eq!((denied.reason, denied.rule, denied.class), (Reason::Policy, 44, 8));
    assert_eq!(into(&host, 0, &tcp(node(), 3, a4(), 81, SYN)), Reason::LocalNode, "its probes go on");
    host.row.insert(RowKey { set: 1, class: 8 }, RowValue { profile: 1, rule: 43 });
    assert_eq!(out(&host, &tcp(a4(), 2, node(), 81, SYN)), Reason::ToNode);
}

#[test]
fn only_untagged_ip_and_arp() {
    let host = world(0);
    let bytes = tcp(a4(), 1, remote(), 80, SYN).bytes();
    let plain = Host::facts(&bytes, A, A);
    for (protocol, vlan_present) in
        [(0x8100, false), (0x88a8, false), (0x8847, false), (0x0800, true), (0x0004, false)]
    {
        let facts = Facts { protocol, vlan_present, ..plain };
        assert_eq!(host.run(Out, &bytes, facts).reason, Reason::EtherType, "{protocol:#x}");
    }
    // The family is what the kernel takes the packet for.
    let facts = Facts { protocol: 0x86dd, ..plain };
    assert_eq!(host.run(Out, &bytes, facts).reason, Reason::Malformed);
}

#[test]
fn arp_speaks_for_the_pod_only() {
    let host = world(ISOLATED);
    let arp = |mac: [u8; 6], ip: [u8; 4], frame_mac: [u8; 6]| {
        let mut bytes = vec![0xff; 6];
        bytes.extend_from_slice(&frame_mac);
        bytes.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        bytes.extend_from_slice(&mac);
        bytes.extend_from_slice(&ip);
        bytes.extend_from_slice(&[0; 6]);
        bytes.extend_from_slice(&[169, 254, 1, 1]);
        bytes
    };
    let run = |bytes: &[u8]| host.run(Out, bytes, Host::facts(bytes, A, A)).reason;
    assert_eq!(run(&arp(MAC, [10, 0, 0, 1], MAC)), Reason::Link);
    assert_eq!(run(&arp(MAC, [0; 4], MAC)), Reason::Link, "a probe");
    assert_eq!(run(&arp(MAC, [10, 0, 0, 2], MAC)), Reason::Neighbor);
    assert_eq!(run(&arp([9; 6], [10, 0, 0, 1], MAC)), Reason::Neighbor);
    assert_eq!(run(&arp(MAC, [10, 0, 0, 1], [9; 6])), Reason::Spoofed);
    assert_eq!(run(&arp(MAC, [10, 0, 0, 1], MAC)[..41]), Reason::Truncated);
}

/// A neighbour discovery message; hop limit as given.
fn nd(src: IpAddr, kind: u8, target: IpAddr, option: &[u8], hop_limit: u8) -> Frame {
    let mut quoted = match target {
        IpAddr::V6(v6) => Vec::from(v6.octets()),
        IpAddr::V4(_) => Vec::new(),
    };
    quoted.extend_from_slice(option);
    let mut frame = Frame::icmp(src, IpAddr::from([0xff02, 0, 0, 0, 0, 0, 0, 1]), kind, 0, &quoted);
    frame.hop_limit = hop_limit;
    frame
}

#[test]
fn neighbour_discovery_speaks_for_the_pod_only() {
    let host = world(ISOLATED);
    let link_local = IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, 5]);
    let nobody = IpAddr::from([0_u16; 8]);
    let own = [1, 1, 2, 0, 0, 0, 0, 1];
    let other = [2, 1, 9, 9, 9, 9, 9, 9];
    assert_eq!(out(&host, &nd(a6(), 135, link_local, &own, 255)), Reason::Link);
    assert_eq!(out(&host, &nd(link_local, 136, a6(), &[], 255)), Reason::Link);
    assert_eq!(out(&host, &nd(nobody, 135, a6(), &[14, 1, 0, 0, 0, 0, 0, 0], 255)), Reason::Link, "a probe");
    assert_eq!(out(&host, &nd(nobody, 135, remote6(), &[], 255)), Reason::Neighbor);
    assert_eq!(out(&host, &nd(a6(), 136, remote6(), &[], 255)), Reason::Neighbor);
    assert_eq!(out(&host, &nd(a6(), 136, a6(), &other, 255)), Reason::Neighbor);
    assert_eq!(out(&host, &nd(remote6(), 135, a6(), &[], 255)), Reason::Neighbor);
    assert_eq!(out(&host, &nd(a6(), 135, link_local, &own, 254)), Reason::Neighbor, "forwarded");
    assert_eq!(out(&host, &nd(a6(), 134, nobody, &[], 255)), Reason::Router);
    assert_eq!(out(&host, &nd(a6(), 137, nobody, &[], 255)), Reason::Router);
    assert_eq!(into(&host, 0, &nd(link_local, 135, a6(), &[], 255)), Reason::Link);
    assert_eq!(into(&host, ETH0, &nd(link_local, 135, a6(), &[], 255)), Reason::Neighbor);
    assert_eq!(into(&host, 0, &nd(link_local, 134, a6(), &[], 255)), Reason::Router);
    // Listener reports carry a hop-by-hop header and a hop limit of 1.
    let mut report = nd(link_local, 143, nobody, &[], 1);
    report.dst = IpAddr::from([0xff02, 0, 0, 0, 0, 0, 0, 0x16]);
    report.extensions = vec![(0, vec![0, 0, 5, 2, 0, 0, 1, 0])];
    assert_eq!(out(&host, &report), Reason::Link);
    report.dst = remote6();
    assert_eq!(out(&host, &report), Reason::Neighbor);
}

#[test]
fn later_fragments_go_with_their_first() {
    let host = world(EndpointFlags::ISOLATED_IN);
    let mut first = tcp(remote(), 1, a4(), 80, SYN);
    first.fragment = (0, true);
    let mut later = Frame::new(remote(), a4(), proto::TCP, vec![0; 64]);
    later.fragment = (24, false);
    assert_eq!(into(&host, ETH0, &later), Reason::Fragment, "nobody came before it");
    assert_eq!(into(&host, ETH0, &first), Reason::New);
    assert_eq!(into(&host, ETH0, &later), Reason::Established);
    later.id = 2;
    assert_eq!(into(&host, ETH0, &later), Reason::Fragment, "of another packet");
    let mut denied = tcp(remote(), 1, a4(), 81, SYN);
    denied.fragment = (0, true);
    denied.id = 2;
    assert_eq!(into(&host, ETH0, &denied), Reason::Policy);
    assert_eq!(into(&host, ETH0, &later), Reason::Policy);
}

#[test]
fn a_flood_spends_its_own_pods_budget() {
    let mut host = world(ISOLATED);
    host.put_endpoint(1, Endpoint { budget: 2, ..endpoint(A, 1, ISOLATED, 1) });
    for port in [1, 2] {
        assert_eq!(out(&host, &tcp(a4(), port, remote(), 80, SYN)), Reason::New);
    }
    assert_eq!(out(&host, &tcp(a4(), 3, remote(), 80, SYN)), Reason::Budget);
    assert_eq!(out(&host, &tcp(a4(), 2, remote(), 80, SYN)), Reason::Established);
    assert_eq!(into(&host, 0, &tcp(node(), 1, a4(), 1, SYN)), Reason::LocalNode, "probes go on");
    host.now += 1;
    assert_eq!(out(&host, &tcp(a4(), 3, remote(), 80, SYN)), Reason::New);
    host.put_endpoint(1, Endpoint { budget: 1, ..endpoint(A, 1, 0, 1) });
    host.now += 1;
    assert_eq!(out(&host, &tcp(a4(), 4, remote(), 80, SYN)), Reason::New);
    assert_eq!(out(&host, &tcp(a4(), 5, remote(), 80, SYN)), Reason::Unrecorded, "nothing isolates it");
}

#[test]
fn audit_tells_and_lets_pass() {
    let mut host = world(ISOLATED | EndpointFlags::AUDIT);
    assert_eq!(out(&host, &tcp(a4(), 1, remote(), 81, SYN)), Reason::Audited);
    assert_eq!(into(&host, ETH0, &tcp(remote(), 81, a4(), 1, SYN_ACK)), Reason::Established);
    bump(&mut host, 2, ISOLATED);
    assert_eq!(out(&host, &tcp(a4(), 1, remote(), 81, ACK)), Reason::Revoked, "audit is over");
}

#[test]
fn audit_of_the_node_begins_and_ends_for_flows_that_run() {
    let mut host = world(ISOLATED);
    open_from_remote(&host);
    let on = tcp(remote(), 5000, a4(), 80, ACK);
    host.row.insert(RowKey { set: 1, class: 5 }, RowValue { profile: 0, rule: 41 });
    bump(&mut host, 2, ISOLATED);
    assert_eq!(into(&host, ETH0, &on), Reason::Revoked);
    host.switches.audit = true;
    assert_eq!(into(&host, ETH0, &on), Reason::Audited);
    assert_eq!(out(&host, &tcp(a4(), 80, remote(), 5000, ACK)), Reason::Established);
    host.switches.audit = false;
    assert_eq!(into(&host, ETH0, &on), Reason::Revoked);
}

#[test]
fn an_entry_of_another_key_is_no_entry() {
    let host = world(EndpointFlags::ISOLATED_IN);
    open_from_remote(&host);
    let (_, key, state) = host.flows()[0];
    assert_eq!(state.tag(), key.tag());
    assert!(state.has(CtState::SEEN_REPLY));
    let other = crate::abi::CtKey { peer_port: key.peer_port + 1, ..key };
    assert_ne!(other.tag(), key.tag());
}

proptest! {
    /// Whatever comes, the verdict ends, and an isolated pod without rules lets
    /// nothing of IP pass but what its link needs and what its node sends.
    #[test]
    fn nothing_passes_a_closed_pod(
        mut bytes in proptest::collection::vec(any::<u8>(), 14..120),
        six in any::<bool>(),
        out_of_pod in any::<bool>(),
        address in any::<bool>(),
    ) {
        let mut host = world(ISOLATED);
        host.row.clear();
        bytes[6..12].copy_from_slice(&MAC);
        bytes[12..14].copy_from_slice(if six { &[0x86, 0xdd] } else { &[8, 0] });
        if address && !six && bytes.len() >= 34 {
            bytes[14] = 0x45;
            let total = u16::try_from(bytes.len() - 14).expect("short");
            bytes[16..18].copy_from_slice(&total.to_be_bytes());
            let at = if out_of_pod { 26 } else { 30 };
            bytes[at..at + 4].copy_from_slice(&[10, 0, 0, 1]);
        }
        let dir = if out_of_pod { Out } else { In };
        let reason = host.run(dir, &bytes, Host::facts(&bytes, A, ETH0)).reason;
        prop_assert!(!reason.passes() || matches!(reason, Reason::Link | Reason::ToNode), "{reason:?}");
    }
}
