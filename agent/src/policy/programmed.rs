//! How long changes took on their way into the maps.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use policy_core::Step;

/// How many are kept for whoever asks.
const KEPT: usize = 1024;

/// A change that is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Programmed {
    /// The first has 1, each later one the next number.
    pub number: u64,
    /// When the change reached the agent; of changes that were put in force together, the first.
    pub arrived: SystemTime,
    /// When the last map write of the flip returned.
    pub in_force: SystemTime,
    /// How long the compiler took.
    pub compile: Duration,
    /// How long the map writes took.
    pub apply: Duration,
    /// Addresses that were given another class, came or went.
    pub addresses: usize,
    /// Map entries that were written, addresses included.
    pub entries: usize,
}

impl Programmed {
    /// What just came into force, `took` after it had reached the agent, by these steps.
    pub(super) fn now(took: Duration, compile: Duration, apply: Duration, steps: &[Step]) -> Self {
        let in_force = SystemTime::now();
        let (addresses, entries) = sizes(steps);
        Self { number: 0, arrived: in_force - took, in_force, compile, apply, addresses, entries }
    }
}

/// The last changes. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub struct Changes(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    last: u64,
    ring: VecDeque<Programmed>,
}

impl Changes {
    /// Notes a change; its number is given here.
    pub(super) fn note(&self, change: Programmed) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.last += 1;
        let number = kept.last;
        kept.ring.push_back(Programmed { number, ..change });
        if kept.ring.len() > KEPT {
            kept.ring.pop_front();
        }
    }

    /// Those with a higher number than `after`, oldest first.
    #[must_use]
    pub fn after(&self, after: u64) -> Vec<Programmed> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.ring.iter().filter(|change| change.number > after).copied().collect()
    }
}

/// Addresses and entries that these steps write.
fn sizes(steps: &[Step]) -> (usize, usize) {
    let addresses = |step: &Step| match step {
        Step::SetPeers(_) | Step::RemovePeers(_) => step.len(),
        _ => 0,
    };
    (steps.iter().map(addresses).sum(), steps.iter().map(Step::len).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_again_gets_what_is_new() {
        let changes = Changes::default();
        let now = SystemTime::now();
        let change = Programmed {
            number: 0,
            arrived: now,
            in_force: now,
            compile: Duration::ZERO,
            apply: Duration::ZERO,
            addresses: 0,
            entries: 1,
        };
        for _ in 0..KEPT + 3 {
            changes.note(change);
        }
        let numbers = |after| changes.after(after).iter().map(|change| change.number).collect::<Vec<_>>();
        assert_eq!(numbers(KEPT as u64 + 1), [KEPT as u64 + 2, KEPT as u64 + 3]);
        assert_eq!(numbers(0).len(), KEPT, "older ones are forgotten");
    }
}
