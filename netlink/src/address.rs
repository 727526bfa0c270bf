//! Addresses of links.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope},
};

use crate::{
    Batch, Error, Socket,
    batch::{EXISTS, MISSING, kind},
    wire::{attribute, read_address, read_u32},
};

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_NOPREFIXROUTE: u32 = 0x200;
/// Bytes of `struct ifaddrmsg`.
const HEADER_LEN: usize = 8;

/// An address on a link.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// The link's index.
    pub link: u32,
    /// The address and its prefix length, host bits kept.
    pub network: IpNetwork,
    /// The kernel makes no route for the prefix.
    pub no_prefix_route: bool,
}

/// The family constant of an address.
pub(crate) fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

impl Address {
    fn message(&self) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.family = family(self.network.ip());
        message.header.prefix_len = self.network.prefix();
        message.header.index = self.link;
        message.header.scope = AddressScope::Universe;
        message.attributes.push(AddressAttribute::Local(self.network.ip()));
        message.attributes.push(AddressAttribute::Address(self.network.ip()));
        let mut flags = AddressFlags::empty();
        if self.no_prefix_route {
            flags |= AddressFlags::Noprefixroute;
        }
        if self.network.is_ipv6() {
            // EC2 has given the address to this interface alone.
            flags |= AddressFlags::Nodad;
        }
        if !flags.is_empty() {
            message.attributes.push(AddressAttribute::Flags(flags));
        }
        message
    }
}

/// Adds an address; one that is there is left.
pub fn add(batch: &mut Batch, address: &Address) {
    batch.push("add an address", kind::NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &address.message(), EXISTS);
}

/// Removes an address; one that is gone is success.
pub fn delete(batch: &mut Batch, address: &Address) {
    batch.push("remove an address", kind::DELADDR, 0, &address.message(), MISSING);
}

/// All addresses of the namespace.
pub fn list(socket: &mut Socket) -> Result<Vec<Address>, Error> {
    let messages = socket.dump("list addresses", kind::GETADDR, &AddressMessage::default())?;
    Ok(messages.iter().filter_map(|message| parse(&message.body)).collect())
}

fn parse(body: &[u8]) -> Option<Address> {
    let attributes = body.get(HEADER_LEN..)?;
    // IPv4 has the own address in LOCAL, and the peer's in ADDRESS.
    let address = attribute(attributes, IFA_LOCAL).or_else(|| attribute(attributes, IFA_ADDRESS))?;
    let flags = attribute(attributes, IFA_FLAGS).and_then(read_u32).unwrap_or(0);
    Some(Address {
        link: read_u32(body.get(4..)?)?,
        network: IpNetwork::new(read_address(address)?, body[1]).ok()?,
        no_prefix_route: flags & IFA_F_NOPREFIXROUTE != 0,
    })
}
