//! All changes of a network namespace, as an asynchronous stream.

use std::{collections::VecDeque, net::IpAddr};

use futures::StreamExt;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{AfSpecInet, AfSpecUnspec, LinkAttribute, LinkFlags, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteAttribute, RouteMessage},
};
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use rtnetlink::MulticastGroup;
use tokio::task::JoinHandle;

use crate::{
    Error, Mac,
    socket::{Raw, messages},
    wire::{attribute, attributes, read_string, read_u32},
};

const NETLINK_ROUTE: isize = 0;
const NETLINK_NETFILTER: isize = 12;
const RTNLGRP_IPV4_NETCONF: u32 = 24;
const NFNLGRP_NFTABLES: u32 = 7;
const RTM_NEWNETCONF: u16 = 80;
const NETCONFA_IFINDEX: u16 = 1;
const NETCONFA_FORWARDING: u16 = 2;
const NETCONFA_RP_FILTER: u16 = 3;
/// Bytes of `struct netconfmsg`, padded.
const NETCONF_HEADER_LEN: usize = 4;
/// Bytes of `struct nfgenmsg`.
const NFT_HEADER_LEN: usize = 4;
/// nftables' message of a new generation, which names no table.
const NFT_MSG_NEWGEN: u16 = 15;
const RECEIVE_BUFFER: usize = 64 * 1024;

/// What changed. Whoever hears of it looks at the present state: by the time it
/// is heard, there may be another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A link came or changed.
    Link {
        /// Its index.
        index: u32,
        /// Its name.
        name: String,
        /// It is administratively up.
        up: bool,
        /// Its sysctl `net.ipv4.conf.<name>.forwarding` is on, where that is told:
        /// one that is written by netlink is announced here only.
        forwarding: Option<bool>,
    },
    /// A link went.
    LinkGone {
        /// Its index.
        index: u32,
        /// Its name.
        name: String,
    },
    /// An address came or went.
    Address,
    /// A route came, or went if `gone`.
    Route {
        /// The table it stands in.
        table: u32,
        /// Who made it.
        protocol: u8,
        /// It was removed.
        gone: bool,
    },
    /// A rule came, or went if `gone`.
    Rule {
        /// It was removed.
        gone: bool,
    },
    /// A neighbour entry came, changed, or went if `gone`.
    Neighbour {
        /// The link's index.
        link: u32,
        /// The neighbour's address.
        address: Option<IpAddr>,
        /// Its Ethernet address, where one is known.
        mac: Option<Mac>,
        /// It never expires.
        permanent: bool,
        /// It was removed.
        gone: bool,
    },
    /// An IPv4 sysctl of a link was written; those that were not are none.
    Settings {
        /// The link's index; negative for `all` and `default`.
        index: i32,
        /// `forwarding`.
        forwarding: Option<u32>,
        /// `rp_filter`.
        rp_filter: Option<u32>,
    },
    /// Something in an nftables table changed, or the table itself.
    Nftables {
        /// The table's name.
        table: String,
    },
    /// Announcements were lost: anything may have changed.
    Lost,
}

/// The stream of changes in the network namespace that it was opened in.
pub struct Changes {
    messages: futures::channel::mpsc::UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    /// What netlink-packet-route has no type for: changes of sysctls.
    settings: Ear,
    nftables: Ear,
    /// Of one datagram, not yet handed out.
    pending: VecDeque<Change>,
    connection: JoinHandle<()>,
    own_ports: OwnPorts,
}

/// Sockets whose changes are left out ([`crate::Socket::port`]). The kernel counts
/// ports protocol by protocol: the same number on another is somebody else's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnPorts {
    /// Of route sockets.
    pub route: Vec<u32>,
    /// Of nftables sockets.
    pub nftables: Vec<u32>,
}

impl Changes {
    /// Listens in the calling thread's network namespace; needs a tokio runtime.
    /// Changes that are asked for on sockets with one of `own_ports` are left out.
    pub fn open(own_ports: OwnPorts) -> Result<Self, Error> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Neigh,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Rule,
        ];
        let (connection, _handle, messages) =
            rtnetlink::new_multicast_connection(&groups).map_err(Error::io("listen"))?;
        let settings = Ear::open(NETLINK_ROUTE, RTNLGRP_IPV4_NETCONF)?;
        let nftables = Ear::open(NETLINK_NETFILTER, NFNLGRP_NFTABLES)?;
        Ok(Self {
            messages,
            settings,
            nftables,
            pending: VecDeque::new(),
            connection: tokio::spawn(connection),
            own_ports,
        })
    }

    /// The next change of somebody else; none when the socket failed and the
    /// stream has to be opened again. Cancel-safe.
    pub async fn next(&mut self) -> Option<Change> {
        loop {
            if let Some(change) = self.pending.pop_front() {
                return Some(change);
            }
            let changes = tokio::select! {
                message = self.messages.next() => {
                    let (message, _) = message?;
                    classify(&message, &self.own_ports.route).into_iter().collect()
                }
                heard = self.settings.hear(&self.own_ports.route, settings) => heard?,
                heard = self.nftables.hear(&self.own_ports.nftables, nftables) => heard?,
            };
            self.pending.extend(changes);
        }
    }
}

