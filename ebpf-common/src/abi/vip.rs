//! Service addresses: what a pod asks for before the node translates it.

use core::net::IpAddr;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::address::{Addr, halves};
use super::check::mix32;

/// Key of `vip`: a cluster IP, external IP, or a node's address with a node
/// port or host port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VipKey {
    /// Network order; IPv4 fills the first four bytes, the others are zero.
    pub addr: [u8; 16],
    /// The port that the pod asks for.
    pub port: u16,
    /// IP protocol number.
    pub proto: u8,
    /// 4 or 6.
    pub family: u8,
}

impl VipKey {
    /// The key of a service port.
    #[must_use]
    pub fn new(addr: IpAddr, port: u16, proto: u8) -> Self {
        Self::of(&Addr::from(addr), port, proto)
    }

    /// The same from an address as the parser knows it.
    #[inline(always)]
    #[must_use]
    pub fn of(addr: &Addr, port: u16, proto: u8) -> Self {
        Self { addr: addr.bytes(), port, proto, family: addr.family.version() }
    }

    #[inline(always)]
    fn tag(&self, class: u32, target_port: u16, flags: u16) -> u32 {
        let [a, b] = halves(&self.addr);
        let who = u64::from(self.port) | u64::from(self.proto) << 16 | u64::from(self.family) << 24;
        mix32(who, &[a, b, u64::from(class), u64::from(target_port) | u64::from(flags) << 16])
    }
}

/// Value of `vip`: all backends share this class and target port, or the class
/// is one made for them, whose rows allow only what all of them allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct VipValue {
    /// The backends' class.
    pub class: u32,
    /// The backends' port.
    pub target_port: u16,
    /// Zero; room for what Service translation will need.
    pub flags: u16,
    /// Check word over key and value.
    pub check: u32,
}

impl VipValue {
    /// The value for a key.
    #[must_use]
    pub fn new(key: &VipKey, class: u32, target_port: u16) -> Self {
        Self { class, target_port, flags: 0, check: key.tag(class, target_port, 0) }
    }

    /// Whether this value is whole and belongs to the key.
    #[inline(always)]
    #[must_use]
    pub fn verify(&self, key: &VipKey) -> bool {
        self.check == key.tag(self.class, self.target_port, self.flags)
    }
}

const _: () = assert!(size_of::<VipKey>() == 20 && size_of::<VipValue>() == 12);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_verifies_only_whole_and_for_its_key() {
        let key = VipKey::new(IpAddr::from([10, 100, 0, 10]), 80, 6);
        let other = VipKey::new(IpAddr::from([10, 100, 0, 10]), 81, 6);
        let value = VipValue::new(&key, 7, 8080);
        assert!(value.verify(&key));
        assert!(!value.verify(&other));
        assert!(!VipValue { class: 8, ..value }.verify(&key));
        assert!(!VipValue { target_port: 8081, ..value }.verify(&key));
    }
}
