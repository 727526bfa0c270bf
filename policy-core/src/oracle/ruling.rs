//! What a direction says, and why.

use std::fmt;

use crate::ids::RuleName;
use crate::model::PolicyKey;

/// What one direction says to a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// Why it passes or not.
    pub reason: Reason,
    /// The NetworkPolicies that isolate the pod in this direction, by name.
    pub isolated_by: Vec<PolicyKey>,
    /// The rules of ClusterNetworkPolicies that passed the flow on to the next tier.
    pub passed_by: Vec<RuleName>,
}

/// Why a flow passes or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It passes: nothing speaks of it.
    NoPolicy,
    /// It passes: a rule of a NetworkPolicy allows it or one of a ClusterNetworkPolicy
    /// accepts it.
    Accepted(RuleName),
    /// It passes: NetworkPolicies let every pod speak with the node that it runs on.
    OwnNode,
    /// It passes: a pod and itself.
    Itself,
    /// It does not: a rule of a ClusterNetworkPolicy denies it.
    Denied(RuleName),
    /// It does not: NetworkPolicies isolate the pod and none allows it.
    Isolated,
    /// It does not: whether a ClusterNetworkPolicy selects the pod is not known yet.
    UnknownNamespace,
}

impl Reason {
    /// Whether the flow passes.
    pub const fn allows(&self) -> bool {
        match self {
            Self::NoPolicy | Self::Accepted(_) | Self::OwnNode | Self::Itself => true,
            Self::Denied(_) | Self::Isolated | Self::UnknownNamespace => false,
        }
    }

    /// The reason as one word.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::NoPolicy => "no_policy",
            Self::Accepted(_) => "accepted",
            Self::OwnNode => "own_node",
            Self::Itself => "itself",
            Self::Denied(_) => "denied",
            Self::Isolated => "isolated",
            Self::UnknownNamespace => "unknown_namespace",
        }
    }
}

impl Ruling {
    /// A ruling for which no policy was asked.
    pub const fn by(reason: Reason) -> Self {
        Self { reason, isolated_by: Vec::new(), passed_by: Vec::new() }
    }

    /// Whether the flow passes in this direction.
    pub const fn allows(&self) -> bool {
        self.reason.allows()
    }

    /// The one rule that decided, if it was one.
    pub const fn rule(&self) -> Option<&RuleName> {
        match &self.reason {
            Reason::Accepted(rule) | Reason::Denied(rule) => Some(rule),
            _ => None,
        }
    }
}

impl fmt::Display for Ruling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.allows() { "allowed" } else { "denied" };
        match &self.reason {
            Reason::NoPolicy => write!(f, "{verdict}, no policy isolates it")?,
            Reason::Accepted(rule) | Reason::Denied(rule) => write!(f, "{verdict} by {rule}")?,
            Reason::OwnNode => write!(f, "{verdict}, it is the pod's own node")?,
            Reason::Itself => write!(f, "{verdict}, a pod to itself")?,
            Reason::Isolated => write!(f, "{verdict}, isolated by {}", list(&self.isolated_by))?,
            Reason::UnknownNamespace => {
                write!(
                    f,
                    "{verdict}, a ClusterNetworkPolicy asks for its namespace, which was not seen yet"
                )?;
            }
        }
        if self.passed_by.is_empty() {
            return Ok(());
        }
        write!(f, "; passed on by {}", list(&self.passed_by))
    }
}

fn list(names: &[impl ToString]) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
