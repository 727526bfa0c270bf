//! Queueing disciplines, as far as filters stand on them.

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL};

use super::message::{Header, TCA_KIND};
use crate::wire::{Attributes, read_string};
use crate::{Batch, Error, MISSING, Socket};

pub(super) const RTM_NEWQDISC: u16 = 36;
pub(super) const RTM_DELQDISC: u16 = 37;
const RTM_GETQDISC: u16 = 38;

/// The parent of clsact and of the older `ingress` qdisc: an interface has one
/// of them or none.
const PARENT: u32 = 0xffff_fff1;
const HANDLE: u32 = 0xffff_0000;

/// The kind of the qdisc that has both chains.
pub const CLSACT: &str = "clsact";

/// Adds clsact to an interface. That something stands there already is an error
/// ([`Error::is_existing`]), since it need not be clsact: see [`standing`].
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

/// The kind of what stands where clsact would: "clsact" or "ingress". None if
/// nothing does, or the link is gone.
///
/// # Errors
/// As any request.
pub fn standing(socket: &mut Socket, ifindex: u32) -> Result<Option<String>, Error> {
    let question = Header { ifindex, handle: 0, parent: PARENT, info: 0 };
    let mut batch = Batch::new();
    // The answer is an announcement, which comes to who asks only as an echo.
    let flags = NLM_F_ACK | NLM_F_ECHO;
    batch.push_raw("look for a qdisc", RTM_GETQDISC, flags, &question.with(&[]), MISSING);
    Ok(socket.run(batch)?.iter().find_map(|message| parse(&message.body)))
}

const fn header(ifindex: u32) -> Header {
    Header { ifindex, handle: HANDLE, parent: PARENT, info: 0 }
}

fn parse(body: &[u8]) -> Option<String> {
    let (header, mut attributes) = Header::parse(body)?;
    if header.parent != PARENT {
        return None;
    }
    let (_, kind) = attributes.find(|(kind, _)| *kind == TCA_KIND)?;
    Some(read_string(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_in_the_place_of_clsact_is_told() {
        let kind = Attributes::new().string(TCA_KIND, "clsact");
        let ours = header(4).with(kind.as_bytes());
        assert_eq!(parse(&ours).as_deref(), Some(CLSACT));
        let root = Header { parent: 0xffff_ffff, ..header(4) }.with(kind.as_bytes());
        assert_eq!(parse(&root), None);
        assert_eq!(parse(&header(4).with(&[])), None);
    }
}
