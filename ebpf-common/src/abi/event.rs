//! What the programs tell a listener about single packets.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of an [`Event`].
pub const EVENT_LEN: usize = size_of::<Event>();

/// One record of `events`: a deny, or a sampled new flow that was allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Event {
    /// CLOCK_MONOTONIC_COARSE in nanoseconds.
    pub time_ns: u64,
    /// The other end, network order; IPv4 fills the first four bytes.
    pub peer: [u8; 16],
    /// The pod's host interface.
    pub ifindex: u32,
    /// The deciding rule, 0 if no rule decided.
    pub rule: u32,
    /// The other end's class, if it was looked up.
    pub class: u32,
    /// The pod's port.
    pub pod_port: u16,
    /// The other end's port.
    pub peer_port: u16,
    /// Length of the packet, link header included.
    pub len: u32,
    /// IP protocol number; 0 if the packet was not parsed.
    pub proto: u8,
    /// 4, 6, or 0 if the packet was not parsed.
    pub family: u8,
    /// A [`super::Direction`].
    pub direction: u8,
    /// A [`super::Reason`].
    pub reason: u8,
    /// The slot whose filter saw it.
    pub slot: u32,
    /// Zero.
    pub pad: u32,
}

const _: () = assert!(EVENT_LEN == 56);
