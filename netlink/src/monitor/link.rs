//! Waiting for a link to be put into service.

use std::{io, time::Instant};

use netlink_sys::{SocketAddr, protocols::NETLINK_ROUTE};
use nix::{
    errno::Errno,
    sys::{
        socket::{setsockopt, sockopt},
        time::{TimeVal, TimeValLike},
    },
};

use crate::{Error, Socket, link, socket::messages};

const RTMGRP_LINK: u32 = 1;
const RTM_NEWLINK: u16 = 16;
const RECEIVE_BUFFER: usize = 32 * 1024;

/// The kernel's announcements of links in one network namespace, from the
/// moment of opening on. Open it before the change that is waited for.
#[derive(Debug)]
pub struct LinkMonitor {
    socket: netlink_sys::Socket,
}

impl LinkMonitor {
    /// Listens in the calling thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        let mut socket = netlink_sys::Socket::new(NETLINK_ROUTE).map_err(Error::io("open"))?;
        socket.bind(&SocketAddr::new(0, RTMGRP_LINK)).map_err(Error::io("join the group of links"))?;
        Ok(Self { socket })
    }

    /// Waits until link `index` is in service: its carrier is there and its
    /// queue takes packets. `ask` is a socket in the same namespace.
    ///
    /// The carrier flag alone is not enough: the queue of the end whose carrier
    /// came by the other end's coming up is activated by a work queue, and what
    /// is sent before is lost.
    pub fn wait_running(&mut self, ask: &mut Socket, index: u32, deadline: Instant) -> Result<(), Error> {
        const WHAT: &str = "wait for a link's carrier";
        // From 6.8 on the question alone puts the link into service.
        if is_running(ask, index)? {
            return Ok(());
        }
        let mut buffer = Vec::with_capacity(RECEIVE_BUFFER);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Deadline { what: WHAT });
            }
            // Rounded up: zero would mean "for ever".
            let millis = i64::try_from(left.as_millis()).unwrap_or(i64::MAX).saturating_add(1);
            setsockopt(&self.socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(millis))
                .map_err(|errno| Error::io("set its time-out")(errno.into()))?;
            buffer.clear();
            match self.socket.recv(&mut buffer, 0) {
                Ok(_) => {
                    let announced = messages(&buffer)
                        .filter(|message| message.kind == RTM_NEWLINK)
                        .filter_map(|message| link::parse(message.body))
                        .any(|link| link.index == index && link.running);
                    if announced {
                        return Ok(());
                    }
                }
                // Announcements were lost: many links change. Ours may have
                // been among them.
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                    if is_running(ask, index)? {
                        return Ok(());
                    }
                }
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                Err(error) => return Err(Error::Io { call: "receive", source: error }),
            }
        }
    }
}

fn is_running(ask: &mut Socket, index: u32) -> Result<bool, Error> {
    let link = link::by_index(ask, index)?
        .ok_or(Error::Malformed { what: "wait for a link's carrier", missing: "the link" })?;
    Ok(link.running && link.lower_up)
}
