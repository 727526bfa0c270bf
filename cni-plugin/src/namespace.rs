//! The sandbox's network namespace.

use std::{fs::File, io, os::fd::AsFd, path::Path};

use netlink::{Socket, monitor::LinkMonitor};
use nix::sys::stat::fstat;

use crate::error::Error;

/// Opens the namespace at `path`, which must not be the runtime's own: wiring
/// that would cut the node off.
pub(crate) fn open(path: &str) -> Result<File, Error> {
    let failed = |source| Error::Namespace { path: path.to_owned(), source };
    let file = netlink::netns::open(Path::new(path)).map_err(failed)?;
    let own = netlink::netns::current().map_err(failed)?;
    if is_same(&file, &own).map_err(failed)? {
        return Err(failed(io::Error::other("it is the host's own")));
    }
    Ok(file)
}

fn is_same(one: &File, other: &File) -> io::Result<bool> {
    let (one, other) = (fstat(one)?, fstat(other)?);
    Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}

/// Sockets on one side.
pub(crate) struct Side {
    pub(crate) route: Socket,
    pub(crate) links: LinkMonitor,
}

impl Side {
    /// In the calling thread's namespace.
    pub(crate) fn open() -> Result<Self, Error> {
        Ok(Self { links: LinkMonitor::open()?, route: Socket::open()? })
    }
}

/// Moves this thread, the only one that works, into the sandbox for the rest of
/// the program: sockets that were opened before stay where they were, and no
/// thread has to be started for the others.
pub(crate) fn enter(netns: &File, path: &str) -> Result<(), Error> {
    netlink::netns::enter(netns.as_fd()).map_err(|source| Error::Namespace { path: path.to_owned(), source })
}
