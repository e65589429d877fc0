//! Reads a builder with its job, and writes about it under its lease.

use std::cmp::Ordering;
use std::collections::HashMap;

use super::leases::{Fence, hold};
use super::numbers::{ASYNCHRONOUS, CLEANING};
use super::{NAME_COLUMNS, NAME_JOINS, build_name};
use crate::db::{Error, Row, Tx, Value, params};
use crate::master::model::{self, BuildName, BuildState, CleanStatus, JobStatus, ResetProtocol};
use crate::protocol::StatusForm;

/// A processor that a builder can run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Processor {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) family: String,
    /// The builder runs its programs by emulation.
    pub(crate) emulated: bool,
}

/// A builder (docs/farm.md §1.2).
#[derive(Clone, Debug)]
pub(crate) struct Builder {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) url: String,
    pub(crate) title: String,
    pub(crate) virtualized: bool,
    pub(crate) vm_host: Option<String>,
    pub(crate) reset: Option<ResetProtocol>,
    pub(crate) manual: bool,
    pub(crate) active: bool,
    pub(crate) ok: bool,
    /// The reason for which `ok` is false.
    pub(crate) failnotes: Option<String>,
    pub(crate) failure_count: i64,
    /// The form of the slave's `status`. `None` before its first answer.
    pub(crate) form: Option<StatusForm>,
    pub(crate) version: Option<String>,
    pub(crate) clean: CleanStatus,
    pub(crate) clean_changed_at: i64,
    /// The process that holds the lease, if any.
    pub(crate) lease_owner: Option<String>,
    pub(crate) lease_until: i64,
    pub(crate) epoch: i64,
    /// Ordered by id.
    pub(crate) processors: Vec<Processor>,
}

impl Builder {
    /// Returns the names of its processors: all, or those that it emulates.
    pub(crate) fn processor_names(&self, emulated_only: bool) -> Vec<&str> {
        let chosen = self.processors.iter();
        let chosen = chosen.filter(|one| one.emulated || !emulated_only);
        chosen.map(|one| one.name.as_str()).collect()
    }

    /// Returns its processors for people: `amd64, arm64 (emulated)`.
    pub(crate) fn shown_processors(&self) -> String {
        let shown = self.processors.iter().map(|one| match one.emulated {
            true => format!("{} (emulated)", one.name),
            false => one.name.clone(),
        });
        shown.collect::<Vec<_>>().join(", ")
    }

    /// Returns the family of its first processor, which groups the builders.
    pub(crate) fn family(&self) -> Option<&str> {
        self.processors.first().map(|one| one.family.as_str())
    }
}

/// The queue row of a builder, with columns of its build.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) queue: i64,
    pub(crate) build: i64,
    pub(crate) attempt: i64,
    /// The random part of the cookie; `None` in attempts of older versions.
    pub(crate) nonce: Option<String>,
    pub(crate) status: JobStatus,
    /// The time by which it must have stopped. `None` before the first `abort` call.
    pub(crate) cancel_by: Option<i64>,
    pub(crate) started_at: i64,
    pub(crate) state: BuildState,
    pub(crate) name: BuildName,
    pub(crate) logtail: Option<String>,
}

impl Job {
    /// Returns the cookie, which the slave repeats in its `status`.
    pub(crate) fn cookie(&self) -> String {
        model::cookie(self.build, self.queue, self.attempt, self.nonce.as_deref())
    }

    pub(crate) fn is_cancelling(&self) -> bool {
        self.status == JobStatus::Cancelling
    }
}

/// Returns a builder and its job; `None` if there is no such builder.
pub(crate) fn view(tx: &mut Tx<'_>, builder: i64) -> Result<Option<(Builder, Option<Job>)>, Error> {
    Ok(select(tx, "= $1", &params![builder])?.pop())
}

/// Returns the builder with a name, also a removed one.
pub(crate) fn named(tx: &mut Tx<'_>, name: &str) -> Result<Option<(Builder, Option<Job>)>, Error> {
    let which = "= (SELECT m.id FROM builder m WHERE m.name = $1)";
    Ok(select(tx, which, &params![name])?.pop())
}

