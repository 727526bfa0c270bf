//! Links, addresses, routes, rules and neighbours by route netlink.
//!
//! A socket belongs to the namespace in which it was opened and works from any
//! thread, so one is kept per namespace and nothing here enters any. Requests
//! wait for the kernel's answer: a call that returned has taken effect.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, Stats64,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::ns::{NetNs, NsError};

/// A request to the kernel failed.
#[derive(Debug, thiserror::Error)]
pub enum RtnlError {
    /// The socket could not be opened in its namespace.
    #[error("open a netlink socket")]
    Open(#[source] std::io::Error),
    /// Sending or receiving failed.
    #[error("{what}: talk to the kernel")]
    Io {
        what: &'static str,
        #[source]
        source: std::io::Error,
    },
    /// The kernel refused the request.
    #[error("{what}")]
    Refused {
        what: &'static str,
        #[source]
        source: std::io::Error,
    },
    /// An answer could not be read, or held something else than was asked for.
    #[error("{what}: the kernel's answer: {problem}")]
    Answer { what: &'static str, problem: String },
    /// The namespace could not be entered to open the socket.
    #[error(transparent)]
    Ns(#[from] NsError),
}

impl RtnlError {
    /// Whether the kernel knows no such link, address, route or rule.
    pub(crate) fn is_absent(&self) -> bool {
        let Self::Refused { source, .. } = self else {
            return false;
        };
        matches!(source.raw_os_error(), Some(libc::ENODEV | libc::ESRCH | libc::ENOENT | libc::EADDRNOTAVAIL))
    }
}

/// A veth pair with its far end in another namespace. The near end is up, the
/// far end is down: the kernel refuses to make it so (ENOTCONN).
#[derive(Debug)]
pub(crate) struct VethPair<'a> {
    pub(crate) name: &'a str,
    pub(crate) near_mac: [u8; 6],
    /// What a human sees in `ip link` of the near end.
    pub(crate) alias: &'a str,
    pub(crate) far_name: &'a str,
    pub(crate) far_mac: [u8; 6],
    pub(crate) far_ns: &'a NetNs,
    /// Octets of network layer packet, of both ends.
    pub(crate) mtu: u32,
}

/// One route by its key and its target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) destination: IpNetwork,
    pub(crate) table: u8,
    pub(crate) target: RouteTarget,
}

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RouteTarget {
    /// Through a router that the link's addresses reach.
    Gateway { gateway: IpAddr, ifindex: u32 },
    /// Through a router taken to be on the link, whatever the addresses say.
    OnLink { gateway: IpAddr, ifindex: u32 },
    /// Dropped without a word.
    Blackhole,
}

/// The main routing table.
pub(crate) const MAIN_TABLE: u8 = 254;

/// A socket in one namespace.
#[derive(Debug)]
pub(crate) struct Rtnl {
    socket: Socket,
    sequence: u32,
}

impl Rtnl {
    /// Opens a socket in `ns`.
    pub(crate) fn open_in(ns: &NetNs) -> Result<Self, RtnlError> {
        ns.run(Self::open)?
    }

