//! The pod's side: what a sandbox gets so that all its packets go to the host.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink::{
    Batch, Family, Mac, Socket, TABLE_MAIN,
    address::{self, Address},
    link::{self, LinkChange},
    neighbour::{self, Neighbour},
    route::{self, Route},
};
use rpc::Leased;

use crate::error::Error;

/// Index of the loopback link in every namespace.
const LOOPBACK: u32 = 1;
/// Protocol of what an administrator sets by hand, as `ip` writes it: in the
/// sandbox there is nobody to keep apart from.
const PROTOCOL_BOOT: u8 = 3;

/// The gateway for an address: that of the same family.
pub(crate) fn gateway_of(address: IpAddr, leased: &Leased) -> Option<IpAddr> {
    leased.gateways.iter().copied().find(|gateway| gateway.is_ipv4() == address.is_ipv4())
}

/// Brings the sandbox into service in one system call: from its second message
/// on the pod's end is up, and everything that may flow is filtered by then.
pub(crate) fn configure(socket: &mut Socket, index: u32, leased: &Leased) -> Result<(), Error> {
    let mut batch = Batch::new();
    link::change(&mut batch, &LinkChange::up(LOOPBACK));
    link::change(&mut batch, &LinkChange { no_link_local: true, ..LinkChange::up(index) });
    for &ip in &leased.addresses {
        address::add(
            &mut batch,
            &Address { link: index, network: IpNetwork::from(ip), no_prefix_route: true },
        );
    }
    for &ip in &leased.addresses {
        let Some(gateway) = gateway_of(ip, leased) else {
            continue;
        };
        // No interface has the gateway's address, and nobody answers for it.
        let mac = Mac(leased.host_mac);
        neighbour::replace(
            &mut batch,
            &Neighbour { link: index, address: gateway, mac, protocol: PROTOCOL_BOOT },
        );
        for route in routes(index, ip, gateway) {
            route::replace(&mut batch, &route);
        }
    }
    socket.run(batch)?;
    Ok(())
}

/// The gateway is on the link; everything goes by it.
fn routes(index: u32, ip: IpAddr, gateway: IpAddr) -> [Route; 2] {
    let boot = |route| Route { protocol: PROTOCOL_BOOT, ..route };
    let to_gateway = Route::on_link(IpNetwork::from(gateway), index, TABLE_MAIN);
    let by_gateway = Route { source: Some(ip), ..Route::default_via(gateway, index, TABLE_MAIN) };
    [boot(to_gateway), boot(by_gateway)]
}

/// Compares the sandbox with what an ADD made of it; says what differs.
pub(crate) fn check(
    socket: &mut Socket,
    ifname: &str,
    mac: Option<Mac>,
    ips: &[IpAddr],
) -> Result<(), Error> {
    let problem = |problem: String| Err(Error::Check { problem });
    let Some(link) = link::by_name(socket, ifname)? else {
        return problem(format!("{ifname} is gone"));
    };
    if mac.is_some() && link.mac != mac {
        return problem(format!("{ifname} has another Ethernet address"));
    }
    if !link.up || !link.lower_up {
        return problem(format!("{ifname} is down"));
    }
    let addresses = address::list(socket)?;
    for ip in ips {
        if !addresses.iter().any(|one| one.link == link.index && one.network.ip() == *ip) {
            return problem(format!("{ifname} has lost {ip}"));
        }
        let family = if ip.is_ipv4() { Family::V4 } else { Family::V6 };
        let table = route::list(socket, family)?;
        let entries = neighbour::list(socket, family)?;
        let default = table.iter().find(|one| one.link == Some(link.index) && one.destination.prefix() == 0);
        let Some(gateway) = default.and_then(|route| route.gateway) else {
            return problem(format!("the default route by {ifname} is gone"));
        };
        if !entries.iter().any(|one| one.link == link.index && one.address == gateway) {
            return problem(format!("the permanent neighbour entry of {gateway} is gone"));
        }
    }
    Ok(())
}
