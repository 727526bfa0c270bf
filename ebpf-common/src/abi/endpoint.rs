//! A local pod as the programs see it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::capacity::SLOTS;
use super::check::mix64;

/// Bits of [`Endpoint::flags`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EndpointFlags(pub u32);

impl EndpointFlags {
    /// The slot is in use. Without it every packet is dropped.
    pub const ACTIVE: u32 = 1;
    /// A policy isolates the pod for ingress: `set_in` is asked.
    pub const ISOLATED_IN: u32 = 1 << 1;
    /// A policy isolates the pod for egress: `set_out` is asked.
    pub const ISOLATED_OUT: u32 = 1 << 2;
    /// Denies are counted and reported, and the packet passes.
    pub const AUDIT: u32 = 1 << 3;

    /// Whether all given bits are set.
    #[inline(always)]
    #[must_use]
    pub const fn has(self, bits: u32) -> bool {
        self.0 & bits == bits
    }
}

/// Value of `ep`, one cache line. The check word covers the slot too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Endpoint {
    /// The host end's interface index; a filter whose interface differs is stale.
    pub ifindex: u32,
    /// [`EndpointFlags`].
    pub flags: u32,
    /// Rules in force for packets to the pod.
    pub set_in: u32,
    /// Rules in force for packets from the pod.
    pub set_out: u32,
    /// Flows with another epoch are evaluated again. From one counter of the node.
    pub epoch: u32,
    /// New flow entries per tick (2^30 ns); 0 means no limit.
    pub budget: u32,
    /// IPv6 address in network order; zero if there is none.
    pub addr6: [u8; 16],
    /// IPv4 address in network order; zero if there is none.
    pub addr4: [u8; 4],
    /// The pod's own hardware address.
    pub mac: [u8; 6],
    /// Zero.
    pub pad: [u8; 2],
    /// Zero; room for a fast path.
    pub spare: u32,
    /// Over slot and all fields above; see [`Endpoint::sealed`].
    pub check: u64,
}

impl Endpoint {
    /// An endpoint that lets nothing pass; its check word is not right either.
    pub const EMPTY: Self = Self {
        ifindex: 0,
        flags: 0,
        set_in: 0,
        set_out: 0,
        epoch: 0,
        budget: 0,
        addr6: [0; 16],
        addr4: [0; 4],
        mac: [0; 6],
        pad: [0; 2],
        spare: 0,
        check: 0,
    };

    /// The same with the check word for a slot.
    #[must_use]
    pub fn sealed(mut self, slot: u32) -> Self {
        self.check = self.expected_check(slot);
        self
    }

    /// Whether this value is whole and belongs to the slot.
    #[inline(always)]
    #[must_use]
    pub fn verify(&self, slot: u32) -> bool {
        self.check == self.expected_check(slot)
    }

    #[inline(always)]
    fn expected_check(&self, slot: u32) -> u64 {
        let words: [u64; 8] = zerocopy::transmute!(*self);
        mix64(u64::from(slot), &[words[0], words[1], words[2], words[3], words[4], words[5], words[6]])
    }

    /// The hardware address as a number.
    #[inline(always)]
    #[must_use]
    pub fn mac_number(&self) -> u64 {
        let words: [u32; 16] = zerocopy::transmute!(*self);
        let halves: [u16; 32] = zerocopy::transmute!(*self);
        u64::from(u32::from_be(words[11])) << 16 | u64::from(u16::from_be(halves[24]))
    }

    /// The flags.
    #[inline(always)]
    #[must_use]
    pub const fn flags(&self) -> EndpointFlags {
        EndpointFlags(self.flags)
    }
}

/// Where the same value stands once more. An array's element is overwritten in place, and a
/// writer that loses its processor meanwhile leaves it torn for as long. So the shadow is
/// written first, and the element when the shadow is whole: one of the two always is.
#[inline(always)]
#[must_use]
pub const fn shadow_of(slot: u32) -> u32 {
    slot.wrapping_add(SLOTS)
}

/// Where the hint of an interface's slot stands.
#[inline(always)]
#[must_use]
pub const fn hint_of(ifindex: u32) -> u32 {
    ifindex % super::capacity::HINTS
}

/// Value of `ifslot`: the slot (low half) and the ifindex again (high half), so
/// that one read of a u64 tells whose value it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct SlotValue(pub u64);

impl SlotValue {
    /// The value for an interface.
    #[must_use]
    pub const fn new(ifindex: u32, slot: u32) -> Self {
        Self((ifindex as u64) << 32 | slot as u64)
    }

    /// The slot, if the value belongs to this interface.
    #[inline(always)]
    #[must_use]
    pub const fn slot_of(self, ifindex: u32) -> Option<u32> {
        if (self.0 >> 32) as u32 == ifindex { Some(self.0 as u32) } else { None }
    }
}

const _: () = assert!(size_of::<Endpoint>() == 64 && size_of::<SlotValue>() == 8);
const _: () = assert!(core::mem::offset_of!(Endpoint, check) == 56);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_or_foreign_endpoint_does_not_verify() {
        let a = Endpoint { ifindex: 5, set_in: 1, set_out: 2, epoch: 9, ..Endpoint::EMPTY }.sealed(3);
        assert!(a.verify(3));
        assert!(!a.verify(4));
        assert!(!Endpoint { set_in: 2, ..a }.verify(3));
        assert!(!Endpoint { mac: [1; 6], ..a }.verify(3));
        assert!(!Endpoint::EMPTY.verify(0));
    }

    #[test]
    fn a_hardware_address_is_a_number() {
        let pod = Endpoint { addr4: [9; 4], mac: [2, 0xf0, 0, 0, 0x81, 7], pad: [8; 2], ..Endpoint::EMPTY };
        assert_eq!(pod.mac_number(), 0x02f0_0000_8107);
    }
}
