//! Which rule of which policy allows or denies a connection.

mod standing;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use policy_core::model::{Cluster, Direction, Owner};
use policy_core::{Explanation, Judgement, PodIdentity, RuleName, explain};
use serde_json::{Value, json};

use crate::flows::Protocol;

pub use standing::Standing;

/// A connection that somebody asks about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Who opens it: `namespace/pod`, `node/name`, or an address.
    pub from: String,
    /// Whom to: as `from`, `service/namespace/name` too.
    pub to: String,
    /// The destination port, host byte order; 0 for protocols without ports.
    pub port: u16,
    /// Its name or number.
    pub protocol: String,
}

/// The same with addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    from: Party,
    to: Party,
    port: u16,
    protocol: Protocol,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Party {
    /// As it was asked for, or the pod that has the address that was.
    name: Option<String>,
    address: IpAddr,
}

impl Question {
    /// Reads the fields of a query. `port` may name the protocol too (`8080/TCP`), or nothing else (`icmp`).
    ///
    /// # Errors
    ///
    /// The field that is missing or malformed, and what it should be.
    pub fn read(field: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let required = |name: &str| field(name).ok_or(format!("the field «{name}» is missing"));
        let text = required("port")?;
        let protocol = field("protocol").unwrap_or_else(|| "TCP".to_owned());
        let (port, protocol) = match text.split_once('/') {
            Some((port, protocol)) => (port, protocol.to_owned()),
            None if text.starts_with(|c: char| c.is_ascii_alphabetic()) => ("0", text.clone()),
            None => (text.as_str(), protocol),
        };
        Ok(Self {
            from: required("from")?,
            to: required("to")?,
            port: port.parse().map_err(|_| format!("port: «{port}» is not a number from 0 to 65535"))?,
            protocol,
        })
    }

    /// Finds out who is meant.
    ///
    /// # Errors
    ///
    /// The field that names nothing that is known.
    pub fn resolve(&self, cluster: &Cluster) -> Result<Connection, String> {
        let protocol = Protocol::read(&self.protocol).ok_or_else(|| {
            format!("protocol: «{}» is neither TCP, UDP, SCTP, ICMP nor a number", self.protocol)
        })?;
        let (from, to) = (party(cluster, "from", &self.from)?, party(cluster, "to", &self.to)?);
        let both = from.iter().find_map(|one| {
            let other = to.iter().find(|other| other.address.is_ipv4() == one.address.is_ipv4())?;
            Some((one.clone(), other.clone()))
        });
        let (from, to) =
            both.ok_or_else(|| format!("{} and {} have no address of the same family", self.from, self.to))?;
        let protocol = match protocol {
            Protocol::ICMP if from.address.is_ipv6() => Protocol::ICMPV6,
            other => other,
        };
        Ok(Connection { from, to, port: if protocol.has_ports() { self.port } else { 0 }, protocol })
    }
}

impl Connection {
    /// The answer by the policies as they are written.
    #[must_use]
    pub fn answer(&self, cluster: &Cluster) -> Value {
        let explanation = explain(cluster, self.from.address, self.to.address, self.protocol.0, self.port);
        let deciding = deciding(&explanation);
        let rulings: Vec<Value> = explanation
            .judgements
            .iter()
            .flat_map(|one| {
                [(Direction::Egress, &one.egress), (Direction::Ingress, &one.ingress)].map(
                    |(direction, ruling)| {
                        json!({
                            "to": one.to, "port": one.port, "direction": direction.to_string(),
                            "allowed": ruling.allows(),
                            "isolated_by":
                                ruling.isolated_by.iter().map(ToString::to_string).collect::<Vec<_>>(),
                            "reason": ruling.reason.as_str(),
                            "passed_by": ruling.passed_by.iter().map(ToString::to_string).collect::<Vec<_>>(),
                            "decided_by": ruling.rule().and_then(RuleName::place).map(
                                |(policy, rule)| json!({ "policy": policy, "rule": rule })
                            ),
                        })
                    },
                )
            })
            .collect();
        let (direction, policy, rule) = deciding.unwrap_or_default();
        json!({
            "from": { "name": self.from.name, "address": self.from.address },
            "to": { "name": self.to.name, "address": self.to.address },
            "port": self.port,
            "protocol": self.protocol.to_string(),
            "allowed": explanation.allows(),
            "direction": direction,
            "policy": policy,
            "rule": rule,
            "rulings": rulings,
            "text": self.text(cluster, &explanation),
        })
    }

