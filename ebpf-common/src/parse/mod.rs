//! From bytes to what decides: addresses, protocol, ports and what kind of
//! packet it is. Everything that can not be understood is an error with the
//! reason by which the packet is dropped.

mod inner;
mod ipv4;
mod ipv6;
mod link;
mod transport;

use crate::abi::{Addr, Reason};
use crate::packet::Packet;

pub use inner::{Inner, inner_flow};
pub use link::{check_arp, check_neighbor};

/// Bytes of the Ethernet header.
pub const ETH_LEN: u32 = 14;

/// EtherTypes that may pass.
pub mod ether_type {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
}

/// What kind of packet it is, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kind(pub u16);

impl Kind {
    /// A TCP SYN without ACK, or an SCTP INIT.
    pub const CONNECT: u16 = 1;
    /// An ICMP echo request.
    pub const ECHO: u16 = 1 << 1;
    /// A TCP FIN or RST, an SCTP ABORT or SHUTDOWN COMPLETE.
    pub const CLOSE: u16 = 1 << 2;
    /// An ICMP error that quotes a packet.
    pub const ERROR: u16 = 1 << 3;
    /// Neighbour or router discovery, or a redirect.
    pub const NEIGHBOR: u16 = 1 << 4;
    /// Multicast listener discovery.
    pub const LISTENER: u16 = 1 << 5;
    /// The first of several fragments: its ports are kept for the others.
    pub const FIRST_FRAGMENT: u16 = 1 << 6;
    /// A later fragment: its ports are those of the first.
    pub const LATER_FRAGMENT: u16 = 1 << 7;
    /// IPv6 with a fragment header, be it the only fragment.
    pub const FRAGMENT_HEADER: u16 = 1 << 8;
    /// IPv6 with any other extension header.
    pub const EXTENDED: u16 = 1 << 9;

    /// Whether any of the bits is set.
    #[inline(always)]
    #[must_use]
    pub const fn any(self, bits: u16) -> bool {
        self.0 & bits != 0
    }

    /// With bits set.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, bits: u16) -> Self {
        Self(self.0 | bits)
    }
}

/// An IP packet, parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Ip {
    /// Source.
    pub src: Addr,
    /// Destination, of the same family.
    pub dst: Addr,
    /// Protocol of the payload, behind all extension headers.
    pub proto: u8,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// ICMP type; 0 for other protocols and later fragments.
    pub icmp_type: u8,
    /// What kind of packet it is.
    pub kind: Kind,
    /// Source port, host order. For an echo request the identifier.
    pub src_port: u16,
    /// Destination port, host order. For an echo reply the identifier.
    pub dst_port: u16,
    /// Identification, for fragments.
    pub fragment_id: u32,
    /// Where the payload begins, from the Ethernet header on.
    pub payload: u32,
    /// Where the IP packet ends, which may be before the frame does.
    pub end: u32,
}

impl Ip {
    /// A packet of which nothing is known yet.
    pub const UNKNOWN: Self = Self {
        src: Addr::v4([0; 4]),
        dst: Addr::v4([0; 4]),
        proto: 0,
        hop_limit: 0,
        icmp_type: 0,
        kind: Kind(0),
        src_port: 0,
        dst_port: 0,
        fragment_id: 0,
        payload: 0,
        end: 0,
    };
}

/// Parses an IPv4 packet in a frame of `len` bytes.
///
/// # Errors
/// The reason to drop it.
#[inline(always)]
pub fn parse_ipv4<P: Packet>(packet: &P, len: u32, ip: &mut Ip) -> Result<(), Reason> {
    ipv4::parse(packet, len, ip)
}

/// Parses an IPv6 packet in a frame of `len` bytes.
///
/// # Errors
/// The reason to drop it.
#[inline(always)]
pub fn parse_ipv6<P: Packet>(packet: &P, len: u32, ip: &mut Ip) -> Result<(), Reason> {
    ipv6::parse(packet, len, ip)
}

/// The source hardware address as a number.
#[inline(always)]
pub fn source_mac<P: Packet>(packet: &P) -> Option<u64> {
    // With the last two bytes of the destination before it.
    let [word] = packet.long_words::<4, 1>()?;
    Some(u64::from_be(word) & 0xffff_ffff_ffff)
}

#[inline(always)]
const fn be16(a: u8, b: u8) -> u16 {
    u16::from_be_bytes([a, b])
}

#[cfg(test)]
mod tests;
