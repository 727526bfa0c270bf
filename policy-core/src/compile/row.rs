//! What a set says to a class.

use super::class::{Backend, Class};
use super::profile::{Profile, disjoint};
use super::registry::Registry;
use super::set::{Set, SetPort};
use super::term::Term;
use crate::ids::{RuleId, TermId};
use crate::model::{PortRange, Protocol};

/// The verdicts of a set for a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdicts {
    /// Nothing passes.
    Deny(RuleId),
    /// Everything passes.
    Allow(RuleId),
    /// It depends on the port.
    Ports(Profile),
    /// Nothing passes, because only some of a Service's backends are allowed.
    Mixed(RuleId),
}

impl Verdicts {
    /// The rule that allows a port, if one does.
    pub(super) fn allows(&self, protocol: u8, port: u16) -> Option<RuleId> {
        match self {
            Self::Deny(_) | Self::Mixed(_) => None,
            Self::Allow(rule) => Some(*rule),
            Self::Ports(profile) => profile.allows(Protocol::from_number(protocol)?, port),
        }
    }
}

/// Judges classes by sets.
pub(super) struct Judge<'a> {
    pub(super) terms: &'a Registry<Term>,
    pub(super) classes: &'a Registry<Class>,
}

impl Judge<'_> {
    /// The verdicts of a set for a class.
    pub(super) fn verdicts(&self, set: &Set, class: &Class) -> Verdicts {
        let class = class.present();
        if let Class::Service { backends } = class {
            return self.service(set, backends);
        }
        let isolation = set.isolation();
        let mut allowed: Vec<(PortRange, RuleId)> = Vec::new();
        for rule in set.rules() {
            let reached = match &rule.peers {
                None => true,
                Some(terms) => terms.iter().any(|term| self.satisfies(class, *term)),
            };
            if !reached {
                continue;
            }
            let Some(ports) = &rule.ports else { return Verdicts::Allow(rule.rule) };
            for port in ports {
                match port {
                    SetPort::Numbers(range) => allowed.push((*range, rule.rule)),
                    SetPort::OfPeer(term) => {
                        let found = self.named(class, *term);
                        allowed.extend(found.into_iter().map(|range| (range, rule.rule)));
                    }
                }
            }
        }
        if allowed.is_empty() {
            Verdicts::Deny(isolation)
        } else {
            Verdicts::Ports(Profile { allowed: disjoint(&allowed), isolation })
        }
    }

    /// A packet to a Service passes if it passes whichever backend is taken.
    fn service(&self, set: &Set, backends: &[Backend]) -> Verdicts {
        let verdicts: Vec<Option<RuleId>> = backends
            .iter()
            .map(|backend| {
                let class = self.classes.get(backend.class.0)?;
                self.verdicts(set, class).allows(backend.protocol, backend.port)
            })
            .collect();
        match verdicts.first() {
            Some(Some(rule)) if verdicts.iter().all(Option::is_some) => Verdicts::Allow(*rule),
            _ if verdicts.iter().any(Option::is_some) => Verdicts::Mixed(set.isolation()),
            _ => Verdicts::Deny(set.isolation()),
        }
    }

    fn satisfies(&self, class: &Class, id: TermId) -> bool {
        if class.terms().binary_search(&id).is_ok() {
            return true;
        }
        let Class::Pod { home: Some(home), .. } = class else { return false };
        match self.terms.get(id.0).map(AsRef::as_ref) {
            Some(Term::Pods { namespaces, pods }) if pods.is_everything() => {
                namespaces.matches(&home.namespace, home.labels.as_deref())
            }
            Some(Term::Block(block)) if block.is_whole_family() => block.cidr.is_ipv4() == home.ipv4,
            _ => false,
        }
    }

    fn named(&self, class: &Class, id: TermId) -> Vec<PortRange> {
        let (Class::Pod { ports, .. }, Some(Term::Port { protocol, .. })) =
            (class, self.terms.get(id.0).map(AsRef::as_ref))
        else {
            return Vec::new();
        };
        ports
            .iter()
            .filter(|(term, _)| *term == id)
            .map(|(_, port)| PortRange::single(*protocol, *port))
            .collect()
    }
}
