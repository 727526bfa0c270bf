//! Map types as aya takes them.

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A key or value of a map: plain bytes, by its derives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub(super) struct Plain<T>(pub(super) T);

// SAFETY: `IntoBytes` says that a value has no padding and may be read as bytes,
// `FromBytes` that any bytes are a value, and the wrapper is transparent.
unsafe impl<T: FromBytes + IntoBytes + Immutable + Copy + 'static> aya::Pod for Plain<T> {}
