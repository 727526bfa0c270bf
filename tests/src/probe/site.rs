//! Where probes start and arrive, and the sockets there.

use std::net::{IpAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, recv, sendto,
    setsockopt, socket, sockopt,
};

use crate::world::questions::in_netns;

/// A network namespace with addresses of its own: a pod, a node, the outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// For messages and for [`super::Prober::site`].
    pub name: String,
    /// The namespace's file.
    pub netns: PathBuf,
    /// Its addresses; of each family the first one is the source of its probes.
    pub addresses: Vec<IpAddr>,
}

impl Site {
    /// A site.
    pub fn new(name: &str, netns: impl AsRef<Path>, addresses: &[IpAddr]) -> Self {
        Self { name: name.into(), netns: netns.as_ref().to_owned(), addresses: addresses.to_vec() }
    }
}

/// Raw sockets that send whole packets, and two that hear them. Each of these asks for one type
/// of packets, as the kernel gives those out behind the filters of a link's ingress, but all
/// types at once before them.
#[derive(Debug)]
pub(super) struct Socket {
    ipv4: OwnedFd,
    ipv6: OwnedFd,
    ears: [OwnedFd; 2],
}

/// Packets that may wait while others are sent; each counts for a page or so.
const EAR: usize = 8 << 20;

impl Socket {
    pub(super) fn open(site: &Site) -> Result<Self> {
        in_netns(&site.netns, || {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let raw = |family| socket(family, SockType::Raw, flags, SockProtocol::Raw);
            let ear = |protocol| -> Result<OwnedFd> {
                let ear = socket(AddressFamily::Packet, SockType::Datagram, flags, protocol)?;
                setsockopt(&ear, sockopt::RcvBufForce, &EAR)?;
                Ok(ear)
            };
            let ears = [ear(SockProtocol::EthIp)?, ear(SockProtocol::EthIpv6)?];
            Ok(Self { ipv4: raw(AddressFamily::Inet)?, ipv6: raw(AddressFamily::Inet6)?, ears })
        })
        .with_context(|| format!("opening raw sockets in {}", site.name))
    }

    /// Sends a packet with its IP header. One that this namespace's own stack refuses or has
    /// no room for is lost, like one that is lost on its way.
    pub(super) fn send(&self, to: IpAddr, packet: &[u8]) -> Result<()> {
        let flags = MsgFlags::empty();
        let sent = match to {
            IpAddr::V4(v4) => {
                let to = SockaddrIn::from(SocketAddrV4::new(v4, 0));
                sendto(self.ipv4.as_raw_fd(), packet, &to, flags)
            }
            IpAddr::V6(v6) => {
                let to = SockaddrIn6::from(SocketAddrV6::new(v6, 0, 0, 0));
                sendto(self.ipv6.as_raw_fd(), packet, &to, flags)
            }
        };
        match sent {
            Ok(_) | Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::EPERM) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The next packet that came to the namespace, from its IP header on. Never waits.
    pub(super) fn receive<'a>(&self, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        let mut heard = self.ears.iter().map(|ear| recv(ear.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT));
        let length = heard.find_map(Result::ok)?;
        drop(heard);
        buffer.get(..length)
    }

    /// What becomes readable when there is one.
    pub(super) fn ears(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.ears.iter().map(AsFd::as_fd)
    }
}
