//! All changes of a network namespace, as an asynchronous stream.

use futures::StreamExt;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags, LinkMessage},
};
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use rtnetlink::MulticastGroup;
use tokio::task::JoinHandle;

use crate::Error;

const NETLINK_NETFILTER: isize = 12;
const NFNLGRP_NFTABLES: u32 = 7;
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
    },
    /// A link went.
    LinkGone {
        /// Its index.
        index: u32,
    },
    /// An address came or went.
    Address,
    /// A route came, or went if `gone`.
    Route {
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
    /// A neighbour entry was removed.
    NeighbourGone,
    /// nftables changed.
    Nftables,
    /// Announcements were lost: anything may have changed.
    Lost,
}

/// The stream of changes in the network namespace that it was opened in.
pub struct Changes {
    messages: futures::channel::mpsc::UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    nftables: TokioSocket,
    buffer: Vec<u8>,
    connection: JoinHandle<()>,
    own_ports: Vec<u32>,
}

impl Changes {
    /// Listens in the calling thread's network namespace; needs a tokio runtime.
    /// Changes that are asked for on sockets with one of `own_ports`
    /// ([`crate::Socket::port`]) are left out.
    pub fn open(own_ports: Vec<u32>) -> Result<Self, Error> {
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
        let mut nftables = TokioSocket::new(NETLINK_NETFILTER).map_err(Error::io("open"))?;
        let socket = nftables.socket_mut();
        socket.bind_auto().map_err(Error::io("bind"))?;
        socket.add_membership(NFNLGRP_NFTABLES).map_err(Error::io("join the group of nftables"))?;
        Ok(Self {
            messages,
            nftables,
            buffer: Vec::with_capacity(RECEIVE_BUFFER),
            connection: tokio::spawn(connection),
            own_ports,
        })
    }

    /// The next change of somebody else; none when the socket failed and the
    /// stream has to be opened again. Cancel-safe.
    pub async fn next(&mut self) -> Option<Change> {
        loop {
            let change = tokio::select! {
                message = self.messages.next() => {
                    let (message, _) = message?;
                    classify(&message, &self.own_ports)
                }
                received = self.nftables.recv(&mut self.buffer) => {
                    let change = match received {
                        Ok(_) => classify_nftables(&self.buffer, &self.own_ports),
                        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ENOBUFS as i32) => {
                            Some(Change::Lost)
                        }
                        Err(_) => return None,
                    };
                    self.buffer.clear();
                    change
                }
            };
            if let Some(change) = change {
                return Some(change);
            }
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
        RouteNetlinkMessage::DelLink(link) => Some(Change::LinkGone { index: link.header.index }),
        RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) => Some(Change::Address),
        RouteNetlinkMessage::NewRoute(route) => {
            Some(Change::Route { protocol: route.header.protocol.into(), gone: false })
        }
        RouteNetlinkMessage::DelRoute(route) => {
            Some(Change::Route { protocol: route.header.protocol.into(), gone: true })
        }
        RouteNetlinkMessage::NewRule(_) => Some(Change::Rule { gone: false }),
        RouteNetlinkMessage::DelRule(_) => Some(Change::Rule { gone: true }),
        RouteNetlinkMessage::DelNeighbour(_) => Some(Change::NeighbourGone),
        // New neighbours are the daily life of ARP.
        _ => None,
    }
}

fn link_change(link: &LinkMessage) -> Change {
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    });
    Change::Link {
        index: link.header.index,
        name: name.unwrap_or_default(),
        up: link.header.flags.contains(LinkFlags::Up),
    }
}

/// What one announcement says. A transaction is announced object by object;
/// each carries the port of who asked for it.
fn classify_nftables(datagram: &[u8], own_ports: &[u32]) -> Option<Change> {
    // The port stands in the last four bytes of the netlink header.
    let port = datagram.get(12..16).and_then(crate::wire::read_u32).unwrap_or(0);
    (port == 0 || !own_ports.contains(&port)).then_some(Change::Nftables)
}