/// Returns the name of the builder with a URL.
pub(crate) fn name_of_url(tx: &mut Tx<'_>, url: &str) -> Result<Option<String>, Error> {
    let row = tx.query_opt("SELECT name FROM builder WHERE url = $1", &params![url])?;
    row.map(|row| row.get(0)).transpose()
}

/// Returns the names of all builders that were not removed.
pub(crate) fn names(tx: &mut Tx<'_>) -> Result<Vec<String>, Error> {
    let rows = tx.query("SELECT name FROM builder WHERE active ORDER BY name", &[])?;
    rows.iter().map(|row| row.get(0)).collect()
}

/// Returns the builders with a processor and this virtualization that were not removed, in the
/// order of [`all`].
pub(crate) fn for_jobs(
    tx: &mut Tx<'_>,
    processor: i64,
    virtualized: bool,
) -> Result<Vec<(Builder, Option<Job>)>, Error> {
    let which = "IN (SELECT m.id FROM builder_processor o JOIN builder m ON m.id = o.builder_id
                     WHERE o.processor_id = $1 AND m.virtualized = $2 AND m.active)";
    sorted(select(tx, which, &params![processor, virtualized])?)
}

/// Returns all builders and their jobs, ordered by processor family, then virtual ones last, then
/// by name.
pub(crate) fn all(tx: &mut Tx<'_>) -> Result<Vec<(Builder, Option<Job>)>, Error> {
    sorted(select(tx, "IN (SELECT m.id FROM builder m)", &[])?)
}

/// Returns at most `limit` builders in the order of [`all`], which follow the builder `after`; with
/// `removed`, also removed ones.
pub(crate) fn page(
    tx: &mut Tx<'_>,
    removed: bool,
    after: Option<&str>,
    limit: Option<usize>,
) -> Result<Vec<(Builder, Option<Job>)>, Error> {
    let sql = "
        SELECT m.id, (SELECT p.family FROM builder_processor c
                      JOIN processor p ON p.id = c.processor_id
                      WHERE c.builder_id = m.id ORDER BY p.id LIMIT 1),
            m.virtualized, m.name, m.active
        FROM builder m";
    let mut places: Vec<(Option<String>, bool, String, i64)> = Vec::new();
    for row in tx.query(sql, &[])? {
        let name: String = row.get(3)?;
        if removed || row.get(4)? || after == Some(&name) {
            places.push((row.get(1)?, row.get(2)?, name, row.get(0)?));
        }
    }
    places.sort_unstable();
    let start = after.and_then(|name| places.iter().position(|place| place.2 == name));
    let rest = places.into_iter().skip(start.map_or(0, |index| index + 1));
    let ids: Vec<i64> = rest
        .take(limit.unwrap_or(usize::MAX))
        .map(|(.., id)| id)
        .collect();
    let mut found = Vec::new();
    // A connection caches every statement, so that all have the same length.
    for part in ids.chunks(PAGE) {
        let mut params: Vec<Value> = part.iter().map(|&id| id.into()).collect();
        params.resize(PAGE, Value::Null);
        let marks: Vec<String> = (1..=PAGE).map(|n| format!("${n}")).collect();
        found.extend(select(tx, &format!("IN ({})", marks.join(", ")), &params)?);
    }
    sorted(found)
}

/// Returns the builders of a process that a look would find something to do for: all but those that
/// are out of service without a job, and those that wait for the end of a reset.
pub(crate) fn with_work(tx: &mut Tx<'_>, owner: &str) -> Result<Vec<i64>, Error> {
    let sql = format!(
        "SELECT m.id FROM builder m
        WHERE m.lease_owner = $1
            AND (EXISTS (SELECT 1 FROM build_queue q WHERE q.builder_id = m.id)
                 OR (m.builderok AND NOT (m.virtualized AND m.clean_status = {CLEANING}
                     AND COALESCE(m.vm_reset_protocol, 0) = {ASYNCHRONOUS})))"
    );
    let rows = tx.query(&sql, &params![owner])?;
    rows.iter().map(|row| row.get(0)).collect()
}

