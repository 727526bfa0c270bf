//! The pool's brain: which addresses this node should hold, which EC2 calls
//! would bring it there, and who may have which address.
//!
//! Membership test: nothing here reads a clock, does I/O, draws a random
//! number, or awaits. Time comes in as [`Now`], randomness as a `dice` in
//! `[0, 1)`, the world as [`EniRecord`]s. So every law of the pool can be
//! checked by a property test over thousands of histories.
//!
//! The cycle: the shell feeds what happened into [`PoolState`] (a lease asked
//! for, an EC2 reply, a describe), calls [`PoolState::settle`] and
//! [`PoolState::serve`], then [`plan()`], announces each action with
//! [`PoolState::begin`], executes it and reports with [`PoolState::complete`].
#![forbid(unsafe_code)]

mod backoff;
mod demand;
mod discovery;
mod effects;
mod eni;
mod ids;
mod lease;
mod limits;
mod observe;
mod pace;
pub mod plan;
mod record;
mod refusal;
mod saved;
mod sizing;
mod state;
mod subnet;
mod targets;
mod time;

pub use backoff::{Backoff, Failure, FailureClass};
pub use demand::{Asked, Expired, Served, Waiter};
pub use effects::{Intent, IntentId, Reply};
pub use eni::{Attachment, Eni, ForeignReason, Owner, Phase};
pub use ids::{
    AttachmentId, ClientToken, EniId, InstanceId, MacAddr, ParseMacError, SecurityGroupId, SubnetId,
};
pub use lease::{Grant, Lease, PodRef, SandboxKey};
pub use limits::{CardLimit, InstanceLimits, InstanceTable, TableError};
pub use observe::Observation;
pub use pace::{AccountLimits, Bucket, Lane, Line, Load, Queue, Shape, ShareError, Turn, spread_of};
pub use plan::{Action, CreateSpec, Operation, Plan, SubnetQuery, Want, plan};
pub use record::{AttachmentRecord, AttachmentStatus, EniKind, EniRecord, EniStatus, SubnetRecord, tags};
pub use refusal::{Hold, Refusal};
pub use saved::{History, Saved, SavedCooling, SavedEni, SavedLease};
pub use sizing::Sizing;
pub use state::{Counts, Identity, PoolState, Truth};
pub use targets::{AllocationMode, Growth, SubnetChoice, Targets, Timing};
pub use time::Now;
