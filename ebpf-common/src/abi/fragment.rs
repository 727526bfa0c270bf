//! Ports of fragmented packets, kept from the first fragment for the others.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::address::halves;
use super::check::mix32;

/// Key of `frag`. The pod's interface and the direction are part of it: one
/// pod's fragments never speak for another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FragKey {
    /// Source address, network order; IPv4 fills the first four bytes.
    pub src: [u8; 16],
    /// Destination address, likewise.
    pub dst: [u8; 16],
    /// The pod's host interface.
    pub ifindex: u32,
    /// Identification as it stands in the header, 16 bits for IPv4.
    pub id: u32,
    /// IP protocol number of the payload.
    pub proto: u8,
    /// 4 or 6.
    pub family: u8,
    /// A [`super::Direction`].
    pub direction: u8,
    /// Zero.
    pub pad: u8,
}

impl FragKey {
    /// No packet's key.
    pub const NONE: Self =
        Self { src: [0; 16], dst: [0; 16], ifindex: 0, id: 0, proto: 0, family: 0, direction: 0, pad: 0 };

    #[inline(always)]
    fn tag(&self, ports: u64, seen: u64) -> u32 {
        let [a, b] = halves(&self.src);
        let [c, d] = halves(&self.dst);
        let kind = u64::from(self.proto) | u64::from(self.family) << 8 | u64::from(self.direction) << 16;
        mix32(kind, &[a, b, c, d, u64::from(self.ifindex) << 32 | u64::from(self.id), ports | seen << 32])
    }
}

/// Value of `frag`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FragValue {
    /// Source port, or what stands for it in ICMP.
    pub src_port: u16,
    /// Destination port, likewise.
    pub dst_port: u16,
    /// Tick of the first fragment.
    pub seen: u32,
    /// Check word over key and value.
    pub check: u32,
}

impl FragValue {
    /// The value of a packet's first fragment.
    #[inline(always)]
    #[must_use]
    pub fn new(key: &FragKey, src_port: u16, dst_port: u16, seen: u32) -> Self {
        let ports = u64::from(src_port) << 16 | u64::from(dst_port);
        Self { src_port, dst_port, seen, check: key.tag(ports, u64::from(seen)) }
    }

    /// Whether this value is whole and belongs to the key.
    #[inline(always)]
    #[must_use]
    pub fn verify(&self, key: &FragKey) -> bool {
        let ports = u64::from(self.src_port) << 16 | u64::from(self.dst_port);
        self.check == key.tag(ports, u64::from(self.seen))
    }
}

const _: () = assert!(size_of::<FragKey>() == 44 && size_of::<FragValue>() == 12);
