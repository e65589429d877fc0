//! Pure: how long will a build take, and when will it start?
//!
//! Guesses, for people (docs/farm.md §2.4, §3.10): the time the last build of the same source took,
//! else its size; and for a waiting job the work ahead of it, shared by the builders that could do
//! it. Times are milliseconds since 1970, durations milliseconds. No decision rests on them.

const MINUTE_MS: i64 = 60 * 1000;
/// For a source of which nothing is known.
const UNKNOWN_MS: i64 = 5 * MINUTE_MS;
/// Bytes of source that take a minute: 6 KiB a second.
const BYTES_A_MINUTE: i64 = 6 * 1024 * 60;
/// What a job is given to end that should have ended by now.
const OVERDUE_MS: i64 = 120 * 1000;
/// A dispatch takes that long at least.
const DISPATCH_MS: i64 = 5 * 1000;

/// Returns how long a build will take. `previous` is what the newest successful build of the same
/// source name took on the same architecture, `source_bytes` the size of its files.
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
    /// The processor it needs, by the number of its row.
    pub(crate) processor: i64,
    pub(crate) virtualized: bool,
}

impl QueuedJob {
    /// Tells whether this job is dispatched before `other` wherever both could be.
    pub(crate) fn goes_before(&self, other: &QueuedJob) -> bool {
        let same_builders =
            (self.processor, self.virtualized) == (other.processor, other.virtualized);
        // Of equals, the older.
        same_builders && (-self.score, self.id) < (-other.score, other.id)
    }
}

/// A job on a builder.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Running {
    pub(crate) started_at: i64,
    pub(crate) estimated_ms: i64,
}

/// Returns when a waiting job will start; none if no builder could take it.
///
/// `queue` is all that waits, `me` itself and jobs for other builders included. `pool` counts the
/// builders that could take the job: enabled, automatic, with its processor and virtualization;
/// `running` is what these are busy with.
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
        .fold(0_i64, |sum, job| sum.saturating_add(job.estimated_ms));
    // Fewer jobs than builders are not done sooner by the rest of the builders.
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

/// Returns how long it is until the first of these jobs ends.
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
    fn durations() {
        const KIB: i64 = 1024;
        for (previous, bytes, minutes) in [
            (Some(7 * MINUTE_MS), Some(900 * KIB), 7),
            (None, Some(1), 1),
            (None, Some(359 * KIB), 1),
            (None, Some(360 * KIB), 2),
            (None, Some(10_800 * KIB), 31),
            (None, None, 5),
            (None, Some(0), 5),
            // A clock that was set back.
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
    fn starts() {
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
            // Three jobs keep three builders busy, however many there are.
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