    /// Opens a socket in the calling thread's namespace.
    pub(crate) fn open() -> Result<Self, RtnlError> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(RtnlError::Open)?;
        socket.bind_auto().map_err(RtnlError::Open)?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(RtnlError::Open)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Makes a veth pair and returns the near end's index.
    pub(crate) fn add_veth(&mut self, pair: &VethPair<'_>) -> Result<u32, RtnlError> {
        let mut far = LinkMessage::default();
        far.attributes = vec![
            LinkAttribute::IfName(pair.far_name.to_owned()),
            LinkAttribute::Address(pair.far_mac.to_vec()),
            LinkAttribute::Mtu(pair.mtu),
            LinkAttribute::NetNsFd(pair.far_ns.as_fd().as_raw_fd()),
        ];
        let mut near = LinkMessage::default();
        near.header.flags = LinkFlags::Up;
        near.header.change_mask = LinkFlags::Up;
        near.attributes = vec![
            LinkAttribute::IfName(pair.name.to_owned()),
            LinkAttribute::Address(pair.near_mac.to_vec()),
            LinkAttribute::IfAlias(pair.alias.to_owned()),
            LinkAttribute::Mtu(pair.mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(far))),
            ]),
        ];
        self.request("make a veth pair", RouteNetlinkMessage::NewLink(near), NLM_F_CREATE | NLM_F_EXCL)?;
        self.link_index(pair.name)
    }

    /// The index of the link called `name`.
    pub(crate) fn link_index(&mut self, name: &str) -> Result<u32, RtnlError> {
        Ok(self.link(name)?.header.index)
    }

    /// Waits until the kernel has announced that a link whose other end came up
    /// runs: until then it drops what is sent on it. `false` if it does not.
    pub(crate) fn wait_until_running(&mut self, name: &str) -> Result<bool, RtnlError> {
        const BOUND: Duration = Duration::from_secs(2);
        const PAUSE: Duration = Duration::from_millis(1);
        let began = Instant::now();
        while !self.link(name)?.header.flags.contains(LinkFlags::Running) {
            if began.elapsed() > BOUND {
                return Ok(false);
            }
            std::thread::sleep(PAUSE);
        }
        Ok(true)
    }

    /// What a link has carried: packets received, packets sent.
    pub(crate) fn link_packets(&mut self, name: &str) -> Result<(u64, u64), RtnlError> {
        let link = self.link(name)?;
        let stats = link.attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::Stats64(stats) => Some(stats),
            _ => None,
        });
        Ok(stats.map_or((0, 0), |Stats64 { rx_packets, tx_packets, .. }| (rx_packets, tx_packets)))
    }

    fn link(&mut self, name: &str) -> Result<LinkMessage, RtnlError> {
        const WHAT: &str = "ask for a link by its name";
        let mut ask = LinkMessage::default();
        ask.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        self.request(WHAT, RouteNetlinkMessage::GetLink(ask), 0)?
            .into_iter()
            .find_map(|answer| match answer {
                RouteNetlinkMessage::NewLink(link) => Some(link),
                _ => None,
            })
            .ok_or_else(|| RtnlError::Answer { what: WHAT, problem: "it names no link".to_owned() })
    }

    /// Brings a link up.
    pub(crate) fn set_up(&mut self, ifindex: u32) -> Result<(), RtnlError> {
        let mut link = LinkMessage::default();
        link.header.index = ifindex;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        self.request("bring a link up", RouteNetlinkMessage::SetLink(link), 0)?;
        Ok(())
    }

    /// Takes a link away, with its routes and neighbours.
    pub(crate) fn delete_link(&mut self, ifindex: u32) -> Result<(), RtnlError> {
        let mut link = LinkMessage::default();
        link.header.index = ifindex;
        self.request("delete a link", RouteNetlinkMessage::DelLink(link), 0)?;
        Ok(())
    }

    /// Adds an address to a link.
    pub(crate) fn add_address(&mut self, ifindex: u32, address: IpNetwork) -> Result<(), RtnlError> {
        let mut message = AddressMessage::default();
        message.header.family = family(address.ip());
        message.header.prefix_len = address.prefix();
        message.header.index = ifindex;
        message.attributes =
            vec![AddressAttribute::Local(address.ip()), AddressAttribute::Address(address.ip())];
        if let IpNetwork::V4(v4) = address
            && v4.prefix() < 31
        {
            message.attributes.push(AddressAttribute::Broadcast(v4.broadcast()));
        }
        self.request("add an address", RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)?;
        Ok(())
    }

    /// Adds a route or replaces the one of the same destination and table.
    pub(crate) fn set_route(&mut self, route: &Route) -> Result<(), RtnlError> {
        self.request(
            "set a route",
            RouteNetlinkMessage::NewRoute(route_message(route)),
            NLM_F_CREATE | NLM_F_REPLACE,
        )?;
        Ok(())
    }

    /// Deletes a route.
    pub(crate) fn delete_route(&mut self, route: &Route) -> Result<(), RtnlError> {
        self.request("delete a route", RouteNetlinkMessage::DelRoute(route_message(route)), 0)?;
        Ok(())
    }

    /// Says for good which link-layer address `address` has.
    pub(crate) fn set_neighbour(
        &mut self,
        ifindex: u32,
        address: IpAddr,
        mac: [u8; 6],
    ) -> Result<(), RtnlError> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(address);
        message.header.ifindex = ifindex;
        message.header.state = NeighbourState::Permanent;
        message.header.kind = RouteType::Unspec;
        message.attributes = vec![
            NeighbourAttribute::Destination(match address {
                IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
                IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
            }),
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
        ];
        self.request(
            "set a neighbour",
            RouteNetlinkMessage::NewNeighbour(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )?;
        Ok(())
    }

    /// Lets packets from `source` look into `table`, after all rules of a
    /// smaller priority.
    pub(crate) fn add_rule_from(
        &mut self,
        source: IpNetwork,
        table: u8,
        priority: u32,
    ) -> Result<(), RtnlError> {
        let rule = RouteNetlinkMessage::NewRule(rule_from(source, table, priority));
        self.request("add a rule", rule, NLM_F_CREATE | NLM_F_EXCL)?;
        Ok(())
    }

    /// Takes back what [`Self::add_rule_from`] did.
    pub(crate) fn delete_rule_from(
        &mut self,
        source: IpNetwork,
        table: u8,
        priority: u32,
    ) -> Result<(), RtnlError> {
        let rule = RouteNetlinkMessage::DelRule(rule_from(source, table, priority));
        self.request("delete a rule", rule, 0)?;
        Ok(())
    }

    /// Sends one request and reads up to its acknowledgement.
    fn request(
        &mut self,
        what: &'static str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, RtnlError> {
        let io = |source| RtnlError::Io { what, source };
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        request.header.sequence_number = self.sequence;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map_err(io)?;

        let mut answers = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full().map_err(io)?;
            let mut rest = datagram.as_slice();
            while !rest.is_empty() {
                let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(|error| RtnlError::Answer { what, problem: error.to_string() })?;
                // Messages begin at multiples of four octets.
                let length = (answer.header.length as usize).next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
                if answer.header.sequence_number != self.sequence {
                    continue;
                }
                match answer.payload {
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    NetlinkPayload::Error(error) => {
                        return match error.code {
                            None => Ok(answers),
                            Some(_) => Err(RtnlError::Refused { what, source: error.to_io() }),
                        };
                    }
                    NetlinkPayload::Done(_) => return Ok(answers),
                    _ => {}
                }
            }
        }
    }
}

