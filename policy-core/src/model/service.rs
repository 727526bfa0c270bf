//! Services, as far as policy must see through their addresses.

use std::net::IpAddr;

use super::{Name, Protocol, Selector};

/// A Service. Its name is the key under which its namespace holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Cluster IPs, external IPs and load balancer addresses that nodes translate themselves.
    pub addresses: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// What stands behind it.
    pub backends: Backends,
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
