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

/// A job in the queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueuedJob {
    pub(crate) id: i64,
    pub(crate) score: i64,
    pub(crate) estimated_ms: i64,
    /// The row id of the processor.
    pub(crate) processor: i64,
    pub(crate) virtualized: bool,
}

impl QueuedJob {
    /// Returns whether both jobs need the same builders, and this one is dispatched first.
    pub(crate) fn goes_before(&self, other: &QueuedJob) -> bool {
        let same_builders =
            (self.processor, self.virtualized) == (other.processor, other.virtualized);
        // The older job first, if the scores are equal.
        same_builders && (-self.score, self.id) < (-other.score, other.id)
    }
}

/// A job on a builder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Running {
    pub(crate) started_at: i64,
    pub(crate) estimated_ms: i64,
}

/// Returns when the waiting job `me` will start; `None` if there is no builder for it.
///
/// `queue` is all waiting jobs, including `me` and jobs for other builders. `pool` is the number of
/// builders for the job: enabled, automatic, with its processor and virtualization. `running` is
/// the jobs on these builders.
pub(crate) fn starts_at(
    now: i64,
    me: &QueuedJob,
    queue: &[QueuedJob],
    running: &[Running],
    pool: usize,
) -> Option<i64> {
    if pool == 0 {
        return None;
    }
    let ahead: Vec<&QueuedJob> = queue.iter().filter(|other| other.goes_before(me)).collect();
    let work = ahead
        .iter()
        .fold(0_i64, |total, job| total.saturating_add(job.estimated_ms));
    // With fewer jobs than builders, the other builders do not speed them up.
    let share = i64::try_from(ahead.len().min(pool))
        .unwrap_or(i64::MAX)
        .max(1);
    let head = match running.len() < pool {
        true => 0,
        false => first_free(now, running),
    };
    let delay = head.saturating_add(work / share);
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

    fn job(id: i64, score: i64, minutes: i64) -> QueuedJob {
        QueuedJob {
            id,
            score,
            estimated_ms: minutes * MINUTE_MS,
            processor: 1,
            virtualized: false,
        }
    }

    fn running(ago: i64, minutes: i64) -> Running {
        Running {
            started_at: NOW - ago * MINUTE_MS,
            estimated_ms: minutes * MINUTE_MS,
        }
    }

    #[test]
    fn a_start_follows_from_the_work_ahead_and_the_free_builders() {
        let me = job(5, 100, 3);
        let elsewhere = |id| QueuedJob {
            processor: 2,
            ..job(id, 900, 60)
        };
        let in_a_machine = QueuedJob {
            virtualized: true,
            ..job(9, 900, 60)
        };
        let three = [job(1, 200, 4), job(2, 100, 6), job(3, 101, 8)];
        let behind = [me, job(6, 100, 60), job(2, 99, 60)];
        let others = [elsewhere(1), in_a_machine];
        let busy = [running(1, 10), running(2, 4)];
        let late = [running(9, 4), running(0, 30)];
        let (five_secs, two_mins) = (DISPATCH_MS, OVERDUE_MS);
        for (queue, running, pool, delay) in [
            (&[me][..], &[][..], 0, None),
            (&[me], &[], 1, Some(five_secs)),
            (&behind, &[], 1, Some(five_secs)),
            (&others, &[], 1, Some(five_secs)),
            (&three, &[], 1, Some(18 * MINUTE_MS)),
            (&three, &[], 2, Some(9 * MINUTE_MS)),
            // Three jobs occupy three builders of nine.
            (&three, &[], 9, Some(6 * MINUTE_MS)),
            (&[me], &busy, 3, Some(five_secs)),
            (&[me], &busy, 2, Some(2 * MINUTE_MS)),
            (&three, &busy, 2, Some(11 * MINUTE_MS)),
            (&[me], &late, 2, Some(two_mins)),
        ] {
            let given = format!("{queue:?} {running:?} {pool}");
            let expect = delay.map(|delay| NOW + delay);
            assert_eq!(starts_at(NOW, &me, queue, running, pool), expect, "{given}");
        }
    }
}
