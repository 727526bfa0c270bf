//! Who allows or denies a pair on a port.

use std::fmt;
use std::net::IpAddr;

use crate::model::{Cluster, Direction, Protocol};
use crate::oracle::{Party, Ruling, resolve, rulings};

/// Why a flow passes or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// One judgement for each backend that the destination may be; one where it is
    /// no Service.
    pub judgements: Vec<Judgement>,
    /// Whether the destination is a Service's address.
    pub service: bool,
}

/// The rulings at both ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The destination after translation.
    pub to: IpAddr,
    /// The destination port after translation, host byte order.
    pub port: u16,
    /// What the source's policies say.
    pub egress: Ruling,
    /// What the destination's policies say.
    pub ingress: Ruling,
}

impl Judgement {
    /// Whether the flow passes both ends.
    pub fn allows(&self) -> bool {
        self.egress.allows() && self.ingress.allows()
    }
}

impl Explanation {
    /// Whether the source's node lets the flow out: of a Service all backends must be
    /// allowed, as it is not known which one is taken.
    pub fn egress_allows(&self) -> bool {
        self.judgements.iter().all(|one| one.egress.allows())
    }

    /// Whether the flow passes, whichever backend is taken.
    pub fn allows(&self) -> bool {
        self.judgements.iter().all(Judgement::allows)
    }
}

/// Explains a new flow by reading the policies directly. `protocol` is the number of
/// the IP header, `port` the destination's in host byte order. Traffic of a pod with
/// its own node or itself is not judged by policy, which the caller knows.
pub fn explain(cluster: &Cluster, from: IpAddr, to: IpAddr, protocol: u8, port: u16) -> Explanation {
    let translated = Protocol::from_number(protocol).and_then(|spoken| resolve(cluster, to, spoken, port));
    let service = translated.is_some();
    let source = Party::at(cluster, from);
    let judgements = translated
        .unwrap_or_else(|| vec![(to, port)])
        .into_iter()
        .map(|(to, port)| {
            let target = Party::at(cluster, to);
            let [egress, ingress] = rulings(cluster, source, target, protocol, port);
            Judgement { to, port, egress, ingress }
        })
        .collect();
    Explanation { judgements, service }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.service && self.judgements.is_empty() {
            return writeln!(f, "a Service without backends: nothing answers");
        }
        for one in &self.judgements {
            let verdict = if one.allows() { "allowed" } else { "denied" };
            writeln!(f, "to {} port {}: {verdict}", one.to, one.port)?;
            for (direction, ruling) in [(Direction::Egress, &one.egress), (Direction::Ingress, &one.ingress)]
            {
                writeln!(f, "  {direction}: {}", Words(direction, ruling))?;
            }
        }
        Ok(())
    }
}

struct Words<'a>(Direction, &'a Ruling);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(direction, ruling) = self;
        match &ruling.allowed_by {
            _ if ruling.isolated_by.is_empty() => write!(f, "allowed, no policy isolates it"),
            Some((policy, index)) => write!(f, "allowed by {policy}, {direction}[{index}]"),
            None => {
                write!(f, "denied, isolated by ")?;
                for (place, policy) in ruling.isolated_by.iter().enumerate() {
                    let comma = if place == 0 { "" } else { ", " };
                    write!(f, "{comma}{policy}")?;
                }
                Ok(())
            }
        }
    }
}
