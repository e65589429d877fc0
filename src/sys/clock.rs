//! What time is it, as the farm's rows have it?

use std::time::{SystemTime, UNIX_EPOCH};

/// Returns the milliseconds since 1970, UTC.
pub(crate) fn now_ms() -> i64 {
    ms_of(SystemTime::now())
}

/// Returns a time as milliseconds since 1970; one before that is 0.
pub(crate) fn ms_of(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
