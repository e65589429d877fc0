//! Moves jobs from the queue to a builder and off the builder again.
//!
//! Each change is one transaction, which keeps three invariants (docs/farm.md §1.4): a builder with
//! a job is DIRTY; a job is RUNNING or CANCELLING if and only if it has a builder; the build of
//! such a job is BUILDING, GATHERING or CANCELLING.

use std::cmp::Reverse;

use super::attempts::{self, AttemptEnd};
use super::builders::Builder;
use super::bulk;
use super::leases::{Fence, hold, hold_if};
use super::numbers::{BUILDING, CANCELLING, CLEAN, NEEDS_BUILD, PUBLISHED, RUNNING, WAITING};
use crate::db::{Engine, Error, Tx, Value, params};
use crate::master::model::{self, BuildState, CleanStatus};
use crate::sys::random;

/// The length of the random part of a cookie, in bytes.
const NONCE_BYTES: usize = 16;

/// The ids of a claimed job and its build, and the number of this attempt, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) queue: i64,
    pub(crate) build: i64,
    pub(crate) attempt: i64,
}

/// The end of a build, and of its last attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End<'a> {
    pub(crate) state: BuildState,
    pub(crate) attempt: AttemptEnd<'a>,
}

/// The condition that queue row `q` may be built now; `$1` is now. The source of a private archive
/// must be published, or no builder could fetch it (docs/farm.md §2.12). This is a subquery because
/// with joins the planner may abandon the order of the index.
fn claimable() -> String {
    format!(
        "q.status = {WAITING} AND q.not_before <= $1
        AND (SELECT b.state = {NEEDS_BUILD} AND t.enabled AND a.enabled
                 AND (NOT a.private OR EXISTS (
                     SELECT 1 FROM publication p
                     WHERE p.source_id = b.source_id AND p.series_id = t.series_id
                       AND p.archive_id = a.id AND p.status = {PUBLISHED}))
             FROM build b
             JOIN arch_series t ON t.id = b.arch_series_id
             JOIN archive a ON a.id = b.archive_id
             WHERE b.id = q.build_id)"
    )
}

/// The condition that queue row `q` may go to the builder `builder`: its build has not ended
/// there with BUILDERFAIL, or it has on all other builders in service that could take it.
fn not_kept_off(builder: &str) -> String {
    let failed_here = attempts::has_failed_on(builder);
    let failed_there = attempts::has_failed_on("n.id");
    format!(
        "(NOT {failed_here} OR NOT EXISTS (
             SELECT 1 FROM builder_processor c JOIN builder n ON n.id = c.builder_id
             WHERE c.processor_id = q.processor_id AND n.virtualized = q.virtualized
               AND n.active AND n.builderok AND NOT n.manual AND NOT {failed_there}))"
    )
}

/// The condition that a builder which emulates the processor of queue row `q` may build it: no
/// builder in service runs the processor itself, or the job has waited since `since` or longer.
fn may_emulate(since: &str) -> String {
    format!(
        "(q.created_at <= {since} OR NOT EXISTS (
             SELECT 1 FROM builder_processor c JOIN builder n ON n.id = c.builder_id
             WHERE c.processor_id = q.processor_id AND NOT c.emulated
               AND n.virtualized = q.virtualized AND n.active AND n.builderok
               AND NOT n.manual))"
    )
}

/// A waiting job that a builder can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BestJob {
    queue: i64,
    /// The builder emulates its processor.
    emulated: bool,
}

/// [`best_jobs`] returns at most this many jobs. Other builders may claim the first ones at the
/// same time.
const BEST_JOBS: usize = 16;

/// Returns the best jobs that a builder can run: the highest scores first, then the oldest jobs. A
/// job queued after `emulate_since` is left to builders that run its processor without emulation,
/// if there are any. The caller reads, so that a long search blocks nobody.
pub(crate) fn best_jobs(
    tx: &mut Tx<'_>,
    builder: &Builder,
    now: i64,
    emulate_since: i64,
) -> Result<Vec<BestJob>, Error> {
    let mut best: Vec<(i64, BestJob)> = Vec::new();
    for processor in &builder.processors {
        let emulated = processor.emulated;
        let mut params = params![now, builder.virtualized, processor.id, builder.id].to_vec();
        if emulated {
            params.push(emulate_since.into());
        }
        for row in tx.query(&best_jobs_of_processor(emulated), &params)? {
            let queue = row.get(1)?;
            best.push((row.get(0)?, BestJob { queue, emulated }));
        }
    }
    best.sort_unstable_by_key(|(score, job)| (Reverse(*score), job.queue));
    best.truncate(BEST_JOBS);
    Ok(best.into_iter().map(|(_, job)| job).collect())
}

