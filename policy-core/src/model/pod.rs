//! Pods and their ports.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Labels, Name};

/// A transport protocol that a rule can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// All protocols with ports that a rule can name.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The protocol number of the IP header.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The protocol with this number of the IP header, if a rule can name it.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.number() == number)
    }

    /// The protocol with this name, as Kubernetes writes it (upper case).
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// A port that a container declares. Sidecars (restartable init containers) count.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerPort {
    /// The name by which rules and Services may ask for it.
    pub name: Option<Name>,
    /// The protocol.
    pub protocol: Protocol,
    /// The port that the container listens on.
    pub port: u16,
    /// The port of the node that leads to it, if one does.
    pub host_port: Option<u16>,
}

/// What a pod's phase means for policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PodState {
    /// Succeeded or Failed: it has no address any more, whatever its status says.
    Completed,
    /// Its status has no address yet; the agent of its node told one, which may since have been given to another pod.
    Announced,
    /// Being deleted; it may still talk, so it counts.
    Terminating,
    /// Pending or running.
    Live,
}

/// A pod. Its name is the key under which its namespace holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// The UID that the container runtime also knows (of a static pod: its configuration hash).
    pub uid: Name,
    /// Its labels.
    pub labels: Arc<Labels>,
    /// The addresses of its status, at most one of each family.
    pub addresses: Box<[IpAddr]>,
    /// The ports that its containers declare.
    pub ports: Arc<[ContainerPort]>,
    /// The node that it is bound to.
    pub node: Option<Name>,
    /// Whether it lives, ends or has ended.
    pub state: PodState,
    /// Whether it uses its node's network; such a pod has no identity for policy.
    pub host_network: bool,
    /// Whether what policy denies it shall pass and only be told.
    pub audit: bool,
}

impl Pod {
    /// Whether policy knows this pod, as a subject or as a peer.
    pub fn counts(&self) -> bool {
        !self.host_network && self.state != PodState::Completed
    }

    /// Whether this pod may stand behind a Service; one on its node's network may.
    pub fn serves(&self) -> bool {
        self.state != PodState::Completed
    }

    /// The numbers that a named port has in this pod, sorted, each once.
    pub fn named_port(&self, name: &str, protocol: Protocol) -> Vec<u16> {
        let mut numbers: Vec<u16> = self
            .ports
            .iter()
            .filter(|port| port.protocol == protocol && port.name.as_deref() == Some(name))
            .map(|port| port.port)
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }
}