/// The number of builders that one query of [`page`] reads.
const PAGE: usize = 200;

type Found = Vec<(Builder, Option<Job>)>;

fn sorted(mut all: Found) -> Result<Found, Error> {
    all.sort_by(|(one, _), (other, _)| order(one, other));
    Ok(all)
}

fn order(one: &Builder, other: &Builder) -> Ordering {
    fn key(builder: &Builder) -> (Option<&str>, bool, &str) {
        (builder.family(), builder.virtualized, &builder.name)
    }
    key(one).cmp(&key(other))
}

/// Reads the builders whose id matches the condition `which`, with three queries for any number.
fn select(tx: &mut Tx<'_>, which: &str, params: &[Value]) -> Result<Found, Error> {
    let builders = format!(
        "SELECT id, name, url, title, virtualized, vm_host, vm_reset_protocol, manual, active,
             builderok, failnotes, failure_count, protocol, version, clean_status,
             clean_changed_at, lease_owner, lease_until, lease_epoch
         FROM builder WHERE id {which}"
    );
    let jobs = format!(
        "SELECT q.builder_id, q.id, q.build_id, q.attempt, q.status, q.cancel_by, q.buildstart,
             b.state, q.logtail, q.nonce, {NAME_COLUMNS}
         FROM build_queue q JOIN build b ON b.id = q.build_id {NAME_JOINS}
         WHERE q.builder_id {which}"
    );
    let processors = format!(
        "SELECT c.builder_id, p.id, p.name, p.family, c.emulated
         FROM builder_processor c JOIN processor p ON p.id = c.processor_id
         WHERE c.builder_id {which} ORDER BY p.id"
    );
    let builders = tx.query(&builders, params)?;
    let mut jobs_of = HashMap::new();
    for row in tx.query(&jobs, params)? {
        jobs_of.insert(row.get::<i64>(0)?, job(&row)?);
    }
    let mut processors_of: HashMap<i64, Vec<Processor>> = HashMap::new();
    for row in tx.query(&processors, params)? {
        let its = processors_of.entry(row.get(0)?).or_default();
        its.push(processor(&row)?);
    }
    let read = |row: &Row| {
        let id = row.get(0)?;
        let processors = processors_of.remove(&id).unwrap_or_default();
        Ok((builder(row, processors)?, jobs_of.remove(&id)))
    };
    builders.iter().map(read).collect()
}

fn processor(row: &Row) -> Result<Processor, Error> {
    Ok(Processor {
        id: row.get(1)?,
        name: row.get(2)?,
        family: row.get(3)?,
        emulated: row.get(4)?,
    })
}

fn builder(row: &Row, processors: Vec<Processor>) -> Result<Builder, Error> {
    Ok(Builder {
        id: row.get(0)?,
        name: row.get(1)?,
        url: row.get(2)?,
        title: row.get(3)?,
        virtualized: row.get(4)?,
        vm_host: row.get(5)?,
        reset: row.get(6)?,
        manual: row.get(7)?,
        active: row.get(8)?,
        ok: row.get(9)?,
        failnotes: row.get(10)?,
        failure_count: row.get(11)?,
        form: form(row.get(12)?),
        version: row.get(13)?,
        clean: row.get(14)?,
        clean_changed_at: row.get(15)?,
        lease_owner: row.get(16)?,
        lease_until: row.get(17)?,
        epoch: row.get(18)?,
        processors,
    })
}

fn job(row: &Row) -> Result<Job, Error> {
    Ok(Job {
        queue: row.get(1)?,
        build: row.get(2)?,
        attempt: row.get(3)?,
        status: row.get(4)?,
        cancel_by: row.get(5)?,
        // A row that another program inserted may lack the start.
        started_at: row.get::<Option<i64>>(6)?.unwrap_or(0),
        state: row.get(7)?,
        logtail: row.get(8)?,
        nonce: row.get(9)?,
        name: build_name(row, 10)?,
    })
}

