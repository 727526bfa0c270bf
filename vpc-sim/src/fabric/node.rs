//! A node as its image leaves it, before any agent has run.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;

use super::FabricError;
use super::mounts::make_node_file_system;
use super::ns::NodeNs;
use super::rtnl::{MAIN_TABLE, Route, RouteTarget, Rtnl, everywhere};
use super::sysctl::set_all;

/// How a node's image leaves it, where images differ.
#[derive(Debug, Clone, Default)]
pub struct NodeImage {
    /// Whether IPv4 forwarding is on. The hardest image leaves it off.
    pub ip_forward: bool,
    /// Directories that must be visible in the node even where they lie below
    /// /run or /var, which the node has to itself.
    pub visible: Vec<PathBuf>,
}

/// Octets of a packet that the VPC carries.
pub(super) const VPC_MTU: u32 = 9001;

/// Makes the namespaces: loopback up, strict reverse path filter, a file
/// system of its own, no interface yet.
pub(super) fn make(image: &NodeImage) -> Result<NodeNs, FabricError> {
    let (node, made) = NodeNs::new(|| -> Result<(), FabricError> {
        let forward = if image.ip_forward { "1" } else { "0" };
        set_all(&[
            // Some of these come from the machine's own settings: set them all.
            ("ipv4/ip_forward", forward),
            ("ipv4/conf/all/rp_filter", "1"),
            ("ipv4/conf/default/rp_filter", "1"),
            ("ipv4/conf/lo/rp_filter", "1"),
            ("ipv4/conf/all/accept_local", "0"),
            ("ipv4/conf/all/route_localnet", "0"),
            ("ipv4/conf/all/src_valid_mark", "0"),
            ("ipv4/conf/default/src_valid_mark", "0"),
            ("ipv4/conf/all/arp_ignore", "0"),
            ("ipv4/conf/all/arp_announce", "0"),
        ])?;
        let mut kernel = Rtnl::open()?;
        let lo = kernel.link_index("lo")?;
        kernel.set_up(lo)?;
        make_node_file_system(&image.visible)?;
        Ok(())
    })?;
    made?;
    Ok(node)
}

/// Gives the primary interface what DHCP gives it at boot: up, one address,
/// the default route. Other interfaces are left down, as images leave them.
pub(super) fn boot_primary(
    node: &NodeNs,
    ifname: &str,
    address: IpNetwork,
    gateway: IpAddr,
) -> Result<(), FabricError> {
    let mut kernel = Rtnl::open_in(node.net())?;
    let ifindex = kernel.link_index(ifname)?;
    kernel.add_address(ifindex, address)?;
    kernel.set_up(ifindex)?;
    kernel.set_route(&Route {
        destination: everywhere(),
        table: MAIN_TABLE,
        target: RouteTarget::Gateway { gateway, ifindex },
    })?;
    if !kernel.wait_until_running(ifname)? {
        tracing::warn!(ifname, "a primary interface is up but does not run");
    }
    Ok(())
}
