//! System tests: the house rules, the manifests, and the real binaries in a
//! real kernel. Membership test: nothing here is shipped, and no product crate
//! is linked; what is tested is what a user runs.

#![forbid(unsafe_code)]

pub mod apiserver;
pub mod aws_node;
pub mod cluster_policy;
pub mod containerd;
pub mod demo;
pub mod house;
pub mod kube_proxy;
pub mod probe;
pub mod world;