/// Reads `builder.protocol`.
fn form(number: i64) -> Option<StatusForm> {
    match number {
        1 => Some(StatusForm::Tuple),
        2 => Some(StatusForm::Dict),
        _ => None,
    }
}

/// Sets the clean status of a builder. False if another process has taken the builder over. False,
/// too, for a status other than DIRTY while the builder has a job.
pub(crate) fn set_clean(
    tx: &mut Tx<'_>,
    fence: Fence,
    clean: CleanStatus,
    now: i64,
) -> Result<bool, Error> {
    let sql = "
        UPDATE builder SET clean_status = $3, clean_changed_at = $4
        WHERE id = $1 AND lease_epoch = $2
          AND (CAST($5 AS BOOLEAN)
               OR NOT EXISTS (SELECT 1 FROM build_queue WHERE builder_id = $1))";
    let dirty = clean == CleanStatus::Dirty;
    let touched = tx.execute(sql, &params![fence.builder, fence.epoch, clean, now, dirty])?;
    Ok(touched > 0)
}

/// Takes a builder out of service until an operator enables it. False if another process has taken
/// the builder over.
pub(crate) fn fail(tx: &mut Tx<'_>, fence: Fence, notes: &str) -> Result<bool, Error> {
    let sql = "
        UPDATE builder SET builderok = FALSE, failnotes = $3 WHERE id = $1 AND lease_epoch = $2";
    let touched = tx.execute(sql, &params![fence.builder, fence.epoch, notes])?;
    Ok(touched > 0)
}

/// Sets the failure count of a builder. False if another process has taken the builder over.
pub(crate) fn set_failure_count(tx: &mut Tx<'_>, fence: Fence, n: i64) -> Result<bool, Error> {
    let sql = "UPDATE builder SET failure_count = $3 WHERE id = $1 AND lease_epoch = $2";
    let touched = tx.execute(sql, &params![fence.builder, fence.epoch, n])?;
    Ok(touched > 0)
}

/// Stores the form of a slave's `status`, and its version. False if another process has taken the
/// builder over.
pub(crate) fn set_form(
    tx: &mut Tx<'_>,
    fence: Fence,
    form: StatusForm,
    version: Option<&str>,
) -> Result<bool, Error> {
    let number = match form {
        StatusForm::Tuple => 1_i64,
        StatusForm::Dict => 2,
    };
    let sql = "
        UPDATE builder SET protocol = $3, version = $4 WHERE id = $1 AND lease_epoch = $2";
    let touched = tx.execute(sql, &params![fence.builder, fence.epoch, number, version])?;
    Ok(touched > 0)
}

/// Stores which processors of a builder its slave emulates: those of the architectures `tags`.
/// False if another process has taken the builder over.
pub(crate) fn set_emulated(tx: &mut Tx<'_>, fence: Fence, tags: &[String]) -> Result<bool, Error> {
    if !hold(tx, fence)? {
        return Ok(false);
    }
    let mut params = params![fence.builder].to_vec();
    params.extend(tags.iter().map(|tag| Value::from(tag.as_str())));
    let marks: Vec<String> = (0..tags.len()).map(|n| format!("${}", n + 2)).collect();
    let among = match marks.is_empty() {
        // The condition is false, with the type of a boolean on both engines.
        true => "1 = 0".to_owned(),
        false => format!(
            "processor_id IN (
                 SELECT p.id FROM processor p LEFT JOIN arch_series t ON t.processor_id = p.id
                 WHERE p.name IN ({marks}) OR t.arch_tag IN ({marks}))",
            marks = marks.join(", ")
        ),
    };
    let sql = format!("UPDATE builder_processor SET emulated = ({among}) WHERE builder_id = $1");
    tx.execute(&sql, &params)?;
    Ok(true)
}
