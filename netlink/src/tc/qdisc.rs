//! Queueing disciplines, as far as filters stand on them.

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL};

use super::message::{Header, TCA_KIND};
use crate::wire::{Attributes, read_string};
use crate::{Batch, Error, MISSING, Socket};

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_GETQDISC: u16 = 38;

/// The parent of clsact and of the older `ingress` qdisc: an interface has one
/// of them or none.
const PARENT: u32 = 0xffff_fff1;
const HANDLE: u32 = 0xffff_0000;

/// The kind of the qdisc that has both chains.
pub const CLSACT: &str = "clsact";

/// A qdisc that stands where clsact would.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qdisc {
    /// Interface index.
    pub ifindex: u32,
    /// "clsact" or "ingress".
    pub kind: String,
}

/// Adds clsact to an interface. That something stands there already is an error
/// ([`Error::is_existing`]), since it need not be clsact: see [`qdiscs`].
pub fn add_clsact(batch: &mut Batch, ifindex: u32) {
    let attributes = Attributes::new().string(TCA_KIND, CLSACT);
    let body = header(ifindex).with(attributes.as_bytes());
    batch.push_raw("add a clsact qdisc", RTM_NEWQDISC, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &body, &[]);
}

/// Removes clsact with all filters on it, of anybody. One that is gone is fine.
pub fn delete_clsact(batch: &mut Batch, ifindex: u32) {
    let attributes = Attributes::new().string(TCA_KIND, CLSACT);
    let body = header(ifindex).with(attributes.as_bytes());
    batch.push_raw("delete a clsact qdisc", RTM_DELQDISC, NLM_F_ACK, &body, MISSING);
}

/// What stands where clsact would, on all interfaces of the namespace.
///
/// # Errors
/// As any dump.
pub fn qdiscs(socket: &mut Socket) -> Result<Vec<Qdisc>, Error> {
    let body = Header::default().with(&[]);
    let messages = socket.dump_raw("list qdiscs", RTM_GETQDISC, &body)?;
    Ok(messages.iter().filter_map(|message| parse(&message.body)).collect())
}

const fn header(ifindex: u32) -> Header {
    Header { ifindex, handle: HANDLE, parent: PARENT, info: 0 }
}

fn parse(body: &[u8]) -> Option<Qdisc> {
    let (header, mut attributes) = Header::parse(body)?;
    if header.parent != PARENT {
        return None;
    }
    let (_, kind) = attributes.find(|(kind, _)| *kind == TCA_KIND)?;
    Some(Qdisc { ifindex: header.ifindex, kind: read_string(kind) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_in_the_place_of_clsact_is_listed() {
        let kind = Attributes::new().string(TCA_KIND, "clsact");
        let ours = header(4).with(kind.as_bytes());
        assert_eq!(parse(&ours), Some(Qdisc { ifindex: 4, kind: "clsact".into() }));
        let root = Header { parent: 0xffff_ffff, ..header(4) }.with(kind.as_bytes());
        assert_eq!(parse(&root), None);
        assert_eq!(parse(&header(4).with(&[])), None);
    }
}
