//! Reads a build with its job; adds, scores, cancels and retries builds for an operator.
//!
//! The scanner's writes are in `queue`. A write here has no fence. It names the state that it
//! starts from, so it never overwrites a faster scanner, and returns whether it changed the row.

use std::collections::HashMap;

use super::attempts;
use super::bulk;
use super::candidate::current_component;
use super::files::{self, File};
use super::numbers::{SUSPENDED, WAITING};
use super::queue;
use super::{NAME_COLUMNS, NAME_JOINS, build_name};
use crate::db::{Column, Error, Row, Tx, Value, params};
use crate::master::model::{
    ArchivePurpose, BuildName, BuildState, JobStatus, Pocket, SeriesStatus,
};

/// A build with its job, and the names that commands print.
#[derive(Clone, Debug)]
pub(crate) struct Build {
    pub(crate) id: i64,
    pub(crate) name: BuildName,
    pub(crate) state: BuildState,
    /// The build also makes the architecture-independent packages.
    pub(crate) arch_indep: bool,
    pub(crate) created_at: i64,
    pub(crate) first_dispatched_at: Option<i64>,
    pub(crate) started_at: Option<i64>,
    pub(crate) finished_at: Option<i64>,
    /// The missing build dependencies of a dep-wait.
    pub(crate) dependencies: Option<String>,
    /// The folder of its results, below `incoming/`.
    pub(crate) leaf: Option<String>,
    pub(crate) failure_count: i64,
    /// Why it is in its state, if the state does not say it.
    pub(crate) reason: Option<String>,
    pub(crate) source: i64,
    pub(crate) arch_series: i64,
    pub(crate) arch_enabled: bool,
    pub(crate) series_status: SeriesStatus,
    pub(crate) archive: i64,
    /// `primary`, or `OWNER/NAME`.
    pub(crate) archive_name: String,
    pub(crate) archive_purpose: ArchivePurpose,
    pub(crate) archive_enabled: bool,
    pub(crate) processor: i64,
    pub(crate) processor_name: String,
    /// The component of the current publication (docs/farm.md §1.2). `None` if there is none.
    pub(crate) component: Option<String>,
    /// Name and URL of the builder that builds or built it.
    pub(crate) builder: Option<(String, String)>,
    pub(crate) log: Option<File>,
    pub(crate) upload_log: Option<File>,
    pub(crate) job: Option<QueueEntry>,
}

/// The queue row of a build.
#[derive(Clone, Debug)]
pub(crate) struct QueueEntry {
    pub(crate) id: i64,
    pub(crate) status: JobStatus,
    pub(crate) score: i64,
    /// An operator set the score, so rescoring skips the job.
    pub(crate) manual: bool,
    pub(crate) created_at: i64,
    pub(crate) started_at: Option<i64>,
    pub(crate) attempt: i64,
    /// The time before which a given-back job is not dispatched again.
    pub(crate) not_before: i64,
    pub(crate) virtualized: bool,
    pub(crate) estimated_ms: i64,
    pub(crate) logtail: Option<String>,
    /// The random part of the cookie.
    pub(crate) nonce: Option<String>,
}

fn columns() -> String {
    format!(
        "b.state, b.arch_indep, b.created_at, b.first_dispatched_at, b.started_at,
        b.finished_at, b.dependencies, b.leaf, b.failure_count, b.reason, s.id, t.id, t.enabled, r.status,
        x.id, x.owner, x.name, x.purpose, x.enabled, p.id, p.name, {}, m.name, m.url,
        l.id, l.filename, l.restricted, lc.size, lc.sha1,
        u.id, u.filename, u.restricted, uc.size, uc.sha1,
        q.id, q.status, q.lastscore, q.manual, q.created_at, q.buildstart, q.attempt,
        q.not_before, q.virtualized, q.estimated_ms, q.logtail, q.nonce",
        current_component()
    )
}
const JOINS: &str = "
    JOIN archive x ON x.id = b.archive_id
    JOIN processor p ON p.id = b.processor_id
    LEFT JOIN build_queue q ON q.build_id = b.id
    LEFT JOIN builder m ON m.id = COALESCE(q.builder_id, b.builder_id)
    LEFT JOIN library_alias l ON l.id = b.log_alias_id
    LEFT JOIN library_content lc ON lc.id = l.content_id
    LEFT JOIN library_alias u ON u.id = b.upload_log_alias_id
    LEFT JOIN library_content uc ON uc.id = u.content_id";

/// Returns the builds that `rest` (`WHERE … ORDER BY …`) selects. In `rest`, `b` is the build, `s`
/// its source, `t` its architecture, `r` its series, `d` its distribution, `x` its archive, `q` its
/// queue row.
pub(super) fn select(tx: &mut Tx<'_>, rest: &str, params: &[Value]) -> Result<Vec<Build>, Error> {
    let columns = columns();
    let sql =
        format!("SELECT b.id, {NAME_COLUMNS}, {columns} FROM build b {NAME_JOINS} {JOINS} {rest}");
    let rows = tx.query(&sql, params)?;
    rows.iter().map(read).collect()
}

