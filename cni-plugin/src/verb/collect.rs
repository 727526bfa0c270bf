//! GC.

use std::time::Instant;

use netlink::{Mac, Socket, link};
use rpc::{Request, Response, StaleLink};

use super::{ask, require};
use crate::{conf::NetConf, environment::Environment, error::Error, version::Version, veth};

/// Releases what belongs to attachments that the runtime no longer has, and deletes their links. A list that is
/// missing is no empty list, which would release everything: `cnitool gc` gives none, after a DEL of all that it knows.
pub(super) fn run(environment: &Environment, conf: &NetConf, deadline: Instant) -> Result<(), Error> {
    require(conf, Version::V1_1_0, "GC")?;
    let Some(valid) = conf.valid_attachments.clone() else {
        return Ok(());
    };
    let request = Request::Gc { network: conf.name.clone(), valid, begun_ns: environment.begun_ns };
    let links = ask(conf, deadline, &request, |answer| match answer {
        Response::Collected { links, .. } => Some(links),
        _ => None,
    })?;
    let mut socket = Socket::open()?;
    socket.set_timeout(deadline.saturating_duration_since(Instant::now()))?;
    let errors = links.iter().filter_map(|stale| unlink(&mut socket, stale).err());
    Error::join(errors.collect())
}

/// A sandbox that nobody knows any more may still run: without its link it cannot use an address that may soon be
/// another's.
fn unlink(socket: &mut Socket, stale: &StaleLink) -> Result<(), Error> {
    match link::by_index(socket, stale.ifindex)? {
        Some(link) if link.mac == Some(Mac(stale.mac)) && link.kind.as_deref() == Some("veth") => {
            veth::delete(socket, link.index)
        }
        _ => Ok(()),
    }
}
