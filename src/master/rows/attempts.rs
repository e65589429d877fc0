//! The attempts of a build: one row for each dispatch.
//!
//! The claim of a job begins an attempt, in the same transaction. A build has at most one attempt
//! that has not ended: the one on its builder.

use super::files::{self, File};
use super::numbers::{BUILDER_FAIL, DEP_FAIL};
use crate::db::{Error, Row, Tx, params};
use crate::master::model::AttemptVerdict;
use crate::master::policy::limits::{DEP_WAIT_LIMIT, Ended};

/// An attempt, with the names that commands print.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) number: i64,
    pub(crate) builder: Option<String>,
    pub(crate) cookie: String,
    /// The master's host that has the results; `None` in attempts of older versions.
    pub(crate) host: Option<String>,
    pub(crate) started_at: i64,
    /// `None` while it runs.
    pub(crate) ended_at: Option<i64>,
    /// `None` while it runs, and in attempts of older versions.
    pub(crate) verdict: Option<AttemptVerdict>,
    pub(crate) reason: Option<String>,
    /// The stages of the build and their durations: `UNPACK 1.3 s, MOUNT 0.1 s`.
    pub(crate) stages: Option<String>,
    pub(crate) dependencies: Option<String>,
    /// The folder of its results, below `incoming/` of the host.
    pub(crate) leaf: Option<String>,
    /// When the uploader of its results was started.
    pub(crate) upload_started_at: Option<i64>,
    /// Whether it counts for the limits on attempts.
    pub(crate) counted: bool,
    pub(crate) log: Option<File>,
    pub(crate) upload_log: Option<File>,
}

/// The end of an attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttemptEnd<'a> {
    pub(crate) verdict: AttemptVerdict,
    pub(crate) reason: Option<&'a str>,
    pub(crate) stages: Option<&'a str>,
    /// The missing dependencies of a dep-wait.
    pub(crate) dependencies: Option<&'a str>,
    pub(crate) log_alias: Option<i64>,
    /// The folder of its results, below `incoming/`, and the host that has it.
    pub(crate) leaf: Option<&'a str>,
    pub(crate) host: Option<&'a str>,
    pub(crate) at: i64,
}

impl<'a> AttemptEnd<'a> {
    /// Returns an end without a log and results.
    pub(crate) fn new(verdict: AttemptVerdict, reason: &'a str, at: i64) -> Self {
        Self {
            verdict,
            reason: Some(reason),
            stages: None,
            dependencies: None,
            log_alias: None,
            leaf: None,
            host: None,
            at,
        }
    }
}

/// Begins the next attempt of a build on a builder.
pub(super) fn begin(
    tx: &mut Tx<'_>,
    build: i64,
    builder: i64,
    cookie: &str,
    now: i64,
) -> Result<(), Error> {
    let sql = "
        INSERT INTO attempt (build_id, number, builder_id, cookie, started_at)
        SELECT CAST($1 AS BIGINT), COALESCE(MAX(number), 0) + 1, CAST($2 AS BIGINT),
            CAST($3 AS TEXT), CAST($4 AS BIGINT)
        FROM attempt WHERE build_id = $1";
    tx.execute(sql, &params![build, builder, cookie, now])
        .map(drop)
}

/// Ends the running attempt of a build, if there is one.
pub(super) fn end(tx: &mut Tx<'_>, build: i64, end: &AttemptEnd<'_>) -> Result<(), Error> {
    let sql = "
        UPDATE attempt SET ended_at = $2, verdict = $3, reason = $4, stages = $5,
            dependencies = $6, log_alias_id = $7, leaf = $8, host = $9
        WHERE build_id = $1 AND ended_at IS NULL";
    tx.execute(
        sql,
        &params![
            build,
            end.at,
            end.verdict,
            end.reason,
            end.stages,
            end.dependencies,
            end.log_alias,
            end.leaf,
            end.host
        ],
    )
    .map(drop)
}

/// Removes the running attempt of a build. The slave never heard of it.
pub(super) fn withdraw(tx: &mut Tx<'_>, build: i64) -> Result<(), Error> {
    let sql = "DELETE FROM attempt WHERE build_id = $1 AND ended_at IS NULL";
    tx.execute(sql, &params![build]).map(drop)
}

/// Stops counting the attempts of a build for the limits.
pub(super) fn stop_counting(tx: &mut Tx<'_>, build: i64) -> Result<(), Error> {
    let sql = "UPDATE attempt SET counted = FALSE WHERE build_id = $1 AND counted";
    tx.execute(sql, &params![build]).map(drop)
}

/// Returns the attempts of a build, the oldest first.
pub(crate) fn of_build(tx: &mut Tx<'_>, build: i64) -> Result<Vec<Attempt>, Error> {
    let sql = "
        SELECT a.number, m.name, a.cookie, a.host, a.started_at, a.ended_at, a.verdict, a.reason,
            a.stages, a.dependencies, a.leaf, a.upload_started_at, a.counted,
            l.id, l.filename, l.restricted, lc.size, lc.sha1,
            u.id, u.filename, u.restricted, uc.size, uc.sha1
        FROM attempt a
        LEFT JOIN builder m ON m.id = a.builder_id
        LEFT JOIN library_alias l ON l.id = a.log_alias_id
        LEFT JOIN library_content lc ON lc.id = l.content_id
        LEFT JOIN library_alias u ON u.id = a.upload_log_alias_id
        LEFT JOIN library_content uc ON uc.id = u.content_id
        WHERE a.build_id = $1 ORDER BY a.number";
    tx.query(sql, &params![build])?.iter().map(read).collect()
}

