//! Time since this kernel booted, and which boot it is.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipam_core::Now;
use tokio::time::Instant;

/// The boot's identity or age could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ClockError {
    /// A file of /proc could not be read.
    #[error("{path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// A file of /proc does not hold what it should.
    #[error("{path}: {text:?} is not a number of seconds")]
    Nonsense {
        /// The file.
        path: PathBuf,
        /// Its content.
        text: String,
    },
}

/// The clock that the pool goes by: the kernel's age when the agent started,
/// and tokio's time since then (which tests can pause).
#[derive(Clone, Debug)]
pub struct BootClock {
    boot_id: String,
    at_start: Now,
    start: Instant,
}

impl BootClock {
    /// Reads the boot's identity and age from /proc.
    pub fn read() -> Result<Self, ClockError> {
        let read = |path: &str| {
            std::fs::read_to_string(Path::new(path))
                .map_err(|source| ClockError::Read { path: PathBuf::from(path), source })
        };
        let boot_id = read("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        // The first number is CLOCK_BOOTTIME in seconds, with two decimals.
        let text = read("/proc/uptime")?;
        let seconds = text
            .split_ascii_whitespace()
            .next()
            .and_then(|first| first.parse::<f64>().ok())
            .filter(|seconds| seconds.is_finite() && *seconds >= 0.0);
        match seconds {
            Some(seconds) => Ok(Self::at(boot_id, Now::default() + Duration::from_secs_f64(seconds))),
            None => Err(ClockError::Nonsense { path: PathBuf::from("/proc/uptime"), text }),
        }
    }

    /// A clock that says `now` in the boot `boot_id`.
    pub fn at(boot_id: impl Into<String>, now: Now) -> Self {
        Self { boot_id: boot_id.into(), at_start: now, start: Instant::now() }
    }

    /// The boot.
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// The time.
    pub fn now(&self) -> Now {
        self.at_start + self.start.elapsed()
    }

    /// When `at` comes, in tokio's time. Rounded up, so that the clock has
    /// reached `at` when the instant has come.
    pub fn instant(&self, at: Now) -> Instant {
        self.start + at.since(self.at_start)
    }

    /// The point that `instant` falls on; the past is now's start.
    pub fn point(&self, instant: Instant) -> Now {
        self.at_start + instant.saturating_duration_since(self.start)
    }
}
