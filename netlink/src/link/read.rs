//! Links as the kernel describes them.

use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};

use crate::{
    Error, Mac, Message, Socket,
    batch::{MISSING, kind},
    wire::{attribute, attributes, read_string, read_u32},
};

const IFF_UP: u32 = 1;
const IFF_LOWER_UP: u32 = 1 << 16;
const IF_OPER_UP: u8 = 6;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_OPERSTATE: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INET_CONF: u16 = 1;
const AF_INET: u16 = 2;
/// Bytes of `struct ifinfomsg`.
const HEADER_LEN: usize = 16;
/// Places of sysctls in the array `IFLA_INET_CONF`, counted from 1 as in the
/// kernel's `IPV4_DEVCONF_*`.
const IPV4_DEVCONF_FORWARDING: usize = 1;
const IPV4_DEVCONF_RP_FILTER: usize = 8;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Link {
    /// Its index in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its Ethernet address; none for other kinds of links.
    pub mac: Option<Mac>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// It is administratively up.
    pub up: bool,
    /// The layer below is up: for a veth, the other end is up too.
    pub lower_up: bool,
    /// The kernel has put it into service: packets sent now are not lost. This
    /// comes a little after `lower_up`, from a work queue.
    pub running: bool,
    /// The index of the link below, in that one's namespace; for a veth, of the
    /// other end.
    pub peer_index: Option<u32>,
    /// Its kind, `veth` for example; none for hardware.
    pub kind: Option<String>,
    /// sysctl `net.ipv4.conf.<name>.rp_filter`.
    pub rp_filter: Option<u32>,
    /// sysctl `net.ipv4.conf.<name>.forwarding`.
    pub forwarding: Option<u32>,
}

/// A link from the body of an `RTM_NEWLINK` or `RTM_DELLINK`.
pub(crate) fn parse(body: &[u8]) -> Option<Link> {
    let flags = read_u32(body.get(8..)?)?;
    let mut link = Link {
        index: read_u32(body.get(4..)?)?,
        up: flags & IFF_UP != 0,
        lower_up: flags & IFF_LOWER_UP != 0,
        ..Link::default()
    };
    for (kind, value) in attributes(body.get(HEADER_LEN..)?) {
        match kind {
            IFLA_ADDRESS => link.mac = Mac::from_slice(value),
            IFLA_IFNAME => link.name = read_string(value),
            IFLA_MTU => link.mtu = read_u32(value)?,
            IFLA_LINK => link.peer_index = read_u32(value),
            IFLA_OPERSTATE => link.running = value.first() == Some(&IF_OPER_UP),
            IFLA_LINKINFO => link.kind = attribute(value, IFLA_INFO_KIND).map(read_string),
            IFLA_AF_SPEC => {
                let conf = attribute(value, AF_INET).and_then(|inet| attribute(inet, IFLA_INET_CONF));
                let entry = |place: usize| read_u32(conf?.get((place - 1) * 4..)?);
                link.rp_filter = entry(IPV4_DEVCONF_RP_FILTER);
                link.forwarding = entry(IPV4_DEVCONF_FORWARDING);
            }
            _ => {}
        }
    }
    Some(link)
}

/// All links of the namespace. Costs by the number of links: never on the path
/// of an ADD.
pub fn list(socket: &mut Socket) -> Result<Vec<Link>, Error> {
    let mut request = LinkMessage::default();
    request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let messages = socket.dump("list links", kind::GETLINK, &request)?;
    Ok(messages.iter().filter_map(|message| parse(&message.body)).collect())
}

/// The link of this name, if there is one.
pub fn by_name(socket: &mut Socket, name: &str) -> Result<Option<Link>, Error> {
    let mut request = LinkMessage::default();
    request.attributes.push(LinkAttribute::IfName(name.to_owned()));
    get(socket, request)
}

/// The link of this index, if there is one. From kernel 6.8 on, this also puts
/// a link into service whose carrier has just come.
pub fn by_index(socket: &mut Socket, index: u32) -> Result<Option<Link>, Error> {
    let mut request = LinkMessage::default();
    request.header.index = index;
    get(socket, request)
}

/// The link with this Ethernet address that is no virtual one on top of another
/// (a VLAN or macvlan has its parent's address).
pub fn by_mac(socket: &mut Socket, mac: Mac) -> Result<Option<Link>, Error> {
    let mut links: Vec<Link> = list(socket)?.into_iter().filter(|link| link.mac == Some(mac)).collect();
    links.sort_by_key(|link| (link.kind.is_some(), link.index));
    Ok(links.into_iter().next())
}

fn get(socket: &mut Socket, mut request: LinkMessage) -> Result<Option<Link>, Error> {
    const WHAT: &str = "look up a link";
    request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let mut batch = crate::Batch::new();
    batch.push(WHAT, kind::GETLINK, 0, &request, MISSING);
    let answers: Vec<Message> = socket.run(batch)?;
    match answers.first() {
        None => Ok(None),
        Some(message) => {
            parse(&message.body).map(Some).ok_or(Error::Malformed { what: WHAT, missing: "a link" })
        }
    }
}