fn rule_from(source: IpNetwork, table: u8, priority: u32) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = family(source.ip());
    rule.header.src_len = source.prefix();
    rule.header.action = RuleAction::ToTable;
    rule.header.table = table;
    rule.attributes = vec![RuleAttribute::Priority(priority)];
    if source.prefix() > 0 {
        rule.attributes.push(RuleAttribute::Source(source.network()));
    }
    rule
}

fn route_message(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(route.destination.ip());
    message.header.destination_prefix_length = route.destination.prefix();
    message.header.table = route.table;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    if route.destination.prefix() > 0 {
        message.attributes.push(RouteAttribute::Destination(RouteAddress::from(route.destination.network())));
    }
    match route.target {
        RouteTarget::Gateway { gateway, ifindex } | RouteTarget::OnLink { gateway, ifindex } => {
            message.header.kind = RouteType::Unicast;
            message.attributes.push(RouteAttribute::Gateway(gateway.into()));
            message.attributes.push(RouteAttribute::Oif(ifindex));
        }
        RouteTarget::Blackhole => message.header.kind = RouteType::BlackHole,
    }
    if matches!(route.target, RouteTarget::OnLink { .. }) {
        message.header.flags = RouteFlags::Onlink;
    }
    message
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// The network that holds this address only.
pub(crate) fn network_of_one(address: IpAddr) -> IpNetwork {
    match address {
        IpAddr::V4(v4) => IpNetwork::V4(v4.into()),
        IpAddr::V6(v6) => IpNetwork::V6(v6.into()),
    }
}

/// All of IPv4.
pub(crate) fn everywhere() -> IpNetwork {
    match ipnetwork::Ipv4Network::new(Ipv4Addr::UNSPECIFIED, 0) {
        Ok(network) => IpNetwork::V4(network),
        Err(_) => unreachable!("0.0.0.0/0 is a network"),
    }
}
