//! Sets: the rules in force for a pod in one direction.

use super::registry::Registry;
use super::term::Term;
use crate::ids::{RuleId, RuleName, TermId};
use crate::model::{
    Action, Direction, Name, Namespace, OrderedPolicy, Peer, Peers, Pod, PolicyKey, PortMatch, PortRange,
    Ports, Tier,
};

/// The content of a set.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Set {
    /// Nothing is known of the pod, or not enough, so nothing passes.
    Unknown { rule: RuleId },
    /// Some policies speak of the pod.
    Rules {
        /// The direction that they speak of.
        direction: Direction,
        /// The rules of the Admin tier; the first that matches decides.
        admin: Box<[SetRule]>,
        /// The NetworkPolicies that isolate the pod, by name; the first stands for all
        /// where nothing allows. Empty: the Baseline tier decides, and what it does not
        /// decide passes.
        isolation: Box<[RuleId]>,
        /// What the NetworkPolicies allow, in the order of their names.
        rules: Box<[SetRule]>,
        /// The rules of the Baseline tier; the first that matches decides.
        baseline: Box<[SetRule]>,
    },
}

/// One rule with its named ports resolved as far as this pod can.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct SetRule {
    pub(super) rule: RuleId,
    /// What it does; a rule of a NetworkPolicy accepts.
    pub(super) action: Action,
    /// Sorted; None: any address.
    pub(super) peers: Option<Box<[TermId]>>,
    /// Those of them that can be judged by where a pod lives alone.
    pub(super) home: Box<[TermId]>,
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
    /// All that isolate, in the order of their names.
    pub(super) fn isolations(&self) -> &[RuleId] {
        match self {
            Self::Unknown { rule } => std::slice::from_ref(rule),
            Self::Rules { isolation, .. } => isolation,
        }
    }

    /// The direction that the set is for; None: for both.
    pub(super) fn direction(&self) -> Option<Direction> {
        match self {
            Self::Unknown { .. } => None,
            Self::Rules { direction, .. } => Some(*direction),
        }
    }

    /// The rules in the order in which they are asked.
    pub(super) fn rules(&self) -> impl Iterator<Item = &SetRule> {
        let lists: [&[SetRule]; 3] = match self {
            Self::Unknown { .. } => [&[], &[], &[]],
            Self::Rules { admin, rules, baseline, .. } => [admin, rules, baseline],
        };
        lists.into_iter().flatten()
    }

    /// The ids of all rules that this set may name.
    pub(super) fn rule_ids(&self) -> impl Iterator<Item = RuleId> {
        self.isolations().iter().copied().chain(self.rules().map(|rule| rule.rule))
    }

    /// The terms that this set asks for.
    pub(super) fn terms(&self) -> impl Iterator<Item = TermId> {
        self.rules().flat_map(|rule| {
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

/// The pod that a set is made for, in one direction.
#[derive(Clone, Copy)]
struct Owner<'a> {
    direction: Direction,
    pod: &'a Pod,
}

impl SetBuilder<'_> {
    /// The set of a pod that the API does not know.
    pub(super) fn unknown(&mut self) -> Set {
        Set::Unknown { rule: self.rule(RuleName::UnknownPod) }
    }

    /// The set of a pod; None: no policy speaks of it in this direction. `policies` are
    /// the ClusterNetworkPolicies in the order of [`Cluster::ordered_policies`].
    ///
    /// [`Cluster::ordered_policies`]: crate::model::Cluster::ordered_policies
    pub(super) fn of_pod(
        &mut self,
        direction: Direction,
        policies: &[OrderedPolicy],
        namespace: &Name,
        content: &Namespace,
        pod: &Pod,
    ) -> Option<Set> {
        let owner = Owner { direction, pod };
        let labels = content.labels.as_deref();
        let mut tiers = [Vec::new(), Vec::new()];
        let speaking = || policies.iter().filter(|(_, policy)| !policy.rules(direction).is_empty());
        // Before anything gets a number that nobody would give back.
        if speaking().any(|(_, policy)| policy.subject.matches(labels, &pod.labels).is_none()) {
            return Some(Set::Unknown { rule: self.rule(RuleName::UnknownNamespace) });
        }
        let mut selected = false;
        for (name, policy) in speaking() {
            if policy.subject.matches(labels, &pod.labels) != Some(true) {
                continue;
            }
            selected = true;
            let list = match policy.tier {
                Tier::Admin => &mut tiers[0],
                Tier::Baseline => &mut tiers[1],
            };
            for (rule, index) in policy.rules(direction).iter().zip(0_u32..) {
                let id = self.rule(RuleName::Cluster {
                    tier: policy.tier,
                    policy: Name::clone(name),
                    direction,
                    index,
                    name: rule.name.clone(),
                });
                list.push(self.set_rule(owner, id, rule.action, &rule.peers, &rule.ports));
            }
        }
        let (isolation, rules) = self.of_namespace(owner, namespace, content);
        let [admin, baseline] = tiers.map(Vec::into_boxed_slice);
        (selected || !isolation.is_empty()).then(|| Set::Rules {
            direction,
            admin,
            isolation: isolation.into(),
            rules: rules.into(),
            baseline,
        })
    }

    /// What the NetworkPolicies of the pod's namespace isolate and allow.
    fn of_namespace(
        &mut self,
        owner: Owner<'_>,
        namespace: &Name,
        content: &Namespace,
    ) -> (Vec<RuleId>, Vec<SetRule>) {
        let direction = owner.direction;
        let mut isolation = Vec::new();
        let mut rules = Vec::new();
        for (name, policy) in &content.policies {
            let Some(list) = policy.rules(direction) else { continue };
            if !policy.subject.matches(&owner.pod.labels) {
                continue;
            }
            let key = PolicyKey { namespace: Name::clone(namespace), name: Name::clone(name) };
            for (rule, index) in list.iter().zip(0_u32..) {
                let id = self.rule(RuleName::Rule(key.clone(), direction, index));
                rules.push(self.set_rule(owner, id, Action::Accept, &rule.peers, &rule.ports));
            }
            isolation.push(self.rule(RuleName::Isolation(key, direction)));
        }
        (isolation, rules)
    }

    fn set_rule(
        &mut self,
        owner: Owner<'_>,
        rule: RuleId,
        action: Action,
        peers: &Peers,
        ports: &Ports,
    ) -> SetRule {
        let ports = self.ports(owner, ports);
        let peers = self.peers(peers);
        let of_home = |id: &TermId| self.terms.get(id.0).is_some_and(|term| term.is_of_home());
        let home = peers.iter().flatten().copied().filter(of_home).collect();
        SetRule { rule, action, peers, home, ports }
    }

    fn rule(&mut self, name: RuleName) -> RuleId {
        RuleId(self.rules.intern(name))
    }

    fn term(&mut self, term: Term) -> TermId {
        TermId(self.terms.intern(term))
    }

    fn peers(&mut self, peers: &Peers) -> Option<Box<[TermId]>> {
        let Peers::Only(list) = peers else { return None };
        let mut terms: Vec<TermId> = list
            .iter()
            .map(|peer| {
                self.term(match peer.clone() {
                    Peer::Pods { namespaces, pods } => Term::Pods { namespaces, pods },
                    Peer::Block(block) => Term::Block(block),
                    Peer::Nodes(selector) => Term::Nodes(selector),
                })
            })
            .collect();
        terms.sort_unstable();
        terms.dedup();
        Some(terms.into_boxed_slice())
    }

    fn ports(&mut self, Owner { direction, pod }: Owner<'_>, ports: &Ports) -> Option<Box<[SetPort]>> {
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
