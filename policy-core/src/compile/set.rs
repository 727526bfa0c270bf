//! Sets: the rules in force for a pod in one direction.

use std::collections::BTreeSet;

use super::registry::Registry;
use super::term::Term;
use crate::ids::{RuleId, RuleName, TermId};
use crate::model::{Direction, Name, Namespace, Peer, Peers, Pod, PolicyKey, PortMatch, PortRange, Ports};

/// The content of a set.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Set {
    /// Nothing is known of the pod, so nothing passes.
    Unknown { rule: RuleId },
    /// Some policies isolate the pod.
    Rules {
        /// Those policies, by name; the first stands for all where nothing allows.
        isolation: Box<[RuleId]>,
        /// What they allow, in the order of their names.
        rules: Box<[SetRule]>,
    },
}

/// One rule with its named ports resolved as far as this pod can.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct SetRule {
    pub(super) rule: RuleId,
    /// None: any address.
    pub(super) peers: Option<Box<[TermId]>>,
    /// None: any packet.
    pub(super) ports: Option<Box<[SetPort]>>,
}

/// One entry of a rule's ports.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum SetPort {
    Numbers(PortRange),
    /// The number that the peer gives to a named port.
    OfPeer(TermId),
}

impl Set {
    /// Whom a denied packet is laid to.
    pub(super) fn isolation(&self) -> RuleId {
        match self {
            Self::Unknown { rule } => *rule,
            Self::Rules { isolation, .. } => isolation.first().copied().unwrap_or_default(),
        }
    }

    /// The rules.
    pub(super) fn rules(&self) -> &[SetRule] {
        match self {
            Self::Unknown { .. } => &[],
            Self::Rules { rules, .. } => rules,
        }
    }

    /// The ids of all rules that this set may name.
    pub(super) fn rule_ids(&self) -> impl Iterator<Item = RuleId> {
        let isolation = match self {
            Self::Unknown { rule } => std::slice::from_ref(rule),
            Self::Rules { isolation, .. } => isolation,
        };
        isolation.iter().copied().chain(self.rules().iter().map(|rule| rule.rule))
    }

    /// The terms that this set asks for.
    pub(super) fn terms(&self) -> impl Iterator<Item = TermId> {
        self.rules().iter().flat_map(|rule| {
            let ports = rule.ports.iter().flatten().filter_map(|port| match port {
                SetPort::OfPeer(term) => Some(*term),
                SetPort::Numbers(_) => None,
            });
            rule.peers.iter().flatten().copied().chain(ports)
        })
    }
}

/// Makes sets of policies; gives numbers to their rules and terms.
pub(super) struct SetBuilder<'a> {
    pub(super) rules: &'a mut Registry<RuleName>,
    pub(super) terms: &'a mut Registry<Term>,
}

impl SetBuilder<'_> {
    /// The set of a pod that the API does not know.
    pub(super) fn unknown(&mut self) -> Set {
        Set::Unknown { rule: self.rule(RuleName::UnknownPod) }
    }

    /// The set of a pod; None: no policy isolates it in this direction.
    pub(super) fn of_pod(
        &mut self,
        direction: Direction,
        namespace: &Name,
        content: &Namespace,
        pod: &Pod,
    ) -> Option<Set> {
        let mut isolation = Vec::new();
        let mut rules = Vec::new();
        for (name, policy) in &content.policies {
            let Some(list) = policy.rules(direction) else { continue };
            if !policy.subject.matches(&pod.labels) {
                continue;
            }
            let key = PolicyKey { namespace: Name::clone(namespace), name: Name::clone(name) };
            for (rule, index) in list.iter().zip(0_u32..) {
                let ports = self.ports(direction, pod, &rule.ports);
                let peers = self.peers(&rule.peers);
                let rule = self.rule(RuleName::Rule(key.clone(), direction, index));
                rules.push(SetRule { rule, peers, ports });
            }
            isolation.push(self.rule(RuleName::Isolation(key, direction)));
        }
        (!isolation.is_empty()).then(|| Set::Rules { isolation: isolation.into(), rules: rules.into() })
    }

    fn rule(&mut self, name: RuleName) -> RuleId {
        RuleId(self.rules.intern(name, &BTreeSet::new()))
    }

    fn term(&mut self, term: Term) -> TermId {
        TermId(self.terms.intern(term, &BTreeSet::new()))
    }

    fn peers(&mut self, peers: &Peers) -> Option<Box<[TermId]>> {
        let Peers::Only(list) = peers else { return None };
        let mut terms: Vec<TermId> = list
            .iter()
            .map(|peer| {
                self.term(match peer.clone() {
                    Peer::Pods { namespaces, pods } => Term::Pods { namespaces, pods },
                    Peer::Block(block) => Term::Block(block),
                })
            })
            .collect();
        terms.sort_unstable();
        terms.dedup();
        Some(terms.into_boxed_slice())
    }

    fn ports(&mut self, direction: Direction, pod: &Pod, ports: &Ports) -> Option<Box<[SetPort]>> {
        let Ports::Only(list) = ports else { return None };
        let mut result = Vec::with_capacity(list.len());
        for port in list {
            match (port, direction) {
                (PortMatch::Numbers(range), _) => result.push(SetPort::Numbers(*range)),
                (PortMatch::Named { protocol, name }, Direction::Ingress) => {
                    let single = |port| SetPort::Numbers(PortRange::single(*protocol, port));
                    result.extend(pod.named_port(name, *protocol).into_iter().map(single));
                }
                (PortMatch::Named { protocol, name }, Direction::Egress) => {
                    let term = Term::Port { protocol: *protocol, name: Name::clone(name) };
                    result.push(SetPort::OfPeer(self.term(term)));
                }
            }
        }
        Some(result.into_boxed_slice())
    }
}
