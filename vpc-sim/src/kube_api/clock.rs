//! Time stamps as the API writes them.

use std::time::{SystemTime, UNIX_EPOCH};

use k8s_openapi::jiff::Timestamp;

/// The current time, to the second, as in `creationTimestamp`.
pub(super) fn now() -> String {
    after(0)
}

/// The time `seconds` from now, to the second.
pub(super) fn after(seconds: i64) -> String {
    stamp(unix_seconds().saturating_add(seconds))
}

/// Unix seconds as a time stamp.
pub(super) fn stamp(seconds: i64) -> String {
    let time = Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX);
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Unix seconds and nanoseconds as a time stamp with microseconds.
pub(super) fn micro_stamp(seconds: i64, nanoseconds: i32) -> String {
    let time = Timestamp::new(seconds, nanoseconds).unwrap_or(Timestamp::MAX);
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Seconds since `stamp` (RFC 3339), or `None` if it cannot be read.
pub(super) fn seconds_since(stamp: &str) -> Option<i64> {
    let then: Timestamp = stamp.parse().ok()?;
    Some(unix_seconds() - then.as_second())
}

fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
