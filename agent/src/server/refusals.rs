//! Which refusals are worth a line of the log: a plugin that waits asks twenty times a second, by a connection each time.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rpc::Refusal;

/// Who asks no more for so long has given up, or was served.
const SILENCE: Duration = Duration::from_secs(5);

/// Sandboxes that were told to wait, with the reason and when they asked last.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<HashMap<(String, String), Instant>>);

impl Refusals {
    /// Whether this one is new: each repetition by the same `asker` prolongs the silence.
    pub(super) fn admit(&self, asker: Option<String>, refusal: &Refusal, now: Instant) -> bool {
        let Some(asker) = asker.filter(|_| refusal.retryable) else { return true };
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|_, asked| now.duration_since(*asked) < SILENCE);
        told.insert((asker, refusal.reason.clone()), now).is_none()
    }
}

#[cfg(test)]
mod tests {
    use rpc::{code, reason};

    use super::*;

    #[test]
    fn who_waits_is_told_of_once() {
        let (refusals, start) = (Refusals::default(), Instant::now());
        let wait = Refusal::retryable(code::NOT_AVAILABLE, reason::NOT_SYNCED, "starting");
        let admit =
            |asker: &str, refusal: &Refusal, at| refusals.admit(Some(asker.into()), refusal, start + at);
        assert!(admit("a", &wait, Duration::ZERO));
        for number in 1..400 {
            assert!(!admit("a", &wait, Duration::from_millis(50 * number)));
        }
        assert!(admit("b", &wait, Duration::from_secs(19)), "another sandbox");
        assert!(admit("a", &wait, Duration::from_secs(30)), "it came again");
        let last = Refusal::new(code::NOT_AVAILABLE, reason::NOT_SYNCED, "no");
        assert!(admit("a", &last, Duration::from_secs(30)) && admit("a", &last, Duration::from_secs(30)));
    }
}
