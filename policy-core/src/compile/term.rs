//! Terms: the peer matchers that matter to the pods of this node.

use crate::model::{IpBlock, Name, NamespaceMatch, Protocol, Selector};

/// One peer matcher.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Term {
    /// Pods by labels in namespaces by labels.
    Pods { namespaces: NamespaceMatch, pods: Selector },
    /// Addresses.
    Block(IpBlock),
    /// Pods that give a named port a number.
    Port { protocol: Protocol, name: Name },
}

impl Term {
    /// Whether all pods of a namespace satisfy this term or none does.
    pub(super) fn is_whole_namespace(&self) -> bool {
        matches!(self, Self::Pods { pods, .. } if pods.is_everything())
    }

    /// Whether all addresses of a family satisfy this term.
    pub(super) fn is_whole_family(&self) -> bool {
        matches!(self, Self::Block(block) if block.is_whole_family())
    }
}
