//! IPv6: payload length and extension headers.

use super::{ETH_LEN, Ip, Kind, be16, transport};
use crate::abi::{Addr, Reason, proto};
use crate::packet::Packet;

const HEADER: u32 = 40;
const MAX_EXTENSIONS: u32 = 6;

mod next {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const DESTINATION: u8 = 60;
    pub(super) const MOBILITY: u8 = 135;
    pub(super) const HOST_IDENTITY: u8 = 139;
    pub(super) const SHIM6: u8 = 140;
}

/// What the walk over the extension headers found.
pub(super) struct Walked {
    pub(super) proto: u8,
    pub(super) payload: u32,
    pub(super) kind: Kind,
    pub(super) fragment_id: u32,
    /// Bytes before this fragment's payload in the whole packet.
    pub(super) fragment_offset: u32,
    /// Where the packet ends.
    pub(super) end: u32,
}

impl Walked {
    pub(super) const START: Self =
        Self { proto: 0, payload: 0, kind: Kind(0), fragment_id: 0, fragment_offset: 0, end: 0 };
}

#[inline(always)]
pub(super) fn parse<P: Packet>(packet: &P, len: u32, ip: &mut Ip) -> Result<(), Reason> {
    let [first, src_head, src_tail, dst_head, dst_tail] =
        packet.long_words::<14, 5>().ok_or(Reason::Truncated)?;
    let first = u64::from_be(first);
    if first >> 60 != 6 {
        return Err(Reason::Malformed);
    }
    ip.end = ETH_LEN + HEADER + (first as u32 >> 16);
    if ip.end > len {
        return Err(Reason::Truncated);
    }
    ip.src = Addr::of_words([src_head, src_tail]);
    ip.dst = Addr::of_words([dst_head, dst_tail]);
    ip.proto = (first >> 8) as u8;
    ip.hop_limit = first as u8;
    ip.icmp_type = 0;
    ip.kind = Kind(0);
    ip.src_port = 0;
    ip.dst_port = 0;
    ip.fragment_id = 0;
    ip.payload = ETH_LEN + HEADER;
    if matches!(ip.proto, proto::TCP | proto::UDP) {
        return transport::parse_at::<P, 54>(packet, ip);
    }
    other(packet, ip)
}

/// What is neither TCP nor UDP, or stands behind extension headers.
#[inline(never)]
fn other<P: Packet>(packet: &P, ip: &mut Ip) -> Result<(), Reason> {
    if !is_extension(ip.proto) {
        return transport::parse(packet, ip, 0);
    }
    let mut walked = Walked { proto: ip.proto, payload: ip.payload, end: ip.end, ..Walked::START };
    walk(packet, &mut walked)?;
    ip.proto = walked.proto;
    ip.payload = walked.payload;
    ip.kind = walked.kind;
    ip.fragment_id = walked.fragment_id;
    transport::parse(packet, ip, walked.fragment_offset)
}

/// Whether the number is an extension header that this walk follows or refuses.
#[inline(always)]
pub(super) const fn is_extension(number: u8) -> bool {
    matches!(
        number,
        next::HOP_BY_HOP
            | next::ROUTING
            | next::FRAGMENT
            | next::AUTHENTICATION
            | next::DESTINATION
            | next::MOBILITY
            | next::HOST_IDENTITY
            | next::SHIM6
    )
}

/// Walks extension headers from `walked.payload` on.
#[inline(never)]
pub(super) fn walk<P: Packet>(packet: &P, walked: &mut Walked) -> Result<(), Reason> {
    for i in 0..MAX_EXTENSIONS {
        let number = walked.proto;
        if !is_extension(number) {
            return Ok(());
        }
        // Fragments of packets with extension headers behind the fragment
        // header would need their protocol kept too. Nothing sends them.
        if walked.kind.any(Kind::FRAGMENT_HEADER) {
            return Err(Reason::Extension);
        }
        let x = packet.load::<8>(walked.payload).ok_or(Reason::Truncated)?;
        let len = match number {
            next::HOP_BY_HOP if i != 0 => return Err(Reason::Malformed),
            // With segments left the destination is not the last one.
            next::ROUTING if x[3] != 0 => return Err(Reason::Malformed),
            next::HOP_BY_HOP | next::DESTINATION | next::ROUTING => u32::from(x[1]) * 8 + 8,
            next::AUTHENTICATION => u32::from(x[1]) * 4 + 8,
            next::FRAGMENT => {
                let field = be16(x[2], x[3]);
                walked.fragment_offset = u32::from(field & 0xfff8);
                walked.fragment_id = u32::from_be_bytes([x[4], x[5], x[6], x[7]]);
                walked.kind = walked.kind.with(Kind::FRAGMENT_HEADER);
                if walked.fragment_offset != 0 {
                    walked.kind = walked.kind.with(Kind::LATER_FRAGMENT);
                } else if field & 1 != 0 {
                    walked.kind = walked.kind.with(Kind::FIRST_FRAGMENT);
                }
                8
            }
            _ => return Err(Reason::Extension),
        };
        if number != next::FRAGMENT {
            walked.kind = walked.kind.with(Kind::EXTENDED);
        }
        walked.proto = x[0];
        walked.payload += len;
        if walked.payload > walked.end {
            return Err(Reason::Truncated);
        }
    }
    if is_extension(walked.proto) { Err(Reason::Extension) } else { Ok(()) }
}
