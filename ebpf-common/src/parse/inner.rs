//! The packet that an ICMP error quotes.

use super::{Ip, be16, ipv6};
use crate::abi::{Addr, Family, proto};
use crate::packet::Packet;

/// Which flow the quoted packet was of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    /// Source of the quoted packet.
    pub src: Addr,
    /// Its destination.
    pub dst: Addr,
    /// Protocol behind all extension headers.
    pub proto: u8,
    /// Source port; the identifier of a quoted echo request.
    pub src_port: u16,
    /// Destination port; the identifier of a quoted echo reply.
    pub dst_port: u16,
}

impl Inner {
    /// A quoted packet of which nothing is known yet.
    pub const UNKNOWN: Self =
        Self { src: Addr::v4([0; 4]), dst: Addr::v4([0; 4]), proto: 0, src_port: 0, dst_port: 0 };
}

/// The flow of the packet quoted by an ICMP error. False if it can not be
/// told: then the error is of no flow.
#[inline(never)]
pub fn inner_flow<P: Packet>(packet: &P, outer: &Ip, inner: &mut Inner) -> bool {
    flow(packet, outer, inner).is_some()
}

#[inline(always)]
fn flow<P: Packet>(packet: &P, outer: &Ip, inner: &mut Inner) -> Option<()> {
    let at = outer.payload + 8;
    inner.src_port = 0;
    inner.dst_port = 0;
    let payload = match outer.src.family {
        Family::V4 => inner4(packet, at, inner)?,
        Family::V6 => inner6(packet, at, outer.end, inner)?,
    };
    ports(packet, payload, outer.end, inner)
}

#[inline(always)]
fn inner4<P: Packet>(packet: &P, at: u32, inner: &mut Inner) -> Option<u32> {
    let h = packet.load::<20>(at)?;
    let header_len = u32::from(h[0] & 0xf) * 4;
    let later_fragment = be16(h[6], h[7]) & 0x1fff != 0;
    if h[0] >> 4 != 4 || header_len < 20 || later_fragment {
        return None;
    }
    inner.src = Addr::v4([h[12], h[13], h[14], h[15]]);
    inner.dst = Addr::v4([h[16], h[17], h[18], h[19]]);
    inner.proto = h[9];
    Some(at + header_len)
}

#[inline(always)]
fn inner6<P: Packet>(packet: &P, at: u32, end: u32, inner: &mut Inner) -> Option<u32> {
    let [version, _, _, _, _, _, next, _] = packet.load::<8>(at)?;
    if version >> 4 != 6 {
        return None;
    }
    inner.src = Addr::v6(packet.load::<16>(at + 8)?);
    inner.dst = Addr::v6(packet.load::<16>(at + 24)?);
    let mut walked = ipv6::Walked { proto: next, payload: at + 40, end, ..ipv6::Walked::START };
    if ipv6::is_extension(next) {
        ipv6::walk(packet, &mut walked).ok()?;
    }
    inner.proto = walked.proto;
    if walked.fragment_offset != 0 { None } else { Some(walked.payload) }
}

/// Errors quote at least eight bytes of payload (RFC 792), which is enough.
#[inline(always)]
fn ports<P: Packet>(packet: &P, at: u32, end: u32, inner: &mut Inner) -> Option<()> {
    let has_ports = matches!(inner.proto, proto::TCP | proto::UDP | proto::SCTP);
    let is_icmp = matches!(inner.proto, proto::ICMP | proto::ICMPV6);
    if !has_ports && !is_icmp {
        return Some(());
    }
    if at + 8 > end {
        return None;
    }
    let h = packet.load::<8>(at)?;
    if has_ports {
        inner.src_port = be16(h[0], h[1]);
        inner.dst_port = be16(h[2], h[3]);
        return Some(());
    }
    match (inner.proto, h[0]) {
        (proto::ICMP, 8) | (proto::ICMPV6, 128) => inner.src_port = be16(h[4], h[5]),
        (proto::ICMP, 0) | (proto::ICMPV6, 129) => inner.dst_port = be16(h[4], h[5]),
        // An error about an error or about discovery is of no flow.
        _ => return None,
    }
    Some(())
}
