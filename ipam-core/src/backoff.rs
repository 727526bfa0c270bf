//! What a failed EC2 call means for the next one.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Now;

/// The class of an EC2 failure; all that the pool's decisions depend on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// A server error, a time-out, or a state that passes by itself.
    Retry,
    /// The account's token bucket is empty.
    Throttled,
    /// The subnet has no free address, or no free /28.
    Exhausted,
    /// A limit of the instance type; our view of the ENIs is probably stale.
    Limit,
    /// The credentials may not make this call.
    Permission,
    /// Something that an operator must put right: a subnet or a security group
    /// that does not exist, a wrong endpoint.
    Config,
    /// The object is gone, or not yet visible.
    NotFound,
    /// A request that we should not have made.
    Bug,
}

/// The longest pause of a node that is throttled and first in line.
const ALONE_AT_MOST: Duration = Duration::from_secs(10);

impl FailureClass {
    /// Its name in metrics and events.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Throttled => "throttled",
            Self::Exhausted => "exhausted",
            Self::Limit => "limit",
            Self::Permission => "permission",
            Self::Config => "config",
            Self::NotFound => "not_found",
            Self::Bug => "bug",
        }
    }

    /// The shortest and the longest pause after a failure of this class.
    ///
    /// Throttling has the longest cap: 5,000 nodes share one bucket that
    /// refills five calls a second, and retrying sooner serves nobody.
    const fn pauses(self) -> (Duration, Duration) {
        match self {
            Self::Retry => (Duration::from_millis(300), Duration::from_secs(20)),
            Self::Throttled => (Duration::from_millis(500), Duration::from_secs(300)),
            Self::Exhausted => (Duration::from_secs(30), Duration::from_secs(120)),
            Self::Limit => (Duration::from_secs(2), Duration::from_secs(120)),
            Self::Permission | Self::Config => (Duration::from_secs(10), Duration::from_secs(120)),
            Self::NotFound => (Duration::from_millis(500), Duration::from_secs(30)),
            Self::Bug => (Duration::from_secs(10), Duration::from_secs(300)),
        }
    }
}

/// A failed call, as far as the pool is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Failure {
    /// Its class.
    pub class: FailureClass,
    /// Whether EC2 may have done it all the same (a time-out, a server error).
    pub outcome_unknown: bool,
    /// For [`FailureClass::Exhausted`]: it was a /28 that was missing, single
    /// addresses may still be there.
    pub prefixes_only: bool,
}

impl Failure {
    /// A failure of `class` that certainly had no effect.
    pub const fn of(class: FailureClass) -> Self {
        Self { class, outcome_unknown: false, prefixes_only: false }
    }
}

/// A pause after failures, grown by decorrelated jitter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backoff {
    /// The class of the last failure.
    pub class: FailureClass,
    /// When the next attempt may be made.
    pub until: Now,
    pause: Duration,
}

impl Backoff {
    /// The pause after one more failure: between the class's shortest pause
    /// and three times the previous one, capped. `dice` in `[0, 1)`.
    pub fn after(previous: Option<&Self>, class: FailureClass, now: Now, dice: f64) -> Self {
        let (base, cap) = class.pauses();
        let before = previous.filter(|backoff| backoff.class == class).map_or(base, |backoff| backoff.pause);
        let span = (before.as_secs_f64() * 3.0 - base.as_secs_f64()).max(0.0);
        let pause = Duration::from_secs_f64(base.as_secs_f64() + span * dice.clamp(0.0, 1.0)).min(cap);
        Self { class, until: now + pause, pause }
    }

    /// The longest pause of [`Self::in_line`].
    pub(crate) fn longest_in_line(retry: Duration) -> Duration {
        ALONE_AT_MOST + retry * 2
    }

    /// The pause after one more throttled call, where the line of nodes that
    /// wait makes it worth to wait for about `retry`.
    ///
    /// Nobody in line: somebody else takes the account's tokens, and one comes
    /// by often enough to be tried for every few seconds.
    pub fn in_line(previous: Option<&Self>, retry: Duration, now: Now, dice: f64) -> Self {
        let class = FailureClass::Throttled;
        let (base, _) = class.pauses();
        let base = base + retry / 2;
        let before = previous.filter(|backoff| backoff.class == class).map_or(base, |backoff| backoff.pause);
        let span = (before.as_secs_f64() * 3.0 - base.as_secs_f64()).max(0.0);
        let pause = Duration::from_secs_f64(base.as_secs_f64() + span * dice.clamp(0.0, 1.0));
        let pause = pause.min(Self::longest_in_line(retry));
        Self { class, until: now + pause, pause }
    }
}

#[cfg(test)]
mod tests {
    use super::{Backoff, FailureClass};
    use crate::Now;
    use std::time::Duration;

    #[test]
    fn grows_to_the_cap_and_never_below_the_base() {
        let mut backoff = None;
        let mut pauses = Vec::new();
        for _ in 0..40 {
            let next = Backoff::after(backoff.as_ref(), FailureClass::Throttled, Now::default(), 0.99);
            pauses.push(next.pause);
            backoff = Some(next);
        }
        assert!(pauses.is_sorted());
        assert_eq!(pauses.last(), Some(&Duration::from_secs(300)));
        let low = Backoff::after(backoff.as_ref(), FailureClass::Throttled, Now::default(), 0.0);
        assert_eq!(low.pause, Duration::from_millis(500));
    }

    #[test]
    fn another_class_begins_anew() {
        let slow = Backoff::after(None, FailureClass::Exhausted, Now::default(), 0.5);
        let quick = Backoff::after(Some(&slow), FailureClass::Retry, Now::default(), 0.5);
        assert!(quick.pause < Duration::from_secs(1));
    }
}
