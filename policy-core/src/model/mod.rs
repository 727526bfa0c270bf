//! The cluster in our own words: what the compiler, the oracle and `explain` read.
//!
//! Values are cheap to share: names, labels and port lists are reference counted so
//! that 150,000 pods with a few thousand distinct label sets stay small, and a
//! snapshot clones pointers only.

mod cluster;
mod cluster_policy;
mod labels;
mod pod;
mod policy;
mod selector;
mod service;

pub use cluster::{Cluster, LocalNode, LocalPod, Namespace, Node, Owner, PodIdentity, claim};
pub use cluster_policy::{Action, ClusterPolicy, ClusterRule, OrderedPolicy, Subject, Tier};
pub use labels::{Labels, NAMESPACE_NAME_LABEL, Name};
pub use pod::{ContainerPort, Pod, PodState, Protocol};
pub use policy::{
    Direction, IpBlock, NamespaceMatch, Peer, Peers, Policy, PolicyKey, PortMatch, PortRange, Ports, Rule,
};
pub use selector::{Requirement, Selector};
pub(crate) use service::is_link_local;
pub use service::{Backends, Service, ServiceBackend, ServicePort, TargetPort};
