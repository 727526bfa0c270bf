//! The rules that most scenarios have: everything of one house, then a port of another, then a port of a third and
//! nothing else of it.

use serde_json::{Value, json};
use system_tests::probe::Protocol;

use super::cast::{Actor, Port, of};

/// A direction as rules name it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    In,
    Out,
}

/// Who is meant by a set of rules, and which ports.
#[derive(Clone, Copy)]
pub(crate) struct Roles {
    pub(crate) subject: &'static str,
    /// Everything of it is accepted, denied or passed, whichever comes first.
    pub(crate) all: &'static str,
    /// These ports of it are denied or passed.
    pub(crate) some: (&'static str, &'static [Port]),
    /// These ports of it are accepted, all else is denied.
    pub(crate) only: (&'static str, &'static [Port]),
}

/// Which rules come first.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// As written.
    Accept,
    /// Everything of the first house is denied.
    Deny,
    /// Everything of the first house is passed.
    Pass,
    /// The ports of the second house are passed.
    PassPorts,
}

/// `protocols` of a rule.
pub(crate) fn protocols(ports: &[Port]) -> Value {
    ports
        .iter()
        .map(|(protocol, port)| {
            let name = match protocol {
                Protocol::Tcp => "tcp",
                Protocol::Udp => "udp",
                _ => "sctp",
            };
            json!({name: {"destinationPort": {"number": port}}})
        })
        .collect()
}

/// A rule with these peers; without `protocols` it is for every packet.
pub(crate) fn rule(way: Way, action: &str, peers: &[Value], protocols: Option<Value>) -> Value {
    let mut rule = json!({"action": action, "name": format!("{action} some").to_lowercase()});
    rule[if way == Way::In { "from" } else { "to" }] = json!(peers);
    if let Some(protocols) = protocols {
        rule["protocols"] = protocols;
    }
    rule
}

impl Roles {
    /// The rules; those that pass are for the Admin tier alone.
    pub(crate) fn rules(&self, way: Way, passes: bool, order: Order) -> Vec<Value> {
        let one = |action: &str, house: &str, ports: Option<&[Port]>| {
            rule(way, action, &[of(house)], ports.map(protocols))
        };
        let mut whole = vec![one("Accept", self.all, None), one("Deny", self.all, None)];
        let mut part = vec![one("Deny", self.some.0, Some(self.some.1))];
        if passes {
            whole.push(one("Pass", self.all, None));
            part.push(one("Pass", self.some.0, Some(self.some.1)));
        }
        match order {
            Order::Accept => {}
            Order::Deny => whole.swap(0, 1),
            Order::Pass => whole.swap(0, 2),
            Order::PassPorts => part.swap(0, 1),
        }
        let last = [one("Accept", self.only.0, Some(self.only.1)), one("Deny", self.only.0, None)];
        whole.into_iter().chain(part).chain(last).collect()
    }

    /// Whether these rules deny a packet.
    pub(crate) fn denies(&self, way: Way, order: Order, from: &Actor, to: &Actor, port: Port) -> bool {
        let (subject, peer) = match way {
            Way::In => (to, from),
            Way::Out => (from, to),
        };
        if subject.house != self.subject {
            return false;
        }
        let house = peer.house;
        order == Order::Deny && house == self.all
            || order != Order::PassPorts && house == self.some.0 && self.some.1.contains(&port)
            || house == self.only.0 && !self.only.1.contains(&port)
    }
}
