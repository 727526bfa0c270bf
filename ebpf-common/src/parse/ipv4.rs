//! IPv4: header length, options, total length and fragments.

use super::{ETH_LEN, Ip, Kind, transport};
use crate::abi::{Addr, Reason};
use crate::packet::Packet;

const MIN_HEADER: u32 = 20;
/// In the second word of the header.
const MORE_FRAGMENTS: u32 = 0x2000;
const OFFSET: u32 = 0x1fff;
/// Options are followed up to this many; forty bytes could hold forty of them,
/// but nothing sends more than a few.
const MAX_OPTIONS: u32 = 12;
const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_LOOSE_ROUTE: u8 = 131;
const OPTION_STRICT_ROUTE: u8 = 137;

#[inline(always)]
pub(super) fn parse<P: Packet>(packet: &P, len: u32, ip: &mut Ip) -> Result<(), Reason> {
    let [length, fragment, protocol, src, dst] = packet.words::<14, 5>().ok_or(Reason::Truncated)?;
    let length = u32::from_be(length);
    if length >> 28 != 4 {
        return Err(Reason::Malformed);
    }
    let header_len = (length >> 24 & 0xf) * 4;
    let total_len = length & 0xffff;
    if header_len < MIN_HEADER || total_len < header_len {
        return Err(Reason::Malformed);
    }
    let end = ETH_LEN + total_len;
    if end > len {
        return Err(Reason::Truncated);
    }
    let fragment = u32::from_be(fragment);
    let [hop_limit, proto, ..] = protocol.to_ne_bytes();
    *ip = Ip {
        src: Addr::of_word(src),
        dst: Addr::of_word(dst),
        proto,
        hop_limit,
        icmp_type: 0,
        kind: Kind(0),
        src_port: 0,
        dst_port: 0,
        fragment_id: fragment >> 16,
        payload: ETH_LEN + header_len,
        end,
    };
    if header_len == MIN_HEADER && fragment & (MORE_FRAGMENTS | OFFSET) == 0 {
        return transport::parse_at::<P, 34>(packet, ip);
    }
    long_or_fragment(packet, fragment, ip)
}

/// A header with options, or a fragment.
#[inline(never)]
fn long_or_fragment<P: Packet>(packet: &P, fragment: u32, ip: &mut Ip) -> Result<(), Reason> {
    if ip.payload > ETH_LEN + MIN_HEADER {
        check_options(packet, ip.payload)?;
    }
    let offset = (fragment & OFFSET) * 8;
    if offset != 0 {
        ip.kind = ip.kind.with(Kind::LATER_FRAGMENT);
    } else if fragment & MORE_FRAGMENTS != 0 {
        ip.kind = ip.kind.with(Kind::FIRST_FRAGMENT);
    }
    transport::parse(packet, ip, offset)
}

/// A source route would lead a packet past the policy for its last destination.
#[inline(never)]
fn check_options<P: Packet>(packet: &P, end: u32) -> Result<(), Reason> {
    let mut at = ETH_LEN + MIN_HEADER;
    for _ in 0..MAX_OPTIONS {
        if at >= end {
            return Ok(());
        }
        let [kind] = packet.load::<1>(at).ok_or(Reason::Truncated)?;
        match kind {
            OPTION_END => return Ok(()),
            OPTION_NOP => at += 1,
            OPTION_LOOSE_ROUTE | OPTION_STRICT_ROUTE => return Err(Reason::Malformed),
            _ => {
                let [len] = packet.load::<1>(at + 1).ok_or(Reason::Truncated)?;
                if len < 2 || at + u32::from(len) > end {
                    return Err(Reason::Malformed);
                }
                at += u32::from(len);
            }
        }
    }
    if at >= end { Ok(()) } else { Err(Reason::Extension) }
}
