//! How does a job go from the queue to a builder, and off it again?
//!
//! Each change is whole in one transaction, so that always: a builder with a job is DIRTY; a job is
//! RUNNING or CANCELLING if and only if it has a builder; and then its build is BUILDING, GATHERING
//! or CANCELLING (docs/farm.md §3.2, §6.4).

use super::builders::Builder;
use super::bulk;
use super::leases::{Fence, hold, hold_if};
use super::numbers::{
    BUILDING, CANCELLING, CLEAN, DIRTY, NEEDS_BUILD, PUBLISHED, RUNNING, SUSPENDED, WAITING,
};
use crate::db::{Error, Row, Tx, Value, params};
use crate::master::model::BuildState;

/// A job just given to a builder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) queue: i64,
    pub(crate) build: i64,
    pub(crate) attempt: i64,
}

/// What became of a build.
#[derive(Clone, Debug)]
pub(crate) struct End<'a> {
    pub(crate) state: BuildState,
    /// What a dep-wait waits for.
    pub(crate) dependencies: Option<&'a str>,
    pub(crate) log_alias: Option<i64>,
    /// The folder its results were handed over in.
    pub(crate) leaf: Option<&'a str>,
    pub(crate) finished_at: i64,
}

/// Tells of a queue row `q` whether it may be built now: `$1` is now. A private archive's source
/// has to be published, or no builder could fetch it (docs/farm.md §2.12). The subquery is one on
/// purpose: joins would let the planner leave the order of the index.
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

/// Gives a builder the job with the highest score, of equals the oldest, that it can run, and marks
/// all three so. None when there is none, or when the builder may not have one.
///
/// Everything is committed before the slave is first spoken to: a process that dies in between
/// leaves a job the slave does not know, which the next scan puts back.
pub(crate) fn claim(
    tx: &mut Tx<'_>,
    fence: Fence,
    builder: &Builder,
    now: i64,
) -> Result<Option<Claim>, Error> {
    let may = format!(
        "builderok AND NOT manual AND clean_status = {CLEAN}
        AND NOT EXISTS (SELECT 1 FROM build_queue WHERE builder_id = $1)"
    );
    if !hold_if(tx, fence, &may)? {
        return Ok(None);
    }
    let sql = best_job();
    let mut best: Option<(i64, i64)> = None;
    for processor in &builder.processors {
        let params = params![now, builder.virtualized, processor.id];
        if let Some(row) = tx.query_opt(&sql, &params)? {
            let (score, queue): (i64, i64) = (row.get(0)?, row.get(1)?);
            let found = (-score, queue);
            best = Some(best.map_or(found, |best| best.min(found)));
        }
    }
    let Some((_, queue)) = best else {
        return Ok(None);
    };
    let row = tx.query_one(
        &format!(
            "UPDATE build_queue SET status = {RUNNING}, builder_id = $2, buildstart = $3,
                 attempt = attempt + 1, logtail = NULL, cancel_by = NULL
             WHERE id = $1 RETURNING build_id, attempt"
        ),
        &params![queue, fence.builder, now],
    )?;
    let (build, attempt): (i64, i64) = (row.get(0)?, row.get(1)?);
    tx.execute(
        &format!(
            "UPDATE build SET state = {BUILDING}, builder_id = $2, started_at = $3,
                 finished_at = NULL, first_dispatched_at = COALESCE(first_dispatched_at, $3)
             WHERE id = $1"
        ),
        &params![build, fence.builder, now],
    )?;
    set_clean_status(tx, fence, DIRTY, now)?;
    Ok(Some(Claim {
        queue,
        build,
        attempt,
    }))
}

/// Writes it of a builder whose row the caller holds.
fn set_clean_status(tx: &mut Tx<'_>, fence: Fence, number: i64, now: i64) -> Result<(), Error> {
    let sql = "UPDATE builder SET clean_status = $3, clean_changed_at = $2 WHERE id = $1";
    tx.execute(sql, &params![fence.builder, now, number])
        .map(drop)
}

