//! How long to wait after a failure.

use std::time::Duration;

/// Decorrelated jitter: each wait is random between the least and three times the last,
/// so that the nodes of a cluster that failed together do not return together.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    min: Duration,
    max: Duration,
    last: Duration,
}

impl Backoff {
    pub(super) fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, last: min }
    }

    /// The next wait; `roll` is a random number from 0 to 1.
    pub(super) fn next(&mut self, roll: f64) -> Duration {
        let top = (self.last * 3).clamp(self.min, self.max);
        let spread = top.saturating_sub(self.min).mul_f64(roll.clamp(0.0, 1.0));
        self.last = self.min + spread;
        self.last
    }

    /// Something succeeded.
    pub(super) fn reset(&mut self) {
        self.last = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_the_limit_and_starts_again() {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(2));
        let mut backoff = Backoff::new(min, max);
        assert_eq!(backoff.next(0.0), min);
        assert_eq!(backoff.next(1.0), min * 3);
        assert_eq!(backoff.next(1.0), min * 9);
        assert_eq!(backoff.next(1.0), max);
        assert_eq!(backoff.next(1.0), max);
        backoff.reset();
        assert_eq!(backoff.next(1.0), min * 3);
    }
}