/// A socket that hears one group's announcements as bytes.
struct Ear {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

impl Ear {
    fn open(protocol: isize, group: u32) -> Result<Self, Error> {
        let mut listening = TokioSocket::new(protocol).map_err(Error::io("open"))?;
        let socket = listening.socket_mut();
        socket.bind_auto().map_err(Error::io("bind"))?;
        socket.add_membership(group).map_err(Error::io("join a group"))?;
        Ok(Self { socket: listening, buffer: Vec::with_capacity(RECEIVE_BUFFER) })
    }

    /// What the next datagram says; none when the socket failed.
    async fn hear(&mut self, own: &[u32], read: fn(&Raw<'_>) -> Option<Change>) -> Option<Vec<Change>> {
        self.buffer.clear();
        match self.socket.recv(&mut self.buffer).await {
            Ok(_) => {
                let foreign = messages(&self.buffer).filter(|message| !own.contains(&message.port));
                let mut changes: Vec<Change> = foreign.filter_map(|message| read(&message)).collect();
                // A transaction is announced object by object.
                changes.dedup();
                Some(changes)
            }
            Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ENOBUFS as i32) => {
                Some(vec![Change::Lost])
            }
            Err(_) => None,
        }
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

fn classify(message: &NetlinkMessage<RouteNetlinkMessage>, own_ports: &[u32]) -> Option<Change> {
    let port = message.header.port_number;
    if port != 0 && own_ports.contains(&port) {
        return None;
    }
    let message = match &message.payload {
        NetlinkPayload::Overrun(_) => return Some(Change::Lost),
        NetlinkPayload::InnerMessage(message) => message,
        _ => return None,
    };
    match message {
        RouteNetlinkMessage::NewLink(link) => Some(link_change(link)),
        RouteNetlinkMessage::DelLink(link) => {
            Some(Change::LinkGone { index: link.header.index, name: name(link) })
        }
        RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) => Some(Change::Address),
        RouteNetlinkMessage::NewRoute(route) => Some(route_change(route, false)),
        RouteNetlinkMessage::DelRoute(route) => Some(route_change(route, true)),
        RouteNetlinkMessage::NewRule(_) => Some(Change::Rule { gone: false }),
        RouteNetlinkMessage::DelRule(_) => Some(Change::Rule { gone: true }),
        RouteNetlinkMessage::NewNeighbour(neighbour) => Some(neighbour_change(neighbour, false)),
        RouteNetlinkMessage::DelNeighbour(neighbour) => Some(neighbour_change(neighbour, true)),
        _ => None,
    }
}

fn link_change(link: &LinkMessage) -> Change {
    let up = link.header.flags.contains(LinkFlags::Up);
    Change::Link { index: link.header.index, name: name(link), up, forwarding: forwarding(link) }
}

fn forwarding(link: &LinkMessage) -> Option<bool> {
    let families = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::AfSpecUnspec(families) => Some(families),
        _ => None,
    })?;
    let inet = families.iter().find_map(|family| match family {
        AfSpecUnspec::Inet(inet) => Some(inet),
        _ => None,
    })?;
    inet.iter().find_map(|one| match one {
        AfSpecInet::DevConf(conf) => Some(conf.forwarding != 0),
        _ => None,
    })
}

fn route_change(route: &RouteMessage, gone: bool) -> Change {
    let table = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    let table = table.unwrap_or_else(|| route.header.table.into());
    Change::Route { table, protocol: route.header.protocol.into(), gone }
}

fn name(link: &LinkMessage) -> String {
    let mut names = link.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    });
    names.next().unwrap_or_default()
}

fn neighbour_change(neighbour: &NeighbourMessage, gone: bool) -> Change {
    let (mut address, mut mac) = (None, None);
    for attribute in &neighbour.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(one)) => address = Some((*one).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(one)) => address = Some((*one).into()),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = Mac::from_slice(bytes),
            _ => {}
        }
    }
    let permanent = neighbour.header.state == NeighbourState::Permanent;
    Change::Neighbour { link: neighbour.header.ifindex, address, mac, permanent, gone }
}

/// What an announcement of written sysctls says.
fn settings(message: &Raw<'_>) -> Option<Change> {
    let mut values = (None, None, None);
    for (kind, value) in attributes(message.body.get(NETCONF_HEADER_LEN..)?) {
        match kind {
            NETCONFA_IFINDEX => values.0 = read_u32(value),
            NETCONFA_FORWARDING => values.1 = read_u32(value),
            NETCONFA_RP_FILTER => values.2 = read_u32(value),
            _ => {}
        }
    }
    let (index, forwarding, rp_filter) = values;
    if forwarding.is_some() && rp_filter.is_some() {
        // Of a new link, which is announced as such: who writes one, writes one.
        return None;
    }
    let index = index.filter(|_| message.kind == RTM_NEWNETCONF)?.cast_signed();
    Some(Change::Settings { index, forwarding, rp_filter })
}

/// What an announcement of nftables says. Every object's first attribute is the
/// name of its table, and so is a table's own.
fn nftables(message: &Raw<'_>) -> Option<Change> {
    if message.kind & 0xff == NFT_MSG_NEWGEN {
        return None;
    }
    let table = attribute(message.body.get(NFT_HEADER_LEN..)?, 1).map(read_string)?;
    Some(Change::Nftables { table })
}
