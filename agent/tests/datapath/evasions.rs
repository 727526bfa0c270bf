//! What was seen to slip through other filters, by real frames. Each trial shows too that the same kind of frame comes
//! through where policy allows it: the stack in between carries it, and the filter alone says no.

use std::net::IpAddr;

use anyhow::Result;
use ebpf_common::abi::{Reason, proto};
use ebpf_common::frame::Frame;
use tidepool_agent::datapath::Datapath;

use super::wire::{Who, Wire};
use super::world::sets;

const SYN: u8 = 2;
const ACK: u8 = 16;
const SYN_ACK: u8 = 18;
const A_TO_B: (Who, Who) = (Who::A, Who::B);
const B_TO_A: (Who, Who) = (Who::B, Who::A);
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION: u8 = 60;

fn trial(work: impl FnOnce(&Wire, &mut Datapath) -> Result<()> + Send) -> Result<()> {
    let wire = Wire::new()?;
    wire.with(|dp| work(&wire, dp))
}

/// From A's port 4000 to B, in both families.
fn tcp(port: u16, flags: u8) -> [Frame; 2] {
    [
        Frame::tcp((Who::A.v4(), 4000), (Who::B.v4(), port), flags),
        Frame::tcp((Who::A.v6(), 4000), (Who::B.v6(), port), flags),
    ]
}

/// Padding options as long as an extension header of eight bytes has room for.
fn padding() -> Vec<u8> {
    vec![0, 0, 1, 4, 0, 0, 0, 0]
}

pub(crate) fn both_families() -> Result<()> {
    trial(|wire, dp| {
        for (allowed, denied) in tcp(80, SYN).into_iter().zip(tcp(81, SYN)) {
            wire.carries(A_TO_B, "allowed", &[allowed])?;
            wire.refuses(dp, A_TO_B, "denied", &[denied], Reason::Policy)?;
        }
        // Isolated for ingress alone, too.
        dp.apply(&[sets(1, 0, 0, 2)])?;
        for denied in tcp(82, SYN) {
            wire.refuses(dp, A_TO_B, "denied at B", &[denied], Reason::Policy)?;
        }
        Ok(())
    })
}

pub(crate) fn extension_headers() -> Result<()> {
    trial(|wire, dp| {
        let hidden = |port, extensions: &[(u8, Vec<u8>)]| {
            let [_, mut frame] = tcp(port, SYN);
            frame.extensions = extensions.to_vec();
            [frame]
        };
        let hop = [(HOP_BY_HOP, padding())];
        wire.carries(A_TO_B, "hop-by-hop", &hidden(80, &hop))?;
        wire.refuses(dp, A_TO_B, "hop-by-hop", &hidden(22, &hop), Reason::Policy)?;
        // The header's own bytes stand where ports would: 0 and 80.
        let options = [(DESTINATION, vec![0, 0, 0, 80, 0, 0, 0, 0])];
        wire.refuses(dp, A_TO_B, "destination options", &hidden(22, &options), Reason::Policy)?;
        let both = [(HOP_BY_HOP, padding()), (DESTINATION, padding())];
        wire.carries(A_TO_B, "both", &hidden(80, &both))?;
        wire.refuses(dp, A_TO_B, "both", &hidden(22, &both), Reason::Policy)?;
        let long = vec![(DESTINATION, padding()); 7];
        wire.refuses(dp, A_TO_B, "more than are followed", &hidden(80, &long), Reason::Extension)?;
        let routed = [(ROUTING, vec![0, 0, 4, 1, 0, 0, 0, 0])];
        wire.refuses(dp, A_TO_B, "routed on", &hidden(80, &routed), Reason::Malformed)?;
        let unknown = [(140, vec![0; 8])];
        wire.refuses(dp, A_TO_B, "unknown", &hidden(80, &unknown), Reason::Extension)?;
        // Protocol 0 over IPv4 is some protocol that no rule names.
        let mut zero = tcp(80, SYN)[0].clone();
        zero.proto = 0;
        wire.refuses(dp, A_TO_B, "protocol 0", &[zero], Reason::Policy)
    })
}

pub(crate) fn ip_options() -> Result<()> {
    trial(|wire, dp| {
        let with = |port, options: [u8; 4]| {
            let [mut frame, _] = tcp(port, SYN);
            frame.options = options.to_vec();
            [frame]
        };
        // Behind twenty bytes of header stand ports 257 and 80.
        wire.refuses(dp, A_TO_B, "a port in an option", &with(22, [1, 1, 0, 80]), Reason::Policy)?;
        wire.carries(A_TO_B, "the port behind options", &with(80, [1, 1, 1, 0]))?;
        for kind in [131, 137] {
            let [mut frame, _] = tcp(80, SYN);
            frame.options = vec![kind, 7, 4, 10, 0, 9, 1, 0];
            wire.refuses(dp, A_TO_B, "a source route", &[frame], Reason::Malformed)?;
        }
        Ok(())
    })
}

