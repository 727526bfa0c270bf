//! A host beyond the VPC's gateway.

use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::{IpNetwork, Ipv4Network};

use super::FabricError;
use super::echo::{EchoServers, EchoSockets};
use super::ns::NetNs;
use super::router::{INTERNET_GATEWAY_MAC, Router};
use super::rtnl::{MAIN_TABLE, Route, RouteTarget, Rtnl, everywhere};

/// The host's address, of a block set aside for documentation.
pub const INTERNET_HOST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);

/// The ports on which the host echoes, by TCP and by UDP.
pub const INTERNET_PORTS: [u16; 5] = [7, 53, 80, 443, 8080];

const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x10];
/// The rest of the internet does not carry jumbo frames.
const MTU: u32 = 1500;

/// The host, which lives as long as this value.
#[derive(Debug)]
pub(super) struct InternetHost {
    pub(super) ns: NetNs,
    _servers: EchoServers,
}

impl InternetHost {
    /// Makes the host and its cable to the router. Must be called in a tokio runtime.
    pub(super) fn new(router: &mut Router) -> Result<Self, FabricError> {
        let ns = NetNs::new()?;
        router.be_gateway(GATEWAY.into())?;
        router.connect_internet(&ns, INTERNET_HOST, MAC, MTU)?;

        let mut kernel = Rtnl::open_in(&ns)?;
        let lo = kernel.link_index("lo")?;
        kernel.set_up(lo)?;
        let ifindex = kernel.link_index("eth0")?;
        let network =
            Ipv4Network::new(INTERNET_HOST, 24).map_err(|error| FabricError::Network(error.to_string()))?;
        kernel.add_address(ifindex, IpNetwork::V4(network))?;
        kernel.set_up(ifindex)?;
        // The router would have to let a request for its address in, from a source
        // that its own rules keep out.
        kernel.set_neighbour(ifindex, GATEWAY.into(), INTERNET_GATEWAY_MAC)?;
        kernel.set_route(&Route {
            destination: everywhere(),
            table: MAIN_TABLE,
            target: RouteTarget::Gateway { gateway: GATEWAY.into(), ifindex },
        })?;

        let sockets = ns.run(|| -> std::io::Result<EchoSockets> {
            let mut sockets = EchoSockets::default();
            let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
            for port in INTERNET_PORTS {
                sockets.add_tcp((any, port).into())?;
                sockets.add_udp((any, port).into())?;
            }
            Ok(sockets)
        })?;
        let servers = sockets.and_then(|sockets| sockets.serve("internet")).map_err(FabricError::Serve)?;
        Ok(Self { ns, _servers: servers })
    }
}
