//! Flows that a pod has: one entry meets both directions.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::address::{Addr, Family};
use super::check::mix64;
use super::count::Direction;

/// Key of `ct` and `ct_new`, from the pod's view. The pod's own address is not
/// part of it: the anti-spoofing check leaves one per interface and family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CtKey {
    /// The other end, network order, four bytes at a time; IPv4 fills the first.
    pub peer: [u32; 4],
    /// The pod's port. ICMP echo: the identifier of requests that the pod sends.
    pub pod_port: u16,
    /// The other end's port. ICMP echo: the identifier of requests to the pod.
    pub peer_port: u16,
    /// The pod's host interface.
    pub ifindex: u32,
    /// IP protocol number.
    pub proto: u8,
    /// 4 or 6.
    pub family: u8,
    /// Zero.
    pub pad: [u8; 2],
}

/// A key in the pieces by which it is written and read: the processor waits where
/// it reads at once what it wrote in parts.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C, packed(4))]
struct Words {
    long: [u64; 3],
    last: u32,
}

impl CtKey {
    /// No flow's key.
    pub const NONE: Self =
        Self { peer: [0; 4], ifindex: 0, pod_port: 0, peer_port: 0, proto: 0, family: 0, pad: [0; 2] };

    /// The key of a flow.
    #[inline(always)]
    #[must_use]
    pub fn new(ifindex: u32, peer: &Addr, pod_port: u16, peer_port: u16, proto: u8) -> Self {
        let ports: u32 = zerocopy::transmute!([pod_port, peer_port]);
        let [a, b] = peer.words();
        let owner = u64::from_ne_bytes(zerocopy::transmute!([ports, ifindex]));
        let last = u32::from_ne_bytes([proto, peer.family.version(), 0, 0]);
        zerocopy::transmute!(Words { long: [a, b, owner], last })
    }

    /// Fifteen bits that tell when an element has become another flow's.
    #[inline(always)]
    #[must_use]
    pub fn tag(&self) -> u16 {
        let Words { long, last } = zerocopy::transmute!(*self);
        (mix64(last.into(), &long) >> 49) as u16
    }

    /// The peer's address.
    #[inline(always)]
    #[must_use]
    pub fn peer_addr(&self) -> Addr {
        if self.family == Family::V4.version() {
            Addr::of_word(self.peer[0])
        } else {
            Addr::of_words(zerocopy::transmute!(self.peer))
        }
    }
}

/// Who began a flow that came to the pod; kept for the flow's life, as the
/// reply direction can not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Origin {
    /// Anything that is none of the others, and every flow that the pod began.
    Outside = 0,
    /// The node itself: always allowed, never evaluated again.
    LocalNode = 1,
    /// The pod itself by a service: always allowed, never evaluated again.
    Hairpin = 2,
    /// Another pod of this node, named by [`CtValue::origin_ifindex`].
    Endpoint = 3,
}

/// The way that a flow's first packet took, which both directions keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Path {
    /// Up the node's network stack.
    Stack = 0,
    /// Redirected to the local peer. Not written yet.
    Fast = 1,
}

/// Everything of a flow that decides about packets, in one u64: read and
/// replaced whole. Bits: 0–31 epoch, 32–46 tag of the key, 47–63 flags.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CtState(pub u64);

impl CtState {
    /// Mask of [`CtKey::tag`].
    pub const TAG_MASK: u16 = 0x7fff;
    pub(crate) const TAG_SHIFT: u32 = 32;
    /// Mask of both.
    pub(crate) const EPOCH_AND_TAG: u64 = 0x7fff_ffff_ffff;
    const ORIGIN_SHIFT: u32 = 48;
    const PATH_SHIFT: u32 = 50;

    /// The pod began the flow; else its peer did.
    pub const FROM_POD: u64 = 1 << 47;
    /// An evaluation under the entry's epoch denied it.
    pub const DENIED: u64 = 1 << 52;
    /// A packet of the reply direction was seen.
    pub const SEEN_REPLY: u64 = 1 << 53;
    /// TCP: the beginner went on after the reply.
    pub const ESTABLISHED: u64 = 1 << 54;
    /// TCP: FIN or RST was seen.
    pub const CLOSING: u64 = 1 << 55;
    /// Policy would have denied it, and audit let it pass.
    pub const AUDITED: u64 = 1 << 56;
    /// It is allowed only for coming from an address of the node, while those are trusted.
    pub const TRUSTED: u64 = 1 << 57;

    /// The state of a flow that begins.
    #[inline(always)]
    #[must_use]
    pub fn new(tag: u16, epoch: u32, dir: Direction, origin: Origin) -> Self {
        let from_pod = if matches!(dir, Direction::Out) { Self::FROM_POD } else { 0 };
        Self(
            u64::from(epoch)
                | u64::from(tag & Self::TAG_MASK) << Self::TAG_SHIFT
                | (origin as u64) << Self::ORIGIN_SHIFT
                | (Path::Stack as u64) << Self::PATH_SHIFT
                | from_pod,
        )
    }

