//! An address of either family as it stands in keys.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Family {
    /// IPv4.
    V4 = 0,
    /// IPv6.
    V6 = 1,
}

impl Family {
    /// The IP version number, as it stands in keys and events.
    #[inline(always)]
    #[must_use]
    pub const fn version(self) -> u8 {
        4 + 2 * self as u8
    }
}

impl TryFrom<u8> for Family {
    type Error = u8;

    fn try_from(version: u8) -> Result<Self, u8> {
        match version {
            4 => Ok(Self::V4),
            6 => Ok(Self::V6),
            other => Err(other),
        }
    }
}

/// An address with its family. IPv4 fills the first four bytes, the others are
/// zero, so that equal addresses have equal bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Addr {
    /// The bytes in network order, eight at a time: the kernel's programs would
    /// move single bytes one by one.
    words: [u64; 2],
    /// The family.
    pub family: Family,
}

impl Addr {
    /// From the four bytes of an IPv4 header.
    #[inline(always)]
    #[must_use]
    pub const fn v4(b: [u8; 4]) -> Self {
        Self::of_word(u32::from_ne_bytes(b))
    }

    /// From an IPv4 address as it stands in memory.
    #[inline(always)]
    #[must_use]
    pub const fn of_word(word: u32) -> Self {
        let word = word as u64;
        Self {
            words: [if cfg!(target_endian = "little") { word } else { word << 32 }, 0],
            family: Family::V4,
        }
    }

    /// From the sixteen bytes of an IPv6 header.
    #[inline(always)]
    #[must_use]
    pub const fn v6(bytes: [u8; 16]) -> Self {
        Self::of_words(halves(&bytes))
    }

    /// From an IPv6 address as it stands in memory.
    #[inline(always)]
    #[must_use]
    pub const fn of_words(words: [u64; 2]) -> Self {
        Self { words, family: Family::V6 }
    }

    /// All bytes, eight at a time.
    #[inline(always)]
    #[must_use]
    pub const fn words(&self) -> [u64; 2] {
        self.words
    }

    /// The first four bytes at once: the address, if the family is IPv4.
    #[inline(always)]
    #[must_use]
    pub const fn word(&self) -> u32 {
        if cfg!(target_endian = "little") { self.words[0] as u32 } else { (self.words[0] >> 32) as u32 }
    }

    /// The first four bytes: the address, if the family is IPv4.
    #[inline(always)]
    #[must_use]
    pub const fn head(&self) -> [u8; 4] {
        self.word().to_ne_bytes()
    }

    /// All bytes, in network order.
    #[inline(always)]
    #[must_use]
    pub const fn bytes(&self) -> [u8; 16] {
        let ([a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p]) =
            (self.words[0].to_ne_bytes(), self.words[1].to_ne_bytes());
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// Whether no bit is set.
    #[inline(always)]
    #[must_use]
    pub const fn is_zero(&self) -> bool {
        self.words[0] | self.words[1] == 0
    }
}

impl core::fmt::Debug for Addr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&IpAddr::from(*self), f)
    }
}

/// Both halves of sixteen bytes, in the host's order.
#[inline(always)]
pub(super) const fn halves(b: &[u8; 16]) -> [u64; 2] {
    [
        u64::from_ne_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]),
        u64::from_ne_bytes([b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]),
    ]
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::v4(v4.octets()),
            IpAddr::V6(v6) => Self::v6(v6.octets()),
        }
    }
}

impl From<Addr> for IpAddr {
    fn from(addr: Addr) -> Self {
        match addr.family {
            Family::V4 => Self::V4(Ipv4Addr::from(addr.head())),
            Family::V6 => Self::V6(Ipv6Addr::from(addr.bytes())),
        }
    }
}
