//! Numbers that stand in the maps, each a type of its own, and the names behind them.

use std::fmt;

use crate::model::{Direction, Name, PolicyKey, Tier};

macro_rules! id {
    ($(#[$doc:meta])* $vis:vis $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis struct $name($vis u32);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

id! {
    /// The exact set of terms that an address satisfies; 0: none.
    pub ClassId
}
id! {
    /// The rules in force for a pod in one direction; 0: nothing isolates it.
    pub SetId
}
id! {
    /// Disjoint port ranges with their verdicts; 0 denies all, 1 allows all.
    pub ProfileId
}
id! {
    /// A rule, or what isolates a pod; dense, 0: none. See [`RuleName`].
    pub RuleId
}
id! {
    /// A peer matcher. Never in a map, but classes are made of them.
    pub(crate) TermId
}

/// What a [`RuleId`] stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleName {
    /// The pod of this node is not known to the API, so nothing passes.
    UnknownPod,
    /// The labels of the pod's namespace are not known yet, and a ClusterNetworkPolicy
    /// asks for them; nothing passes.
    UnknownNamespace,
    /// A policy that isolates, named where no rule of any policy allows a packet: of
    /// several, the first by name.
    Isolation(PolicyKey, Direction),
    /// A rule of a policy, by its place in spec.ingress or spec.egress.
    Rule(PolicyKey, Direction, u32),
    /// A rule of a ClusterNetworkPolicy.
    Cluster {
        /// The tier of the policy.
        tier: Tier,
        /// The policy's name.
        policy: Name,
        /// The direction.
        direction: Direction,
        /// The rule's place in spec.ingress or spec.egress.
        index: u32,
        /// The rule's own name, if it has one.
        name: Option<Name>,
    },
}

impl RuleName {
    /// The policy that it is of, as its object is named, and the place of the rule in it.
    pub fn place(&self) -> Option<(String, Option<u32>)> {
        match self {
            Self::UnknownPod | Self::UnknownNamespace => None,
            Self::Isolation(policy, _) => Some((policy.to_string(), None)),
            Self::Rule(policy, _, index) => Some((policy.to_string(), Some(*index))),
            Self::Cluster { policy, index, .. } => Some((policy.to_string(), Some(*index))),
        }
    }
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownPod => f.write_str("pod unknown to the API"),
            Self::UnknownNamespace => f.write_str("namespace not seen yet"),
            Self::Isolation(policy, direction) => write!(f, "{policy} isolates {direction}"),
            Self::Rule(policy, direction, index) => write!(f, "{policy} {direction}[{index}]"),
            Self::Cluster { tier, policy, direction, index, name } => {
                write!(f, "{tier} {policy} {direction}[{index}]")?;
                name.as_ref().map_or(Ok(()), |name| write!(f, " ({name})"))
            }
        }
    }
}