/// Writes the query for a processor's best job: `$2` is virtual or not, `$3` the processor. One at
/// a time, so that the index gives the order and the first row ends the search.
pub(super) fn best_job() -> String {
    let claimable = claimable();
    format!(
        "SELECT q.lastscore, q.id FROM build_queue q
         WHERE q.virtualized = $2 AND q.processor_id = $3 AND {claimable}
         ORDER BY q.lastscore DESC, q.id LIMIT 1 {{SKIP LOCKED}}"
    )
}

/// Takes a job off its builder and back to the queue, not to be given out before `not_before`. Its
/// score, its age and its log tail stay. False, too, when it was asked to be cancelled in the
/// meantime: the next look at the builder sees that.
pub(crate) fn reset(
    tx: &mut Tx<'_>,
    fence: Fence,
    queue: i64,
    not_before: i64,
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
    tx.execute(
        "UPDATE build SET state = $2, builder_id = NULL, started_at = NULL WHERE id = $1",
        &params![row.get::<i64>(0)?, BuildState::NeedsBuild],
    )?;
    Ok(true)
}

/// Ends a build: its row says how for ever, its job is gone. The builder stays DIRTY.
pub(crate) fn finish(
    tx: &mut Tx<'_>,
    fence: Fence,
    queue: i64,
    end: &End<'_>,
) -> Result<bool, Error> {
    let Some(build) = dequeue(tx, fence, queue)? else {
        return Ok(false);
    };
    tx.execute(
        "UPDATE build SET state = $2, dependencies = $3, log_alias_id = $4, leaf = $5,
             finished_at = $6
         WHERE id = $1",
        &params![
            build,
            end.state,
            end.dependencies,
            end.log_alias,
            end.leaf,
            end.finished_at
        ],
    )?;
    Ok(true)
}

/// Ends a build that was claimed and turned out not to be for building, before its builder heard
/// of it: the builder is CLEAN again and had no part in it.
pub(crate) fn discard(
    tx: &mut Tx<'_>,
    fence: Fence,
    queue: i64,
    state: BuildState,
    now: i64,
) -> Result<bool, Error> {
    let Some(build) = dequeue(tx, fence, queue)? else {
        return Ok(false);
    };
    tx.execute(
        "UPDATE build SET state = $2, finished_at = $3, dependencies = NULL, log_alias_id = NULL,
             leaf = NULL, builder_id = NULL, started_at = NULL,
             first_dispatched_at =
                 CASE WHEN first_dispatched_at < started_at THEN first_dispatched_at END
         WHERE id = $1",
        &params![build, state, now],
    )?;
    set_clean_status(tx, fence, CLEAN, now)?;
    Ok(true)
}

/// Deletes the job, if it is still this builder's, and returns which build it was of.
fn dequeue(tx: &mut Tx<'_>, fence: Fence, queue: i64) -> Result<Option<i64>, Error> {
    if !hold(tx, fence)? {
        return Ok(None);
    }
    let sql = "DELETE FROM build_queue WHERE id = $1 AND builder_id = $2 RETURNING build_id";
    let row = tx.query_opt(sql, &params![queue, fence.builder])?;
    row.map(|row| row.get(0)).transpose()
}

/// Notes how far a running build is; false if it is to be cancelled by now.
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

/// Notes where the log of a try is that does not end its build.
pub(crate) fn set_log(
    tx: &mut Tx<'_>,
    fence: Fence,
    queue: i64,
    log_alias: Option<i64>,
) -> Result<bool, Error> {
    let sql = "
        UPDATE build SET log_alias_id = $3
        WHERE id = (SELECT build_id FROM build_queue WHERE id = $1 AND builder_id = $2)";
    let held = hold(tx, fence)?;
    Ok(held && tx.execute(sql, &params![queue, fence.builder, log_alias])? > 0)
}

/// Notes until when a job that is being cancelled has to have stopped.
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

/// Counts a failure against a builder and against the build it has, if any, and returns both counts.
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

