//! Who allows or denies a pair on a port.

use std::fmt;
use std::net::IpAddr;

use crate::model::{Cluster, Direction, Protocol};
use crate::oracle::{self, Party, Reason, Ruling, resolve, rulings};

/// Why a flow passes or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// One judgement for each backend that the destination may be; one where it is
    /// no Service.
    pub judgements: Vec<Judgement>,
    /// Whether the destination is a Service's address.
    pub service: bool,
    /// What denies the destination as such, where it is an external address of a Service.
    pub front: Option<Ruling>,
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
        self.front.is_none() && self.judgements.iter().all(|one| one.egress.allows())
    }

    /// Whether the flow passes, whichever backend is taken.
    pub fn allows(&self) -> bool {
        self.front.is_none() && self.judgements.iter().all(Judgement::allows)
    }
}

/// Explains a new flow by reading the policies directly. `protocol` is the number of
/// the IP header, `port` the destination's in host byte order.
pub fn explain(cluster: &Cluster, from: IpAddr, to: IpAddr, protocol: u8, port: u16) -> Explanation {
    let transport = Protocol::from_number(protocol);
    let translated = transport.and_then(|spoken| resolve(cluster, to, spoken, port));
    let service = translated.is_some();
    let targets = translated.unwrap_or_else(|| vec![(to, port)]);
    let owners = cluster.owners(targets.iter().map(|(to, _)| *to).chain([from, to]));
    let source = Party::known(cluster, &owners, from);
    let direct = Party::known(cluster, &owners, to);
    let front = transport.and_then(|spoken| oracle::front(cluster, source, direct, spoken, port));
    let judgements = targets
        .into_iter()
        .map(|(to, port)| {
            let target = match service {
                true => Party::owned(&owners, to),
                false => Party::known(cluster, &owners, to),
            };
            let [mut egress, mut ingress] = rulings(cluster, source, target, protocol, port);
            if source.is_same_pod(&target) {
                // What comes back by a Service is let in; out it goes as its policies say.
                ingress = Ruling::by(Reason::Itself);
                if !service {
                    egress = Ruling::by(Reason::Itself);
                }
            } else if target.runs_on(cluster, &source) {
                ingress = Ruling::by(Reason::OwnNode);
            }
            Judgement { to, port, egress, ingress }
        })
        .collect();
    Explanation { judgements, service, front }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(front) = &self.front {
            writeln!(f, "to the Service's external address itself: {front}")?;
        }
        if self.service && self.judgements.is_empty() {
            return writeln!(f, "a Service without backends: nothing answers");
        }
        for one in &self.judgements {
            let verdict = if one.allows() { "allowed" } else { "denied" };
            writeln!(f, "to {} port {}: {verdict}", one.to, one.port)?;
            for (direction, ruling) in [(Direction::Egress, &one.egress), (Direction::Ingress, &one.ingress)]
            {
                writeln!(f, "  {direction}: {ruling}")?;
            }
        }
        Ok(())
    }
}
