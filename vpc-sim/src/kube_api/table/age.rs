//! Ages as kubectl writes them.

use super::super::clock;

/// The age of a time stamp, or `<unknown>`.
pub(super) fn since(stamp: &str) -> String {
    clock::seconds_since(stamp).map_or_else(|| "<unknown>".to_owned(), human)
}

/// Two units at most, fewer the older: `90s`, `5m30s`, `20m`, `3h20m`, `25h`, `3d4h`, `40d`.
fn human(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let (days, years) = (hours / 24, hours / 24 / 365);
    let two = |first: i64, unit: &str, second: i64, small: &str| match second {
        0 => format!("{first}{unit}"),
        second => format!("{first}{unit}{second}{small}"),
    };
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if days < 8 => two(days, "d", hours % 24, "h"),
        () if days < 2 * 365 => format!("{days}d"),
        () if years < 8 => two(years, "y", days % 365, "d"),
        () => format!("{years}y"),
    }
}

#[cfg(test)]
mod tests {
    use super::human;

    #[test]
    fn ages() {
        for (seconds, expected) in [
            (-5, "0s"),
            (119, "119s"),
            (120, "2m"),
            (330, "5m30s"),
            (1200, "20m"),
            (3 * 3600 + 1200, "3h20m"),
            (25 * 3600, "25h"),
            (76 * 3600, "3d4h"),
            (40 * 86400, "40d"),
            (800 * 86400, "2y70d"),
        ] {
            assert_eq!(human(seconds), expected);
        }
    }
}
