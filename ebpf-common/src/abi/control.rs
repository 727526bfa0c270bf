//! Words by which user space speaks to the programs, and to its successor.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Value of `control`: each field is read on its own, so none needs a check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Control {
    /// How many listeners read the event ring; 0 writes no events.
    pub listeners: u32,
    /// One in this many new allowed flows is reported; 0 reports none.
    pub sample_allowed: u32,
}

/// Value of `meta`: what must outlive the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Meta {
    /// [`super::ABI_VERSION`] of the maps beside it; 0 until they are complete.
    pub abi_version: u32,
    /// The last epoch that was given out on this node.
    pub epoch: u32,
}

const _: () = assert!(size_of::<Control>() == 8 && size_of::<Meta>() == 8);
