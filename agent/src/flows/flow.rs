//! One packet, told.

use std::fmt;
use std::net::IpAddr;
use std::time::SystemTime;

use ebpf_common::abi::{Direction, Event, Reason, proto};
use serde::{Deserialize, Serialize};

use super::InForce;
use super::directory::Directory;
use crate::rfc3339;

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It passed.
    Allowed,
    /// It was dropped.
    Denied,
    /// Policy denies it; it passed, as its pod is audited.
    Audited,
}

/// What an address belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A pod.
    Pod,
    /// A Service.
    Service,
    /// A node, or a pod on its network.
    Node,
    /// Nothing that the cluster knows.
    Outside,
}

/// One end of a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// What it is.
    pub kind: Kind,
    /// `namespace/name`, or the name of a node.
    pub name: Option<String>,
    /// Its address; none where the packet was not understood as far as that.
    pub address: Option<IpAddr>,
    /// Its port, host byte order; 0 for protocols without ports, the identifier of an ICMP echo.
    pub port: u16,
}

/// A packet that was denied, or the first one of a flow that was allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// RFC 3339, UTC.
    pub time: String,
    /// What became of it.
    pub verdict: Verdict,
    /// Why, as in `tidepool_packets_total`.
    pub reason: String,
    /// `ingress` or `egress`, as seen from `pod`.
    pub direction: String,
    /// The pod of this node at whose link it was judged: `namespace/name`.
    pub pod: Option<String>,
    /// Who sent it.
    pub from: End,
    /// Whom to.
    pub to: End,
    /// `TCP`, `UDP`, …, or a number; empty where the packet was not understood as far as that.
    pub protocol: String,
    /// The rule that decided, or what isolates the pod where none allows; none where no policy decided.
    pub rule: Option<String>,
    /// Length of the packet with its link header.
    pub bytes: u32,
}

/// A protocol of IP by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP for IPv4.
    pub const ICMP: Self = Self(proto::ICMP);
    /// ICMP for IPv6.
    pub const ICMPV6: Self = Self(proto::ICMPV6);

    /// Whether rules can name ports of it.
    #[must_use]
    pub fn has_ports(self) -> bool {
        [proto::TCP, proto::UDP, proto::SCTP].contains(&self.0)
    }

    /// The protocol of this name or number, in any case.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let named = Self::NAMES.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
        named.map(|(_, number)| Self(number)).or_else(|| text.parse().ok().map(Self))
    }

    const NAMES: [(&'static str, u8); 5] = [
        ("TCP", proto::TCP),
        ("UDP", proto::UDP),
        ("SCTP", proto::SCTP),
        ("ICMP", proto::ICMP),
        ("ICMPv6", proto::ICMPV6),
    ];
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.into_iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => f.pad(name),
            None => write!(f, "{}", self.0),
        }
    }
}

/// Both clocks at one moment: events carry the monotonic one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// CLOCK_MONOTONIC in nanoseconds.
    pub(super) monotonic_ns: u64,
    /// The same moment by the calendar.
    pub(super) wall: SystemTime,
}

impl Moment {
    fn of(&self, event_ns: u64) -> SystemTime {
        let ago = std::time::Duration::from_nanos(self.monotonic_ns.saturating_sub(event_ns));
        self.wall.checked_sub(ago).unwrap_or(self.wall)
    }
}

/// An event with names.
pub(super) fn tell(event: &Event, now: Moment, in_force: &InForce, directory: &Directory) -> Flow {
    let local = in_force.pods.get(&event.slot);
    let pod = local.and_then(|local| local.identity.as_ref()).map(ToString::to_string);
    let is_from_pod = event.direction == Direction::Out as u8;
    let [a, b, c, d, ..] = event.peer;
    let peer: Option<IpAddr> = match event.family {
        4 => Some([a, b, c, d].into()),
        6 => Some(event.peer.into()),
        _ => None,
    };
    let (kind, name) = peer.map_or((Kind::Outside, None), |address| directory.find(address));
    let peer = End { kind, name, address: peer, port: event.peer_port };
    let own = local
        .and_then(|local| local.addresses.iter().copied().find(|own| own.is_ipv4() == (event.family == 4)));
    let local = End { kind: Kind::Pod, name: pod.clone(), address: own, port: event.pod_port };
    let (from, to) = if is_from_pod { (local, peer) } else { (peer, local) };
    let reason = Reason::try_from(event.reason);
    Flow {
        time: rfc3339::write_millis(now.of(event.time_ns)),
        verdict: match reason {
            Ok(Reason::Audited) => Verdict::Audited,
            Ok(reason) if reason.passes() => Verdict::Allowed,
            _ => Verdict::Denied,
        },
        reason: reason.map_or_else(|number| number.to_string(), |reason| reason.label().to_owned()),
        direction: if is_from_pod { "egress" } else { "ingress" }.to_owned(),
        pod,
        from,
        to,
        protocol: if event.family == 0 { String::new() } else { Protocol(event.proto).to_string() },
        rule: in_force.rules.get(&event.rule).map(ToString::to_string),
        bytes: event.len,
    }
}

impl fmt::Display for Flow {
    /// One line for a terminal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clock = self.time.get(11..23).unwrap_or(&self.time);
        let verdict = match self.verdict {
            Verdict::Allowed => "allowed",
            Verdict::Denied => "DENIED",
            Verdict::Audited => "AUDITED",
        };
        write!(f, "{clock} {verdict:<7} {:<7} ", self.direction)?;
        let ported = ["TCP", "UDP", "SCTP"].contains(&self.protocol.as_str());
        write!(f, "{} → {}", Place(&self.from, ported), Place(&self.to, ported))?;
        if !self.protocol.is_empty() {
            write!(f, " {}", self.protocol)?;
        }
        match &self.rule {
            Some(rule) => write!(f, "  {}: {rule}", self.reason),
            None => write!(f, "  {}", self.reason),
        }
    }
}

/// An end on a terminal: its name, and what it is without one.
struct Place<'a>(&'a End, bool);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(end, ported) = self;
        let kind = match end.kind {
            Kind::Pod | Kind::Outside => "",
            Kind::Service => "service ",
            Kind::Node => "node ",
        };
        let port = if *ported { format!(":{}", end.port) } else { String::new() };
        match (&end.name, end.address) {
            (Some(name), Some(address)) => write!(f, "{kind}{name} ({address}){port}"),
            (Some(name), None) => write!(f, "{kind}{name}{port}"),
            (None, Some(IpAddr::V6(address))) if *ported => write!(f, "[{address}]{port}"),
            (None, Some(address)) => write!(f, "{address}{port}"),
            (None, None) => write!(f, "?"),
        }
    }
}
