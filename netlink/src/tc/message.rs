//! The fixed part of traffic control messages.

use crate::wire::{attributes, read_u32};

/// Bytes of `struct tcmsg`.
const HEADER_LEN: usize = 20;

pub(super) const TCA_KIND: u16 = 1;
pub(super) const TCA_OPTIONS: u16 = 2;

/// `struct tcmsg`: what a qdisc or filter is on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) ifindex: u32,
    pub(super) handle: u32,
    pub(super) parent: u32,
    /// For filters: priority in the upper half, protocol in network order in the lower.
    pub(super) info: u32,
}

impl Header {
    /// A message's body: this header and attributes behind it.
    pub(super) fn with(self, attributes: &[u8]) -> Vec<u8> {
        let mut body = vec![0; 4];
        for word in [self.ifindex, self.handle, self.parent, self.info] {
            body.extend_from_slice(&word.to_ne_bytes());
        }
        body.extend_from_slice(attributes);
        body
    }

    /// The header and the attributes of a message from the kernel.
    pub(super) fn parse(body: &[u8]) -> Option<(Self, impl Iterator<Item = (u16, &[u8])>)> {
        let header = Self {
            ifindex: read_u32(body.get(4..)?)?,
            handle: read_u32(body.get(8..)?)?,
            parent: read_u32(body.get(12..)?)?,
            info: read_u32(body.get(16..)?)?,
        };
        Some((header, attributes(body.get(HEADER_LEN..)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Attributes;

    #[test]
    fn a_header_is_read_as_written() {
        let header = Header { ifindex: 7, handle: 0xffff_0000, parent: 0xffff_fff1, info: 0x0001_0300 };
        let body = header.with(Attributes::new().string(TCA_KIND, "clsact").as_bytes());
        assert_eq!(body.len(), HEADER_LEN + 12);
        let (read, attributes) = Header::parse(&body).expect("long enough");
        assert_eq!(read, header);
        assert_eq!(attributes.collect::<Vec<_>>(), [(TCA_KIND, b"clsact\0".as_slice())]);
        assert!(Header::parse(&body[..HEADER_LEN - 1]).is_none());
    }
}
