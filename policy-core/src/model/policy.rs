//! NetworkPolicies, after parsing: nothing in here needs interpretation any more.

use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::{Name, Protocol, Selector};

/// A direction of traffic as its pod sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Towards the pod.
    Ingress,
    /// From the pod.
    Egress,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// The namespace and name of a policy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyKey {
    /// Its namespace.
    pub namespace: Name,
    /// Its name.
    pub name: Name,
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A NetworkPolicy. Its name is the key under which its namespace holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The pods of its namespace that it applies to.
    pub subject: Selector,
    /// What may come in; None: this policy says nothing about ingress.
    pub ingress: Option<Vec<Rule>>,
    /// What may go out; None: this policy says nothing about egress.
    pub egress: Option<Vec<Rule>>,
}

impl Policy {
    /// The rules for a direction; None: the direction is not isolated by this policy.
    pub fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

/// Some peers on some ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// Who.
    pub peers: Peers,
    /// On which ports.
    pub ports: Ports,
}

/// The peers of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peers {
    /// Every address, in the cluster or not.
    Any,
    /// These; none when the list is empty (everything in it could not be understood).
    Only(Vec<Peer>),
}

/// One peer of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// Pods with these labels in these namespaces.
    Pods {
        /// Which namespaces.
        namespaces: NamespaceMatch,
        /// Which of their pods.
        pods: Selector,
    },
    /// Addresses, of pods too.
    Block(IpBlock),
    /// The addresses of nodes with these labels.
    Nodes(Selector),
}

/// Which namespaces a peer speaks of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NamespaceMatch {
    /// The policy's own.
    Named(Name),
    /// Those with these labels.
    Selected(Selector),
}

/// An address range with holes. Prefixes are canonical: no host bits, no IPv4 in IPv6.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpBlock {
    /// The range.
    pub cidr: IpNetwork,
    /// What is taken out of it, sorted.
    pub except: Vec<IpNetwork>,
}

impl IpBlock {
    /// Whether an address is in the block and in none of its holes.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.cidr.contains(address) && !self.except.iter().any(|hole| hole.contains(address))
    }

    /// Whether the block is all addresses of its family.
    pub fn is_whole_family(&self) -> bool {
        self.cidr.prefix() == 0 && self.except.is_empty()
    }
}

/// The ports of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ports {
    /// Every packet of every protocol.
    All,
    /// These; none when the list is empty (everything in it could not be understood).
    Only(Vec<PortMatch>),
}

/// One entry of a rule's ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PortMatch {
    /// An inclusive range; 0 to 65535 is every port of the protocol.
    Numbers(PortRange),
    /// A port by its name: of the policy's pod for ingress, of the peer pod for egress.
    Named {
        /// The protocol, which the container's port must have too.
        protocol: Protocol,
        /// The name.
        name: Name,
    },
}

/// An inclusive range of ports of one protocol, host byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// The protocol.
    pub protocol: Protocol,
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

impl PortRange {
    /// Every port of a protocol.
    pub const fn all_of(protocol: Protocol) -> Self {
        Self { protocol, first: 0, last: u16::MAX }
    }

    /// A single port.
    pub const fn single(protocol: Protocol, port: u16) -> Self {
        Self { protocol, first: port, last: port }
    }

    /// Whether a port is in the range.
    pub fn contains(&self, protocol: Protocol, port: u16) -> bool {
        self.protocol == protocol && (self.first..=self.last).contains(&port)
    }
}
