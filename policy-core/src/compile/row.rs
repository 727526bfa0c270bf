//! What a set says to a class.

use super::class::{Backend, Class, Front};
use super::profile::{Layer, Profile, Tiers, Verdict};
use super::registry::Registry;
use super::set::{Set, SetPort, SetRule};
use super::term::Term;
use crate::ids::{RuleId, TermId};
use crate::model::{Action, Direction, PortRange, Protocol, is_link_local};
use crate::tables::VipAddress;

/// The verdicts of a set for a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdicts {
    /// Nothing passes.
    Deny(RuleId),
    /// Everything passes; rule 0: because nothing denies it.
    Allow(RuleId),
    /// It depends on the port.
    Ports(Profile),
    /// Nothing passes, because only some of a Service's backends are allowed.
    Mixed(RuleId),
}

impl Verdicts {
    /// The verdict for a protocol and port.
    pub(super) fn decide(&self, protocol: u8, port: u16) -> Verdict {
        match self {
            Self::Deny(rule) | Self::Mixed(rule) => Verdict::deny(*rule),
            Self::Allow(rule) => Verdict::allow(*rule),
            Self::Ports(profile) => profile.decide(Protocol::from_number(protocol), port),
        }
    }
}

impl From<Profile> for Verdicts {
    fn from(profile: Profile) -> Self {
        let Verdict { allow, rule } = profile.rest;
        match (profile.ranges.is_empty(), allow) {
            (false, _) => Self::Ports(profile),
            (true, true) => Self::Allow(rule),
            (true, false) => Self::Deny(rule),
        }
    }
}

/// Whether a set judges the way out to the own node by a class.
pub(super) fn to_own_node(set: &Set, class: &Class) -> bool {
    set.direction() == Some(Direction::Egress) && matches!(class.present(), Class::LocalNode { .. })
}

/// Judges classes by sets.
pub(super) struct Judge<'a> {
    pub(super) terms: &'a Registry<Term>,
    pub(super) classes: &'a Registry<Class>,
}

impl Judge<'_> {
    /// What the row of a set and class says; None: there is none, for the way to the own
    /// node where nothing denies it. Such a row stands for itself, without a fall back
    /// to that of class 0.
    pub(super) fn row(&self, set: &Set, class: &Class) -> Option<Verdicts> {
        match self.verdicts(set, class) {
            Verdicts::Allow(_) if to_own_node(set, class) => None,
            verdicts => Some(verdicts),
        }
    }

    /// The verdicts of a set for a class.
    ///
    /// NetworkPolicies let every pod out to its own node, so for the class of the node's
    /// addresses, asked by egress, they count as if they allowed everything.
    pub(super) fn verdicts(&self, set: &Set, class: &Class) -> Verdicts {
        let class = class.present();
        if let Class::Service { backends, front } = class {
            let denied = front.as_ref().and_then(|front| self.front(set, front));
            return denied.map_or_else(|| self.service(set, backends), Verdicts::Deny);
        }
        let (admin, isolation, rules, baseline) = match set {
            Set::Unknown { rule } => return Verdicts::Deny(*rule),
            Set::Rules { admin, isolation, rules, baseline, .. } => (admin, isolation, rules, baseline),
        };
        let own_node = to_own_node(set, class);
        let middle = isolation.first().map(|first| match own_node {
            true => (Vec::new(), Verdict::allow(RuleId(0))),
            false => (self.layers(rules, class, true), Verdict::deny(*first)),
        });
        let tiers = Tiers {
            admin: self.layers(admin, class, false),
            middle,
            baseline: self.layers(baseline, class, false),
        };
        tiers.flatten().into()
    }

    /// The rules that reach a class, up to the first that leaves nothing to the others.
    /// In a union that one stands for all.
    fn layers(&self, rules: &[SetRule], class: &Class, union: bool) -> Vec<Layer> {
        let mut layers = Vec::new();
        for SetRule { rule, action, peers, home, ports } in rules {
            let reached = peers.as_ref().is_none_or(|terms| self.is_one_of(class, terms, home));
            if !reached {
                continue;
            }
            let (rule, action): (RuleId, Action) = (*rule, *action);
            let Some(ports) = ports else {
                if union {
                    layers.clear();
                }
                layers.push(Layer { rule, action, ports: None });
                break;
            };
            let ranges = ports.iter().flat_map(|port| match port {
                SetPort::Numbers(range) => vec![*range],
                SetPort::OfPeer(term) => self.named(class, *term),
            });
            layers.push(Layer { rule, action, ports: Some(ranges.collect()) });
        }
        layers
    }

    /// A packet to a Service passes if it passes whichever backend is taken.
    fn service(&self, set: &Set, backends: &[Backend]) -> Verdicts {
        let verdicts: Vec<Verdict> = backends
            .iter()
            .filter_map(|backend| {
                let class = self.classes.get(backend.class.0)?;
                Some(self.verdicts(set, class).decide(backend.protocol, backend.port))
            })
            .collect();
        let denied = verdicts.iter().find(|verdict| !verdict.allow);
        match (denied, verdicts.first()) {
            (Some(denied), _) if verdicts.iter().any(|verdict| verdict.allow) => Verdicts::Mixed(denied.rule),
            (Some(denied), _) => Verdicts::Deny(denied.rule),
            (None, Some(first)) if verdicts.len() == backends.len() => Verdicts::Allow(first.rule),
            // A backend of which nothing is known.
            (None, _) => Verdicts::Deny(set.isolations().first().copied().unwrap_or_default()),
        }
    }

    /// The rule that denies a flow to the external address of a Service as such: one of a
    /// ClusterNetworkPolicy, or isolation where the policies speak of the address: it is a
    /// pod's, of nodes or a block that they name, or never leaves the link.
    fn front(&self, set: &Set, front: &Front) -> Option<RuleId> {
        let unknown = || Some(set.isolations().first().copied().unwrap_or_default());
        let Some(class) = self.classes.get(front.class.0) else { return unknown() };
        let VipAddress { address, port, protocol } = front.key;
        let Verdict { allow, rule } = self.verdicts(set, class).decide(protocol.number(), port);
        if allow {
            return None;
        }
        let terms = class.terms();
        let named = |id: TermId| match self.terms.get(id.0).map(AsRef::as_ref) {
            Some(Term::Block(block)) => block.cidr.contains(address),
            Some(Term::Nodes(_)) => terms.binary_search(&id).is_ok(),
            _ => false,
        };
        let spoken_of = !set.isolations().contains(&rule)
            || matches!(set, Set::Unknown { .. })
            || matches!(class.present(), Class::Pod { .. })
            || is_link_local(address)
            || set.terms().any(named);
        spoken_of.then_some(rule)
    }

    /// Whether a class satisfies one of these terms; those of `at_home` are judged by where
    /// its pods live.
    fn is_one_of(&self, class: &Class, terms: &[TermId], at_home: &[TermId]) -> bool {
        let own = class.terms();
        let (few, many) = if own.len() < terms.len() { (own, terms) } else { (terms, own) };
        if few.iter().any(|id| many.binary_search(id).is_ok()) {
            return true;
        }
        let Class::Pod { home: Some(home), .. } = class else { return false };
        at_home.iter().any(|id| match self.terms.get(id.0).map(AsRef::as_ref) {
            Some(Term::Pods { namespaces, .. }) => {
                namespaces.matches(&home.namespace, home.labels.as_deref())
            }
            Some(Term::Block(block)) => block.cidr.is_ipv4() == home.ipv4,
            _ => false,
        })
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
