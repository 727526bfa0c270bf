//! ADD.

use std::{
    fs::File,
    time::{Duration, Instant},
};

use ipnetwork::IpNetwork;
use netlink::{Mac, route};
use rpc::{Leased, Request, Response, SandboxKey, reason};

use super::{ask, ask_on, pause};
use crate::{
    conf::NetConf,
    environment::Environment,
    error::Error,
    namespace::{self, Side},
    pod,
    result::{Interface, Ip, Ours},
    veth::{self, Ends, Pair},
};

/// What undoing may take when the deadline is over already.
const UNDO: Duration = Duration::from_secs(2);

/// Lease, pair, attach, the pod's end up, both ends in service. What fails is
/// undone in reverse, and the lease by the agent when the connection closes.
pub(super) fn run(environment: &Environment, conf: &NetConf, deadline: Instant) -> Result<String, Error> {
    let key = environment.key(&conf.name)?;
    let path = environment.netns()?;
    if let Some(before) = &conf.prev_result
        && before.interfaces.iter().any(|one| one.name == key.ifname && !one.is_host())
    {
        return Err(Error::ForeignInterface { ifname: key.ifname });
    }
    let netns = namespace::open(path)?;
    let host = Side::open()?;
    namespace::enter(&netns, path)?;
    let mut work = Work { environment, conf, key, path, deadline, netns, host, pod: Side::open()? };
    let left = deadline.saturating_duration_since(Instant::now());
    work.host.route.set_timeout(left)?;
    work.pod.route.set_timeout(left)?;
    let (leased, pair) = work.attach()?;
    if let Err(error) = work.bring_up(&leased, pair) {
        work.undo(pair);
        return Err(error);
    }
    Ok(work.result(&leased))
}

/// One ADD.
struct Work<'a> {
    environment: &'a Environment,
    conf: &'a NetConf,
    key: SandboxKey,
    path: &'a str,
    deadline: Instant,
    netns: File,
    host: Side,
    pod: Side,
}

impl Work<'_> {
    /// Until the agent has attached. Begins again when the agent was restarted
    /// in between or does not know the lease any more.
    fn attach(&mut self) -> Result<(Leased, Pair), Error> {
        // What the agent said last: when the deadline ends a try, that is the reason and not the deadline.
        let mut refused = None;
        loop {
            let error = match self.attempt() {
                Ok(attached) => return Ok(attached),
                Err(error) => error,
            };
            match error {
                Error::Agent(error) if error.is_restart() => {}
                Error::Agent(error) if error.is_deadline() => {
                    return Err(refused.map_or(Error::Agent(error), Error::Refused));
                }
                Error::Refused(refusal) if refusal.retryable || refusal.reason == reason::UNKNOWN_LEASE => {
                    pause(self.deadline);
                    if Instant::now() >= self.deadline {
                        return Err(Error::Refused(refusal));
                    }
                    refused = Some(refusal);
                }
                error => return Err(error),
            }
        }
    }

    fn attempt(&mut self) -> Result<(Leased, Pair), Error> {
        let mut connection = rpc::connect(&self.conf.socket, self.deadline)?;
        let request = Request::Lease {
            key: self.key.clone(),
            netns: self.path.to_owned(),
            pod: self.environment.pod.clone(),
            egress_shaped: self.conf.egress_shaped,
            begun_ns: self.environment.begun_ns,
        };
        let mut lease = || {
            ask_on(&mut connection, request.clone(), |answer| match answer {
                Response::Leased(leased) => Some(leased),
                _ => None,
            })
        };
        let leased = lease()?;
        let mut ends = Ends {
            host: &mut self.host.route,
            pod: &mut self.pod.route,
            netns: &self.netns,
            // A lease that is asked for again is the same, or refused where a newer sandbox has the name.
            may_take_name: &mut || lease().map(drop),
        };
        let pair = ends.provide(&self.key.ifname, &leased)?;
        let request = Request::Attach {
            key: self.key.clone(),
            host_ifname: leased.host_ifname.clone(),
            host_ifindex: pair.host,
        };
        let attached =
            ask_on(&mut connection, request, |answer| matches!(answer, Response::Attached).then_some(()));
        match attached {
            Ok(()) => Ok((leased, pair)),
            Err(error) => {
                // The pair first, then (with the connection) the lease: an
                // address is never free while a link may still send from it.
                if pair.made {
                    self.delete_pair(pair);
                }
                Err(error)
            }
        }
    }

    fn bring_up(&mut self, leased: &Leased, pair: Pair) -> Result<(), Error> {
        pod::configure(&mut self.pod.route, pair.pod, leased)?;
        self.pod.links.wait_running(&mut self.pod.route, pair.pod, self.deadline)?;
        self.host.links.wait_running(&mut self.host.route, pair.host, self.deadline)?;
        Ok(())
    }

    /// Undoes what this run made. Errors do not matter any more: the runtime
    /// calls DEL after an ADD that failed.
    fn undo(&mut self, pair: Pair) {
        if pair.made {
            self.delete_pair(pair);
            let request = Request::Release { key: self.key.clone() };
            let deadline = self.deadline.max(Instant::now() + UNDO);
            let _ = ask(self.conf, deadline, &request, |answer| {
                matches!(answer, Response::Released).then_some(())
            });
        }
    }

    fn delete_pair(&mut self, pair: Pair) {
        // A deadline that is over must not leave the pair behind.
        let left = self.deadline.saturating_duration_since(Instant::now()).max(UNDO);
        let _ = self.host.route.set_timeout(left);
        let _ = veth::delete(&mut self.host.route, pair.host);
    }

    fn result(&self, leased: &Leased) -> String {
        let version = self.conf.version;
        let host = Interface::new(&leased.host_ifname, Mac(leased.host_mac), None);
        let pod = Interface::new(&self.key.ifname, Mac(leased.pod_mac), Some(self.path));
        let gateways = leased.addresses.iter().map(|ip| (*ip, pod::gateway_of(*ip, leased)));
        let ours = Ours {
            interfaces: vec![host.with_mtu(leased.mtu, version), pod.with_mtu(leased.mtu, version)],
            ips: gateways
                .clone()
                .map(|(ip, gateway)| Ip::new(IpNetwork::from(ip), gateway, 1, version))
                .collect(),
            routes: gateways.filter_map(|(ip, gateway)| Some((route::any(ip), gateway?))).collect(),
            dns: self.conf.dns.clone(),
        };
        let before = self.conf.prev_result.clone().unwrap_or_default();
        before.extend(version, ours)
    }
}
