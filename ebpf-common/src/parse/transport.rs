//! Ports, flags and ICMP types.

use super::{Ip, Kind};
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

/// Fills in what stands behind a header without options or extension headers, at
/// `AT`, of a packet that is no fragment: nearly every packet.
#[inline(always)]
pub(super) fn parse_at<P: Packet, const AT: usize>(packet: &P, ip: &mut Ip) -> Result<(), Reason> {
    match ip.proto {
        proto::TCP => {
            if AT as u32 + TCP_HEADER > ip.end {
                return Err(Reason::Truncated);
            }
            let [first, _, _, fourth] = packet.words::<AT, 4>().ok_or(Reason::Truncated)?;
            ports(ip, u32::from_be(first));
            tcp(ip, u32::from_be(fourth))
        }
        proto::UDP => {
            if AT as u32 + UDP_HEADER > ip.end {
                return Err(Reason::Truncated);
            }
            let [first] = packet.words::<AT, 1>().ok_or(Reason::Truncated)?;
            ports(ip, u32::from_be(first));
            Ok(())
        }
        _ => parse(packet, ip, 0),
    }
}

/// Fills in what stands behind the IP header. `offset` is the fragment's.
#[inline(never)]
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
    let bytes = packet.load::<8>(ip.payload).ok_or(Reason::Truncated)?;
    let [first, second]: [u32; 2] = zerocopy::transmute!(bytes);
    let (first, second) = (u32::from_be(first), u32::from_be(second));
    match ip.proto {
        proto::ICMP if matches!(ip.src.family, Family::V4) => icmp4(ip, first, second),
        proto::ICMPV6 if matches!(ip.src.family, Family::V6) => icmp6(ip, first, second),
        // ICMP of the other family is nothing that a stack would take.
        proto::ICMP | proto::ICMPV6 => return Err(Reason::Malformed),
        _ => ports(ip, first),
    }
    if !matches!(ip.proto, proto::TCP | proto::SCTP) {
        return Ok(());
    }
    let bytes = packet.load::<4>(ip.payload + 12).ok_or(Reason::Truncated)?;
    let fourth = u32::from_be_bytes(bytes);
    if ip.proto == proto::TCP {
        return tcp(ip, fourth);
    }
    match (fourth >> 24) as u8 {
        SCTP_INIT => ip.kind = ip.kind.with(Kind::CONNECT),
        SCTP_ABORT | SCTP_SHUTDOWN_COMPLETE => ip.kind = ip.kind.with(Kind::CLOSE),
        _ => {}
    }
    Ok(())
}

#[inline(always)]
fn ports(ip: &mut Ip, first: u32) {
    ip.src_port = (first >> 16) as u16;
    ip.dst_port = first as u16;
}

/// The header's length and the flags.
#[inline(always)]
fn tcp(ip: &mut Ip, fourth: u32) -> Result<(), Reason> {
    if (fourth >> 28) * 4 < TCP_HEADER {
        return Err(Reason::Malformed);
    }
    let flags = (fourth >> 16) as u8;
    let connects = flags & (TCP_SYN | TCP_ACK) == TCP_SYN;
    let closes = flags & (TCP_FIN | TCP_RST) != 0;
    if connects || closes {
        let connect = if connects { Kind::CONNECT } else { 0 };
        let close = if closes { Kind::CLOSE } else { 0 };
        ip.kind = ip.kind.with(connect | close);
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
fn icmp4(ip: &mut Ip, first: u32, second: u32) {
    ip.icmp_type = (first >> 24) as u8;
    match ip.icmp_type {
        8 => echo_request(ip, second),
        0 => ip.dst_port = (second >> 16) as u16,
        3 | 11 | 12 => ip.kind = ip.kind.with(Kind::ERROR),
        _ => {}
    }
}

#[inline(always)]
fn icmp6(ip: &mut Ip, first: u32, second: u32) {
    ip.icmp_type = (first >> 24) as u8;
    match ip.icmp_type {
        128 => echo_request(ip, second),
        129 => ip.dst_port = (second >> 16) as u16,
        1..=4 => ip.kind = ip.kind.with(Kind::ERROR),
        130..=132 | 143 => ip.kind = ip.kind.with(Kind::LISTENER),
        133..=137 => ip.kind = ip.kind.with(Kind::NEIGHBOR),
        _ => {}
    }
}

#[inline(always)]
fn echo_request(ip: &mut Ip, second: u32) {
    ip.kind = ip.kind.with(Kind::ECHO);
    ip.src_port = (second >> 16) as u16;
}
