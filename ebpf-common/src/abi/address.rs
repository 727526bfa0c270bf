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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
// Aligned, as the kernel's programs copy unaligned memory byte by byte.
#[repr(C, align(8))]
pub struct Addr {
    /// Network order.
    pub bytes: [u8; 16],
    /// The family.
    pub family: Family,
}

impl Addr {
    /// From the four bytes of an IPv4 header.
    #[inline(always)]
    #[must_use]
    pub const fn v4(b: [u8; 4]) -> Self {
        Self { family: Family::V4, bytes: [b[0], b[1], b[2], b[3], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] }
    }

    /// From the sixteen bytes of an IPv6 header.
    #[inline(always)]
    #[must_use]
    pub const fn v6(bytes: [u8; 16]) -> Self {
        Self { family: Family::V6, bytes }
    }

    /// The first four bytes: the address, if the family is IPv4.
    #[inline(always)]
    #[must_use]
    pub const fn head(&self) -> [u8; 4] {
        [self.bytes[0], self.bytes[1], self.bytes[2], self.bytes[3]]
    }
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
            Family::V6 => Self::V6(Ipv6Addr::from(addr.bytes)),
        }
    }
}
