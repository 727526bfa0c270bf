//! Veth pairs with one end in another network namespace from the start.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_ECHO, NLM_F_EXCL};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};

use super::{LinkChange, by_name, change, parse};
use crate::{Batch, Error, Mac, Socket, batch::kind};

/// A veth pair to create.
#[derive(Clone, Copy, Debug)]
pub struct Veth<'a> {
    /// Name of the end in the socket's namespace.
    pub name: &'a str,
    /// Its Ethernet address. Set at creation: udev changes the address of a link
    /// that the kernel chose one for.
    pub mac: Mac,
    /// Namespace of the other end.
    pub peer_netns: BorrowedFd<'a>,
    /// Name of the other end in its namespace.
    pub peer_name: &'a str,
    /// Ethernet address of the other end.
    pub peer_mac: Mac,
    /// MTU of both ends, in bytes.
    pub mtu: u32,
}

/// Indices of a pair's ends, each in its own namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VethIndices {
    /// The near end, in the socket's namespace.
    pub near: u32,
    /// The far end.
    pub far: u32,
}

/// Creates a pair. The near end is up, the far end is down, so that nothing can
/// flow yet. Neither gets an IPv6 link-local address of its own accord: such
/// traffic would be of no pod address.
///
/// The far end cannot be created up: the kernel answers ENOTCONN. Its index
/// cannot be chosen: the kernel takes a wish only together with one for the near
/// end's, where indices of all links are shared.
pub fn create_veth(socket: &mut Socket, veth: &Veth<'_>) -> Result<VethIndices, Error> {
    const WHAT: &str = "create a veth pair";
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(veth.peer_name.to_owned()),
        LinkAttribute::Address(veth.peer_mac.0.to_vec()),
        LinkAttribute::Mtu(veth.mtu),
        LinkAttribute::NetNsFd(veth.peer_netns.as_raw_fd()),
    ];
    let mut message = LinkMessage::default();
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes = vec![
        LinkAttribute::IfName(veth.name.to_owned()),
        LinkAttribute::Address(veth.mac.0.to_vec()),
        LinkAttribute::Mtu(veth.mtu),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    let mut batch = Batch::new();
    // The echo, which carries the index, came with kernel 6.2.
    batch.push(WHAT, kind::NEWLINK, NLM_F_CREATE | NLM_F_EXCL | NLM_F_ECHO, &message, &[]);
    let echoes = socket.run(batch)?;
    let echoed = echoes.iter().filter_map(|message| parse(&message.body)).find(|link| link.name == veth.name);
    let link = match echoed {
        Some(link) => link,
        None => by_name(socket, veth.name)?
            .ok_or(Error::Malformed { what: WHAT, missing: "the index of its near end" })?,
    };
    let mut batch = Batch::new();
    change(&mut batch, &LinkChange { no_link_local: true, ..LinkChange::of(link.index) });
    socket.run(batch)?;
    let far = link.peer_index.ok_or(Error::Malformed { what: WHAT, missing: "the index of its far end" })?;
    Ok(VethIndices { near: link.index, far })
}
