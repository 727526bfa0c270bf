//! IPv4: header length, options, total length and fragments.

use super::{ETH_LEN, Ip, Kind, be16, transport};
use crate::abi::{Addr, Reason};
use crate::packet::Packet;

const MIN_HEADER: u32 = 20;
/// Options are followed up to this many; forty bytes could hold forty of them,
/// but nothing sends more than a few.
const MAX_OPTIONS: u32 = 12;
const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_LOOSE_ROUTE: u8 = 131;
const OPTION_STRICT_ROUTE: u8 = 137;

#[inline(always)]
pub(super) fn parse<P: Packet>(packet: &P, len: u32, ip: &mut Ip) -> Result<(), Reason> {
    let h = packet.head::<14, 20>().ok_or(Reason::Truncated)?;
    if h[0] >> 4 != 4 {
        return Err(Reason::Malformed);
    }
    let header_len = u32::from(h[0] & 0xf) * 4;
    let total_len = u32::from(be16(h[2], h[3]));
    if header_len < MIN_HEADER || total_len < header_len {
        return Err(Reason::Malformed);
    }
    let end = ETH_LEN + total_len;
    if end > len {
        return Err(Reason::Truncated);
    }
    let payload = ETH_LEN + header_len;
    if header_len > MIN_HEADER {
        check_options(packet, payload)?;
    }

    let fragment = be16(h[6], h[7]);
    let offset = u32::from(fragment & 0x1fff) * 8;
    let more = fragment & 0x2000 != 0;
    let mut kind = Kind(0);
    if offset != 0 {
        kind = kind.with(Kind::LATER_FRAGMENT);
    } else if more {
        kind = kind.with(Kind::FIRST_FRAGMENT);
    }
    *ip = Ip {
        src: Addr::v4([h[12], h[13], h[14], h[15]]),
        dst: Addr::v4([h[16], h[17], h[18], h[19]]),
        proto: h[9],
        hop_limit: h[8],
        icmp_type: 0,
        kind,
        src_port: 0,
        dst_port: 0,
        fragment_id: u32::from(be16(h[4], h[5])),
        payload,
        end,
    };
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
