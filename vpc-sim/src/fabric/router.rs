//! The VPC's router: one namespace that every interface's cable ends in.
//!
//! The rules of the network are routing:
//! - every address of every attached interface is a /32 route to that
//!   interface, so packets are delivered by address wherever it moved to;
//! - the reverse path filter is strict on each cable, so what comes with a
//!   source that is not on the sending interface is dropped, and counted by
//!   the kernel;
//! - it answers for every address that a node may ask for on its link (proxy
//!   ARP), and is the subnets' gateway;
//! - the way out is in a table of its own, which only packets from the primary
//!   address of a primary interface are let into: others end nowhere.
//!
//! IPv4 only for now: IPv6 addresses of an interface are not routed.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::IpNetwork;

use super::FabricError;
use super::node::VPC_MTU;
use super::ns::NetNs;
use super::rtnl::{MAIN_TABLE, Route, RouteTarget, Rtnl, VethPair, everywhere, network_of_one};
use super::sysctl::set_all;
use crate::ec2::{EniId, EniLink};

/// The address at which every instance finds its metadata.
pub const IMDS_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// The table that leads out of the VPC, and the priority of the rules that
/// lead into it: after the main table's (32766), so that the VPC comes first.
const INTERNET_TABLE: u8 = 100;
const INTERNET_PRIORITY: u32 = 33_000;

/// The cable of packets that have no way on, its table, and the priority of the
/// rule that leads there last of all.
const NOWHERE: &str = "nowhere";
const NOWHERE_TABLE: u8 = 101;
const NOWHERE_PRIORITY: u32 = 40_000;

/// The router's end of the cable to the internet.
pub(super) const INTERNET_GATEWAY_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];

/// The router's state, which mirrors what its namespace holds.
#[derive(Debug)]
pub(super) struct Router {
    ns: NetNs,
    kernel: Rtnl,
    cables: HashMap<EniId, Cable>,
    /// Gateways that the router answers as already.
    gateways: BTreeSet<IpAddr>,
    made: u32,
}

/// One attached interface.
#[derive(Debug)]
pub(super) struct Cable {
    pub(super) link: EniLink,
    /// The router's end.
    pub(super) ifname: String,
    ifindex: u32,
    pub(super) addresses: Vec<IpNetwork>,
}

impl Cable {
    /// The one address that may leave the VPC, if it is on this interface.
    fn may_leave(&self) -> Option<IpNetwork> {
        let primary = self.link.device_index == 0 && self.link.primary_ip.is_ipv4();
        primary.then(|| network_of_one(self.link.primary_ip))
    }
}

impl Router {
    /// Makes the router's namespace.
    pub(super) fn new() -> Result<Self, FabricError> {
        let ns = NetNs::new()?;
        ns.run(|| {
            set_all(&[
                ("ipv4/ip_forward", "1"),
                ("ipv6/conf/all/disable_ipv6", "1"),
                ("ipv6/conf/default/disable_ipv6", "1"),
                // A strict filter per cable, which "all" must not override.
                ("ipv4/conf/all/rp_filter", "0"),
                ("ipv4/conf/default/rp_filter", "1"),
                ("ipv4/conf/all/proxy_arp", "0"),
                ("ipv4/conf/default/proxy_arp", "1"),
                // A VPC tells nobody of a shorter way.
                ("ipv4/conf/all/send_redirects", "0"),
                ("ipv4/conf/default/send_redirects", "0"),
                ("ipv4/conf/all/arp_ignore", "0"),
                ("ipv4/conf/default/arp_ignore", "0"),
                ("ipv4/conf/all/log_martians", "0"),
                ("ipv4/conf/default/log_martians", "0"),
            ])
        })??;
        let mut kernel = Rtnl::open_in(&ns)?;
        let lo = kernel.link_index("lo")?;
        kernel.set_up(lo)?;
        kernel.add_address(lo, network_of_one(IMDS_ADDRESS.into()))?;
        Ok(Self { ns, kernel, cables: HashMap::new(), gateways: BTreeSet::new(), made: 0 })
    }

    pub(super) fn ns(&self) -> &NetNs {
        &self.ns
    }

