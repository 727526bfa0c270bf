//! Ports, flags and ICMP types.

use super::{Ip, Kind, be16};
use crate::abi::{Family, Reason, proto};
use crate::packet::Packet;

const TCP_HEADER: u32 = 20;
const UDP_HEADER: u32 = 8;
const ICMP_HEADER: u32 = 8;
/// The common header and a chunk's header: which chunk it is decides.
const SCTP_HEADER: u32 = 16;

const TCP_FIN: u8 = 1;
const TCP_SYN: u8 = 2;
const TCP_RST: u8 = 4;
const TCP_ACK: u8 = 16;

const SCTP_INIT: u8 = 1;
const SCTP_ABORT: u8 = 6;
const SCTP_SHUTDOWN_COMPLETE: u8 = 14;

/// Where the payload begins without options or extension headers.
const PLAIN_V4: u32 = 34;
const PLAIN_V6: u32 = 54;

/// Fills in what stands behind the IP header. `offset` is the fragment's.
#[inline(always)]
pub(super) fn parse<P: Packet>(packet: &P, ip: &mut Ip, offset: u32) -> Result<(), Reason> {
    let min = min_header(ip.proto);
    if ip.kind.any(Kind::LATER_FRAGMENT) {
        // One that begins inside the first one's header could rewrite it.
        return if offset < min { Err(Reason::Fragment) } else { Ok(()) };
    }
    if ip.payload + min > ip.end {
        return Err(Reason::Truncated);
    }
    if min == 0 {
        return Ok(());
    }
    let h = match ip.payload {
        PLAIN_V4 => packet.head::<34, 8>(),
        PLAIN_V6 => packet.head::<54, 8>(),
        other => packet.load::<8>(other),
    }
    .ok_or(Reason::Truncated)?;
    match ip.proto {
        proto::ICMP if matches!(ip.src.family, Family::V4) => icmp4(ip, &h),
        proto::ICMPV6 if matches!(ip.src.family, Family::V6) => icmp6(ip, &h),
        // ICMP of the other family is nothing that a stack would take.
        proto::ICMP | proto::ICMPV6 => return Err(Reason::Malformed),
        _ => {
            ip.src_port = be16(h[0], h[1]);
            ip.dst_port = be16(h[2], h[3]);
        }
    }
    if !matches!(ip.proto, proto::TCP | proto::SCTP) {
        return Ok(());
    }
    let f = match ip.payload {
        PLAIN_V4 => packet.head::<46, 2>(),
        PLAIN_V6 => packet.head::<66, 2>(),
        other => packet.load::<2>(other + 12),
    }
    .ok_or(Reason::Truncated)?;
    if ip.proto == proto::TCP {
        if u32::from(f[0] >> 4) * 4 < TCP_HEADER {
            return Err(Reason::Malformed);
        }
        if f[1] & (TCP_SYN | TCP_ACK) == TCP_SYN {
            ip.kind = ip.kind.with(Kind::CONNECT);
        }
        if f[1] & (TCP_FIN | TCP_RST) != 0 {
            ip.kind = ip.kind.with(Kind::CLOSE);
        }
    } else {
        match f[0] {
            SCTP_INIT => ip.kind = ip.kind.with(Kind::CONNECT),
            SCTP_ABORT | SCTP_SHUTDOWN_COMPLETE => ip.kind = ip.kind.with(Kind::CLOSE),
            _ => {}
        }
    }
    Ok(())
}

#[inline(always)]
const fn min_header(number: u8) -> u32 {
    match number {
        proto::TCP => TCP_HEADER,
        proto::UDP => UDP_HEADER,
        proto::ICMP | proto::ICMPV6 => ICMP_HEADER,
        proto::SCTP => SCTP_HEADER,
        _ => 0,
    }
}

#[inline(always)]
fn icmp4(ip: &mut Ip, h: &[u8; 8]) {
    ip.icmp_type = h[0];
    match h[0] {
        8 => echo_request(ip, h),
        0 => ip.dst_port = be16(h[4], h[5]),
        3 | 11 | 12 => ip.kind = ip.kind.with(Kind::ERROR),
        _ => {}
    }
}

#[inline(always)]
fn icmp6(ip: &mut Ip, h: &[u8; 8]) {
    ip.icmp_type = h[0];
    match h[0] {
        128 => echo_request(ip, h),
        129 => ip.dst_port = be16(h[4], h[5]),
        1..=4 => ip.kind = ip.kind.with(Kind::ERROR),
        130..=132 | 143 => ip.kind = ip.kind.with(Kind::LISTENER),
        133..=137 => ip.kind = ip.kind.with(Kind::NEIGHBOR),
        _ => {}
    }
}

#[inline(always)]
fn echo_request(ip: &mut Ip, h: &[u8; 8]) {
    ip.kind = ip.kind.with(Kind::ECHO);
    ip.src_port = be16(h[4], h[5]);
}
