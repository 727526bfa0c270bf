//! The kernel's connection tracking (ctnetlink): which flows a namespace knows.
//!
//! Read only. Written by hand as nftables is: the wire format is that of
//! `linux/netfilter/nfnetlink_conntrack.h`, numbers in network order.

mod message;
mod timeouts;

use std::net::IpAddr;
use std::time::Duration;

pub use timeouts::Timeouts;

use crate::{Error, Socket};

const NETLINK_NETFILTER: isize = 12;
/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET`.
const GET: u16 = 0x0101;
/// `struct nfgenmsg`: all families, version 0.
const ALL_FAMILIES: [u8; 4] = [0; 4];

/// One direction of a flow, as its packets carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// IP protocol number.
    pub proto: u8,
    /// Source port in host order; 0 for protocols without ports.
    pub src_port: u16,
    /// Destination port in host order; 0 for protocols without ports.
    pub dst_port: u16,
    /// ICMP and ICMPv6: type and identifier of queries.
    pub icmp: Option<Icmp>,
}

/// What names an ICMP query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Icmp {
    /// The type: 8 (or 128 in IPv6) for an echo request.
    pub kind: u8,
    /// The identifier in host order.
    pub id: u16,
}

/// How far a TCP connection came, as far as it matters to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tcp {
    /// Before the end of the handshake.
    Opening,
    /// Between handshake and the first FIN.
    Established,
    /// A FIN or RST was seen.
    Closing,
}

/// An entry of the connection tracking table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// What its first packet carried.
    pub original: Tuple,
    /// What answers carry: with addresses translated, not simply the reverse.
    pub reply: Tuple,
    /// An answer was seen.
    pub seen_reply: bool,
    /// It is kept when room is needed: of UDP, datagrams went both ways for a while.
    pub assured: bool,
    /// How long it is kept without another packet.
    pub remaining: Option<Duration>,
    /// Of a TCP connection, its state.
    pub tcp: Option<Tcp>,
}

/// A socket for [`flows`] in the calling thread's network namespace.
///
/// # Errors
/// Where the kernel gives none.
pub fn open() -> Result<Socket, Error> {
    Socket::open_protocol(NETLINK_NETFILTER)
}

/// Tells all flows of all families, in no order; those in zones other than the
/// default one are left out. Nothing is kept: the table may have millions. It
/// changes while it is read: a flow that begins or ends meanwhile may be there or
/// not, one may come twice; every flow that lives through the call is there.
///
/// # Errors
/// As any request; needs `CAP_NET_ADMIN` and the kernel's `nf_conntrack_netlink`.
pub fn each_flow(socket: &mut Socket, mut each: impl FnMut(&Flow)) -> Result<(), Error> {
    socket.dump_each("list tracked connections", GET, &ALL_FAMILIES, |body| {
        if let Some(flow) = message::parse(body) {
            each(&flow);
        }
    })
}
