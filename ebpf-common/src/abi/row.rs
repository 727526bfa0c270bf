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
#[repr(u16)]
pub enum PortAction {
    /// The packet is dropped.
    Deny = 0,
    /// The packet passes.
    Allow = 1,
}

/// Key of `port`: profile, protocol and the first bits of a port.
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
    #[inline(always)]
    #[must_use]
    pub fn any(profile: u32) -> Self {
        Self { prefix_len: 32, profile_be: profile.to_be_bytes(), proto: 0, pad: 0, port_be: [0; 2] }
    }

    /// The bit of [`PortValue::lengths`] for this key; none for those that are
    /// always asked for.
    fn length(&self) -> u16 {
        match self.prefix_len {
            48..64 => 1 << (self.prefix_len - 48),
            _ => 0,
        }
    }

    /// The key of one port.
    #[inline(always)]
    #[must_use]
    pub fn exact(profile: u32, proto: u8, port: u16) -> Self {
        Self { prefix_len: 64, profile_be: profile.to_be_bytes(), proto, pad: 0, port_be: port.to_be_bytes() }
    }
}

/// Value of `port`.
///
/// The map is a hash and not a trie: a look-up for each length in use costs the
/// same however many profiles there are, the depth of a trie grows with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct PortValue {
    /// A [`PortAction`]; anything else denies.
    pub action: u16,
    /// Of [`PortKey::any`]: the lengths below 16 of which the profile has
    /// entries, bit n for n port bits. Of all others zero.
    pub lengths: u16,
    /// The rule that decided.
    pub rule: u32,
}

impl PortValue {
    /// A verdict with the rule that decided.
    #[must_use]
    pub const fn new(action: PortAction, rule: u32) -> Self {
        Self { action: action as u16, lengths: 0, rule }
    }

    /// The same with the lengths of a profile's other keys.
    #[must_use]
    pub fn with_lengths<'a>(mut self, keys: impl IntoIterator<Item = &'a PortKey>) -> Self {
        for key in keys {
            self.lengths |= key.length();
        }
        self
    }

    /// What a profile says of a packet: the entry of the longest prefix of its
    /// port, else what holds for everything.
    #[inline(always)]
    #[must_use]
    pub fn find(profile: u32, proto: u8, port: u16, get: impl Fn(&PortKey) -> Option<Self>) -> Option<Self> {
        if let Some(exact) = get(&PortKey::exact(profile, proto, port)) {
            return Some(exact);
        }
        let rest = get(&PortKey::any(profile))?;
        if rest.lengths != 0 {
            for bits in (0..16_u8).rev() {
                if u32::from(rest.lengths) >> bits & 1 != 0
                    && let Some(found) = get(&PortKey::new(profile, proto, port, bits))
                {
                    return Some(found);
                }
            }
        }
        Some(rest)
    }

    /// Whether the packet passes.
    #[inline(always)]
    #[must_use]
    pub fn allows(&self) -> bool {
        self.action == PortAction::Allow as u16
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

    #[test]
    fn the_longest_prefix_is_found() {
        let mut keys = std::vec![PortKey::exact(7, 6, 80), PortKey::exact(7, 6, 0x2001)];
        keys.extend([(0x2000, 4), (0x2000, 15), (0, 0)].map(|(port, bits)| PortKey::new(7, 6, port, bits)));
        let value = |key: &PortKey| PortValue::new(PortAction::Allow, key.prefix_len);
        let rest = value(&PortKey::any(7)).with_lengths(&keys);
        assert_eq!(rest.lengths, 1 << 15 | 1 << 4 | 1);
        keys.push(PortKey::any(8));
        let get = |key: &PortKey| match keys.contains(key) {
            true => Some(value(key)),
            false => (*key == PortKey::any(7)).then_some(rest),
        };
        let found = |profile, proto, port| PortValue::find(profile, proto, port, get).map(|value| value.rule);
        for (port, length) in [(80, 64), (0x2001, 64), (0x2000, 63), (0x2002, 52), (0x3000, 48), (0, 48)] {
            assert_eq!(found(7, 6, port), Some(length), "{port}");
        }
        assert_eq!([found(7, 17, 80), found(8, 6, 80), found(9, 6, 80)], [Some(32), Some(32), None]);
    }
}