/// Stores the ends of the logs of running builds: queue row, builder, text. Without a fence: a
/// tail of a job that has gone on to another builder is dropped, and nothing depends on tails.
pub(crate) fn flush_tails(tx: &mut Tx<'_>, tails: &[(i64, i64, String)]) -> Result<(), Error> {
    let sql = "
        WITH tail (queue, builder, content) AS ({VALUES})
        UPDATE build_queue SET logtail = tail.content FROM tail
        WHERE build_queue.id = tail.queue AND build_queue.builder_id = tail.builder
        RETURNING build_queue.id";
    let mut tails: Vec<_> = tails.iter().collect();
    // The same order in every process, or two of them wait for each other.
    tails.sort_by_key(|(queue, ..)| *queue);
    let rows = tails
        .into_iter()
        .map(|(queue, builder, text)| [Value::Int(*queue), Value::Int(*builder), text.into()]);
    bulk::query(tx, sql, ["BIGINT", "BIGINT", "TEXT"], &[], rows)?;
    Ok(())
}

/// The most jobs of a group that are counted.
const COUNTED: i64 = 1000;

/// Returns how many jobs could be claimed now, by what they need: processor, virtual or not, jobs
/// (at most 1,000 are counted). Groups without any are left out.
pub(crate) fn waiting_groups(tx: &mut Tx<'_>, now: i64) -> Result<Vec<(i64, bool, i64)>, Error> {
    let claimable = claimable();
    let sql = format!(
        "SELECT p.id, v.virtualized, (
             SELECT count(*) FROM (
                 SELECT 1 FROM build_queue q
                 WHERE q.virtualized = v.virtualized AND q.processor_id = p.id AND {claimable}
                 LIMIT {COUNTED}) few)
         FROM processor p
         CROSS JOIN (SELECT FALSE AS virtualized UNION ALL SELECT TRUE) v
         ORDER BY 1, 2"
    );
    let group = |row: &Row| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    let groups: Result<Vec<(i64, bool, i64)>, Error> =
        tx.query(&sql, &params![now])?.iter().map(group).collect();
    Ok(groups?.into_iter().filter(|group| group.2 > 0).collect())
}

/// Writes the statement that adds queue rows, without a score, for the builds `b` that `which`
/// leaves; `$1` is now.
fn insert_entries(which: &str) -> String {
    format!(
        "INSERT INTO build_queue
             (build_id, status, processor_id, virtualized, created_at, estimated_ms)
         SELECT b.id, {WAITING}, b.processor_id, a.require_virtualized, CAST($1 AS BIGINT),
             COALESCE(b.estimated_ms, 0)
         FROM build b JOIN archive a ON a.id = b.archive_id WHERE {which}"
    )
}

/// Puts a build in NEEDSBUILD into the queue, without a score; returns the id of its row.
pub(crate) fn enqueue(tx: &mut Tx<'_>, build: i64, now: i64) -> Result<i64, Error> {
    let sql = format!("{} RETURNING id", insert_entries("b.id = $2"));
    tx.query_one(&sql, &params![now, build])?.get(0)
}

/// Makes the queue rows that builds in NEEDSBUILD lack (docs/farm.md §2.2), unscored, and returns
/// how many.
pub(crate) fn add_missing_entries(tx: &mut Tx<'_>, now: i64) -> Result<u64, Error> {
    let lacking = format!(
        "b.state = {NEEDS_BUILD}
         AND NOT EXISTS (SELECT 1 FROM build_queue q WHERE q.build_id = b.id)
         ON CONFLICT (build_id) DO NOTHING"
    );
    tx.execute(&insert_entries(&lacking), &params![now])
}

/// Suspends the waiting jobs of disabled architectures and archives, and lets those of enabled ones
/// wait again; returns how many of either. [`claim`] refuses the former anyway: it is to find the
/// best job at once, however many of them there are.
pub(crate) fn suspend(tx: &mut Tx<'_>) -> Result<u64, Error> {
    let mut change = |from: i64, to: i64, which: &str| {
        let sql = format!(
            "UPDATE build_queue SET status = {to}
             WHERE status = {from} AND build_id IN (
                 SELECT b.id FROM build b
                 JOIN arch_series t ON t.id = b.arch_series_id
                 JOIN archive a ON a.id = b.archive_id
                 WHERE b.state = {NEEDS_BUILD} AND {which} (t.enabled AND a.enabled))"
        );
        tx.execute(&sql, &[])
    };
    Ok(change(WAITING, SUSPENDED, "NOT")? + change(SUSPENDED, WAITING, "")?)
}
