//! The policy compiler: from a cluster's objects to the kernel's maps.
//!
//! Membership test: pure. No clock, no I/O, no randomness, no async, and no type of
//! any Kubernetes crate; the same inputs give the same outputs.
//!
//! The way of a change:
//!
//! 1. [`parse`] turns policies as written into the [`model`], with [`Finding`]s.
//! 2. [`Compiler::update`] turns a [`Cluster`] and this node's pods into what the maps
//!    shall hold: terms, classes, sets, profiles and rows by number. Numbers belong to
//!    contents and are kept from one update to the next.
//! 3. It yields [`Step`]s from what is in the maps to that, in an order in which no
//!    packet ever meets half a change. Whoever carries them out tells
//!    [`Compiler::record`].
//!
//! Beside it: [`oracle`], a slow direct reading of the specification, [`explain`] on
//! top of it, and [`Evaluator`], which walks [`Tables`] as the programs walk the maps.

#![forbid(unsafe_code)]

mod compile;
mod evaluate;
mod explain;
mod finding;
mod ids;
pub mod model;
pub mod oracle;
pub mod parse;
mod plan;
mod tables;
mod text;

pub use compile::{Compiler, CompilerOptions, SetRules, Update};
pub use evaluate::{Decision, Evaluator, Query};
pub use explain::{Explanation, Judgement, explain};
pub use finding::{Finding, FindingReason, ObjectKind};
pub use ids::{ClassId, ProfileId, RuleId, RuleName, SetId};
pub use model::{Cluster, LocalPod, PodIdentity};
pub use plan::Step;
pub use tables::{EndpointSets, Tables, VipAddress, VipTarget};
