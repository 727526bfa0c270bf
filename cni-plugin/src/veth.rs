//! The pair between host and sandbox: making it, finding it again, taking it away.

use std::{fs::File, os::fd::AsFd};

use netlink::{
    Batch, Mac, Socket, address,
    link::{self, Link, Veth, VethIndices},
};
use rpc::Leased;

use crate::error::Error;

/// How often the way is cleared for a name that is taken.
const ATTEMPTS: u32 = 3;

/// A pair that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    /// Index of the host's end.
    pub(crate) host: u32,
    /// Index of the pod's end, in the sandbox.
    pub(crate) pod: u32,
    /// This run made it, so this run undoes it.
    pub(crate) made: bool,
}

/// Both sockets, and the namespace of the second.
pub(crate) struct Ends<'a> {
    pub(crate) host: &'a mut Socket,
    pub(crate) pod: &'a mut Socket,
    pub(crate) netns: &'a File,
    /// Asks the agent whether the name of the host's end is this sandbox's still.
    pub(crate) may_take_name: &'a mut dyn FnMut() -> Result<(), Error>,
}

impl Ends<'_> {
    /// The pair for `leased`, with the host's end up and the pod's end down: a new one, or that of an earlier run if it
    /// is the same. Whether a name is taken is asked only when the kernel says so.
    pub(crate) fn provide(&mut self, ifname: &str, leased: &Leased) -> Result<Pair, Error> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match self.make(ifname, leased) {
                Ok(VethIndices { near, far }) => return Ok(Pair { host: near, pod: far, made: true }),
                Err(error) if error.is_existing() && attempts < ATTEMPTS => {
                    if let Some(pair) = self.clear(ifname, leased)? {
                        return Ok(pair);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes what is in the way of a new pair out of it, or returns the pair that is as it should be.
    fn clear(&mut self, ifname: &str, leased: &Leased) -> Result<Option<Pair>, Error> {
        let Some(present) = link::by_name(self.pod, ifname)? else {
            self.clear_name(&leased.host_ifname)?;
            return Ok(None);
        };
        if present.mac != Some(Mac(leased.pod_mac)) || present.kind.as_deref() != Some("veth") {
            return Err(Error::ForeignInterface { ifname: ifname.to_owned() });
        }
        let same = self.same(&present, leased)?;
        if same.is_none() {
            delete(self.pod, present.index)?;
        }
        Ok(same)
    }

    /// The pair of `present`, if its other end is the host's end that is wanted
    /// and it has no address but those that are wanted.
    fn same(&mut self, present: &Link, leased: &Leased) -> Result<Option<Pair>, Error> {
        let Some(host) = link::by_name(self.host, &leased.host_ifname)? else {
            return Ok(None);
        };
        let ends_match = host.mac == Some(Mac(leased.host_mac))
            && host.peer_index == Some(present.index)
            && present.peer_index == Some(host.index)
            && present.mtu == leased.mtu;
        let addresses = address::list(self.pod)?;
        let foreign = addresses
            .iter()
            .any(|one| one.link == present.index && !leased.addresses.contains(&one.network.ip()));
        Ok((ends_match && !foreign).then_some(Pair { host: host.index, pod: present.index, made: false }))
    }

    fn make(&mut self, ifname: &str, leased: &Leased) -> Result<VethIndices, netlink::Error> {
        let veth = Veth {
            name: &leased.host_ifname,
            mac: Mac(leased.host_mac),
            peer_netns: self.netns.as_fd(),
            peer_name: ifname,
            peer_mac: Mac(leased.pod_mac),
            mtu: leased.mtu,
        };
        link::create_veth(self.host, &veth)
    }

    /// Takes the link out of the way that has the name that we need: the pair of
    /// an older sandbox of a pod with the same names, whose DEL is still to
    /// come. It is the newer one's now; and the agent, which is asked after the
    /// link was seen, knows of every sandbox that has made one.
    fn clear_name(&mut self, name: &str) -> Result<(), Error> {
        match link::by_name(self.host, name)? {
            Some(old) if old.kind.as_deref() == Some("veth") => {
                (self.may_take_name)()?;
                delete(self.host, old.index)
            }
            Some(_) => Err(Error::ForeignInterface { ifname: name.to_owned() }),
            None => Ok(()),
        }
    }
}

/// Deletes a link; one that is gone is success.
pub(crate) fn delete(socket: &mut Socket, index: u32) -> Result<(), Error> {
    let mut batch = Batch::new();
    link::delete(&mut batch, index);
    socket.run(batch)?;
    Ok(())
}
