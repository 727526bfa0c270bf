//! What is on file of this boot's leases, for a program that is not the pool.

use std::path::Path;

use ipam_core::SavedLease;

use super::checkpoint::{Checkpoint, CheckpointError, Content, Found};
use super::clock::{BootClock, ClockError};

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OnFileError {
    /// The checkpoint.
    #[error("the checkpoint")]
    Checkpoint(#[from] CheckpointError),
    /// The boot's identity or age.
    #[error("the boot clock")]
    Clock(#[from] ClockError),
}

/// Leases on file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OnFile {
    /// No agent has served in this boot.
    Nothing,
    /// Pods may run that have no lease: the file is torn, or an agent ended before it had adopted all.
    Incomplete,
    /// All leases of this boot.
    Leases(Vec<SavedLease>),
}

impl OnFile {
    /// Reads the checkpoint in the run directory `run`.
    ///
    /// # Errors
    ///
    /// Where it is a newer agent's, or cannot be read.
    pub fn read(run: &Path) -> Result<Self, OnFileError> {
        let clock = BootClock::read()?;
        Ok(match Checkpoint::new(run, clock.boot_id()).read()? {
            Found::Nothing => Self::Nothing,
            Found::Torn(_) | Found::Content(Content { adopting: true, .. }) => Self::Incomplete,
            Found::Content(Content { pool, .. }) => Self::Leases(pool.leases),
        })
    }
}
