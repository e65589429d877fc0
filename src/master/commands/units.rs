//! Pure: formats durations, times, sizes and counts.

use chrono::{DateTime, SecondsFormat};

const SECOND: i64 = 1000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// Formats a duration in milliseconds: `40 s`, `5 min`, `2 h 10 min`, `3 d 4 h`.
pub(super) fn span(ms: i64) -> String {
    let two = |big: i64, big_name: &str, small: i64, small_name: &str| {
        let (first, rest) = (ms / big, ms % big / small);
        match rest {
            0 => format!("{first} {big_name}"),
            rest => format!("{first} {big_name} {rest} {small_name}"),
        }
    };
    match ms {
        ..MINUTE => format!("{} s", ms.max(0) / SECOND),
        MINUTE..HOUR => format!("{} min", ms / MINUTE),
        HOUR..DAY => two(HOUR, "h", MINUTE, "min"),
        DAY.. => two(DAY, "d", HOUR, "h"),
    }
}

/// Formats a time in milliseconds since 1970 as RFC 3339, in UTC and without fractions.
pub(super) fn time(ms: i64) -> String {
    DateTime::from_timestamp_millis(ms).map_or_else(
        || ms.to_string(),
        |time| time.to_rfc3339_opts(SecondsFormat::Secs, true),
    )
}

/// Formats a size in bytes: `700 B`, `1.5 MiB`.
pub(super) fn size(bytes: i64) -> String {
    let mut unit = "B";
    let (mut whole, mut tenths) = (bytes, 0);
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if whole < 1024 {
            break;
        }
        tenths = whole % 1024 * 10 / 1024;
        whole /= 1024;
        unit = larger;
    }
    match (unit, tenths) {
        ("B", _) | (_, 0) => format!("{whole} {unit}"),
        (unit, tenths) => format!("{whole}.{tenths} {unit}"),
    }
}

/// Formats a count: `1 build`, `2 builds`.
pub(super) fn count(number: usize, thing: &str) -> String {
    match number {
        1 => format!("1 {thing}"),
        number => format!("{number} {thing}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_at_most_two_units() {
        for (ms, text) in [
            (-5, "0 s"),
            (59_999, "59 s"),
            (5 * MINUTE + 1, "5 min"),
            (2 * HOUR, "2 h"),
            (2 * HOUR + 10 * MINUTE, "2 h 10 min"),
            (3 * DAY + 4 * HOUR + MINUTE, "3 d 4 h"),
            (400 * DAY, "400 d"),
        ] {
            assert_eq!(span(ms), text);
        }
    }

    #[test]
    fn sizes_times_and_counts_are_formatted() {
        let sizes = [0, 1023, 1024, 1536, 5 << 30].map(size);
        assert_eq!(sizes, ["0 B", "1023 B", "1 KiB", "1.5 KiB", "5 GiB"]);
        assert_eq!(time(1_118_827_212_820), "2005-06-15T09:20:12Z");
        assert_eq!(
            (count(1, "job"), count(0, "job")),
            ("1 job".into(), "0 jobs".into())
        );
    }
}