/// Claims the first of these jobs that still waits. The job becomes RUNNING with a new cookie, its
/// build BUILDING, the builder DIRTY. `None` if no job is left, if the builder must not have one,
/// or if another process has taken the builder over.
///
/// The caller commits before its first call to the slave. If the process dies in between, the slave
/// does not know the job, and the next look at the builder resets it.
pub(crate) fn claim(
    tx: &mut Tx<'_>,
    fence: Fence,
    jobs: &[BestJob],
    now: i64,
    emulate_since: i64,
) -> Result<Option<Claim>, Error> {
    let eligible = format!(
        "builderok AND NOT manual AND clean_status = {CLEAN}
        AND NOT EXISTS (SELECT 1 FROM build_queue WHERE builder_id = $1)"
    );
    if jobs.is_empty() || !hold_if(tx, fence, &eligible)? {
        return Ok(None);
    }
    for job in jobs {
        let sql = format!(
            "SELECT q.id FROM build_queue q WHERE q.id = $2 AND {} {{SKIP LOCKED}}",
            may_have(job.emulated, "$3", "$4")
        );
        let mut params = params![now, job.queue, fence.builder].to_vec();
        if job.emulated {
            params.push(emulate_since.into());
        }
        if tx.query_opt(&sql, &params)?.is_some() {
            return start(tx, fence, job.queue, now).map(Some);
        }
    }
    Ok(None)
}

/// Gives a waiting job to the builder. This transaction has locked the rows of both.
fn start(tx: &mut Tx<'_>, fence: Fence, queue: i64, now: i64) -> Result<Claim, Error> {
    let nonce = random::word(NONCE_BYTES);
    let row = tx.query_one(
        &format!(
            "UPDATE build_queue SET status = {RUNNING}, builder_id = $2, buildstart = $3,
                 attempt = attempt + 1, nonce = $4, logtail = NULL, cancel_by = NULL
             WHERE id = $1 RETURNING build_id, attempt"
        ),
        &params![queue, fence.builder, now, &nonce],
    )?;
    let claim = Claim {
        queue,
        build: row.get(0)?,
        attempt: row.get(1)?,
    };
    tx.execute(
        &format!(
            "UPDATE build SET state = {BUILDING}, builder_id = $2, started_at = $3,
                 finished_at = NULL, first_dispatched_at = COALESCE(first_dispatched_at, $3)
             WHERE id = $1"
        ),
        &params![claim.build, fence.builder, now],
    )?;
    set_clean_status(tx, fence, CleanStatus::Dirty, now)?;
    let cookie = model::cookie(claim.build, queue, claim.attempt, Some(&nonce));
    attempts::begin(tx, claim.build, fence.builder, &cookie, now)?;
    Ok(claim)
}

/// Sets the clean status of a builder whose row this transaction has locked.
fn set_clean_status(
    tx: &mut Tx<'_>,
    fence: Fence,
    clean: CleanStatus,
    now: i64,
) -> Result<(), Error> {
    let sql = "UPDATE builder SET clean_status = $3, clean_changed_at = $2 WHERE id = $1";
    tx.execute(sql, &params![fence.builder, now, clean])
        .map(drop)
}

/// The condition that the builder `builder` may have queue row `q` now; `$1` is now. If the builder
/// emulates the processor, `since` is the time since which a job must have waited.
fn may_have(emulated: bool, builder: &str, since: &str) -> String {
    let condition = format!("{} AND {}", claimable(), not_kept_off(builder));
    match emulated {
        true => format!("{condition} AND {}", may_emulate(since)),
        false => condition,
    }
}

/// The query for the best jobs of a processor: `$1` is now, `$2` the `virtualized` flag, `$3` the
/// processor, `$4` the builder, `$5` as in [`may_have`]. With one processor, the index gives the
/// order, and the search ends with the last row.
pub(super) fn best_jobs_of_processor(emulated: bool) -> String {
    format!(
        "SELECT q.lastscore, q.id FROM build_queue q
         WHERE q.virtualized = $2 AND q.processor_id = $3 AND {}
         ORDER BY q.lastscore DESC, q.id LIMIT {BEST_JOBS}",
        may_have(emulated, "$4", "$5")
    )
}

