//! What speaks for the link itself: ARP, neighbour and listener discovery.

use super::{Ip, Kind};
use crate::abi::{Addr, Direction, Endpoint, Reason};
use crate::packet::Packet;

const ARP_ETHERNET_IPV4: [u8; 6] = [0, 1, 0x08, 0, 6, 4];
const MAX_ND_OPTIONS: u32 = 4;

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// Whether an ARP packet may pass: from the pod only what speaks for the pod.
#[inline(always)]
pub fn check_arp<P: Packet>(packet: &P, dir: Direction, ep: &Endpoint) -> Reason {
    let (Ok(reason) | Err(reason)) = arp(packet, dir, ep);
    reason
}

#[inline(always)]
fn arp<P: Packet>(packet: &P, dir: Direction, ep: &Endpoint) -> Result<Reason, Reason> {
    let a = packet.head::<14, 28>().ok_or(Reason::Truncated)?;
    if a[0..6] != ARP_ETHERNET_IPV4 {
        return Err(Reason::Malformed);
    }
    if matches!(dir, Direction::In) {
        return Ok(Reason::Link);
    }
    let sender_mac = [a[8], a[9], a[10], a[11], a[12], a[13]];
    let sender_addr = [a[14], a[15], a[16], a[17]];
    // A probe (RFC 5227) has no sender address yet.
    let ours = sender_addr == ep.addr4 || sender_addr == [0; 4];
    if sender_mac == ep.mac && ours { Ok(Reason::Link) } else { Err(Reason::Neighbor) }
}

/// Whether a neighbour discovery or listener discovery packet may pass.
#[inline(never)]
pub fn check_neighbor<P: Packet>(
    packet: &P,
    dir: Direction,
    ep: &Endpoint,
    ip: &Ip,
    ingress_ifindex: u32,
) -> Reason {
    let (Ok(reason) | Err(reason)) = neighbor(packet, dir, ep, ip, ingress_ifindex);
    reason
}

#[inline(always)]
fn neighbor<P: Packet>(
    packet: &P,
    dir: Direction,
    ep: &Endpoint,
    ip: &Ip,
    ingress_ifindex: u32,
) -> Result<Reason, Reason> {
    if ip.kind.any(Kind::LISTENER) {
        return check_listener(dir, ep, ip, ingress_ifindex);
    }
    // A hop limit of 255 proves that no router forwarded it.
    if ip.hop_limit != 255 || ip.kind.any(Kind::FRAGMENT_HEADER | Kind::EXTENDED) {
        return Err(Reason::Neighbor);
    }
    let (target_at, options_at) = match ip.icmp_type {
        ROUTER_ADVERTISEMENT | REDIRECT => return Err(Reason::Router),
        ROUTER_SOLICITATION => (0, ip.payload + 8),
        NEIGHBOR_SOLICITATION | NEIGHBOR_ADVERTISEMENT => (ip.payload + 8, ip.payload + 24),
        _ => return Err(Reason::Neighbor),
    };
    if options_at > ip.end {
        return Err(Reason::Truncated);
    }
    if matches!(dir, Direction::In) {
        return if ingress_ifindex == 0 && target_at != 0 { Ok(Reason::Link) } else { Err(Reason::Neighbor) };
    }
    let unspecified = ip.src.is_zero();
    if !(unspecified || is_own(&ip.src, ep)) {
        return Err(Reason::Neighbor);
    }
    if target_at != 0 {
        let target = packet.load::<16>(target_at).ok_or(Reason::Truncated)?;
        // An advertisement, and a probe for a duplicate, speak of their target.
        let speaks_of_target = ip.icmp_type == NEIGHBOR_ADVERTISEMENT || unspecified;
        if speaks_of_target && !is_own(&Addr::v6(target), ep) {
            return Err(Reason::Neighbor);
        }
    }
    check_nd_options(packet, options_at, ip.end, ep)
}

/// The link-layer address that it tells must be the pod's.
#[inline(always)]
fn check_nd_options<P: Packet>(packet: &P, mut at: u32, end: u32, ep: &Endpoint) -> Result<Reason, Reason> {
    for _ in 0..MAX_ND_OPTIONS {
        if at >= end {
            return Ok(Reason::Link);
        }
        let option = packet.load::<8>(at).ok_or(Reason::Truncated)?;
        let len = u32::from(option[1]) * 8;
        if len == 0 || at + len > end {
            return Err(Reason::Malformed);
        }
        let tells_address = matches!(option[0], 1 | 2);
        let mac = [option[2], option[3], option[4], option[5], option[6], option[7]];
        if tells_address && (len != 8 || mac != ep.mac) {
            return Err(Reason::Neighbor);
        }
        at += len;
    }
    if at >= end { Ok(Reason::Link) } else { Err(Reason::Neighbor) }
}

/// Listener reports stay on the link and bind nobody but the pod.
#[inline(always)]
fn check_listener(dir: Direction, ep: &Endpoint, ip: &Ip, ingress_ifindex: u32) -> Result<Reason, Reason> {
    let [scheme, scope, ..] = ip.dst.head();
    let link_scope = scheme == 0xff && scope & 0xf == 2;
    let known_source = match dir {
        Direction::Out => ip.src.is_zero() || is_own(&ip.src, ep),
        Direction::In => ingress_ifindex == 0,
    };
    if ip.hop_limit == 1 && link_scope && known_source && !ip.kind.any(Kind::FRAGMENT_HEADER) {
        Ok(Reason::Link)
    } else {
        Err(Reason::Neighbor)
    }
}

/// The pod's address, or any link-local one: its link has no other member than
/// the node, so that there is nobody to speak for.
#[inline(always)]
fn is_own(addr: &Addr, ep: &Endpoint) -> bool {
    let [first, second, ..] = addr.head();
    (*addr == Addr::v6(ep.addr6) && !addr.is_zero()) || (first == 0xfe && second & 0xc0 == 0x80)
}
