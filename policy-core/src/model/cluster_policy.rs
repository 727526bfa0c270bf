//! ClusterNetworkPolicies, after parsing: nothing in here needs interpretation any more.

use std::fmt;
use std::sync::Arc;

use super::{Direction, Labels, Name, Peers, Ports, Selector};

/// The tier of a ClusterNetworkPolicy. NetworkPolicies are judged between the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Before NetworkPolicies; what it accepts or denies is decided.
    Admin,
    /// For what no NetworkPolicy isolates.
    Baseline,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Admin => "Admin",
            Self::Baseline => "Baseline",
        })
    }
}

/// What a rule of a ClusterNetworkPolicy does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Lets it pass; nothing further is asked.
    Accept,
    /// Drops it; nothing further is asked.
    Deny,
    /// Leaves the rest of the tier out.
    Pass,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Accept => "Accept",
            Self::Deny => "Deny",
            Self::Pass => "Pass",
        })
    }
}

/// A ClusterNetworkPolicy. Its name is the key under which the cluster holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterPolicy {
    /// Its tier.
    pub tier: Tier,
    /// Its place in the tier, 0 to 1000; lower ones are asked first, equal ones by name.
    pub priority: u16,
    /// The pods that it applies to.
    pub subject: Subject,
    /// What is asked of incoming connections; the first rule that matches decides.
    pub ingress: Vec<ClusterRule>,
    /// What is asked of outgoing connections; the first rule that matches decides.
    pub egress: Vec<ClusterRule>,
}

/// The pods that a ClusterNetworkPolicy applies to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    /// In which namespaces.
    pub namespaces: Selector,
    /// Which of their pods.
    pub pods: Selector,
}

/// One rule of a ClusterNetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterRule {
    /// The name that its author gave it.
    pub name: Option<Name>,
    /// What it does.
    pub action: Action,
    /// With whom.
    pub peers: Peers,
    /// On which ports.
    pub ports: Ports,
}

/// A ClusterNetworkPolicy with its name.
pub type OrderedPolicy = (Name, Arc<ClusterPolicy>);

impl ClusterPolicy {
    /// The rules for a direction; without any, the direction is none of its business.
    pub fn rules(&self, direction: Direction) -> &[ClusterRule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }
}

impl Subject {
    /// Whether a pod is meant, by its labels and its namespace's. None: those of its
    /// namespace are not known yet, and they would decide.
    pub fn matches(&self, of_namespace: Option<&Labels>, of_pod: &Labels) -> Option<bool> {
        match of_namespace {
            _ if !self.pods.matches(of_pod) => Some(false),
            Some(labels) => Some(self.namespaces.matches(labels)),
            None => self.namespaces.is_everything().then_some(true),
        }
    }
}
