//! Pods' links as the kernel has them, whoever made them.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use netlink::{Batch, Family, Mac, TABLE_MAIN, link, neighbour, route};

use super::{HostNet, HostNetError, wanted::host};

/// How long a pod may take to tell its Ethernet address: the kernel asks three times, a second apart.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two looks for the answer, which usually comes within microseconds.
const PAUSE: Duration = Duration::from_millis(20);

/// The host's end of a pod's veth pair, and where the kernel leads to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandingLink {
    /// Its name.
    pub ifname: String,
    /// Its index.
    pub ifindex: u32,
    /// Its Ethernet address.
    pub mac: Option<Mac>,
    /// The pod's Ethernet address, where an entry of ours or an answer of the pod's tells it.
    pub pod_mac: Option<Mac>,
    /// Addresses that the main table leads to it, one at a time.
    pub addresses: Vec<IpAddr>,
}

impl HostNet {
    /// Every veth link whose name begins with `prefix`, by name.
    ///
    /// # Errors
    ///
    /// Where the kernel cannot be asked.
    pub fn standing(&self, prefix: &str) -> Result<Vec<StandingLink>, HostNetError> {
        let mut state = self.lock();
        let socket = &mut state.route;
        let links = link::list(socket)?;
        let routes = route::list(socket, Family::V4)?;
        let told = neighbour::told(socket, Family::V4)?;
        drop(state);
        let mut standing: Vec<StandingLink> = links
            .into_iter()
            .filter(|link| link.kind.as_deref() == Some("veth") && link.name.starts_with(prefix))
            .map(|link| {
                let to = routes.iter().filter(|route| {
                    let single = route.destination == host(route.destination.ip());
                    single && route.table == TABLE_MAIN && route.link == Some(link.index)
                });
                let addresses: Vec<IpAddr> = to.map(|route| route.destination.ip()).collect();
                let entry =
                    told.iter().find(|one| one.link == link.index && addresses.contains(&one.address));
                StandingLink {
                    pod_mac: entry.map(|one| one.mac),
                    ifname: link.name,
                    ifindex: link.index,
                    mac: link.mac,
                    addresses,
                }
            })
            .collect();
        standing.sort_by(|one, other| one.ifname.cmp(&other.ifname));
        Ok(standing)
    }

    /// The link of this index, where there is one.
    ///
    /// # Errors
    ///
    /// Where the kernel cannot be asked.
    pub fn link(&self, ifindex: u32) -> Result<Option<link::Link>, HostNetError> {
        Ok(link::by_index(&mut self.lock().route, ifindex)?)
    }

    /// The Ethernet address behind `address` on a link, asked for by ARP where it is not known. Blocks until the
    /// answer comes, or for three seconds.
    ///
    /// # Errors
    ///
    /// Where the kernel cannot be asked.
    pub fn ask_mac(&self, ifindex: u32, address: IpAddr) -> Result<Option<Mac>, HostNetError> {
        let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
        let deadline = Instant::now() + PATIENCE;
        let mut asked = false;
        loop {
            let mut state = self.lock();
            let told = neighbour::told_on(&mut state.route, family, ifindex)?;
            if let Some(entry) = told.iter().find(|one| one.address == address) {
                return Ok(Some(entry.mac));
            }
            if !asked {
                let mut batch = Batch::new();
                neighbour::ask(&mut batch, ifindex, address);
                state.route.run(batch)?;
                asked = true;
            }
            drop(state);
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(PAUSE);
        }
    }
}
