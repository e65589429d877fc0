//! Pure: parses numbers, sizes and durations of the configuration.

use std::time::Duration;

/// Parses a number of bytes: digits and an optional `K`, `M` or `G` (also `KiB`, `MiB`, `GiB`), all
/// powers of 1024.
pub(super) fn bytes(text: &str) -> Option<u64> {
    with_unit(text, |unit| match unit {
        "" => Some(1),
        "k" | "kib" => Some(1 << 10),
        "m" | "mib" => Some(1 << 20),
        "g" | "gib" => Some(1 << 30),
        _ => None,
    })
}

/// Parses a duration: digits in seconds, or in minutes or hours if `m` or `h` follows.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let seconds = with_unit(text, |unit| match unit {
        "" | "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        _ => None,
    });
    seconds.map(Duration::from_secs)
}

/// Parses decimal digits only: no sign, no space.
pub(super) fn digits(text: &str) -> Option<u64> {
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

fn with_unit(text: &str, factor: impl Fn(&str) -> Option<u64>) -> Option<u64> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    digits(number)?.checked_mul(factor(&unit.trim().to_ascii_lowercase())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_parsed() {
        for (text, expected) in [
            ("0", Some(0)),
            ("512", Some(512)),
            ("2K", Some(2048)),
            ("2 KiB", Some(2048)),
            ("200MiB", Some(200 << 20)),
            ("1g", Some(1 << 30)),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("1.5G", None),
            ("1T", None),
            ("18446744073709551615G", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
        for (text, expected) in [
            ("90", Some(90)),
            ("90s", Some(90)),
            ("150m", Some(9000)),
            ("2 H", Some(7200)),
            ("1d", None),
        ] {
            assert_eq!(duration(text), expected.map(Duration::from_secs), "{text}");
        }
    }
}