/// Returns a job from its builder to the queue. It is not claimed again before `not_before`. Score,
/// age and log tail stay. The builder stays DIRTY. `end` is the end of the attempt; `None` removes
/// the attempt, because the slave never heard of it.
///
/// False if the builder does not have the job, if the job is being cancelled, or if another process
/// has taken the builder over. The next look at the builder sees the cancel.
pub(crate) fn reset(
    tx: &mut Tx<'_>,
    fence: Fence,
    queue: i64,
    not_before: i64,
    end: Option<&AttemptEnd<'_>>,
) -> Result<bool, Error> {
    if !hold(tx, fence)? {
        return Ok(false);
    }
    let sql = format!(
        "UPDATE build_queue SET status = {WAITING}, builder_id = NULL, buildstart = NULL,
            cancel_by = NULL, not_before = $3
        WHERE id = $1 AND builder_id = $2 AND status <> {CANCELLING} RETURNING build_id"
    );
    let Some(row) = tx.query_opt(&sql, &params![queue, fence.builder, not_before])? else {
        return Ok(false);
    };
    let build: i64 = row.get(0)?;
    tx.execute(
        "UPDATE build SET state = $2, builder_id = NULL, started_at = NULL, reason = $3,
             log_alias_id = COALESCE($4, log_alias_id)
         WHERE id = $1",
        &params![
            build,
            BuildState::NeedsBuild,
            end.and_then(|end| end.reason),
            end.and_then(|end| end.log_alias)
        ],
    )?;
    match end {
        Some(end) => attempts::end(tx, build, end)?,
        None => attempts::withdraw(tx, build)?,
    }
    Ok(true)
}

/// Ends a build and deletes its job. The builder stays DIRTY. False if the builder does not have
/// the job, or if another process has taken the builder over.
pub(crate) fn finish(
    tx: &mut Tx<'_>,
    fence: Fence,
    queue: i64,
    end: &End<'_>,
) -> Result<bool, Error> {
    let Some(build) = dequeue(tx, fence, queue)? else {
        return Ok(false);
    };
    let attempt = &end.attempt;
    tx.execute(
        "UPDATE build SET state = $2, dependencies = $3, log_alias_id = $4, leaf = $5,
             finished_at = $6, reason = $7
         WHERE id = $1",
        &params![
            build,
            end.state,
            attempt.dependencies,
            attempt.log_alias,
            attempt.leaf,
            attempt.at,
            attempt.reason
        ],
    )?;
    attempts::end(tx, build, attempt)?;
    Ok(true)
}

/// Ends a claimed build that must not be built, before the slave receives it. The builder is CLEAN
/// again, and no trace of the claim stays. False if the builder does not have the
/// job, or if another process has taken the builder over.
pub(crate) fn discard(
    tx: &mut Tx<'_>,
    fence: Fence,
    queue: i64,
    state: BuildState,
    why: &str,
    now: i64,
) -> Result<bool, Error> {
    let Some(build) = dequeue(tx, fence, queue)? else {
        return Ok(false);
    };
    tx.execute(
        "UPDATE build SET state = $2, finished_at = $3, dependencies = NULL, log_alias_id = NULL,
             leaf = NULL, builder_id = NULL, started_at = NULL, reason = $4,
             first_dispatched_at =
                 CASE WHEN first_dispatched_at < started_at THEN first_dispatched_at END
         WHERE id = $1",
        &params![build, state, now, why],
    )?;
    attempts::withdraw(tx, build)?;
    set_clean_status(tx, fence, CleanStatus::Clean, now)?;
    Ok(true)
}

/// Deletes a job and returns the id of its build. `None` if the builder does not have the job, or
/// if another process has taken the builder over.
fn dequeue(tx: &mut Tx<'_>, fence: Fence, queue: i64) -> Result<Option<i64>, Error> {
    if !hold(tx, fence)? {
        return Ok(None);
    }
    let sql = "DELETE FROM build_queue WHERE id = $1 AND builder_id = $2 RETURNING build_id";
    let row = tx.query_opt(sql, &params![queue, fence.builder])?;
    row.map(|row| row.get(0)).transpose()
}

/// Sets the state of a running build. False if the build is being cancelled, if the builder does
/// not have the job, or if another process has taken the builder over.
pub(crate) fn set_state(
    tx: &mut Tx<'_>,
    fence: Fence,
    queue: i64,
    state: BuildState,
) -> Result<bool, Error> {
    let sql = format!(
        "UPDATE build SET state = $3
        WHERE id = (SELECT build_id FROM build_queue
                    WHERE id = $1 AND builder_id = $2 AND status = {RUNNING})"
    );
    let held = hold(tx, fence)?;
    Ok(held && tx.execute(&sql, &params![queue, fence.builder, state])? > 0)
}

/// Sets the time by which a job that is being cancelled must have stopped. False if the builder
/// does not have the job, or if another process has taken the builder over.
pub(crate) fn set_cancel_by(
    tx: &mut Tx<'_>,
    fence: Fence,
    queue: i64,
    by: i64,
) -> Result<bool, Error> {
    let sql = "UPDATE build_queue SET cancel_by = $3 WHERE id = $1 AND builder_id = $2";
    let held = hold(tx, fence)?;
    Ok(held && tx.execute(sql, &params![queue, fence.builder, by])? > 0)
}

