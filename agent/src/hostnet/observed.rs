//! What the kernel has.

use std::net::IpAddr;

use netlink::{
    Family, Socket,
    address::{self, Address},
    link::{self, Link},
    neighbour::{self, Neighbour},
    nft,
    route::{self, Route},
    rule::{self, Mirror, Rule},
};

use super::{Desired, HostNetError, snat};

/// A picture of the host's network, as far as it concerns us.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// All links.
    pub links: Vec<Link>,
    /// All addresses.
    pub addresses: Vec<Address>,
    /// All unicast routes.
    pub routes: Vec<Route>,
    /// All rules that name a table, in the order in which the kernel asks them.
    pub rules: Vec<Rule>,
    /// All permanent neighbour entries.
    pub neighbours: Vec<Neighbour>,
    /// The nftables table of our name.
    pub nftables: Option<nft::Observed>,
}

/// Asks the kernel. Five dumps; some milliseconds with hundreds of pods.
pub(super) fn observe(
    desired: &Desired,
    route: &mut Socket,
    nft: &mut Socket,
    rules: &mut Mirror,
) -> Result<Observed, HostNetError> {
    let mut observed = Observed {
        links: link::list(route)?,
        addresses: address::list(route)?,
        nftables: nft::observe(nft, &snat::table(&desired.node, ""))?,
        ..Observed::default()
    };
    for family in families(desired) {
        observed.routes.extend(route::list(route, family)?);
        match family {
            // Listed anyway: what the mirror has missed ends here.
            Family::V4 => observed.rules.extend_from_slice(rules.refresh(route)?),
            Family::V6 => observed.rules.extend(rule::list(route, family)?),
        }
        observed.neighbours.extend(neighbour::list(route, family)?);
    }
    Ok(observed)
}

/// The families that anything is wanted of: a kernel without IPv6 refuses its dumps.
fn families(desired: &Desired) -> Vec<Family> {
    let addresses = desired.pods.iter().map(|pod| pod.address).chain([desired.node.primary.primary_ip]);
    let v6 = addresses.clone().any(|address: IpAddr| address.is_ipv6());
    let v4 = addresses.into_iter().any(|address| address.is_ipv4());
    [v4.then_some(Family::V4), v6.then_some(Family::V6)].into_iter().flatten().collect()
}
