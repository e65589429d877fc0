//! Reads the jobs to score with the facts their score depends on, and stores scores.

use std::collections::BTreeMap;

use super::candidate::current_component;
use super::numbers::{NEEDS_BUILD, SUSPENDED, WAITING};
use super::{NAME_JOINS, bulk};
use crate::db::{Error, Row, Tx, Value, params};
use crate::master::model::ArchivePurpose;
use crate::master::policy::score::Scored;

/// A waiting or suspended job whose score is not manual.
#[derive(Clone, Debug)]
pub(crate) struct ScorableJob {
    pub(crate) queue: i64,
    /// The stored score.
    pub(crate) score: i64,
    pub(crate) scored: Scored,
}

/// Returns at most `limit` jobs with an id above `after_queue`, ordered by id.
pub(crate) fn to_score(
    tx: &mut Tx<'_>,
    now: i64,
    after_queue: i64,
    limit: i64,
) -> Result<Vec<ScorableJob>, Error> {
    let rest = "AND q.id > $1 ORDER BY q.id LIMIT $2";
    select(tx, now, rest, &params![after_queue, limit])
}

/// Returns the job of a build; `None` if it neither waits nor is suspended, or its score is manual.
pub(crate) fn of_build(
    tx: &mut Tx<'_>,
    now: i64,
    build: i64,
) -> Result<Option<ScorableJob>, Error> {
    Ok(select(tx, now, "AND q.build_id = $1", &params![build])?.pop())
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

fn select(
    tx: &mut Tx<'_>,
    now: i64,
    rest: &str,
    params: &[Value],
) -> Result<Vec<ScorableJob>, Error> {
    let component = current_component();
    // SQLite keeps the order of a CROSS JOIN. The plus signs keep it from the indexes on status and
    // state, which would give all jobs or builds that wait, for each batch.
    let sql = format!(
        "SELECT q.id, q.lastscore, q.created_at, s.urgency, b.pocket,
             COALESCE({component}, s.component), s.section, a.private, a.purpose,
             a.relative_score
         FROM build_queue q CROSS JOIN build b {NAME_JOINS}
         JOIN archive a ON a.id = b.archive_id
         WHERE b.id = q.build_id AND +q.status IN ({WAITING}, {SUSPENDED}) AND NOT q.manual
             AND +b.state = {NEEDS_BUILD} {rest}"
    );
    let rows = tx.query(&sql, params)?;
    rows.iter().map(|row| scorable_job(row, now)).collect()
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
