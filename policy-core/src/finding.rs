//! What the parser and the compiler could not take as it was given.

use std::fmt;

use crate::model::Name;

/// The kind of object that a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// A NetworkPolicy.
    NetworkPolicy,
    /// A ClusterNetworkPolicy; findings on it have no namespace.
    ClusterNetworkPolicy,
    /// A Pod.
    Pod,
    /// A Service.
    Service,
}

impl fmt::Display for ObjectKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NetworkPolicy => "NetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Self::Pod => "Pod",
            Self::Service => "Service",
        })
    }
}

/// Why something was not taken as given. The text is the reason of the Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FindingReason {
    /// A selector cannot be understood.
    InvalidSelector,
    /// A peer cannot be understood and matches nothing.
    InvalidPeer,
    /// A port cannot be understood and matches nothing.
    InvalidPort,
    /// A tier, a priority or an action is not known; what it would let pass does not.
    InvalidRule,
    /// Something that is understood is not supported; it matches nothing.
    NotSupported,
    /// A policy type is not known; both directions are isolated.
    InvalidPolicyType,
    /// The policy is larger than one may be; it isolates and allows nothing.
    TooLarge,
    /// An annotation has a value that cannot be understood and counts for nothing.
    InvalidAnnotation,
    /// A pod asks to be audited, and its node does not heed that.
    AuditDisabled,
    /// What it speaks of cannot be read, so its newest version is not in force yet.
    HeldBack,
    /// Two pods claim one address.
    AddressConflict,
    /// Two Services claim one address, port and protocol.
    ServiceConflict,
    /// The backends of a Service are of different classes: allowed only if all of them are.
    MixedBackends,
    /// A pod of this node is not known to the API: nothing passes.
    UnknownPod,
    /// The link of a pod that ran before the agent came takes no filters: no policy holds for it.
    NotFiltered,
    /// Another program's filter runs before ours on a pod's link: what it lets pass may meet no policy.
    ForeignFilter,
}

impl FindingReason {
    /// The word for Events and metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidSelector => "InvalidSelector",
            Self::InvalidPeer => "InvalidPeer",
            Self::InvalidPort => "InvalidPort",
            Self::InvalidRule => "InvalidRule",
            Self::NotSupported => "NotSupported",
            Self::InvalidPolicyType => "InvalidPolicyType",
            Self::TooLarge => "TooLarge",
            Self::InvalidAnnotation => "InvalidAnnotation",
            Self::AuditDisabled => "AuditDisabled",
            Self::HeldBack => "HeldBack",
            Self::AddressConflict => "AddressConflict",
            Self::ServiceConflict => "ServiceConflict",
            Self::MixedBackends => "MixedBackends",
            Self::UnknownPod => "UnknownPod",
            Self::NotFiltered => "NotFiltered",
            Self::ForeignFilter => "ForeignFilter",
        }
    }
}

/// Something in an object that could not be taken as given, and what was done instead.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Finding {
    /// The kind of the object.
    pub kind: ObjectKind,
    /// Its namespace; empty for objects without one.
    pub namespace: Name,
    /// Its name.
    pub name: Name,
    /// Where in the object, as a field path; empty for the whole.
    pub path: String,
    /// The reason.
    pub reason: FindingReason,
    /// One sentence for the operator.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind)?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)?;
        if !self.path.is_empty() {
            write!(f, " at {}", self.path)?;
        }
        write!(f, ": {}", self.message)
    }
}
