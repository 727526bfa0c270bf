//! The shell around the pool's brain: one task that owns the state.
//!
//! `task` listens and decides when to plan, `execute` makes the EC2 calls,
//! `checkpoint` and `journal` write down what must survive, `incumbent` reads
//! what aws-node wrote down, `view` is what others may see. The brain itself
//! is the `ipam-core` crate.
//!
//! What is told to whom, and in which order:
//! - a lease is in the checkpoint before its holder is told of it, a release
//!   before its address is free again;
//! - an EC2 change is in the journal before it is asked for.

mod adopt;
mod checkpoint;
mod clock;
mod draft;
mod execute;
mod handle;
mod incumbent;
mod journal;
mod on_file;
mod task;
#[cfg(test)]
mod tests;
mod view;

pub use checkpoint::CheckpointError;
pub use checkpoint::FILE as CHECKPOINT_FILE;
pub use clock::{BootClock, ClockError};
pub use handle::{
    Adopted, Adoption, LeaseError, LeaseRequest, Past, Pool, PoolConfig, StartError, StateDirs,
};
pub use incumbent::{Allocation, Incumbent, IncumbentError, document};
pub use journal::JournalError;
pub use on_file::{OnFile, OnFileError};
pub use view::{
    AddressCounts, EniPhase, EniView, Hindrance, LastFailure, PoolView, Reach, Reconciled, TruthView,
};

pub use ipam_core::{EniId, Grant, Lease, MacAddr, Now, PodRef, Refusal, SandboxKey, Targets};
