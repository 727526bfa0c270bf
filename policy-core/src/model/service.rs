//! Services, as far as policy must see through their addresses.

use std::net::IpAddr;

use super::{Name, Protocol, Selector};

/// A Service. Its name is the key under which its namespace holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Cluster IPs, external IPs and load balancer addresses that nodes translate themselves.
    pub addresses: Vec<IpAddr>,
    /// Those of them that whoever may write the Service chose freely (`externalIPs`). As
    /// nothing vouches for them, a flow to one is judged by the address as well as by what
    /// stands behind it.
    pub external: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// What stands behind it.
    pub backends: Backends,
}

/// Whether an address is never routed: link-local, or of the services that the cloud
/// answers on every instance by IPv6 (`fd00:ec2::/32`; by IPv4 they are link-local).
pub(crate) fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local() || address.segments()[..2] == [0xfd00, 0x0ec2],
    }
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty when it is the only port.
    pub name: Name,
    /// The protocol.
    pub protocol: Protocol,
    /// The port on the Service's addresses.
    pub port: u16,
    /// The port of the pods.
    pub target: TargetPort,
    /// The port on every node's addresses, if one is open.
    pub node_port: Option<u16>,
}

/// The port of the pods behind a Service's port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// The same number in all of them.
    Number(u16),
    /// By name, which each pod may give another number.
    Named(Name),
}

/// What stands behind a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backends {
    /// The pods of its namespace with these labels.
    Pods(Selector),
    /// Addresses that somebody wrote into EndpointSlices.
    Listed(Vec<ServiceBackend>),
}

/// One written-down endpoint of a Service without a selector.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceBackend {
    /// The name of the Service port that it serves.
    pub port_name: Name,
    /// The protocol.
    pub protocol: Protocol,
    /// The address.
    pub address: IpAddr,
    /// The port there.
    pub port: u16,
}
