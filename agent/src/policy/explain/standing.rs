//! What the maps say, beside what the policies say.

use std::fmt::Write;
use std::net::IpAddr;

use policy_core::model::Direction;
use policy_core::{Evaluator, Query};
use serde_json::{Value, json};

use super::Connection;
use crate::policy::InForce;

/// What the maps of this node say about a connection at the pods that are here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    egress: Option<Stands>,
    ingress: Option<Stands>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Stands {
    allowed: bool,
    rule: Option<String>,
    audited: bool,
}

impl Connection {
    /// What the maps say, which is what was in force when they were last written.
    #[must_use]
    pub fn standing(&self, now: &InForce<'_>) -> Standing {
        Standing {
            egress: self.stands(now, Direction::Egress, self.from.address, self.to.address),
            ingress: self.stands(now, Direction::Ingress, self.to.address, self.from.address),
        }
    }

    fn stands(&self, now: &InForce<'_>, direction: Direction, own: IpAddr, peer: IpAddr) -> Option<Stands> {
        let (pod, _) = now.local.values().find(|(pod, _)| pod.addresses.contains(&own))?;
        let installed = now.compiler.installed();
        let sets = installed.endpoints.get(&pod.slot)?;
        let from_here = direction == Direction::Ingress
            && installed.peers.get(&peer).is_some_and(|value| value.is_local_node());
        // Its own node's packets and its own are not judged by what the maps say of their address.
        if from_here || own == peer {
            return None;
        }
        let query = Query { slot: pod.slot, direction, peer, protocol: self.protocol.0, port: self.port };
        let decision = Evaluator::new(installed).decide(&query);
        let rule = decision.rule.and_then(|id| now.compiler.rule(id));
        Some(Stands {
            allowed: decision.allowed,
            rule: rule.map(|rule| rule.to_string()),
            audited: sets.audit,
        })
    }

    /// Adds to an answer what the maps say; `audit` says that the whole node is audited.
    pub fn compare(&self, answer: &mut Value, standing: &Standing, audit: bool) {
        let mut words = String::new();
        let mut told = serde_json::Map::new();
        let both = [(Direction::Egress, &standing.egress), (Direction::Ingress, &standing.ingress)];
        for (direction, stands) in both {
            let Some(stands) = stands else { continue };
            let audited = audit || stands.audited;
            told.insert(
                direction.to_string(),
                json!({ "allowed": stands.allowed, "rule": stands.rule, "audited": audited }),
            );
            let written = answer["rulings"].as_array().into_iter().flatten();
            let written = written
                .filter(|ruling| ruling["direction"] == direction.to_string())
                .all(|ruling| ruling["allowed"] == true);
            // Writing to a string cannot fail.
            if written != stands.allowed {
                let verdict = match (stands.allowed, &stands.rule) {
                    (true, _) => "allowed".to_owned(),
                    (false, Some(rule)) => format!("denied: {rule}"),
                    (false, None) => {
                        "denied: no Service has this address, which is of the Services' range".to_owned()
                    }
                };
                let _ =
                    writeln!(words, "in the maps of this node {direction} is {verdict}; see «policy list»");
            }
            if audited && !stands.allowed {
                let _ = writeln!(words, "{direction} is audited: it passes, and is told in «flows»");
            }
        }
        if let Some(text) = answer["text"].as_str() {
            answer["text"] = json!(format!("{text}{words}"));
        }
        answer["in_force"] = Value::Object(told);
    }
}
