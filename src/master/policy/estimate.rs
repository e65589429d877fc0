//! Pure: estimates how long a build takes and when it starts (docs/farm.md §2.4, §3.10).
//!
//! The duration is that of the last build of the same source, else it depends on the source's size.
//! The start depends on the work ahead, divided among the builders that could do it. Times are
//! milliseconds since 1970, durations milliseconds. No decision depends on an estimate.

const MINUTE_MS: i64 = 60 * 1000;
/// The duration if neither a previous build nor the size is known.
const UNKNOWN_MS: i64 = 5 * MINUTE_MS;
/// Bytes of source files per minute of build time: 6 KiB a second.
const BYTES_A_MINUTE: i64 = 6 * 1024 * 60;
/// The remaining time assumed for a job that exceeds its estimate.
const OVERDUE_MS: i64 = 120 * 1000;
/// The minimum time until a start.
const DISPATCH_MS: i64 = 5 * 1000;

/// Returns the estimated duration of a build. `previous` is the duration of the newest successful
/// build of the same source name on the same architecture; `source_bytes` is the size of its files.
pub(crate) fn duration_ms(previous: Option<i64>, source_bytes: Option<i64>) -> i64 {
    match (previous, source_bytes) {
        (Some(took), _) if took > 0 => took,
        (_, Some(bytes)) if bytes > 0 => (bytes / BYTES_A_MINUTE + 1).saturating_mul(MINUTE_MS),
        _ => UNKNOWN_MS,
    }
}

/// The waiting jobs that are dispatched before another one, to the same builders.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WorkAhead {
    pub(crate) jobs: i64,
    /// The sum of their durations.
    pub(crate) work_ms: i64,
}

/// A job on a builder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Running {
    pub(crate) started_at: i64,
    pub(crate) estimated_ms: i64,
}

/// Returns when a waiting job will start; `None` if there is no builder for it.
///
/// `pool` is the number of builders for the job: enabled, automatic, with its processor and
/// virtualization. `running` is the jobs on these builders.
pub(crate) fn starts_at(
    now: i64,
    ahead: WorkAhead,
    running: &[Running],
    pool: usize,
) -> Option<i64> {
    if pool == 0 {
        return None;
    }
    // With fewer jobs than builders, the other builders do not speed them up.
    let builders = i64::try_from(pool).unwrap_or(i64::MAX);
    let share = ahead.jobs.min(builders).max(1);
    let head = match running.len() < pool {
        true => 0,
        false => first_free(now, running),
    };
    let delay = head.saturating_add(ahead.work_ms / share);
    Some(now.saturating_add(delay.max(DISPATCH_MS)))
}

/// Returns the time until the first of these jobs ends.
fn first_free(now: i64, running: &[Running]) -> i64 {
    let left = running.iter().map(|job| {
        let ends_at = job.started_at.saturating_add(job.estimated_ms);
        match ends_at.saturating_sub(now) {
            left @ 1.. => left,
            _ => OVERDUE_MS,
        }
    });
    left.min().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_000;

    #[test]
    fn a_duration_follows_from_the_previous_build_or_the_size() {
        const KIB: i64 = 1024;
        for (previous, bytes, minutes) in [
            (Some(7 * MINUTE_MS), Some(900 * KIB), 7),
            (None, Some(1), 1),
            (None, Some(359 * KIB), 1),
            (None, Some(360 * KIB), 2),
            (None, Some(10_800 * KIB), 31),
            (None, None, 5),
            (None, Some(0), 5),
            // The clock was set back during the previous build.
            (Some(-3), Some(1), 1),
        ] {
            let given = format!("{previous:?} {bytes:?}");
            assert_eq!(duration_ms(previous, bytes), minutes * MINUTE_MS, "{given}");
        }
        assert!(duration_ms(None, Some(i64::MAX)) > 0);
    }

    fn running(ago: i64, minutes: i64) -> Running {
        Running {
            started_at: NOW - ago * MINUTE_MS,
            estimated_ms: minutes * MINUTE_MS,
        }
    }

    #[test]
    fn a_start_follows_from_the_work_ahead_and_the_free_builders() {
        let ahead = |jobs: i64, minutes: i64| WorkAhead {
            jobs,
            work_ms: minutes * MINUTE_MS,
        };
        let (none, three) = (ahead(0, 0), ahead(3, 18));
        let busy = [running(1, 10), running(2, 4)];
        let late = [running(9, 4), running(0, 30)];
        let (five_secs, two_mins) = (DISPATCH_MS, OVERDUE_MS);
        for (ahead, running, pool, delay) in [
            (none, &[][..], 0, None),
            (none, &[], 1, Some(five_secs)),
            (three, &[], 1, Some(18 * MINUTE_MS)),
            (three, &[], 2, Some(9 * MINUTE_MS)),
            // Three jobs occupy three builders of nine.
            (three, &[], 9, Some(6 * MINUTE_MS)),
            (none, &busy, 3, Some(five_secs)),
            (none, &busy, 2, Some(2 * MINUTE_MS)),
            (three, &busy, 2, Some(11 * MINUTE_MS)),
            (none, &late, 2, Some(two_mins)),
        ] {
            let given = format!("{ahead:?} {running:?} {pool}");
            let expect = delay.map(|delay| NOW + delay);
            assert_eq!(starts_at(NOW, ahead, running, pool), expect, "{given}");
        }
    }
}
