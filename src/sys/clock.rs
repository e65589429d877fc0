//! Times as milliseconds since 1970, as the farm's rows hold them, and a clock that never jumps.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// Returns the milliseconds since 1970, UTC.
pub(crate) fn now_ms() -> i64 {
    ms_of(SystemTime::now())
}

/// Returns a time as milliseconds since 1970; earlier times are 0.
pub(crate) fn ms_of(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Returns the time since the host was started. Unlike the time of day, nobody sets this clock.
/// Unlike `Instant`, it runs on while the host is suspended.
pub(crate) fn since_boot() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .expect("Linux has this clock")
        .into()
}

/// Returns the time since 1970 at which a cache entry was last used. A time in the future is
/// invalid, and counts as the oldest.
pub(crate) fn used_at(time: SystemTime) -> Duration {
    let past = time <= SystemTime::now();
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    if past { since } else { Duration::ZERO }
}
