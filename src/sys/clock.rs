//! What time is it, as the farm's rows have it, and when was something used?

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Returns the milliseconds since 1970, UTC.
pub(crate) fn now_ms() -> i64 {
    ms_of(SystemTime::now())
}

/// Returns a time as milliseconds since 1970; one before that is 0.
pub(crate) fn ms_of(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Returns how long after 1970 something was used last. A time that has not come yet says nothing,
/// and counts as longest ago.
pub(crate) fn used_at(time: SystemTime) -> Duration {
    let past = time <= SystemTime::now();
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    if past { since } else { Duration::ZERO }
}
