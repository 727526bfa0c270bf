//! Routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily,
    route::{RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType},
};

use crate::{
    Batch, Error, Socket,
    batch::{MISSING, kind},
    wire::{attributes, read_address, read_u32},
};

/// The protocol number that all routes, rules and neighbour entries of ours
/// carry: none of iproute2's `rt_protos`. Only what has it is ever removed.
pub const PROTOCOL: u8 = 116;

/// The protocol of routes that the kernel makes for addresses.
pub const PROTOCOL_KERNEL: u8 = 2;

/// The main table.
pub const TABLE_MAIN: u32 = 254;
/// The kernel's table of this host's own addresses.
pub const TABLE_LOCAL: u32 = 255;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_TABLE: u16 = 15;
const RTNH_F_ONLINK: u32 = 4;
const RTM_F_CLONED: u32 = 0x200;
const RTN_UNICAST: u8 = 1;
/// Bytes of `struct rtmsg`.
const HEADER_LEN: usize = 12;

/// How far a route's destination is, the kernel's `rtm_scope`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Beyond a gateway.
    Universe,
    /// On the link.
    Link,
    /// On this host.
    Host,
    /// Another one.
    Other(u8),
}

impl From<u8> for Scope {
    fn from(value: u8) -> Self {
        match value {
            0 => Self::Universe,
            253 => Self::Link,
            254 => Self::Host,
            other => Self::Other(other),
        }
    }
}

impl From<Scope> for u8 {
    fn from(scope: Scope) -> Self {
        match scope {
            Scope::Universe => 0,
            Scope::Link => 253,
            Scope::Host => 254,
            Scope::Other(other) => other,
        }
    }
}

/// A unicast route.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Route {
    /// The table it stands in.
    pub table: u32,
    /// Where to; prefix length 0 is the default route.
    pub destination: IpNetwork,
    /// The index of the link that leads there.
    pub link: Option<u32>,
    /// The next hop.
    pub gateway: Option<IpAddr>,
    /// The source address that the host's own packets take.
    pub source: Option<IpAddr>,
    /// Its metric; 0 is none.
    pub metric: u32,
    /// How far it leads. Always [`Scope::Universe`] for IPv6.
    pub scope: Scope,
    /// Who made it ([`PROTOCOL`] for us).
    pub protocol: u8,
    /// The gateway is on the link, whatever the addresses say.
    pub onlink: bool,
}

impl Route {
    /// A route of ours to a host or network that is on `link`.
    pub fn on_link(destination: IpNetwork, link: u32, table: u32) -> Self {
        Self {
            table,
            destination,
            link: Some(link),
            gateway: None,
            source: None,
            metric: 0,
            scope: if destination.is_ipv4() { Scope::Link } else { Scope::Universe },
            protocol: PROTOCOL,
            onlink: false,
        }
    }

    /// A default route of ours by way of `gateway` on `link`.
    pub fn default_via(gateway: IpAddr, link: u32, table: u32) -> Self {
        Self { gateway: Some(gateway), scope: Scope::Universe, ..Self::on_link(any(gateway), link, table) }
    }

    fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        let header = &mut message.header;
        header.address_family = match self.destination {
            IpNetwork::V4(_) => AddressFamily::Inet,
            IpNetwork::V6(_) => AddressFamily::Inet6,
        };
        header.destination_prefix_length = self.destination.prefix();
        header.protocol = RouteProtocol::from(self.protocol);
        header.scope = RouteScope::from(u8::from(self.scope));
        header.kind = RouteType::Unicast;
        if self.onlink {
            header.flags = RouteFlags::Onlink;
        }
        // Tables above 255 only fit into the attribute.
        header.table = u8::try_from(self.table).unwrap_or(0);
        message.attributes.push(RouteAttribute::Table(self.table));
        if self.destination.prefix() > 0 {
            message.attributes.push(RouteAttribute::Destination(self.destination.network().into()));
        }
        message.attributes.extend(self.link.map(RouteAttribute::Oif));
        message.attributes.extend(self.gateway.map(|gateway| RouteAttribute::Gateway(gateway.into())));
        message.attributes.extend(self.source.map(|source| RouteAttribute::PrefSource(source.into())));
        if self.metric > 0 {
            message.attributes.push(RouteAttribute::Priority(self.metric));
        }
        message
    }
}

