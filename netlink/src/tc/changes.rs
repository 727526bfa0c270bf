//! On which links qdiscs and filters changed.

use std::collections::BTreeSet;
use std::io;

use netlink_sys::{SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;

use super::filter::{RTM_DELTFILTER, RTM_NEWTFILTER};
use super::message::Header;
use super::qdisc::{RTM_DELQDISC, RTM_NEWQDISC};
use crate::Error;
use crate::socket::messages;
use crate::wire::read_u32;

const RTNLGRP_TC: u32 = 4;
const RECEIVE_BUFFER: usize = 64 * 1024;
/// Where a message's header says who asked for the change.
const PORT: usize = 12;

/// What was announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Touched {
    /// Qdiscs or filters of these links, by index.
    Links(BTreeSet<u32>),
    /// Announcements were lost: any link's.
    Any,
}

/// Hears of all changes of qdiscs and filters in a network namespace. tcx is not
/// announced.
#[derive(Debug)]
pub struct Changes {
    socket: netlink_sys::Socket,
    buffer: Vec<u8>,
}

impl Changes {
    /// Listens from now on, in the calling thread's network namespace.
    ///
    /// # Errors
    /// Where the kernel gives no socket.
    pub fn open() -> Result<Self, Error> {
        let mut socket = netlink_sys::Socket::new(NETLINK_ROUTE).map_err(Error::io("open"))?;
        socket.bind(&SocketAddr::new(0, 0)).map_err(Error::io("bind"))?;
        socket.add_membership(RTNLGRP_TC).map_err(Error::io("join the group of traffic control"))?;
        Ok(Self { socket, buffer: Vec::new() })
    }

    /// What changed since the last call, without what was asked for on the socket
    /// whose [`port`](crate::Socket::port) is `own`. Never waits.
    pub fn take(&mut self, own: u32) -> Touched {
        let mut links = BTreeSet::new();
        let mut lost = false;
        loop {
            self.buffer.clear();
            self.buffer.reserve(RECEIVE_BUFFER);
            match self.socket.recv(&mut self.buffer, nix::libc::MSG_DONTWAIT) {
                Ok(_) => links.extend(touched(&self.buffer, own)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => lost = true,
                Err(_) => {
                    lost = true;
                    break;
                }
            }
        }
        if lost { Touched::Any } else { Touched::Links(links) }
    }
}

fn touched(datagram: &[u8], own: u32) -> impl Iterator<Item = u32> {
    // One datagram is one request's announcement.
    let asked_by = datagram.get(PORT..).and_then(read_u32);
    let foreign = asked_by != Some(own);
    messages(datagram).filter(move |_| foreign).filter_map(|message| match message.kind {
        RTM_NEWQDISC | RTM_DELQDISC | RTM_NEWTFILTER | RTM_DELTFILTER => {
            Header::parse(message.body).map(|(header, _)| header.ifindex)
        }
        _ => None,
    })
}
