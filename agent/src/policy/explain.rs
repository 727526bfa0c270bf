//! Which rule of which policy allows or denies a connection.

use std::net::IpAddr;

use policy_core::model::{Cluster, Direction, Protocol};
use policy_core::{PodIdentity, explain};
use serde_json::{Value, json};

/// A connection that somebody asks about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Who opens it: `namespace/pod` or an address.
    pub from: String,
    /// Whom to: `namespace/pod` or an address, a Service's too.
    pub to: String,
    /// The destination port, host byte order.
    pub port: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
}

impl Question {
    /// Reads the fields of a query.
    ///
    /// # Errors
    ///
    /// The field that is missing or malformed, and what it should be.
    pub fn read(field: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let required = |name: &str| field(name).ok_or(format!("the field «{name}» is missing"));
        let port = required("port")?;
        Ok(Self {
            from: required("from")?,
            to: required("to")?,
            port: port.parse().map_err(|_| format!("port: «{port}» is not a number from 0 to 65535"))?,
            protocol: field("protocol").unwrap_or_else(|| "TCP".to_owned()),
        })
    }

    /// The answer by the policies as they are written.
    ///
    /// # Errors
    ///
    /// The field that names nothing that is known.
    pub fn answer(&self, cluster: &Cluster) -> Result<Value, String> {
        let from = party(cluster, "from", &self.from)?;
        let to = party(cluster, "to", &self.to)?;
        let protocol = match self.protocol.to_ascii_uppercase().as_str() {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            "SCTP" => Protocol::Sctp,
            other => return Err(format!("protocol: «{other}» is none of TCP, UDP, SCTP")),
        };
        let explanation = explain(cluster, from, to, protocol.number(), self.port);
        let mut rulings = Vec::new();
        let mut deciding = None;
        for one in &explanation.judgements {
            for (direction, ruling) in [(Direction::Egress, &one.egress), (Direction::Ingress, &one.ingress)]
            {
                let isolated_by: Vec<String> = ruling.isolated_by.iter().map(ToString::to_string).collect();
                let allowed_by = ruling.allowed_by.as_ref().map(|(policy, rule)| (policy.to_string(), *rule));
                if !ruling.allows() && deciding.is_none() {
                    deciding = Some((direction.to_string(), isolated_by.join(", "), None));
                }
                rulings.push(json!({
                    "to": one.to, "port": one.port, "direction": direction.to_string(), "allowed": ruling.allows(),
                    "isolated_by": isolated_by,
                    "allowed_by": allowed_by.as_ref().map(|(policy, rule)| json!({ "policy": policy, "rule": rule })),
                }));
                if explanation.allows()
                    && let Some((policy, rule)) = allowed_by
                {
                    deciding = Some((direction.to_string(), policy, Some(rule)));
                }
            }
        }
        let (direction, policy, rule) = deciding.unwrap_or_default();
        Ok(json!({
            "from": { "name": self.from, "address": from },
            "to": { "name": self.to, "address": to },
            "port": self.port,
            "protocol": self.protocol,
            "allowed": explanation.allows(),
            "direction": direction,
            "policy": policy,
            "rule": rule,
            "rulings": rulings,
            "text": explanation.to_string(),
        }))
    }
}

fn party(cluster: &Cluster, field: &str, text: &str) -> Result<IpAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let (namespace, name) =
        text.split_once('/').ok_or(format!("{field}: «{text}» is neither an address nor namespace/pod"))?;
    let identity = PodIdentity { namespace: namespace.into(), name: name.into(), uid: None };
    let pod = cluster.pod(&identity).ok_or(format!("{field}: there is no pod {text}"))?;
    pod.addresses.first().copied().ok_or(format!("{field}: the pod {text} has no address yet"))
}
