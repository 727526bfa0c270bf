//! Requests that are sent together, with one system call.

use netlink_packet_core::{Emitable, NLM_F_ACK, NLM_F_REQUEST};
use nix::errno::Errno;

/// Types of route messages.
pub(crate) mod kind {
    pub(crate) const NEWLINK: u16 = 16;
    pub(crate) const DELLINK: u16 = 17;
    pub(crate) const GETLINK: u16 = 18;
    pub(crate) const SETLINK: u16 = 19;
    pub(crate) const NEWADDR: u16 = 20;
    pub(crate) const DELADDR: u16 = 21;
    pub(crate) const GETADDR: u16 = 22;
    pub(crate) const NEWROUTE: u16 = 24;
    pub(crate) const DELROUTE: u16 = 25;
    pub(crate) const GETROUTE: u16 = 26;
    pub(crate) const NEWNEIGH: u16 = 28;
    pub(crate) const DELNEIGH: u16 = 29;
    pub(crate) const GETNEIGH: u16 = 30;
    pub(crate) const NEWRULE: u16 = 32;
    pub(crate) const DELRULE: u16 = 33;
    pub(crate) const GETRULE: u16 = 34;
}

/// Bytes of a netlink message header.
pub(crate) const HEADER_LEN: usize = 16;

/// One message of a [`Batch`].
#[derive(Debug)]
pub(crate) struct Item {
    /// What it does, as a verb phrase for the error.
    pub(crate) what: &'static str,
    /// Errors that mean "nothing to do".
    pub(crate) tolerated: &'static [Errno],
    /// Where it stands in the bytes.
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// Requests in their order. The kernel carries out each of them, also after one
/// that failed, unless the protocol has transactions (nftables).
#[derive(Debug, Default)]
pub struct Batch {
    pub(crate) bytes: Vec<u8>,
    pub(crate) items: Vec<Item>,
}

/// Object exists already, which is what was wanted.
pub const EXISTS: &[Errno] = &[Errno::EEXIST];

/// Object is gone already, which is what was wanted.
pub const MISSING: &[Errno] =
    &[Errno::ENOENT, Errno::ESRCH, Errno::ENODEV, Errno::EADDRNOTAVAIL, Errno::ENXIO];

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Number of messages.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Adds a message of type `kind` (`RTM_*`). `what` is a verb phrase for the
    /// error ("add a route"); `flags` are added to `NLM_F_REQUEST | NLM_F_ACK`;
    /// errors in `tolerated` count as success.
    ///
    /// It takes a body and not netlink-packet-route's enum of all messages: the
    /// plugin would carry the code for each of them.
    pub fn push(
        &mut self,
        what: &'static str,
        kind: u16,
        flags: u16,
        message: &impl Emitable,
        tolerated: &'static [Errno],
    ) {
        let mut body = vec![0; message.buffer_len()];
        message.emit(&mut body);
        self.push_raw(what, kind, NLM_F_ACK | flags, &body, tolerated);
    }

    /// Adds a message whose body, after the netlink header, is `body`; `flags` are
    /// added to `NLM_F_REQUEST`.
    pub fn push_raw(
        &mut self,
        what: &'static str,
        kind: u16,
        flags: u16,
        body: &[u8],
        tolerated: &'static [Errno],
    ) {
        let start = self.bytes.len();
        let len = u32::try_from(HEADER_LEN + body.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 8]);
        self.bytes.extend_from_slice(body);
        self.finish(what, start, tolerated);
    }

    /// Appends all messages of another batch.
    pub fn append(&mut self, other: Self) {
        let shift = self.bytes.len();
        self.bytes.extend_from_slice(&other.bytes);
        self.items.extend(other.items.into_iter().map(|item| Item {
            start: item.start + shift,
            end: item.end + shift,
            ..item
        }));
    }

    fn finish(&mut self, what: &'static str, start: usize, tolerated: &'static [Errno]) {
        let aligned = crate::wire::align(self.bytes.len());
        self.bytes.resize(aligned, 0);
        self.items.push(Item { what, tolerated, start, end: aligned });
    }
}
