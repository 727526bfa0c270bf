//! Classes: what is to be known of an address.

use std::sync::Arc;

use crate::ids::{ClassId, TermId};
use crate::model::{Labels, Name};
use crate::tables::VipAddress;

/// The content of a class.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Class {
    /// An address of no pod: the blocks it is in and the nodes it is of, sorted.
    Outside { terms: Box<[TermId]> },
    /// An address of this node: the terms that it satisfies, sorted. A class apart, as
    /// NetworkPolicies let every pod out to it. What a Service leads there is judged as
    /// any other address is, by [`Class::Outside`].
    LocalNode { terms: Box<[TermId]> },
    /// An address of a pod.
    Pod {
        /// Where classes are split by namespace: terms for whole namespaces and whole
        /// families are judged by this and never stand in `terms`.
        home: Option<Home>,
        /// The terms that it satisfies, sorted.
        terms: Box<[TermId]>,
        /// The numbers that it gives to named ports, sorted.
        ports: Box<[(TermId, u16)]>,
    },
    /// Any of the others on the way from a former agent's maps; see the module `heir`.
    Heir {
        class: Box<Self>,
        /// The class that the address had.
        of: ClassId,
    },
    /// An address of a Service that no one class stands for: what all backends allow,
    /// sorted, and what nothing denies to the address where it vouches for nothing itself.
    Service { backends: Box<[Backend]>, front: Option<Front> },
}

/// What all addresses of one family in one namespace have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Home {
    /// Whether the address is IPv4.
    pub(super) ipv4: bool,
    /// The namespace.
    pub(super) namespace: Name,
    /// Its labels; None where they are not known yet.
    pub(super) labels: Option<Arc<Labels>>,
}

/// One kind of backend of a Service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Backend {
    /// The class of its address.
    pub(super) class: ClassId,
    /// The protocol's number.
    pub(super) protocol: u8,
    /// Its port.
    pub(super) port: u16,
}

/// An external address of a Service as it is without the Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Front {
    /// The class of the address.
    pub(super) class: ClassId,
    /// The address, the protocol and the Service's port.
    pub(super) key: VipAddress,
}

impl Class {
    /// The class of an address that satisfies no term.
    pub(super) fn none() -> Self {
        Self::Outside { terms: Box::default() }
    }

    /// What the class is, whatever it was.
    pub(super) fn present(&self) -> &Self {
        match self {
            Self::Heir { class, .. } => class.present(),
            other => other,
        }
    }

    /// The terms that stand in the class.
    pub(super) fn terms(&self) -> &[TermId] {
        match self {
            Self::Outside { terms } | Self::LocalNode { terms } | Self::Pod { terms, .. } => terms,
            Self::Heir { class, .. } => class.terms(),
            Self::Service { .. } => &[],
        }
    }
}