/// Returns a build; `None` if there is no such id.
pub(crate) fn view(tx: &mut Tx<'_>, id: i64) -> Result<Option<Build>, Error> {
    Ok(select(tx, "WHERE b.id = $1", &params![id])?.pop())
}

/// Returns the builds with these ids, in the order of the ids. Ids without a build are left out.
pub(super) fn of_ids(tx: &mut Tx<'_>, ids: &[i64]) -> Result<Vec<Build>, Error> {
    let sql = format!(
        "SELECT b.id, {NAME_COLUMNS}, {} FROM build b {NAME_JOINS} {JOINS}
        WHERE b.id IN ({{LIST}})",
        columns()
    );
    let rows = bulk::query_ids(tx, &sql, &[], ids)?;
    let mut found = HashMap::new();
    for row in &rows {
        let build = read(row)?;
        found.insert(build.id, build);
    }
    Ok(ids.iter().filter_map(|id| found.remove(id)).collect())
}

/// Reads the columns of a row in order.
struct Columns<'a> {
    row: &'a Row,
    at: usize,
}

impl Columns<'_> {
    fn next<T: Column>(&mut self) -> Result<T, Error> {
        self.at += 1;
        self.row.get(self.at - 1)
    }

    fn file(&mut self) -> Result<Option<File>, Error> {
        let at = self.at;
        self.at += files::COLUMN_COUNT;
        files::read_if_any(self.row, at)
    }

    fn job(&mut self) -> Result<Option<QueueEntry>, Error> {
        let Some(id) = self.next()? else {
            return Ok(None);
        };
        Ok(Some(QueueEntry {
            id,
            status: self.next()?,
            score: self.next()?,
            manual: self.next()?,
            created_at: self.next()?,
            started_at: self.next()?,
            attempt: self.next()?,
            not_before: self.next()?,
            virtualized: self.next()?,
            estimated_ms: self.next()?,
            logtail: self.next()?,
            nonce: self.next()?,
        }))
    }
}

fn read(row: &Row) -> Result<Build, Error> {
    let mut columns = Columns { row, at: 7 };
    Ok(Build {
        id: row.get(0)?,
        name: build_name(row, 1)?,
        state: columns.next()?,
        arch_indep: columns.next()?,
        created_at: columns.next()?,
        first_dispatched_at: columns.next()?,
        started_at: columns.next()?,
        finished_at: columns.next()?,
        dependencies: columns.next()?,
        leaf: columns.next()?,
        failure_count: columns.next()?,
        reason: columns.next()?,
        source: columns.next()?,
        arch_series: columns.next()?,
        arch_enabled: columns.next()?,
        series_status: columns.next()?,
        archive: columns.next()?,
        archive_name: {
            let owner: String = columns.next()?;
            let name: String = columns.next()?;
            match owner.as_str() {
                "" => name,
                owner => format!("{owner}/{name}"),
            }
        },
        archive_purpose: columns.next()?,
        archive_enabled: columns.next()?,
        processor: columns.next()?,
        processor_name: columns.next()?,
        component: columns.next()?,
        builder: {
            let name: Option<String> = columns.next()?;
            name.zip(columns.next()?)
        },
        log: columns.file()?,
        upload_log: columns.file()?,
        job: columns.job()?,
    })
}

/// A build to add.
#[derive(Clone, Copy, Debug)]
pub(crate) struct New {
    pub(crate) source: i64,
    pub(crate) arch_series: i64,
    pub(crate) archive: i64,
    pub(crate) pocket: Pocket,
    pub(crate) processor: i64,
    pub(crate) arch_indep: bool,
    pub(crate) estimated_ms: i64,
}

/// Adds a build in NEEDSBUILD, without a queue row, and returns its id.
pub(crate) fn add(tx: &mut Tx<'_>, new: &New, now: i64) -> Result<i64, Error> {
    let sql = "
        INSERT INTO build (source_id, arch_series_id, archive_id, pocket, processor_id, arch_indep,
            state, created_at, estimated_ms)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING id";
    let row = tx.query_one(
        sql,
        &params![
            new.source,
            new.arch_series,
            new.archive,
            new.pocket,
            new.processor,
            new.arch_indep,
            BuildState::NeedsBuild,
            now,
            new.estimated_ms,
        ],
    )?;
    row.get(0)
}

/// Returns the builds of a source in an archive and a series, ordered by architecture tag.
pub(crate) fn of_source(
    tx: &mut Tx<'_>,
    source: i64,
    archive: i64,
    series: i64,
) -> Result<Vec<Build>, Error> {
    let rest = "WHERE b.source_id = $1 AND b.archive_id = $2 AND r.id = $3 ORDER BY t.arch_tag";
    select(tx, rest, &params![source, archive, series])
}