fn read(row: &Row) -> Result<Attempt, Error> {
    Ok(Attempt {
        number: row.get(0)?,
        builder: row.get(1)?,
        cookie: row.get(2)?,
        host: row.get(3)?,
        started_at: row.get(4)?,
        ended_at: row.get(5)?,
        verdict: row.get(6)?,
        reason: row.get(7)?,
        stages: row.get(8)?,
        dependencies: row.get(9)?,
        leaf: row.get(10)?,
        upload_started_at: row.get(11)?,
        counted: row.get(12)?,
        log: files::read_if_any(row, 13)?,
        upload_log: files::read_if_any(row, 13 + files::COLUMN_COUNT)?,
    })
}

/// Returns the counted attempts of a build that have ended, the newest first.
pub(crate) fn counted(tx: &mut Tx<'_>, build: i64) -> Result<Vec<Ended>, Error> {
    let sql = "
        SELECT build_id, builder_id, verdict FROM attempt
        WHERE build_id = $1 AND counted AND verdict IS NOT NULL AND builder_id IS NOT NULL
        ORDER BY number DESC";
    tx.query(sql, &params![build])?.iter().map(ended).collect()
}

/// Returns how many of the last counted attempts of a build missed the same dependencies, and when
/// the last one ended. Looks at [`DEP_WAIT_LIMIT`] of them.
pub(crate) fn same_dep_waits(tx: &mut Tx<'_>, build: i64) -> Result<(usize, i64), Error> {
    let sql = format!(
        "SELECT dependencies, ended_at FROM attempt
         WHERE build_id = $1 AND counted AND verdict = {DEP_FAIL} AND ended_at IS NOT NULL
         ORDER BY number DESC LIMIT {DEP_WAIT_LIMIT}"
    );
    let rows = tx.query(&sql, &params![build])?;
    let lines: Result<Vec<Option<String>>, _> = rows.iter().map(|row| row.get(0)).collect();
    let lines = lines?;
    let same = lines.iter().take_while(|line| Some(*line) == lines.first());
    let ended_at = rows.first().map_or(Ok(0), |row| row.get(1))?;
    Ok((same.count(), ended_at))
}

/// The number of a builder's last attempts that [`of_builder`] returns.
const RECENT: i64 = 20;

/// Returns the last attempts of a builder that have ended, the newest first.
pub(crate) fn of_builder(tx: &mut Tx<'_>, builder: i64) -> Result<Vec<Ended>, Error> {
    let sql = format!(
        "SELECT build_id, builder_id, verdict FROM attempt
         WHERE builder_id = $1 AND ended_at IS NOT NULL AND verdict IS NOT NULL
         ORDER BY ended_at DESC LIMIT {RECENT}"
    );
    tx.query(&sql, &params![builder])?
        .iter()
        .map(ended)
        .collect()
}

fn ended(row: &Row) -> Result<Ended, Error> {
    Ok(Ended {
        build: row.get(0)?,
        builder: row.get(1)?,
        verdict: row.get(2)?,
    })
}

/// The builders in service that could take the job of queue row `$1`, as `n`.
const IN_SERVICE: &str = "
    FROM build_queue q
    JOIN builder_processor c ON c.processor_id = q.processor_id
    JOIN builder n ON n.id = c.builder_id AND n.virtualized = q.virtualized
        AND n.active AND n.builderok AND NOT n.manual
    WHERE q.id = $1";

/// The condition that the build of queue row `q` has failed on builder `n`: a counted attempt
/// there ended with BUILDERFAIL.
pub(super) fn has_failed_on(builder: &str) -> String {
    format!(
        "EXISTS (SELECT 1 FROM attempt f
             WHERE f.build_id = q.build_id AND f.builder_id = {builder}
               AND f.counted AND f.verdict = {BUILDER_FAIL})"
    )
}

/// The condition that the build of queue row `q` has counted attempts that ended with BUILDERFAIL.
pub(super) fn has_failed() -> String {
    format!(
        "EXISTS (SELECT 1 FROM attempt f
             WHERE f.build_id = q.build_id AND f.counted AND f.verdict = {BUILDER_FAIL})"
    )
}

/// The number of builders that [`candidates`] returns.
const CANDIDATES: i64 = 20;

/// Returns some of the builders in service that could take a job: those that it has failed on
/// first.
pub(crate) fn candidates(tx: &mut Tx<'_>, queue: i64) -> Result<Vec<i64>, Error> {
    let failed = has_failed_on("n.id");
    let sql = format!(
        "SELECT n.id, CASE WHEN {failed} THEN 0 ELSE 1 END {IN_SERVICE}
         ORDER BY 2, 1 LIMIT {CANDIDATES}"
    );
    let rows = tx.query(&sql, &params![queue])?;
    rows.iter().map(|row| row.get(0)).collect()
}

/// Returns whether a builder in service other than `builder` could take a job and has not failed on
/// it.
pub(crate) fn has_other_builder(tx: &mut Tx<'_>, queue: i64, builder: i64) -> Result<bool, Error> {
    let failed = has_failed_on("n.id");
    let sql = format!("SELECT n.id {IN_SERVICE} AND n.id <> $2 AND NOT {failed} LIMIT 1");
    Ok(tx.query_opt(&sql, &params![queue, builder])?.is_some())
}

/// Returns the names of the builders on which counted attempts of a build ended with BUILDERFAIL.
pub(crate) fn failed_on(tx: &mut Tx<'_>, build: i64) -> Result<Vec<String>, Error> {
    let sql = format!(
        "SELECT DISTINCT m.name FROM attempt a JOIN builder m ON m.id = a.builder_id
         WHERE a.build_id = $1 AND a.counted AND a.verdict = {BUILDER_FAIL} ORDER BY m.name"
    );
    let rows = tx.query(&sql, &params![build])?;
    rows.iter().map(|row| row.get(0)).collect()
}