    /// The epoch of the last evaluation.
    #[inline(always)]
    #[must_use]
    pub const fn epoch(self) -> u32 {
        self.0 as u32
    }

    /// The same in another epoch.
    #[inline(always)]
    #[must_use]
    pub const fn with_epoch(self, epoch: u32) -> Self {
        Self(self.0 & !0xffff_ffff | epoch as u64)
    }

    /// The tag of the key that this state belongs to.
    #[inline(always)]
    #[must_use]
    pub const fn tag(self) -> u16 {
        (self.0 >> Self::TAG_SHIFT) as u16 & Self::TAG_MASK
    }

    /// Whether all given bits are set.
    #[inline(always)]
    #[must_use]
    pub const fn has(self, bits: u64) -> bool {
        self.0 & bits == bits
    }

    /// With bits set.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, bits: u64) -> Self {
        Self(self.0 | bits)
    }

    /// With bits cleared.
    #[inline(always)]
    #[must_use]
    pub const fn without(self, bits: u64) -> Self {
        Self(self.0 & !bits)
    }

    /// The direction of the flow's first packet.
    #[inline(always)]
    #[must_use]
    pub const fn direction(self) -> Direction {
        if self.has(Self::FROM_POD) { Direction::Out } else { Direction::In }
    }

    /// Who began it.
    #[inline(always)]
    #[must_use]
    pub const fn origin(self) -> Origin {
        match (self.0 >> Self::ORIGIN_SHIFT) & 3 {
            1 => Origin::LocalNode,
            2 => Origin::Hairpin,
            3 => Origin::Endpoint,
            _ => Origin::Outside,
        }
    }

    /// The way that its packets take.
    #[inline(always)]
    #[must_use]
    pub const fn path(self) -> Path {
        if (self.0 >> Self::PATH_SHIFT) & 3 == 1 { Path::Fast } else { Path::Stack }
    }
}

impl core::fmt::Debug for CtState {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("CtState")
            .field("epoch", &self.epoch())
            .field("direction", &self.direction())
            .field("origin", &self.origin())
            .field("denied", &self.has(Self::DENIED))
            .field("seen_reply", &self.has(Self::SEEN_REPLY))
            .field("established", &self.has(Self::ESTABLISHED))
            .field("closing", &self.has(Self::CLOSING))
            .finish_non_exhaustive()
    }
}

/// Value of `ct` and `ct_new`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CtValue {
    /// A [`CtState`]; replaced by compare-and-exchange only.
    pub state: u64,
    /// Tick (2^30 ns of CLOCK_MONOTONIC_COARSE) of the last packet.
    pub last_seen: u32,
    /// The rule of the last evaluation.
    pub rule: u32,
    /// The interface of the pod that began the flow, for [`Origin::Endpoint`].
    pub origin_ifindex: u32,
    /// Zero.
    pub pad: u32,
}

impl CtValue {
    /// No flow's value.
    pub const NONE: Self = Self { state: 0, last_seen: 0, rule: 0, origin_ifindex: 0, pad: 0 };

    /// The state.
    #[inline(always)]
    #[must_use]
    pub const fn state(&self) -> CtState {
        CtState(self.state)
    }
}

const _: () = assert!(size_of::<CtKey>() == 28 && size_of::<CtValue>() == 24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_the_state_do_not_overlap() {
        for origin in [Origin::Outside, Origin::LocalNode, Origin::Hairpin, Origin::Endpoint] {
            for dir in [Direction::In, Direction::Out] {
                let state = CtState::new(0x7fff, u32::MAX, dir, origin);
                assert_eq!(state.tag(), 0x7fff);
                assert_eq!(state.epoch(), u32::MAX);
                assert_eq!(state.origin(), origin);
                assert_eq!(state.direction(), dir);
                assert_eq!(state.path(), Path::Stack);
                let all = CtState::DENIED
                    | CtState::SEEN_REPLY
                    | CtState::ESTABLISHED
                    | CtState::CLOSING
                    | CtState::AUDITED;
                assert_eq!(state.0 & all, 0);
                let set = state.with(all).with_epoch(0);
                assert_eq!((set.tag(), set.origin(), set.direction()), (0x7fff, origin, dir));
                assert_eq!(set.without(all).with_epoch(u32::MAX), state);
            }
        }
    }

    #[test]
    fn every_bit_of_a_key_is_in_its_tag() {
        use zerocopy::{FromBytes, IntoBytes};
        let key = CtKey::new(7, &Addr::v6([0x20; 16]), 1024, 80, 6);
        // The pad is no part of any key.
        for bit in 0..26 * 8 {
            let mut bytes = [0; 28];
            bytes.copy_from_slice(key.as_bytes());
            bytes[bit / 8] ^= 1 << (bit % 8);
            let other = CtKey::read_from_bytes(&bytes).expect("as long as a key");
            assert_ne!(other.tag(), key.tag(), "bit {bit}");
        }
        assert_eq!(key.peer_addr(), Addr::v6([0x20; 16]));
        assert_eq!((key.ifindex, key.pod_port, key.peer_port, key.proto, key.family), (7, 1024, 80, 6, 6));
    }
}
