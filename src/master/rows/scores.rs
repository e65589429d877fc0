//! Reads the jobs to score with the facts their score depends on, and stores scores.

use std::collections::BTreeMap;

use super::candidate::current_component;
use super::numbers::{SUSPENDED, WAITING};
use super::{NAME_JOINS, bulk};
use crate::db::{Error, Row, Tx, params};
use crate::master::model::{ArchivePurpose, BuildState};
use crate::master::policy::score::Scored;

/// Queue rows that one read transaction looks at.
const WINDOW: u32 = 500;

/// A waiting or suspended job whose score is not manual.
#[derive(Clone, Debug)]
pub(crate) struct ScorableJob {
    pub(crate) queue: i64,
    /// The stored score.
    pub(crate) score: i64,
    pub(crate) scored: Scored,
}

/// Returns the jobs of the next window of queue rows, in the order of their ids, and the id to
/// continue after; `None` at the end.
pub(crate) fn window(
    tx: &mut Tx<'_>,
    now: i64,
    after: i64,
) -> Result<Option<(Vec<ScorableJob>, i64)>, Error> {
    let rows = rows(tx, &format!("id > $1 ORDER BY id LIMIT {WINDOW}"), after)?;
    let Some(last) = rows.last() else {
        return Ok(None);
    };
    Ok(Some((scorable_jobs(&rows, now)?, last.get(0)?)))
}

/// Returns the job of a build; `None` if it neither waits nor is suspended, or its score is manual.
pub(crate) fn of_build(
    tx: &mut Tx<'_>,
    now: i64,
    build: i64,
) -> Result<Option<ScorableJob>, Error> {
    let rows = rows(tx, "build_id = $1", build)?;
    Ok(scorable_jobs(&rows, now)?.pop())
}

/// Stores scores as (queue row, score). A job that was claimed or got a manual score meanwhile
/// keeps its score.
pub(crate) fn set_scores(tx: &mut Tx<'_>, scores: &[(i64, i64)]) -> Result<(), Error> {
    // The column is a 32-bit integer.
    let stored = |score: i64| score.clamp(i32::MIN.into(), i32::MAX.into());
    let may_change = format!("NOT manual AND +status IN ({WAITING}, {SUSPENDED})");
    let sql = format!(
        "UPDATE build_queue SET lastscore = $1 WHERE id IN ({{LIST}}) AND {may_change}
        RETURNING id"
    );
    // Many jobs have the same score.
    let mut jobs_of: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
    for &(queue, score) in scores {
        jobs_of.entry(stored(score)).or_default().push(queue);
    }
    for (score, jobs) in jobs_of {
        bulk::query_ids(tx, &sql, &params![score], &jobs)?;
    }
    Ok(())
}

/// Reads the facts about the queue rows that match `which`, whose `$1` is `param`.
fn rows(tx: &mut Tx<'_>, which: &str, param: i64) -> Result<Vec<Row>, Error> {
    let component = current_component();
    // The rows are chosen before the joins: a planner that underestimates their number would join
    // all that wait, for each window. The plus sign keeps SQLite from the index on the status.
    let sql = format!(
        "SELECT q.id, q.lastscore, q.created_at, s.urgency, b.pocket,
             COALESCE({component}, s.component), s.section, a.private, a.purpose,
             a.relative_score, b.state
         FROM (SELECT id, build_id, lastscore, created_at FROM build_queue
               WHERE +status IN ({WAITING}, {SUSPENDED}) AND NOT manual AND {which}) q
         JOIN build b ON b.id = q.build_id {NAME_JOINS}
         JOIN archive a ON a.id = b.archive_id
         ORDER BY q.id"
    );
    tx.query(&sql, &params![param])
}

/// Reads the jobs whose builds are in NEEDSBUILD.
fn scorable_jobs(rows: &[Row], now: i64) -> Result<Vec<ScorableJob>, Error> {
    let mut jobs = Vec::new();
    for row in rows {
        let state: BuildState = row.get(10)?;
        if state == BuildState::NeedsBuild {
            jobs.push(scorable_job(row, now)?);
        }
    }
    Ok(jobs)
}

fn scorable_job(row: &Row, now: i64) -> Result<ScorableJob, Error> {
    let purpose: ArchivePurpose = row.get(8)?;
    Ok(ScorableJob {
        queue: row.get(0)?,
        score: row.get(1)?,
        scored: Scored {
            queued_secs: (now - row.get::<i64>(2)?) / 1000,
            urgency: row.get(3)?,
            pocket: row.get(4)?,
            component: row.get(5)?,
            section: row.get(6)?,
            private: row.get(7)?,
            copy: purpose == ArchivePurpose::Copy,
            relative: row.get(9)?,
        },
    })
}
