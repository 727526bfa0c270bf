//! Numbers that stand in the maps, each a type of its own, and the names behind them.

use std::fmt;

use crate::model::{Direction, PolicyKey};

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
    /// A policy that isolates, named where no rule of any policy allows a packet: of
    /// several, the first by name.
    Isolation(PolicyKey, Direction),
    /// A rule of a policy, by its place in spec.ingress or spec.egress.
    Rule(PolicyKey, Direction, u32),
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownPod => f.write_str("pod unknown to the API"),
            Self::Isolation(policy, direction) => write!(f, "{policy} isolates {direction}"),
            Self::Rule(policy, direction, index) => write!(f, "{policy} {direction}[{index}]"),
        }
    }
}
