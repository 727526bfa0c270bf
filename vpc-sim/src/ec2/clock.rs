//! The cloud's time: given to the state machine, never taken by it.

use std::fmt;
use std::ops::Add;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};

/// A point in time, as the span since 1970-01-01T00:00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SimTime(pub Duration);

impl SimTime {
    /// How long after `earlier` this is; zero when it is before it.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// RFC 3339 in whole seconds, as the metadata service writes times.
    pub fn to_seconds_text(self) -> String {
        let text = self.to_string();
        text.split_once('.').map_or(text.clone(), |(seconds, _)| format!("{seconds}Z"))
    }
}

impl Add<Duration> for SimTime {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }
}

impl fmt::Display for SimTime {
    /// RFC 3339 in UTC with milliseconds, as EC2 writes times.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (year, month, day) = civil_from_days(seconds / 86_400);
        let of_day = seconds % 86_400;
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
            of_day / 3600,
            of_day / 60 % 60,
            of_day % 60,
            self.0.subsec_millis()
        )
    }
}

impl Serialize for SimTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Year, month and day of a number of days since 1970-01-01, by counting in
/// eras of 400 years that begin on a first of March.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

/// Where the cloud takes the time from.
pub trait Clock: Send + Sync {
    /// The time now. Never goes back.
    fn now(&self) -> SimTime;
}

/// The machine's clock at the start, and steadily on from there.
#[derive(Debug)]
pub struct SteadyClock {
    began_at: SimTime,
    began: Instant,
}

impl SteadyClock {
    /// Reads the wall clock, once.
    pub fn new() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
        Self { began_at: SimTime(since_epoch.unwrap_or_default()), began: Instant::now() }
    }
}

impl Default for SteadyClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SteadyClock {
    fn now(&self) -> SimTime {
        self.began_at + self.began.elapsed()
    }
}

/// A clock that goes only when it is told to.
#[derive(Debug, Default)]
pub struct HandClock(Mutex<SimTime>);

impl HandClock {
    /// A clock that stands at `time`.
    pub fn at(time: SimTime) -> Self {
        Self(Mutex::new(time))
    }

    /// Moves the clock on.
    pub fn advance(&self, span: Duration) {
        let mut time = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *time = *time + span;
    }
}

impl Clock for HandClock {
    fn now(&self) -> SimTime {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339() {
        for (millis, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_999, "2024-02-29T23:59:59.999Z"),
            (1_709_251_200_000, "2024-03-01T00:00:00.000Z"),
            (4_102_444_799_000, "2099-12-31T23:59:59.000Z"),
        ] {
            let time = SimTime(Duration::from_millis(millis));
            assert_eq!(time.to_string(), expected);
            assert_eq!(time.to_seconds_text(), format!("{}Z", &expected[..19]));
        }
    }

    #[test]
    fn a_steady_clock_does_not_go_back() {
        let clock = SteadyClock::new();
        let first = clock.now();
        assert!(clock.now() >= first);
        assert!(first.to_string().starts_with("20"));
    }
}
