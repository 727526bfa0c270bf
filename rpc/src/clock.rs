//! When a plugin was started: by the clock that all processes of the node share, so that the agent can tell an ADD
//! that was under way when its sandbox was deleted from one that came after.

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`. Never 0, which stands for a plugin that does not tell.
pub fn monotonic_ns() -> u64 {
    // The clock is always there; a failure would be taken for a plugin that does not tell.
    let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) else { return 0 };
    let whole = u64::try_from(now.tv_sec()).unwrap_or_default().saturating_mul(1_000_000_000);
    whole.saturating_add(u64::try_from(now.tv_nsec()).unwrap_or_default()).max(1)
}
