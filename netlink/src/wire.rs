//! Netlink attributes as bytes: a reader for what the kernel sends and a writer
//! for what has no type in netlink-packet-route (nftables, single sysctls).
//!
//! Answers are read here and not by netlink-packet-route's types: those refuse a
//! whole message for one attribute that is not as they know it, and one odd link
//! or rule of somebody else must not hide all others.

use std::net::IpAddr;

/// Set in the type of an attribute that holds attributes.
const NLA_F_NESTED: u16 = 0x8000;
/// The bits of an attribute's type that name it.
const NLA_TYPE_MASK: u16 = 0x3fff;
/// Bytes of an attribute's header.
const HEADER_LEN: usize = 4;

/// Iterates over the attributes in `bytes`; ends at the first malformed one.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    raw_attributes(bytes).map(|(kind, value)| (kind & NLA_TYPE_MASK, value))
}

/// The same with the flags in their types.
fn raw_attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let header = rest.get(..HEADER_LEN)?;
        let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]);
        let value = rest.get(HEADER_LEN..len)?;
        rest = rest.get(align(len)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of type `kind`.
pub(crate) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// Whether every attribute of `wanted` is in `shown` with the same value, those
/// within attributes too. `shown` may have more.
pub(crate) fn carries(shown: &[u8], wanted: &[u8]) -> bool {
    raw_attributes(wanted).all(|(kind, value)| {
        let same = |found: &[u8]| found == value || (kind & NLA_F_NESTED != 0 && carries(found, value));
        attribute(shown, kind & NLA_TYPE_MASK).is_some_and(same)
    })
}

/// A `u32` in host order.
pub(crate) fn read_u32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

/// A `u32` in network order.
pub(crate) fn read_be32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?))
}

/// A `u64` in network order.
pub(crate) fn read_be64(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?))
}

/// A `u16` in host order.
pub(crate) fn read_u16(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?))
}

/// A string up to its NUL.
pub(crate) fn read_string(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

/// An address of either family, by its length.
pub(crate) fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(octets));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// The next multiple of the four bytes that netlink aligns to.
pub(crate) const fn align(len: usize) -> usize {
    (len + 3) & !3
}

/// Attributes being written, padded as they go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        self.push(kind, value);
        self
    }

    /// A `u32` in network order, as nftables wants all its numbers.
    pub(crate) fn be32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// A string with its NUL.
    pub(crate) fn string(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    pub(crate) fn nested(mut self, kind: u16, inner: &Self) -> Self {
        self.push(kind | NLA_F_NESTED, &inner.0);
        self
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn push(&mut self, kind: u16, value: &[u8]) {
        // Lengths are those of rule expressions and set elements, which the
        // callers cut into messages long before 64 KiB.
        let len = u16::try_from(HEADER_LEN + value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(align(self.0.len()), 0);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(values in proptest::collection::vec((1_u16..0x3fff, proptest::collection::vec(any::<u8>(), 0..40)), 0..20)) {
            let written = values.iter().fold(Attributes::new(), |all, (kind, value)| all.bytes(*kind, value));
            let read: Vec<_> = attributes(written.as_bytes()).map(|(kind, value)| (kind, value.to_vec())).collect();
            prop_assert_eq!(read, values);
        }

        #[test]
        fn what_is_shown_with_more_is_carried(values in proptest::collection::vec(any::<u32>(), 1..8), other: u32) {
            let write = |values: &[u32]| values.iter().zip(1..).fold(Attributes::new(), |all, (value, kind)| all.be32(kind, *value));
            let (less, more) = (write(&values[..values.len() - 1]), write(&values));
            let wrap = |inner: &Attributes| Attributes::new().nested(1, &Attributes::new().nested(7, inner)).be32(2, 5);
            prop_assert!(carries(wrap(&more).as_bytes(), wrap(&less).as_bytes()));
            prop_assert!(!carries(wrap(&less).as_bytes(), wrap(&more).as_bytes()));
            let mut changed = values.clone();
            changed[0] = other;
            prop_assert_eq!(carries(wrap(&write(&changed)).as_bytes(), wrap(&more).as_bytes()), changed == values);
        }

        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(attributes(&bytes).count() <= bytes.len() / HEADER_LEN);
        }
    }
}