pub(crate) fn tiny_fragments() -> Result<()> {
    trial(|wire, dp| {
        for port in [80, 81] {
            for len in [8, 16] {
                let [mut four, mut six] = tcp(port, SYN);
                four.fragment = (0, true);
                four.payload.truncate(len);
                wire.refuses(dp, A_TO_B, "tiny first fragment", &[four], Reason::Truncated)?;
                six.extensions = vec![Frame::fragment_header(0, true, 7)];
                six.payload.truncate(len);
                wire.refuses(dp, A_TO_B, "tiny first fragment", &[six], Reason::Truncated)?;
            }
        }
        // The second one writes over the flags of the first.
        let [mut first, _] = tcp(80, ACK);
        first.payload.resize(24, 0);
        first.fragment = (0, true);
        let mut over = first.clone();
        over.fragment = (8, false);
        wire.refuses(dp, A_TO_B, "over the header", &[over], Reason::Fragment)
    })
}

pub(crate) fn later_fragments() -> Result<()> {
    trial(|wire, dp| {
        // What stands at the ports' place says 4000 and 80.
        let looks_allowed = [0x0f, 0xa0, 0, 80].repeat(8);
        let later = |id| {
            let mut four = Frame::new(Who::A.v4(), Who::B.v4(), proto::TCP, looks_allowed.clone());
            four.fragment = (24, false);
            four.id = id;
            let mut six = Frame::new(Who::A.v6(), Who::B.v6(), proto::TCP, looks_allowed.clone());
            six.extensions = vec![Frame::fragment_header(24, false, u32::from(id))];
            [four, six]
        };
        let first = |port, id| {
            let [mut four, mut six] = tcp(port, SYN);
            for frame in [&mut four, &mut six] {
                frame.payload.resize(24, 0);
            }
            four.fragment = (0, true);
            four.id = id;
            six.extensions = vec![Frame::fragment_header(0, true, u32::from(id))];
            [four, six]
        };
        for (first, later) in first(80, 1).into_iter().zip(later(1)) {
            wire.carries(A_TO_B, "both", &[first, later])?;
        }
        for later in later(2) {
            wire.refuses(dp, A_TO_B, "of no first one", &[later], Reason::Fragment)?;
        }
        for (first, later) in first(81, 3).into_iter().zip(later(3)) {
            wire.refuses(dp, A_TO_B, "of a denied first one", &[first, later], Reason::Policy)?;
        }
        Ok(())
    })
}

pub(crate) fn icmp() -> Result<()> {
    trial(|wire, dp| {
        let icmp = |number, six: bool, hops| {
            let (from, to) = if six { (Who::A.v6(), Who::B.v6()) } else { (Who::A.v4(), Who::B.v4()) };
            let mut frame = Frame::icmp(from, to, number, 7, &[0; 16]);
            frame.hop_limit = hops;
            [frame]
        };
        for (number, six) in
            [(8, false), (128, true), (0, false), (129, true), (3, false), (1, true), (13, false)]
        {
            wire.refuses(dp, A_TO_B, "nobody allows ICMP", &icmp(number, six, 64), Reason::Policy)?;
        }
        for (number, reason) in
            [(134, Reason::Router), (137, Reason::Router), (136, Reason::Neighbor), (143, Reason::Neighbor)]
        {
            wire.refuses(dp, A_TO_B, "for the link only", &icmp(number, true, 255), reason)?;
        }
        dp.apply(&[sets(1, 0, 0, 2), sets(2, 0, 0, 2)])?;
        wire.carries(A_TO_B, "echo request", &icmp(8, false, 64))?;
        wire.carries(A_TO_B, "echo request", &icmp(128, true, 64))?;
        // Redirects and router advertisements never, isolated or not.
        wire.refuses(dp, A_TO_B, "advertisement", &icmp(134, true, 255), Reason::Router)?;
        wire.refuses(dp, A_TO_B, "redirect", &icmp(137, true, 255), Reason::Router)
    })
}

