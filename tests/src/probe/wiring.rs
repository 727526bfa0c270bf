//! Pods around one node, wired as the plugin wires them, in namespaces of their own.

use std::fmt::Write;
use std::net::IpAddr;

use anyhow::{Context, Result};
use kernel_test::NetNs;

use super::{Prober, Site};

/// The host ends' hardware address, as the pods see their gateway.
pub const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];

/// A node and what hangs on it, each by a veth pair without filters.
#[derive(Debug)]
pub struct Wired {
    /// The node; it forwards, and sees the same mounts as nobody else.
    pub node: NetNs,
    /// By the order in which they were given.
    pub ends: Vec<End>,
    /// Between these the prober's beacon goes.
    beacon: Vec<End>,
}

/// The addresses of the beacon's ends, from the range for measurements (RFC 2544).
const BEACON: [[u8; 4]; 2] = [[198, 19, 255, 1], [198, 19, 255, 2]];
/// The ends of the beacon count from here on.
const BEACON_PLACE: u8 = 250;

/// A pod, or the outside: whatever is reached by a link of its own.
#[derive(Debug)]
pub struct End {
    /// Its namespace.
    pub netns: NetNs,
    /// The link's name in the node.
    pub link: String,
    /// The hardware address of its own side.
    pub mac: [u8; 6],
    /// What probes need.
    pub site: Site,
}

impl Wired {
    /// A node with these addresses, and ends with names and addresses.
    pub fn new(node_addresses: &[IpAddr], ends: &[(String, Vec<IpAddr>)]) -> Result<Self> {
        let node = NetNs::with_mounts()?;
        node.run(|| -> std::io::Result<()> {
            std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0")?;
            std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")
        })
        .context("making a node forward")?;
        let mut script = String::from("link set lo up\n");
        for address in node_addresses {
            writeln!(script, "address add {address}/{} dev lo{}", bits(address), nodad(address))?;
        }
        batch(&node, &script)?;
        let mut wired = Self { node, ends: Vec::new(), beacon: Vec::new() };
        for (place, (name, addresses)) in ends.iter().enumerate() {
            let end = wired.end(u8::try_from(place)?, name, addresses)?;
            wired.ends.push(end);
        }
        for (place, address) in (BEACON_PLACE..).zip(BEACON) {
            let end = wired.end(place, &format!("beacon {place}"), &[address.into()])?;
            wired.beacon.push(end);
        }
        Ok(wired)
    }

    fn end(&self, place: u8, name: &str, addresses: &[IpAddr]) -> Result<End> {
        let netns = NetNs::new()?;
        let tid = netns.path().to_string_lossy().split('/').nth(4).context("a thread's path")?.to_owned();
        let link = format!("end{place}");
        let own = [2, 0, 0, 0, 1, place];
        let gateway = text(GATEWAY_MAC);
        let own_text = text(own);
        let mut outer = format!(
            "link add {link} address {gateway} mtu 9001 type veth peer name eth0 address {own_text} mtu 9001
             link set eth0 netns {tid}
             link set {link} up\n"
        );
        let mut inner = String::from("link set lo up\nlink set eth0 up\n");
        for (family, via) in [("-4", "169.254.1.1"), ("-6", "fe80::1")] {
            writeln!(inner, "neighbour add {via} dev eth0 lladdr {gateway} nud permanent")?;
            if family == "-4" {
                writeln!(inner, "route add {via} dev eth0 scope link")?;
            }
        }
        for address in addresses {
            let length = bits(address);
            writeln!(inner, "address add {address}/{length} dev eth0{}", nodad(address))?;
            writeln!(outer, "neighbour add {address} dev {link} lladdr {own_text} nud permanent")?;
            writeln!(outer, "route add {address}/{length} dev {link}")?;
        }
        for (family, via) in [(true, "169.254.1.1"), (false, "fe80::1")] {
            if addresses.iter().any(|address| address.is_ipv4() == family) {
                writeln!(inner, "route add default via {via} dev eth0")?;
            }
        }
        batch(&self.node, &outer)?;
        netns.run(|| std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0"))?;
        netns.run(|| std::fs::write("/proc/sys/net/ipv6/conf/eth0/accept_dad", "0"))?;
        batch(&netns, &inner)?;
        let site = Site::new(name, netns.path(), addresses);
        Ok(End { netns, link, mac: own, site })
    }

    /// A prober whose sites are all ends in their order, then the node.
    pub fn prober(&self, node_addresses: &[IpAddr]) -> Result<Prober> {
        let node = Site::new("node", self.node.path(), node_addresses);
        let beacon = self.beacon.iter().map(|end| end.site.clone());
        let sites: Vec<Site> =
            self.ends.iter().map(|end| end.site.clone()).chain([node]).chain(beacon).collect();
        Ok(Prober::new(&sites)?.with_beacon(self.ends.len() + 1, BEACON[1].into()))
    }
}

fn batch(netns: &NetNs, script: &str) -> Result<()> {
    let lines: Vec<&str> = script.lines().map(str::trim).collect();
    netns.input("ip", &["-batch", "-"], &(lines.join("\n") + "\n")).map(drop)
}

fn bits(address: &IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn nodad(address: &IpAddr) -> &'static str {
    if address.is_ipv4() { "" } else { " nodad" }
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
