//! Frames for tests and tools: written field by field, right or wrong on purpose.

use std::net::IpAddr;
use std::vec::Vec;

use crate::abi::proto;

/// A frame to be made. Every field may be set to what no stack would send.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Source hardware address.
    pub src_mac: [u8; 6],
    /// Source.
    pub src: IpAddr,
    /// Destination, of the same family.
    pub dst: IpAddr,
    /// IP protocol number of the payload.
    pub proto: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// What stands behind the IP header and its options or extension headers.
    pub payload: Vec<u8>,
    /// IPv4 options; a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv6 extension headers, each with its number; the next header fields are filled in.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// IPv4 identification.
    pub id: u16,
    /// IPv4: offset in bytes and whether more follow.
    pub fragment: (u16, bool),
}

impl Frame {
    /// A frame with a payload.
    #[must_use]
    pub fn new(src: IpAddr, dst: IpAddr, number: u8, payload: Vec<u8>) -> Self {
        Self {
            src_mac: [2, 0, 0, 0, 0, 1],
            src,
            dst,
            proto: number,
            hop_limit: 64,
            payload,
            options: Vec::new(),
            extensions: Vec::new(),
            id: 1,
            fragment: (0, false),
        }
    }

    /// TCP with flags: FIN 1, SYN 2, RST 4, ACK 16.
    #[must_use]
    pub fn tcp(src: (IpAddr, u16), dst: (IpAddr, u16), flags: u8) -> Self {
        let mut h = ports(src.1, dst.1, 20);
        h[12] = 5 << 4;
        h[13] = flags;
        Self::new(src.0, dst.0, proto::TCP, h)
    }

    /// UDP without data.
    #[must_use]
    pub fn udp(src: (IpAddr, u16), dst: (IpAddr, u16)) -> Self {
        let mut h = ports(src.1, dst.1, 8);
        h[5] = 8;
        Self::new(src.0, dst.0, proto::UDP, h)
    }

    /// SCTP with one chunk: INIT is 1, DATA 0.
    #[must_use]
    pub fn sctp(src: (IpAddr, u16), dst: (IpAddr, u16), chunk: u8) -> Self {
        let mut h = ports(src.1, dst.1, 16);
        h[12] = chunk;
        h[15] = 4;
        Self::new(src.0, dst.0, proto::SCTP, h)
    }

    /// ICMP of the addresses' family with eight bytes of header and what it quotes.
    #[must_use]
    pub fn icmp(src: IpAddr, dst: IpAddr, kind: u8, id: u16, quoted: &[u8]) -> Self {
        let mut h = Vec::from([kind, 0, 0, 0, 0, 0, 0, 0]);
        h[4..6].copy_from_slice(&id.to_be_bytes());
        h.extend_from_slice(quoted);
        let number = if src.is_ipv4() { proto::ICMP } else { proto::ICMPV6 };
        Self::new(src, dst, number, h)
    }

    /// The IP packet, without the Ethernet header: what an ICMP error quotes.
    #[must_use]
    pub fn packet(&self) -> Vec<u8> {
        let mut bytes = self.bytes();
        bytes.drain(..14);
        bytes
    }

    /// The frame.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::from([2, 0, 0, 0, 0, 0xfe]);
        out.extend_from_slice(&self.src_mac);
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                out.extend_from_slice(&[0x08, 0x00]);
                let header_len = 20 + self.options.len();
                let total = u16::try_from(header_len + self.payload.len()).unwrap_or(u16::MAX);
                out.push(0x40 | u8::try_from(header_len / 4).unwrap_or(15));
                out.push(0);
                out.extend_from_slice(&total.to_be_bytes());
                out.extend_from_slice(&self.id.to_be_bytes());
                let more = if self.fragment.1 { 0x2000 } else { 0 };
                let fragment = (self.fragment.0 / 8) | more;
                out.extend_from_slice(&fragment.to_be_bytes());
                out.extend_from_slice(&[self.hop_limit, self.proto, 0, 0]);
                out.extend_from_slice(&src.octets());
                out.extend_from_slice(&dst.octets());
                out.extend_from_slice(&self.options);
                let sum = checksum(&out[14..14 + header_len]);
                out[24..26].copy_from_slice(&sum.to_be_bytes());
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                out.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
                let extensions: usize = self.extensions.iter().map(|(_, body)| body.len()).sum();
                let len = u16::try_from(extensions + self.payload.len()).unwrap_or(u16::MAX);
                out.extend_from_slice(&len.to_be_bytes());
                out.push(self.extensions.first().map_or(self.proto, |(number, _)| *number));
                out.push(self.hop_limit);
                out.extend_from_slice(&src.octets());
                out.extend_from_slice(&dst.octets());
                for (i, (_, body)) in self.extensions.iter().enumerate() {
                    let next = self.extensions.get(i + 1).map_or(self.proto, |(number, _)| *number);
                    let at = out.len();
                    out.extend_from_slice(body);
                    if let Some(byte) = out.get_mut(at) {
                        *byte = next;
                    }
                }
            }
            // A source of one family and a destination of the other: only a header.
            _ => out.extend_from_slice(&[0x08, 0x00]),
        }
        out.extend_from_slice(&self.payload);
        out
    }

    /// The body of an IPv6 fragment header.
    #[must_use]
    pub fn fragment_header(offset: u16, more: bool, id: u32) -> (u8, Vec<u8>) {
        let mut body = Vec::from([0_u8, 0]);
        body.extend_from_slice(&((offset & 0xfff8) | u16::from(more)).to_be_bytes());
        body.extend_from_slice(&id.to_be_bytes());
        (44, body)
    }
}

fn ports(src: u16, dst: u16, len: usize) -> Vec<u8> {
    let mut h = std::vec![0; len];
    h[0..2].copy_from_slice(&src.to_be_bytes());
    h[2..4].copy_from_slice(&dst.to_be_bytes());
    h
}

fn checksum(header: &[u8]) -> u16 {
    let mut sum: u32 = header
        .chunks_exact(2)
        .enumerate()
        .filter(|(i, _)| *i != 5)
        .map(|(_, pair)| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
