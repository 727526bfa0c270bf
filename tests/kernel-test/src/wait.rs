//! Waiting for a state instead of for a time.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a look may be old. Small beside any bound, large beside a look.
const PAUSE: Duration = Duration::from_millis(5);

/// Looks until `look` gives a value; an error that names `what` after `bound`.
///
/// The bound is generous, since it only ends tests that have failed: a state
/// that comes is seen within milliseconds whatever the bound.
pub fn wait_for<T>(what: &str, bound: Duration, mut look: impl FnMut() -> Option<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = look() {
            return Ok(value);
        }
        if start.elapsed() > bound {
            bail!("waited {bound:?} in vain: {what}");
        }
        std::thread::sleep(PAUSE);
    }
}
