//! A VPC in a box: what AWS and Kubernetes give a node, on one machine.
//!
//! `vpc-sim` is a library and a binary. It serves an EC2 API, an instance
//! metadata service per node and a Kubernetes API over HTTP with their real
//! wire formats, and it joins network namespaces, one per node, by a fabric
//! that delivers by address and drops what AWS drops. Real agents run in it
//! unchanged.
//!
//! A file belongs here if it stands in for something outside the node's own
//! software: the cloud, the cluster, the wires, the kubelet.

#![deny(unsafe_code)]

pub mod control;
pub mod ec2;
pub mod fabric;
pub mod imds;
pub mod kube_api;
pub mod kubelet;
pub mod up;