/// All addresses of the family of `like`.
pub fn any(like: IpAddr) -> IpNetwork {
    match like {
        IpAddr::V4(_) => IpNetwork::V4(Ipv4Addr::UNSPECIFIED.into_network()),
        IpAddr::V6(_) => IpNetwork::V6(Ipv6Addr::UNSPECIFIED.into_network()),
    }
}

/// The network of prefix length 0.
trait IntoNetwork<T> {
    fn into_network(self) -> T;
}

impl IntoNetwork<ipnetwork::Ipv4Network> for Ipv4Addr {
    fn into_network(self) -> ipnetwork::Ipv4Network {
        ipnetwork::Ipv4Network::new(self, 0).expect("0 is a prefix length")
    }
}

impl IntoNetwork<ipnetwork::Ipv6Network> for Ipv6Addr {
    fn into_network(self) -> ipnetwork::Ipv6Network {
        ipnetwork::Ipv6Network::new(self, 0).expect("0 is a prefix length")
    }
}

/// Adds a route, in the place of one with the same table, destination and metric,
/// whoever made that.
pub fn replace(batch: &mut Batch, route: &Route) {
    batch.push("add a route", kind::NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &route.message(), &[]);
}

/// Removes a route; one that is gone is success. The kernel compares the
/// protocol too, so that another one's route stays.
pub fn delete(batch: &mut Batch, route: &Route) {
    batch.push("remove a route", kind::DELROUTE, 0, &route.message(), MISSING);
}

/// All unicast routes of a family in all tables, but those of the local table.
pub fn list(socket: &mut Socket, family: Family) -> Result<Vec<Route>, Error> {
    let mut request = RouteMessage::default();
    request.header.address_family = family.into();
    let messages = socket.dump("list routes", kind::GETROUTE, &request)?;
    Ok(messages.iter().filter_map(|message| parse(&message.body)).collect())
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl From<Family> for AddressFamily {
    fn from(family: Family) -> Self {
        match family {
            Family::V4 => Self::Inet,
            Family::V6 => Self::Inet6,
        }
    }
}

/// A route from the body of an `RTM_NEWROUTE` or `RTM_DELROUTE`; none for a
/// route that is not unicast or not of a family that we know.
pub(crate) fn parse(body: &[u8]) -> Option<Route> {
    let header = body.get(..HEADER_LEN)?;
    let flags = read_u32(&header[8..])?;
    if header[7] != RTN_UNICAST || flags & RTM_F_CLONED != 0 {
        return None;
    }
    let unspecified = match header[0] {
        2 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        10 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let mut destination = unspecified;
    let mut route = Route {
        table: u32::from(header[4]),
        destination: any(unspecified),
        link: None,
        gateway: None,
        source: None,
        metric: 0,
        scope: Scope::from(header[6]),
        protocol: header[5],
        onlink: flags & RTNH_F_ONLINK != 0,
    };
    for (kind, value) in attributes(&body[HEADER_LEN..]) {
        match kind {
            RTA_DST => destination = read_address(value)?,
            RTA_OIF => route.link = read_u32(value),
            RTA_GATEWAY => route.gateway = read_address(value),
            RTA_PRIORITY => route.metric = read_u32(value)?,
            RTA_PREFSRC => route.source = read_address(value),
            RTA_TABLE => route.table = read_u32(value)?,
            _ => {}
        }
    }
    route.destination = IpNetwork::new(destination, header[1]).ok()?;
    Some(route)
}
