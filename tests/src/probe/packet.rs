//! Probes as bytes, and bytes as probes.

use std::fmt;
use std::net::IpAddr;

use super::Probe;

/// What a probe is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// A SYN; later a segment with data.
    Tcp,
    /// A datagram.
    Udp,
    /// An INIT; later a DATA chunk.
    Sctp,
    /// An echo request of the family; later a reply.
    Icmp,
}

impl Protocol {
    /// By its name in upper case.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Sctp, Self::Icmp].into_iter().find(|one| one.to_string() == name)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
            Self::Icmp => "ICMP",
        })
    }
}

/// Stands before the token in what a probe carries.
const MAGIC: [u8; 4] = *b"tide";
/// The same in an echo reply that is a probe itself, not what a kernel sends back.
const REPLY: [u8; 4] = *b"ebbs";

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

const SYN: u8 = 2;
const ACK: u8 = 16;

/// The whole packet of a probe, its IP header first.
pub(super) fn write(probe: &Probe, (from, source_port): (IpAddr, u16), token: u32) -> Vec<u8> {
    let ports = [source_port.to_be_bytes(), probe.port.to_be_bytes()].concat();
    let data = [MAGIC, token.to_be_bytes()].concat();
    let mut body = ports;
    let (number, checksum_at) = match probe.protocol {
        Protocol::Tcp => {
            let flags = if probe.opening { SYN } else { ACK };
            body.extend_from_slice(&token.to_be_bytes());
            body.extend_from_slice(&u32::from(!probe.opening).to_be_bytes());
            body.extend_from_slice(&[5 << 4, flags, 0x10, 0, 0, 0, 0, 0]);
            if !probe.opening {
                body.extend_from_slice(&data);
            }
            (TCP, Some(16))
        }
        Protocol::Udp => {
            body.extend_from_slice(&[0, 16, 0, 0]);
            body.extend_from_slice(&data);
            (UDP, Some(6))
        }
        Protocol::Sctp => {
            // The tag of an INIT is zero; its own comes in the chunk.
            let tag = if probe.opening { 0 } else { token };
            body.extend_from_slice(&tag.to_be_bytes());
            body.extend_from_slice(&[0; 4]);
            if probe.opening {
                body.extend_from_slice(&[1, 0, 0, 20]);
                body.extend_from_slice(&token.to_be_bytes());
                body.extend_from_slice(&[0, 1, 0, 0, 0, 1, 0, 1]);
                body.extend_from_slice(&token.to_be_bytes());
            } else {
                body.extend_from_slice(&[0, 3, 0, 24]);
                body.extend_from_slice(&token.to_be_bytes());
                body.extend_from_slice(&[0; 8]);
                body.extend_from_slice(&data);
            }
            let sum = crc32c(&body);
            body[8..12].copy_from_slice(&sum.to_le_bytes());
            (SCTP, None)
        }
        Protocol::Icmp => {
            let (request, reply, number) = if probe.to.is_ipv4() { (8, 0, ICMP) } else { (128, 129, ICMPV6) };
            body = vec![if probe.opening { request } else { reply }, 0, 0, 0];
            body.extend_from_slice(&source_port.to_be_bytes());
            body.extend_from_slice(&[0, 1]);
            body.extend_from_slice(if probe.opening { &MAGIC } else { &REPLY });
            body.extend_from_slice(&token.to_be_bytes());
            (number, Some(2))
        }
    };
    if let Some(at) = checksum_at {
        let sum = checksum(from, probe.to, number, &body);
        body[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    let mut packet = ip_header(from, probe.to, number, body.len());
    packet.extend_from_slice(&body);
    packet
}

/// The kernel fills in IPv4's identification and checksum.
fn ip_header(from: IpAddr, to: IpAddr, number: u8, length: usize) -> Vec<u8> {
    let mut header = Vec::new();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = u16::try_from(20 + length).unwrap_or(u16::MAX);
            header.extend_from_slice(&[0x45, 0]);
            header.extend_from_slice(&total.to_be_bytes());
            header.extend_from_slice(&[0, 0, 0, 0, 64, number, 0, 0]);
            header.extend_from_slice(&from.octets());
            header.extend_from_slice(&to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let length = u16::try_from(length).unwrap_or(u16::MAX);
            header.extend_from_slice(&[0x60, 0, 0, 0]);
            header.extend_from_slice(&length.to_be_bytes());
            header.extend_from_slice(&[number, 64]);
            header.extend_from_slice(&from.octets());
            header.extend_from_slice(&to.octets());
        }
        _ => {}
    }
    header
}

/// Of everything but ICMPv4 the addresses are summed too.
fn checksum(from: IpAddr, to: IpAddr, number: u8, body: &[u8]) -> u16 {
    let mut bytes = Vec::new();
    if number != ICMP {
        for address in [from, to] {
            match address {
                IpAddr::V4(v4) => bytes.extend_from_slice(&v4.octets()),
                IpAddr::V6(v6) => bytes.extend_from_slice(&v6.octets()),
            }
        }
        let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
        bytes.extend_from_slice(&[0, number]);
        bytes.extend_from_slice(&length.to_be_bytes());
    }
    bytes.extend_from_slice(body);
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or_default()
}

fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    !crc
}

