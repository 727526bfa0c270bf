//! Permanent neighbour entries.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{RouteProtocol, RouteType},
};

use crate::{
    Batch, Error, Family, Mac, Socket,
    address::family,
    batch::{MISSING, kind},
    wire::{attributes, read_address, read_u16, read_u32},
};

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NDA_PROTOCOL: u16 = 12;
const NUD_PERMANENT: u16 = 0x80;
/// Reachable, stale, delay, probe, permanent: states in which the Ethernet
/// address is one that the neighbour told.
const NUD_TOLD: u16 = 0x02 | 0x04 | 0x08 | 0x10 | NUD_PERMANENT;
/// Bytes of `struct ndmsg`.
const HEADER_LEN: usize = 12;

/// A neighbour entry that never expires.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Neighbour {
    /// The link's index.
    pub link: u32,
    /// The neighbour's address.
    pub address: IpAddr,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Who made it ([`crate::PROTOCOL`] for us).
    pub protocol: u8,
}

impl Neighbour {
    fn message(&self) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.family = family(self.address);
        message.header.ifindex = self.link;
        message.header.state = NeighbourState::Permanent;
        message.header.kind = RouteType::Unicast;
        message.attributes.push(NeighbourAttribute::Destination(self.address.into()));
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(self.mac.0.to_vec()));
        message.attributes.push(NeighbourAttribute::Protocol(RouteProtocol::from(self.protocol)));
        message
    }
}

/// Adds an entry, in the place of one for the same address.
pub fn replace(batch: &mut Batch, neighbour: &Neighbour) {
    let message = neighbour.message();
    batch.push("add a neighbour entry", kind::NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, &message, &[]);
}

/// Removes the entry of an address; one that is gone is success.
pub fn delete(batch: &mut Batch, link: u32, address: IpAddr) {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = link;
    message.attributes.push(NeighbourAttribute::Destination(address.into()));
    batch.push("remove a neighbour entry", kind::DELNEIGH, 0, &message, MISSING);
}

/// Lets the kernel ask for the Ethernet address of `address` on the link, as it
/// does before it sends there; [`told`] lists the answer.
pub fn ask(batch: &mut Batch, link: u32, address: IpAddr) {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = link;
    message.header.kind = RouteType::Unicast;
    message.header.flags = NeighbourFlags::Use;
    message.attributes.push(NeighbourAttribute::Destination(address.into()));
    batch.push("ask for a neighbour", kind::NEWNEIGH, NLM_F_CREATE, &message, &[]);
}

/// All permanent entries of a family with an Ethernet address.
pub fn list(socket: &mut Socket, family: Family) -> Result<Vec<Neighbour>, Error> {
    in_states(socket, family, None, NUD_PERMANENT)
}

/// The same for one link: only its entries are sent by the kernel.
pub fn list_on(socket: &mut Socket, family: Family, link: u32) -> Result<Vec<Neighbour>, Error> {
    in_states(socket, family, Some(link), NUD_PERMANENT)
}

/// All entries of a family whose Ethernet address the neighbour told, or
/// somebody set, lately or long ago.
pub fn told(socket: &mut Socket, family: Family) -> Result<Vec<Neighbour>, Error> {
    in_states(socket, family, None, NUD_TOLD)
}

/// The same for one link.
pub fn told_on(socket: &mut Socket, family: Family, link: u32) -> Result<Vec<Neighbour>, Error> {
    in_states(socket, family, Some(link), NUD_TOLD)
}

fn in_states(
    socket: &mut Socket,
    family: Family,
    link: Option<u32>,
    states: u16,
) -> Result<Vec<Neighbour>, Error> {
    let mut request = NeighbourMessage::default();
    request.header.family = family.into();
    request.attributes.extend(link.map(NeighbourAttribute::IfIndex));
    let messages = socket.dump("list neighbour entries", kind::GETNEIGH, &request)?;
    let entries = messages.iter().filter_map(|message| parse(&message.body, states));
    // Kernels before 4.4 do not know the filter.
    Ok(entries.filter(|entry| link.is_none_or(|link| entry.link == link)).collect())
}

/// An entry from the body of an `RTM_NEWNEIGH` or `RTM_DELNEIGH`.
fn parse(body: &[u8], states: u16) -> Option<Neighbour> {
    let header = body.get(..HEADER_LEN)?;
    if read_u16(&header[8..])? & states == 0 {
        return None;
    }
    let (mut address, mut mac, mut protocol) = (None, None, 0);
    for (kind, value) in attributes(&body[HEADER_LEN..]) {
        match kind {
            NDA_DST => address = read_address(value),
            NDA_LLADDR => mac = Mac::from_slice(value),
            NDA_PROTOCOL => protocol = *value.first()?,
            _ => {}
        }
    }
    Some(Neighbour { link: read_u32(&header[4..])?, address: address?, mac: mac?, protocol })
}
