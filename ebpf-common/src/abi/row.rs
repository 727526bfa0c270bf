//! What is decided: (set, class) → profile, and (profile, protocol, port) →
//! verdict. Neither is ever updated in place: a change makes new ids.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The class of an address that satisfies no term.
pub const CLASS_NONE: u32 = 0;
/// The profile that denies every packet; it has no entries in `port`.
pub const PROFILE_DENY_ALL: u32 = 0;
/// The profile that allows every packet; it has no entries in `port`.
pub const PROFILE_ALLOW_ALL: u32 = 1;

/// Key of `row`.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct RowKey {
    /// The rules in force for a pod in one direction.
    pub set: u32,
    /// Who is at the other end.
    pub class: u32,
}

/// Value of `row`. Every live set has a row for [`CLASS_NONE`]; a class whose
/// profile equals that one's needs none of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RowValue {
    /// [`PROFILE_DENY_ALL`], [`PROFILE_ALLOW_ALL`] or the profile to ask in `port`.
    pub profile: u32,
    /// The rule that decided, where the profile is one of the two above.
    pub rule: u32,
}

/// What a port entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum PortAction {
    /// The packet is dropped.
    Deny = 0,
    /// The packet passes.
    Allow = 1,
}

/// Key of `port`: profile, protocol and port in network order, as the trie
/// compares bytes from the first on.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct PortKey {
    /// Significant bits: 32 for all protocols, 48 for all ports of one, up to 64.
    pub prefix_len: u32,
    /// The profile.
    pub profile_be: [u8; 4],
    /// IP protocol number.
    pub proto: u8,
    /// Zero.
    pub pad: u8,
    /// Destination port; zero for protocols without ports.
    pub port_be: [u8; 2],
}

impl PortKey {
    /// Ports of one protocol that share their first `port_bits` bits with
    /// `port`: 16 is that port, 0 all ports. Bits behind are cleared.
    #[inline(always)]
    #[must_use]
    pub fn new(profile: u32, proto: u8, port: u16, port_bits: u8) -> Self {
        let bits = if port_bits > 16 { 16 } else { u32::from(port_bits) };
        let mask = (0xffff_0000_u32 >> bits) as u16;
        Self {
            prefix_len: 48 + bits,
            profile_be: profile.to_be_bytes(),
            proto,
            pad: 0,
            port_be: (port & mask).to_be_bytes(),
        }
    }

    /// What a profile says of every protocol and port that has no entry of its own.
    #[must_use]
    pub fn any(profile: u32) -> Self {
        Self { prefix_len: 32, profile_be: profile.to_be_bytes(), proto: 0, pad: 0, port_be: [0; 2] }
    }

    /// The key of a packet.
    #[inline(always)]
    #[must_use]
    pub fn exact(profile: u32, proto: u8, port: u16) -> Self {
        Self { prefix_len: 64, profile_be: profile.to_be_bytes(), proto, pad: 0, port_be: port.to_be_bytes() }
    }
}

/// Value of `port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PortValue {
    /// A [`PortAction`]; anything else denies.
    pub action: u32,
    /// The rule that decided.
    pub rule: u32,
}

impl PortValue {
    /// A verdict with the rule that decided.
    #[must_use]
    pub const fn new(action: PortAction, rule: u32) -> Self {
        Self { action: action as u32, rule }
    }

    /// Whether the packet passes.
    #[inline(always)]
    #[must_use]
    pub fn allows(&self) -> bool {
        self.action == PortAction::Allow as u32
    }
}

const _: () = assert!(size_of::<RowKey>() == 8 && size_of::<RowValue>() == 8);
const _: () = assert!(size_of::<PortKey>() == 12 && size_of::<PortValue>() == 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_bits_mask_the_port() {
        assert_eq!(PortKey::new(7, 6, 0xffff, 16).port_be, [0xff, 0xff]);
        assert_eq!(PortKey::new(7, 6, 0xffff, 1).port_be, [0x80, 0]);
        assert_eq!(PortKey::new(7, 6, 0xffff, 0).port_be, [0, 0]);
        assert_eq!(PortKey::new(7, 6, 80, 0).prefix_len, 48);
        assert_eq!(PortKey::new(7, 6, 80, 16), PortKey::exact(7, 6, 80));
        assert_eq!(PortKey::any(7).prefix_len, 32);
    }
}
