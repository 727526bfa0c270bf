//! Terms: the peer matchers that matter to the pods of this node.

use crate::model::{IpBlock, Name, NamespaceMatch, Protocol, Selector};

/// One peer matcher.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Term {
    /// Pods by labels in namespaces by labels.
    Pods { namespaces: NamespaceMatch, pods: Selector },
    /// Addresses.
    Block(IpBlock),
    /// Addresses of nodes by labels.
    Nodes(Selector),
    /// Pods that give a named port a number.
    Port { protocol: Protocol, name: Name },
}

impl Term {
    /// Whether all pods of a namespace satisfy this term or none does.
    pub(super) fn is_whole_namespace(&self) -> bool {
        matches!(self, Self::Pods { pods, .. } if pods.is_everything())
    }

    /// Whether it can be judged by where a pod lives alone.
    pub(super) fn is_of_home(&self) -> bool {
        self.is_whole_namespace() || matches!(self, Self::Block(block) if block.is_whole_family())
    }
}