/// Returns the duration in ms of the newest successful build of a source name for an architecture,
/// in the archive or in a primary archive (docs/farm.md §2.4).
pub(crate) fn last_duration(
    tx: &mut Tx<'_>,
    source_name: &str,
    arch_series: i64,
    archive: i64,
) -> Result<Option<i64>, Error> {
    // The order of the tables and the plus sign keep SQLite from reading all successful builds of
    // the architecture.
    let sql = "
        SELECT b.finished_at - b.started_at FROM source s
        CROSS JOIN build b JOIN archive x ON x.id = b.archive_id
        WHERE s.name = $1 AND b.source_id = s.id AND b.arch_series_id = $2 AND +b.state = $3
            AND (x.id = $4 OR x.purpose = $5)
            AND b.finished_at IS NOT NULL AND b.started_at IS NOT NULL
        ORDER BY b.finished_at DESC LIMIT 1";
    let built = BuildState::FullyBuilt;
    let primary = ArchivePurpose::Primary;
    let row = tx.query_opt(
        sql,
        &params![source_name, arch_series, built, archive, primary],
    )?;
    row.map(|row| row.get(0)).transpose()
}

/// The cause of a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    /// An operator's: the limits count from here.
    Operator,
    /// An operator's, also of a build that was built.
    Forced,
    /// The dependencies of a dep-wait are published.
    DepWait,
}

/// Returns a build that has ended to the queue and clears its times, log and results
/// (docs/farm.md §2.15); its attempts keep them. Returns the id of the new queue row. `None` if the
/// state cannot be retried, or has changed since `build` was read.
pub(crate) fn retry(
    tx: &mut Tx<'_>,
    build: &Build,
    why: Retry,
    now: i64,
) -> Result<Option<i64>, Error> {
    let forced = why == Retry::Forced && build.state == BuildState::FullyBuilt;
    if !build.state.is_retriable() && !forced {
        return Ok(None);
    }
    let sql = "
        UPDATE build SET state = $3, started_at = NULL, finished_at = NULL, builder_id = NULL,
            log_alias_id = NULL, upload_log_alias_id = NULL, dependencies = NULL, leaf = NULL,
            failure_count = 0, reason = NULL
        WHERE id = $1 AND state = $2";
    let needs = BuildState::NeedsBuild;
    if tx.execute(sql, &params![build.id, build.state, needs])? == 0 {
        return Ok(None);
    }
    if why != Retry::DepWait {
        attempts::stop_counting(tx, build.id)?;
    }
    queue::enqueue(tx, build.id, now).map(Some)
}

/// Cancels a build that has no builder yet; false if it has one, or has no job.
pub(crate) fn cancel_waiting(tx: &mut Tx<'_>, build: i64, now: i64) -> Result<bool, Error> {
    let sql = format!(
        "DELETE FROM build_queue WHERE build_id = $1 AND status IN ({WAITING}, {SUSPENDED})"
    );
    if tx.execute(&sql, &params![build])? == 0 {
        return Ok(false);
    }
    let sql = "UPDATE build SET state = $2, finished_at = $3, reason = NULL WHERE id = $1";
    tx.execute(sql, &params![build, BuildState::Cancelled, now])?;
    Ok(true)
}

/// Requests the cancel of a running build; the scanner carries it out. False if the build is not
/// running, or is being cancelled already.
pub(crate) fn cancel_running(tx: &mut Tx<'_>, build: i64) -> Result<bool, Error> {
    let sql = "UPDATE build_queue SET status = $2 WHERE build_id = $1 AND status = $3";
    let (asked, running) = (JobStatus::Cancelling, JobStatus::Running);
    if tx.execute(sql, &params![build, asked, running])? == 0 {
        return Ok(false);
    }
    let sql = "UPDATE build SET state = $2 WHERE id = $1";
    tx.execute(sql, &params![build, BuildState::Cancelling])?;
    Ok(true)
}

/// Cancels a build that no job would ever end: it is running by its state, but has no job.
pub(crate) fn cancel_without_job(tx: &mut Tx<'_>, build: i64, now: i64) -> Result<bool, Error> {
    let sql = "
        UPDATE build SET state = $2, finished_at = $3, reason = NULL
        WHERE id = $1 AND state IN ($4, $5, $6, $7)
            AND NOT EXISTS (SELECT 1 FROM build_queue WHERE build_id = $1)";
    let ended = params![
        build,
        BuildState::Cancelled,
        now,
        BuildState::NeedsBuild,
        BuildState::Building,
        BuildState::Gathering,
        BuildState::Cancelling
    ];
    Ok(tx.execute(sql, &ended)? > 0)
}

/// Sets the score of a waiting job; false if no job waits. Rescoring skips a `manual` score.
pub(crate) fn set_score(
    tx: &mut Tx<'_>,
    build: i64,
    score: i64,
    manual: bool,
) -> Result<bool, Error> {
    let sql = format!(
        "UPDATE build_queue SET lastscore = CAST($2 AS BIGINT), manual = $3
        WHERE build_id = $1 AND status = {WAITING}"
    );
    Ok(tx.execute(&sql, &params![build, score, manual])? > 0)
}