    fn text(&self, cluster: &Cluster, explanation: &Explanation) -> String {
        let port = match self.protocol.has_ports() {
            true => format!("{}/{}", self.port, self.protocol),
            false => self.protocol.to_string(),
        };
        let verdict = if explanation.allows() {
            "allowed"
        } else if explanation.egress_allows() && explanation.judgements.iter().any(Judgement::allows) {
            "DEPENDS on the backend"
        } else {
            "DENIED"
        };
        let mut text = format!("{} → {}, {port}: {verdict}\n", self.from.words(), self.to.words());
        if let Some(front) = &explanation.front {
            text.push_str(&format!("  to the Service's external address itself: {front}\n"));
        }
        if explanation.judgements.is_empty() {
            text.push_str("  a Service without backends: nothing answers\n");
        }
        let backends = explanation.judgements.iter().filter(|_| explanation.service).map(|one| one.to);
        let owners = cluster.owners(backends);
        for one in &explanation.judgements {
            let to = match explanation.service {
                true => Party::of(owners.get(&one.to), one.to),
                false => self.to.clone(),
            };
            if explanation.service {
                let verdict = if one.allows() { "allowed" } else { "denied" };
                text.push_str(&format!("  backend {} port {}: {verdict}\n", to.words(), one.port));
            }
            for (way, party, ruling) in [("egress ", &self.from, &one.egress), ("ingress", &to, &one.ingress)]
            {
                text.push_str(&format!("  {way} of {}: {ruling}\n", party.short()));
            }
        }
        text
    }
}

impl Party {
    fn at(cluster: &Cluster, address: IpAddr) -> Self {
        Self::of(cluster.owner(address).as_ref(), address)
    }

    fn of(owner: Option<&Owner<'_>>, address: IpAddr) -> Self {
        Self { name: owner.map(|(namespace, name, _)| format!("{namespace}/{name}")), address }
    }

    fn short(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.address.to_string())
    }

    fn words(&self) -> String {
        match &self.name {
            Some(name) => format!("{name} ({})", self.address),
            None => self.address.to_string(),
        }
    }
}

/// The direction that decides, its policy or policies, and the rule where it is one.
fn deciding(explanation: &Explanation) -> Option<(String, String, Option<u32>)> {
    let allowed = explanation.allows();
    let both = explanation
        .judgements
        .iter()
        .flat_map(|one| [(Direction::Egress, &one.egress), (Direction::Ingress, &one.ingress)]);
    let both = explanation.front.iter().map(|front| (Direction::Egress, front)).chain(both);
    let mut found = None;
    for (direction, ruling) in both {
        if !ruling.allows() {
            let isolating: Vec<String> = ruling.isolated_by.iter().map(ToString::to_string).collect();
            let (policy, rule) =
                ruling.rule().and_then(RuleName::place).unwrap_or((isolating.join(", "), None));
            return Some((direction.to_string(), policy, rule));
        }
        if let (true, Some((policy, rule))) = (allowed, ruling.rule().and_then(RuleName::place)) {
            found = Some((direction.to_string(), policy, rule));
        }
    }
    found
}

/// Whoever a text names, with each of its addresses.
fn party(cluster: &Cluster, field: &str, text: &str) -> Result<Vec<Party>, String> {
    if let Ok(address) = text.parse() {
        return Ok(vec![Party::at(cluster, address)]);
    }
    let named = |addresses: &[IpAddr]| {
        let name = Some(text.to_owned());
        addresses.iter().map(|address| Party { name: name.clone(), address: *address }).collect::<Vec<_>>()
    };
    let addressed = |found: Vec<Party>| match found.is_empty() {
        true => Err(format!("{field}: {text} has no address yet")),
        false => Ok(found),
    };
    let parts: Vec<&str> = text.split('/').collect();
    match parts[..] {
        ["service" | "svc", namespace, name] => {
            let service = cluster.namespaces.get(namespace).and_then(|found| found.services.get(name));
            let service = service.ok_or(format!("{field}: there is no service {namespace}/{name}"))?;
            addressed(named(&service.addresses))
        }
        ["node", name] if *name == *cluster.node.name => addressed(named(&cluster.node.addresses)),
        ["node", name] => {
            let node = cluster.nodes.get(name).ok_or(format!(
                "{field}: the addresses of node {name} are not known here; give the address, or ask on that node"
            ))?;
            addressed(named(&node.addresses))
        }
        [namespace, name] => {
            let identity = PodIdentity { namespace: namespace.into(), name: name.into(), uid: None };
            let pod = cluster.pod(&identity).ok_or(format!("{field}: there is no pod {text}"))?;
            addressed(named(&pod.addresses))
        }
        _ => Err(format!(
            "{field}: «{text}» is neither an address, namespace/pod, service/namespace/name nor node/name"
        )),
    }
}