/// What the pod's own connections let back in is replies, and no connection.
pub(crate) fn stale_entries() -> Result<()> {
    trial(|wire, dp| {
        dp.apply(&[sets(1, 1, 0, 2), sets(2, 0, 0, 2)])?;
        let back = |flags| {
            [
                Frame::tcp((Who::B.v4(), 8080), (Who::A.v4(), 4000), flags),
                Frame::tcp((Who::B.v6(), 8080), (Who::A.v6(), 4000), flags),
            ]
        };
        wire.carries(A_TO_B, "A calls", &tcp(8080, SYN))?;
        let ack = back(SYN_ACK);
        wire.carries(B_TO_A, "B answers", &ack)?;
        for frame in back(SYN) {
            wire.refuses(dp, B_TO_A, "B calls by the entry", &[frame], Reason::Policy)?;
        }
        wire.carries(B_TO_A, "the flow goes on", &back(ACK))?;
        let echo = |from: IpAddr, to: IpAddr, kind| [Frame::icmp(from, to, kind, 9, &[])];
        wire.carries(A_TO_B, "A pings", &echo(Who::A.v4(), Who::B.v4(), 8))?;
        wire.carries(B_TO_A, "B answers", &echo(Who::B.v4(), Who::A.v4(), 0))?;
        wire.refuses(dp, B_TO_A, "B pings", &echo(Who::B.v4(), Who::A.v4(), 8), Reason::Policy)?;
        let sctp = |from: (IpAddr, u16), to, chunk| [Frame::sctp(from, to, chunk)];
        let (a, b) = ((Who::A.v4(), 5000), (Who::B.v4(), 5001));
        wire.carries(A_TO_B, "A's INIT", &sctp(a, b, 1))?;
        wire.carries(B_TO_A, "INIT ACK", &sctp(b, a, 2))?;
        wire.refuses(dp, B_TO_A, "B's INIT", &sctp(b, a, 1), Reason::Policy)
    })
}

pub(crate) fn spoofing() -> Result<()> {
    trial(|wire, dp| {
        dp.apply(&[sets(1, 0, 0, 2), sets(2, 0, 0, 2)])?;
        wire.carries(A_TO_B, "as itself", &tcp(81, SYN))?;
        let node = [IpAddr::from([10, 0, 0, 100]), IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 0x100])];
        let nobody = [IpAddr::from([0; 4]), IpAddr::from([0_u16; 8])];
        let others = [[Who::Outside.v4(), Who::Outside.v6()], [Who::B.v4(), Who::B.v6()], node, nobody];
        for source in others.into_iter().flatten() {
            let to = if source.is_ipv4() { Who::B.v4() } else { Who::B.v6() };
            let frame = Frame::tcp((source, 1), (to, 81), SYN);
            wire.refuses(dp, A_TO_B, "another's address", &[frame], Reason::Spoofed)?;
        }
        let mut frame = tcp(81, SYN)[0].clone();
        frame.src_mac = [2, 0, 0, 0, 0, 7];
        wire.refuses(dp, A_TO_B, "another's MAC", &[frame], Reason::Spoofed)?;
        for (mac, address) in [(Who::A.mac(), Who::B.v4()), (Who::B.mac(), Who::A.v4())] {
            let IpAddr::V4(address) = address else { continue };
            let mut arp =
                vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 2];
            arp.extend_from_slice(&mac);
            arp.extend_from_slice(&address.octets());
            arp.extend_from_slice(&[2, 0, 0, 0, 0, 0xfe, 10, 0, 0, 100]);
            wire.refuses_bytes(dp, A_TO_B, "ARP of another", &[arp], Reason::Neighbor)?;
        }
        let IpAddr::V6(b) = Who::B.v6() else { unreachable!("it is IPv6") };
        let mut advertisement = Frame::icmp(Who::A.v6(), node[1], 136, 0, &b.octets());
        advertisement.hop_limit = 255;
        wire.refuses(dp, A_TO_B, "ND of another", &[advertisement], Reason::Neighbor)
    })
}

/// A router on the way tells that a packet was too big: it must come, and nothing that only looks like it.
pub(crate) fn too_big() -> Result<()> {
    const FROM_OUTSIDE: (Who, Who) = (Who::Outside, Who::A);
    trial(|wire, dp| {
        dp.apply(&[sets(1, 1, 1, 2)])?;
        for (four, kind, size) in [(true, 3, 28), (false, 2, 60)] {
            let of = |who: Who| if four { who.v4() } else { who.v6() };
            let (a, outside) = (of(Who::A), of(Who::Outside));
            let sent = Frame::tcp((a, 4000), (outside, 80), SYN);
            wire.carries((Who::A, Who::Outside), "A calls", std::slice::from_ref(&sent))?;
            let error = |kind, packet: &Frame| [Frame::icmp(outside, a, kind, 0, &packet.packet()[..size])];
            wire.carries(FROM_OUTSIDE, "too big", &error(kind, &sent))?;
            let other = Frame::tcp((a, 4001), (outside, 80), SYN);
            wire.refuses(dp, FROM_OUTSIDE, "of no flow", &error(kind, &other), Reason::Policy)?;
            let turned = Frame::tcp((outside, 80), (a, 4000), SYN);
            wire.refuses(dp, FROM_OUTSIDE, "of the other side", &error(kind, &turned), Reason::Policy)?;
        }
        let sent = Frame::tcp((Who::A.v4(), 4000), (Who::Outside.v4(), 80), SYN).packet();
        let redirect = [Frame::icmp(Who::Outside.v4(), Who::A.v4(), 5, 0, &sent[..28])];
        wire.refuses(dp, FROM_OUTSIDE, "redirect", &redirect, Reason::Policy)
    })
}