/// A packet that may be a probe or what came back for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Its destination.
    pub(super) to: IpAddr,
    /// Its destination port, if it has one: of an answer it is the probe's source port.
    pub(super) to_port: Option<u16>,
    /// What it can be a probe or answer of.
    pub(super) tokens: Vec<u32>,
    /// It is an answer for certain.
    pub(super) answer: bool,
}

impl Seen {
    pub(super) fn read(packet: &[u8]) -> Option<Self> {
        let (to, number, body) = ip(packet)?;
        let (tokens, answer) = match number {
            ICMP | ICMPV6 => match (number, *body.first()?) {
                (ICMP, 8) | (ICMPV6, 128) => (Vec::from([carried(body.get(8..)?)?]), false),
                (ICMP, 0) | (ICMPV6, 129) => {
                    let data = body.get(8..)?;
                    (Vec::from([carried(data)?]), at(data, 0) == Some(MAGIC))
                }
                (ICMP, 3 | 11 | 12) | (ICMPV6, 1..=4) => {
                    let (_, number, body) = ip(body.get(8..)?)?;
                    (tokens(number, body)?, true)
                }
                _ => return None,
            },
            _ => (tokens(number, body)?, false),
        };
        let to_port = match number {
            ICMP | ICMPV6 => None,
            _ => Some(u16::from_be_bytes(at(body, 2)?)),
        };
        Some(Self { to, to_port, tokens, answer })
    }
}

/// Destination, protocol and what follows. Fragments and extension headers are not ours.
fn ip(packet: &[u8]) -> Option<(IpAddr, u8, &[u8])> {
    match packet.first()? >> 4 {
        4 => {
            let header = usize::from(packet[0] & 15) * 4;
            if u16::from_be_bytes(at(packet, 6)?) & 0x3fff != 0 {
                return None;
            }
            Some((IpAddr::from(at::<4>(packet, 16)?), *packet.get(9)?, packet.get(header..)?))
        }
        6 => Some((IpAddr::from(at::<16>(packet, 24)?), *packet.get(6)?, packet.get(40..)?)),
        _ => None,
    }
}

fn tokens(number: u8, body: &[u8]) -> Option<Vec<u32>> {
    let word = |offset: usize| at(body, offset).map(u32::from_be_bytes);
    match number {
        TCP => {
            let flags = *body.get(13).unwrap_or(&SYN);
            let header = usize::from(*body.get(12).unwrap_or(&80) >> 4) * 4;
            let data = body.get(header..).and_then(carried);
            if flags & (SYN | ACK) == SYN {
                return Some(Vec::from([word(4)?]));
            }
            Some(data.into_iter().chain([word(8)?.wrapping_sub(1)]).collect())
        }
        UDP => Some(Vec::from([carried(body.get(8..)?)?])),
        SCTP => match *body.get(12)? {
            0 => Some(Vec::from([carried(body.get(28..)?)?])),
            1 => Some(Vec::from([word(16)?])),
            _ => Some(Vec::from([word(4)?])),
        },
        ICMP | ICMPV6 => Some(Vec::from([carried(body.get(8..)?)?])),
        _ => None,
    }
}

fn carried(data: &[u8]) -> Option<u32> {
    [MAGIC, REPLY].contains(&at(data, 0)?).then(|| at(data, 4).map(u32::from_be_bytes))?
}

fn at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..offset + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for (from, to) in [([10, 0, 0, 1].into(), [10, 0, 0, 2].into()), ("fd00::1", "fd00::2").map_ip()] {
            for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp, Protocol::Icmp] {
                for opening in [true, false] {
                    let probe = Probe { opening, ..Probe::new(0, to, protocol, 80) };
                    let packet = write(&probe, (from, 20_000), 77);
                    let seen = Seen::read(&packet).expect("a probe");
                    assert_eq!((seen.to, seen.answer), (to, false), "{protocol}");
                    assert!(seen.tokens.contains(&77), "{protocol} {opening}: {seen:?}");
                    let port = (protocol != Protocol::Icmp).then_some(80);
                    assert_eq!(seen.to_port, port);
                }
            }
        }
    }

    /// Addresses from text, for a table.
    trait MapIp {
        fn map_ip(self) -> (IpAddr, IpAddr);
    }

    impl MapIp for (&str, &str) {
        fn map_ip(self) -> (IpAddr, IpAddr) {
            let ip = |text: &str| text.parse().expect("an address");
            (ip(self.0), ip(self.1))
        }
    }

    #[test]
    fn known_checksums() {
        // RFC 3720, B.4: 32 bytes of zeroes.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        // RFC 1071's example, complemented, as ICMP sums no addresses.
        let any = IpAddr::from([0, 0, 0, 0]);
        assert_eq!(checksum(any, any, ICMP, &[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }
}
