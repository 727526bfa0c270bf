//! The cluster in our own words: what the compiler, the oracle and `explain` read.
//!
//! Values are cheap to share: names, labels and port lists are reference counted so
//! that 150,000 pods with a few thousand distinct label sets stay small, and a
//! snapshot clones pointers only.

mod cluster;
mod labels;
mod pod;
mod policy;
mod selector;
mod service;

pub(crate) use cluster::claim;
pub use cluster::{Cluster, LocalNode, LocalPod, Namespace, PodIdentity};
pub use labels::{Labels, NAMESPACE_NAME_LABEL, Name};
pub use pod::{ContainerPort, Pod, PodState, Protocol};
pub use policy::{
    Direction, IpBlock, NamespaceMatch, Peer, Peers, Policy, PolicyKey, PortMatch, PortRange, Ports, Rule,
};
pub use selector::{Requirement, Selector};
pub use service::{Backends, Service, ServiceBackend, ServicePort, TargetPort};
