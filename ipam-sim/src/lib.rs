//! The pool in simulated time, beside the incumbent's on the same work.
//!
//! Membership test: what is here runs the real planner of `ipam-core` (no copy
//! of its rules) against a model of EC2, the kubelet and the clock, or judges
//! what came of it. Nothing here reads a clock or does I/O but `main`, which
//! prints.
//!
//! - [`engine`]: events, cloud, kubelet, accounts, and the agent's loop around
//!   the planner.
//! - [`incumbent`]: a model of amazon-vpc-cni-k8s, from its source.
//! - [`scenario`] and [`fleet`]: the work. [`promise`]: what must come of it.
//!   [`report`]: how it is shown.
//!
//! Both agents meet the same trace, the same draws of EC2's times and of the
//! kubelet's pauses, and the same token buckets. What is assumed:
//! - A kubelet tries again 10 to 15 s after an ADD that got no address. Wiring
//!   takes no time: a wait ends with the address.
//! - Pods that come before an agent can serve wait for it, and that is no
//!   failed ADD.
//! - The Kubernetes API shows a pod when its ADD comes, not before, and its
//!   address a second later; the cluster has 5,000 nodes, and only the one that
//!   is looked at has pods that wait.
//! - A cooldown runs from a pod's end for 30 s. Giving an address back counts
//!   when the agent decides it, not when EC2 does it.
//! - A refused call takes no token. Calls are counted from the first arrival
//!   (or from the restart that a scenario is about) and without periodic reads:
//!   reconciliations of ours, the incumbent's sweep for leaked ENIs.
#![forbid(unsafe_code)]

pub mod engine;
pub mod fleet;
pub mod incumbent;
pub mod parallel;
pub mod promise;
pub mod report;
pub mod scenario;