/// Adds one to the failure counts of a builder and of its build, if it has one, and returns both.
/// `None` if another process has taken the builder over.
pub(crate) fn count_failure(
    tx: &mut Tx<'_>,
    fence: Fence,
) -> Result<Option<(i64, Option<i64>)>, Error> {
    let sql = "
        UPDATE builder SET failure_count = failure_count + 1
        WHERE id = $1 AND lease_epoch = $2 RETURNING failure_count";
    let Some(builder) = tx.query_opt(sql, &params![fence.builder, fence.epoch])? else {
        return Ok(None);
    };
    let sql = "
        UPDATE build SET failure_count = failure_count + 1
        WHERE id = (SELECT build_id FROM build_queue WHERE builder_id = $1)
        RETURNING failure_count";
    let build = tx.query_opt(sql, &params![fence.builder])?;
    let build = build.map(|row| row.get(0)).transpose()?;
    Ok(Some((builder.get(0)?, build)))
}

/// Stores log tails of running builds as (queue row, builder, text). There is no fence, because
/// nothing depends on tails. The tail of a job that has left the builder is dropped.
pub(crate) fn flush_tails(tx: &mut Tx<'_>, tails: &[(i64, i64, String)]) -> Result<(), Error> {
    let sql = "
        WITH tail (queue, builder, content) AS ({VALUES})
        UPDATE build_queue SET logtail = tail.content FROM tail
        WHERE build_queue.id = tail.queue AND build_queue.builder_id = tail.builder
        RETURNING build_queue.id";
    // With a list of rows, SQLite would compare each row of the table with each row of the list.
    if tx.engine() == Engine::Sqlite {
        let sql = "UPDATE build_queue SET logtail = $3 WHERE id = $1 AND builder_id = $2";
        for (queue, builder, text) in tails {
            tx.execute(sql, &params![*queue, *builder, text])?;
        }
        return Ok(());
    }
    let mut tails: Vec<_> = tails.iter().collect();
    // All processes update in the same order, or two of them could deadlock.
    tails.sort_by_key(|(queue, ..)| *queue);
    let rows = tails
        .into_iter()
        .map(|(queue, builder, text)| [Value::Int(*queue), Value::Int(*builder), text.into()]);
    bulk::query(tx, sql, ["BIGINT", "BIGINT", "TEXT"], &[], rows)?;
    Ok(())
}

/// Counts the jobs of a processor that could be claimed now, up to `most`. With `emulate_since`,
/// counts the jobs for builders that emulate the processor, as in [`best_jobs`].
pub(crate) fn claimable_jobs(
    tx: &mut Tx<'_>,
    now: i64,
    (processor, virtualized): (i64, bool),
    emulate_since: Option<i64>,
    most: i64,
) -> Result<i64, Error> {
    // A builder that a job is kept off would be woken in vain.
    let mut claimable = format!("{} AND NOT {}", claimable(), attempts::has_failed());
    let mut params = params![now, virtualized, processor, most].to_vec();
    if let Some(since) = emulate_since {
        claimable = format!("{claimable} AND {}", may_emulate("$5"));
        params.push(since.into());
    }
    let sql = format!(
        "SELECT count(*) FROM (
             SELECT 1 FROM build_queue q
             WHERE q.virtualized = $2 AND q.processor_id = $3 AND {claimable}
             ORDER BY q.lastscore DESC, q.id LIMIT $4) few"
    );
    tx.query_one(&sql, &params)?.get(0)
}

/// The statement that adds unscored queue rows for the builds `b` that match the condition `which`;
/// `$1` is now.
pub(super) fn insert_entries(which: &str) -> String {
    format!(
        "INSERT INTO build_queue
             (build_id, status, processor_id, virtualized, created_at, estimated_ms)
         SELECT b.id, {WAITING}, b.processor_id, a.require_virtualized, CAST($1 AS BIGINT),
             COALESCE(b.estimated_ms, 0)
         FROM build b JOIN archive a ON a.id = b.archive_id WHERE {which}"
    )
}

/// Adds an unscored queue row for a build in NEEDSBUILD and returns the id of the row.
pub(crate) fn enqueue(tx: &mut Tx<'_>, build: i64, now: i64) -> Result<i64, Error> {
    let sql = format!("{} RETURNING id", insert_entries("b.id = $2"));
    tx.query_one(&sql, &params![now, build])?.get(0)
}