    pub(super) fn cables(&self) -> impl Iterator<Item = &Cable> {
        self.cables.values()
    }

    /// Which interface holds `address`.
    pub(super) fn holder_of(&self, address: IpAddr) -> Option<&EniLink> {
        self.cables
            .values()
            .find(|cable| cable.addresses.iter().any(|held| held.contains(address)))
            .map(|cable| &cable.link)
    }

    /// Lays the cable of an interface into `node` as `ifname`.
    pub(super) fn attach(&mut self, link: EniLink, node: &NetNs, ifname: &str) -> Result<(), FabricError> {
        if self.cables.contains_key(&link.eni_id) {
            return Ok(());
        }
        self.be_gateway(link.gateway)?;
        self.made += 1;
        let near = format!("eni{}", self.made);
        let ifindex = self.kernel.add_veth(&VethPair {
            name: &near,
            near_mac: router_mac(self.made),
            alias: link.eni_id.as_str(),
            far_name: ifname,
            far_mac: link.mac.0,
            far_ns: node,
            mtu: VPC_MTU,
        })?;
        let cable = Cable { ifname: near, ifindex, addresses: Vec::new(), link };
        self.ns.run(|| cable_settings(&cable))??;
        self.kernel.set_neighbour(ifindex, cable.link.primary_ip, cable.link.mac.0)?;
        if let Some(source) = cable.may_leave() {
            self.kernel.add_rule_from(source, INTERNET_TABLE, INTERNET_PRIORITY)?;
        }
        let eni = cable.link.eni_id.clone();
        let primary = network_of_one(cable.link.primary_ip);
        self.cables.insert(eni.clone(), cable);
        self.set_addresses(&eni, vec![primary])
    }

    /// Takes the cable of an interface away, from its node too.
    pub(super) fn detach(&mut self, eni: &EniId) -> Result<(), FabricError> {
        let Some(cable) = self.cables.remove(eni) else {
            return Ok(());
        };
        if let Some(source) = cable.may_leave() {
            self.kernel.delete_rule_from(source, INTERNET_TABLE, INTERNET_PRIORITY)?;
        }
        match self.kernel.delete_link(cable.ifindex) {
            Err(error) if !error.is_absent() => Err(error.into()),
            // Routes and neighbours went with the link.
            _ => Ok(()),
        }
    }

    /// Routes exactly `addresses` to an interface.
    pub(super) fn set_addresses(
        &mut self,
        eni: &EniId,
        addresses: Vec<IpNetwork>,
    ) -> Result<(), FabricError> {
        let Some(cable) = self.cables.get_mut(eni) else {
            return Ok(());
        };
        let target = RouteTarget::OnLink { gateway: cable.link.primary_ip, ifindex: cable.ifindex };
        let route = |destination| Route { destination, table: MAIN_TABLE, target };
        let wanted: Vec<IpNetwork> = addresses.into_iter().filter(IpNetwork::is_ipv4).collect();
        for new in wanted.iter().filter(|new| !cable.addresses.contains(new)) {
            self.kernel.set_route(&route(*new))?;
        }
        for old in cable.addresses.iter().filter(|old| !wanted.contains(old)) {
            match self.kernel.delete_route(&route(*old)) {
                // Another interface has it by now, and its route replaced this one.
                Err(error) if !error.is_absent() => return Err(error.into()),
                _ => {}
            }
        }
        cable.addresses = wanted;
        Ok(())
    }

    /// Switches the drop of foreign source addresses on one interface.
    pub(super) fn set_source_check(&mut self, eni: &EniId, enabled: bool) -> Result<(), FabricError> {
        if let Some(cable) = self.cables.get_mut(eni) {
            cable.link.source_dest_check = enabled;
            self.ns.run(|| cable_settings(cable))??;
        }
        Ok(())
    }

