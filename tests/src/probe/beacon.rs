//! A packet that always arrives, behind all that were sent before it.

use std::net::IpAddr;

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

use super::{Probe, Protocol};

/// Its source port, which no probe goes to.
pub(super) const PORT: u16 = 19_999;

/// From where to where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Beacon {
    pub(super) from: usize,
    pub(super) to: IpAddr,
}

impl Beacon {
    pub(super) fn probe(&self) -> Probe {
        Probe::new(self.from, self.to, Protocol::Udp, 9).from_port(PORT)
    }
}

/// The calling thread stays on its CPU: packets overtake each other between CPUs only.
#[derive(Debug)]
pub(super) struct Pinned {
    before: CpuSet,
}

impl Pinned {
    pub(super) fn here() -> Result<Self> {
        let own = Pid::from_raw(0);
        let before = sched_getaffinity(own).context("asking for the CPUs of this thread")?;
        let mut one = CpuSet::new();
        one.set(sched_getcpu()?)?;
        sched_setaffinity(own, &one).context("staying on one CPU")?;
        Ok(Self { before })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // It was allowed before.
        let _ = sched_setaffinity(Pid::from_raw(0), &self.before);
    }
}
