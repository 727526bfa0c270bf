//! CHECK.

use std::{net::IpAddr, time::Instant};

use netlink::Socket;
use rpc::{Request, Response};

use super::ask;
use crate::{conf::NetConf, environment::Environment, error::Error, namespace, pod};

/// Compares the sandbox with the result of its ADD, and asks the agent about the
/// host's side.
pub(super) fn run(environment: &Environment, conf: &NetConf, deadline: Instant) -> Result<(), Error> {
    let key = environment.key(&conf.name)?;
    let path = environment.netns()?;
    let missing = |problem: &str| Error::Field { field: "prevResult", problem: problem.to_owned() };
    let result = conf.prev_result.as_ref().ok_or_else(|| missing("is missing"))?;
    let (place, interface) = result
        .interfaces
        .iter()
        .enumerate()
        .find(|(_, one)| one.name == key.ifname && !one.is_host())
        .ok_or_else(|| missing("does not name the interface in the sandbox"))?;
    let ips: Vec<IpAddr> =
        result.ips.iter().filter(|ip| ip.interface == Some(place)).map(|ip| ip.address.ip()).collect();
    let netns = namespace::open(path)?;
    namespace::enter(&netns, path)?;
    let mut socket = Socket::open()?;
    socket.set_timeout(deadline.saturating_duration_since(Instant::now()))?;
    pod::check(&mut socket, &key.ifname, interface.mac(), &ips)?;
    ask(conf, deadline, &Request::Check { key }, |answer| matches!(answer, Response::Checked).then_some(()))
}
