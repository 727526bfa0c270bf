//! Who is at the other end: address → class.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::address::halves;
use super::check::mix64;

/// Key of `peer4`: an IPv4 address in network order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PeerKey4 {
    /// Network order.
    pub addr: [u8; 4],
}

/// Key of `peer6`: an IPv6 address in network order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PeerKey6 {
    /// Network order.
    pub addr: [u8; 16],
}

/// Value of `peer4` and `peer6`: class (low 32 bits), a tag of the address
/// (31 bits) and whether the address is one of this node's own (highest bit).
/// All of it is one u64, so it is read and written whole, and the tag tells
/// when the element has become another address's meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct PeerValue(pub u64);

const LOCAL_NODE: u64 = 1 << 63;
const TAG_MASK: u64 = 0x7fff_ffff << 32;

#[inline(always)]
fn tag4(addr: [u8; 4]) -> u64 {
    mix64(4, &[u64::from(u32::from_ne_bytes(addr))]) >> 1 & TAG_MASK
}

#[inline(always)]
fn tag6(addr: &[u8; 16]) -> u64 {
    let [a, b] = halves(addr);
    // The highest bit is the only one that all bits of the address reach.
    mix64(6, &[a, b]) >> 1 & TAG_MASK
}

impl PeerValue {
    /// The value of an IPv4 address.
    #[must_use]
    pub fn new4(addr: [u8; 4], class: u32) -> Self {
        Self(tag4(addr) | u64::from(class))
    }

    /// The value of an IPv6 address.
    #[must_use]
    pub fn new6(addr: [u8; 16], class: u32) -> Self {
        Self(tag6(&addr) | u64::from(class))
    }

    /// The value of an address of either family.
    #[must_use]
    pub fn new(addr: core::net::IpAddr, class: u32) -> Self {
        match addr {
            core::net::IpAddr::V4(v4) => Self::new4(v4.octets(), class),
            core::net::IpAddr::V6(v6) => Self::new6(v6.octets(), class),
        }
    }

    /// The same, marked as one of this node's own addresses: egress to it is
    /// allowed unless the pair of address and port stands in `vip`.
    #[must_use]
    pub fn local_node(self) -> Self {
        Self(self.0 | LOCAL_NODE)
    }

    /// The class, if the value belongs to this address.
    #[inline(always)]
    #[must_use]
    pub fn verify4(self, addr: [u8; 4]) -> bool {
        self.0 & TAG_MASK == tag4(addr)
    }

    /// The class, if the value belongs to this address.
    #[inline(always)]
    #[must_use]
    pub fn verify6(self, addr: &[u8; 16]) -> bool {
        self.0 & TAG_MASK == tag6(addr)
    }

    /// The class; meaningful after a verification.
    #[inline(always)]
    #[must_use]
    pub fn class(self) -> u32 {
        self.0 as u32
    }

    /// Whether this is one of the node's own addresses.
    #[inline(always)]
    #[must_use]
    pub fn is_local_node(self) -> bool {
        self.0 & LOCAL_NODE != 0
    }
}

/// Key of `cidr4`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CidrKey4 {
    /// Significant bits of the address, at most 32.
    pub prefix_len: u32,
    /// Network order; bits behind the prefix are zero.
    pub addr: [u8; 4],
}

impl CidrKey4 {
    /// The key of a prefix. Bits behind it are cleared; a length beyond 32 is 32.
    #[inline(always)]
    #[must_use]
    pub fn new(addr: [u8; 4], prefix_len: u8) -> Self {
        let len = if prefix_len > 32 { 32 } else { u32::from(prefix_len) };
        let mask = u32::MAX.checked_shl(32 - len).unwrap_or(0);
        Self { prefix_len: len, addr: (u32::from_be_bytes(addr) & mask).to_be_bytes() }
    }
}

/// Key of `cidr6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CidrKey6 {
    /// Significant bits of the address, at most 128.
    pub prefix_len: u32,
    /// Network order; bits behind the prefix are zero.
    pub addr: [u8; 16],
}

impl CidrKey6 {
    /// The key of a prefix. Bits behind it are cleared; a length beyond 128 is 128.
    #[must_use]
    pub fn new(addr: [u8; 16], prefix_len: u8) -> Self {
        let len = if prefix_len > 128 { 128 } else { u32::from(prefix_len) };
        let mask = u128::MAX.checked_shl(128 - len).unwrap_or(0);
        Self { prefix_len: len, addr: (u128::from_be_bytes(addr) & mask).to_be_bytes() }
    }
}

/// The prefix holds cluster IPs: an address in it that has no entry in `vip`
/// is denied to isolated pods.
pub const CIDR_SERVICE: u32 = 1;

/// Value of `cidr4` and `cidr6`. The trie replaces whole nodes and frees them
/// after a grace period, so it needs no tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CidrValue {
    /// The full class of the elementary prefix.
    pub class: u32,
    /// [`CIDR_SERVICE`] or nothing.
    pub flags: u32,
}

impl CidrValue {
    /// A prefix of a class.
    #[must_use]
    pub const fn new(class: u32) -> Self {
        Self { class, flags: 0 }
    }

    /// The same, marked as holding cluster IPs.
    #[must_use]
    pub const fn service(class: u32) -> Self {
        Self { class, flags: CIDR_SERVICE }
    }
}

const _: () =
    assert!(size_of::<PeerKey4>() == 4 && size_of::<PeerKey6>() == 16 && size_of::<PeerValue>() == 8);
const _: () =
    assert!(size_of::<CidrKey4>() == 8 && size_of::<CidrKey6>() == 20 && size_of::<CidrValue>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_verifies_only_for_its_address() {
        let value = PeerValue::new4([10, 0, 0, 1], u32::MAX);
        assert!(value.verify4([10, 0, 0, 1]));
        assert!(!value.verify4([10, 0, 0, 2]));
        assert_eq!(value.class(), u32::MAX);
        assert!(!value.is_local_node());
        assert!(value.local_node().is_local_node());
        assert!(value.local_node().verify4([10, 0, 0, 1]));

        let mut addr = [0_u8; 16];
        addr[15] = 9;
        let value = PeerValue::new6(addr, 3);
        assert!(value.verify6(&addr));
        addr[0] = 1;
        assert!(!value.verify6(&addr));
        assert!(!PeerValue(0).verify4([0; 4]));
    }

    #[test]
    fn every_bit_of_an_address_is_in_its_tag() {
        let (four, six) = ([10, 0, 0, 1], [0x20; 16]);
        for bit in 0..128 {
            let (mut other4, mut other6) = (four, six);
            other6[bit / 8] ^= 1 << (bit % 8);
            assert!(!PeerValue::new6(six, 1).verify6(&other6), "bit {bit}");
            if bit < 32 {
                other4[bit / 8] ^= 1 << (bit % 8);
                assert!(!PeerValue::new4(four, 1).verify4(other4), "bit {bit}");
            }
        }
    }

    #[test]
    fn prefixes_are_canonical() {
        assert_eq!(CidrKey4::new([10, 1, 2, 3], 8), CidrKey4 { prefix_len: 8, addr: [10, 0, 0, 0] });
        assert_eq!(CidrKey4::new([10, 1, 2, 3], 0), CidrKey4 { prefix_len: 0, addr: [0; 4] });
        assert_eq!(CidrKey4::new([10, 1, 2, 3], 40).prefix_len, 32);
        assert_eq!(CidrKey6::new([0xff; 16], 1).addr[0], 0x80);
        assert_eq!(CidrKey6::new([0xff; 16], 0).addr, [0; 16]);
    }
}