    /// Lays the cable to the internet host, whose namespace and address are given.
    pub(super) fn connect_internet(
        &mut self,
        host: &NetNs,
        address: Ipv4Addr,
        mac: [u8; 6],
        mtu: u32,
    ) -> Result<(), FabricError> {
        let ifindex = self.kernel.add_veth(&VethPair {
            name: "internet",
            near_mac: INTERNET_GATEWAY_MAC,
            alias: "the way out of the VPC",
            far_name: "eth0",
            far_mac: mac,
            far_ns: host,
            mtu,
        })?;
        self.kernel.set_neighbour(ifindex, address.into(), mac)?;
        self.kernel.set_route(&Route {
            destination: everywhere(),
            table: INTERNET_TABLE,
            target: RouteTarget::OnLink { gateway: address.into(), ifindex },
        })?;

        // What may not leave is dropped without a word, as by a real gateway, and
        // counted: a blackhole would not count, no route at all would be told.
        let ifindex = self.kernel.add_veth(&VethPair {
            name: NOWHERE,
            near_mac: INTERNET_GATEWAY_MAC,
            alias: "what may not leave the VPC",
            far_name: NOWHERE,
            far_mac: mac,
            far_ns: host,
            mtu: VPC_MTU,
        })?;
        self.kernel.set_neighbour(ifindex, address.into(), mac)?;
        self.kernel.set_route(&Route {
            destination: everywhere(),
            table: NOWHERE_TABLE,
            target: RouteTarget::OnLink { gateway: address.into(), ifindex },
        })?;
        self.kernel.add_rule_from(everywhere(), NOWHERE_TABLE, NOWHERE_PRIORITY)?;
        host.run(|| -> Result<(), FabricError> {
            let mut kernel = Rtnl::open()?;
            let ifindex = kernel.link_index(NOWHERE)?;
            kernel.set_up(ifindex)?;
            // The host has the way to every source by its other cable: strict.
            set_all(&[(&format!("ipv4/conf/{NOWHERE}/rp_filter"), "1")])?;
            Ok(())
        })?
    }

    /// Packets that had no way on.
    pub(super) fn lost_packets(&mut self) -> Result<u64, FabricError> {
        Ok(self.kernel.link_packets(NOWHERE)?.1)
    }

    /// Drops what goes to an address of the VPC that nobody holds: without this
    /// it would leave by the way out.
    pub(super) fn keep_inside(&mut self, vpc: IpNetwork) -> Result<(), FabricError> {
        self.kernel.set_route(&Route {
            destination: vpc,
            table: MAIN_TABLE,
            target: RouteTarget::Blackhole,
        })?;
        Ok(())
    }

    /// Answers as `gateway` too.
    pub(super) fn be_gateway(&mut self, gateway: IpAddr) -> Result<(), FabricError> {
        if gateway.is_ipv4() && self.gateways.insert(gateway) {
            let lo = self.kernel.link_index("lo")?;
            self.kernel.add_address(lo, network_of_one(gateway))?;
        }
        Ok(())
    }

    /// Waits until what is sent to an interface that is up arrives.
    pub(super) fn wait_for_cable(&mut self, eni: &EniId) -> Result<(), FabricError> {
        if let Some(cable) = self.cables.get(eni)
            && !self.kernel.wait_until_running(&cable.ifname)?
        {
            tracing::warn!(%eni, "the router's end of a cable does not run");
        }
        Ok(())
    }

    /// Packets that an interface sent into the VPC and was sent from it.
    pub(super) fn packets(&mut self, ifname: &str) -> Result<(u64, u64), FabricError> {
        Ok(self.kernel.link_packets(ifname)?)
    }
}

/// The address of the router's end of its nth cable: the same in every run.
fn router_mac(nth: u32) -> [u8; 6] {
    let [a, b, c, d] = nth.to_be_bytes();
    [0x02, 0x01, a, b, c, d]
}

/// What can be set only once the link is there. For the thread in the router's
/// namespace.
fn cable_settings(cable: &Cable) -> Result<(), FabricError> {
    let ifname = &cable.ifname;
    let check = if cable.link.source_dest_check { "1" } else { "0" };
    set_all(&[
        (&format!("ipv4/conf/{ifname}/rp_filter"), check),
        // A proxy's answer waits up to 0.8 s otherwise.
        (&format!("ipv4/neigh/{ifname}/proxy_delay"), "0"),
    ])?;
    Ok(())
}
