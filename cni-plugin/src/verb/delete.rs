//! DEL.

use std::{io, time::Instant};

use netlink::{Socket, link};
use rpc::{Request, Response};

use super::ask;
use crate::{conf::NetConf, environment::Environment, error::Error, namespace, veth};

/// Takes the link away, then everything that the agent has: in this order the
/// pod is never without its filters. Goes on past errors; nothing left to take
/// away is success, and so is a namespace that is gone, for its links went with
/// it.
pub(super) fn run(environment: &Environment, conf: &NetConf, deadline: Instant) -> Result<(), Error> {
    let key = environment.key(&conf.name)?;
    let mut errors = Vec::new();
    let unlinked = match environment.netns_if_any() {
        Some(path) => unlink_in_sandbox(path, &key.ifname, deadline),
        None => unlink_on_host(conf, deadline),
    };
    errors.extend(unlinked.err());
    let request = Request::Release { key };
    let released = ask(conf, deadline, &request, |answer| matches!(answer, Response::Released).then_some(()));
    errors.extend(released.err());
    Error::join(errors)
}

/// By the sandbox's own end: whatever has the host's end's name by now may be a
/// newer sandbox's of a pod with the same names.
fn unlink_in_sandbox(path: &str, ifname: &str, deadline: Instant) -> Result<(), Error> {
    let netns = match namespace::open(path) {
        Ok(netns) => netns,
        Err(Error::Namespace { source, .. }) if is_gone(&source) => return Ok(()),
        Err(error) => return Err(error),
    };
    namespace::enter(&netns, path)?;
    let mut socket = open_socket(deadline)?;
    match link::by_name(&mut socket, ifname)? {
        // What another plugin made is for that plugin to delete.
        Some(link) if link.kind.as_deref() == Some("veth") => veth::delete(&mut socket, link.index),
        _ => Ok(()),
    }
}

/// Without a namespace, by what the ADD returned, if the runtime kept it: name
/// and Ethernet address together are this sandbox's only.
fn unlink_on_host(conf: &NetConf, deadline: Instant) -> Result<(), Error> {
    let Some(result) = &conf.prev_result else {
        return Ok(());
    };
    let mut socket = open_socket(deadline)?;
    for interface in result.interfaces.iter().filter(|one| one.is_host() && one.mac().is_some()) {
        match link::by_name(&mut socket, &interface.name)? {
            Some(link) if link.mac == interface.mac() && link.kind.as_deref() == Some("veth") => {
                veth::delete(&mut socket, link.index)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn open_socket(deadline: Instant) -> Result<Socket, Error> {
    let mut socket = Socket::open()?;
    socket.set_timeout(deadline.saturating_duration_since(Instant::now()))?;
    Ok(socket)
}

/// The path leads nowhere, or to the empty file that the namespace was mounted
/// on.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::InvalidInput | io::ErrorKind::NotADirectory
    )
}
