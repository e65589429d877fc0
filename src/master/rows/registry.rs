//! An operator's writes about builders: registration and whether they are in service.
//!
//! No write here is fenced by a lease. The process that holds the lease sees it at its next look.
//! The fenced writes are in `builders` and `queue`.

use super::numbers::{ASYNCHRONOUS, CLEAN, CLEANING, UNKNOWN_FORM};
use crate::db::{Error, Tx, params};
use crate::master::model::{CleanStatus, ResetProtocol};

/// A builder to register.
#[derive(Clone, Debug)]
pub(crate) struct New {
    pub(crate) name: String,
    /// With the credentials that the slave requires, if any.
    pub(crate) url: String,
    pub(crate) title: String,
    pub(crate) manual: bool,
    pub(crate) virtualized: bool,
    pub(crate) vm_host: Option<String>,
    pub(crate) reset: Option<ResetProtocol>,
    /// Ids of the processors that it can run.
    pub(crate) processors: Vec<i64>,
}

/// Registers a builder and returns its id. A removed builder of that name is active again, with its
/// history. The builder is DIRTY, because its state is unknown.
pub(crate) fn add(tx: &mut Tx<'_>, new: &New, now: i64) -> Result<i64, Error> {
    let sql = format!(
        "INSERT INTO builder (name, url, title, manual, virtualized, vm_host, vm_reset_protocol,
            clean_status, clean_changed_at, created_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)
        ON CONFLICT (name) DO UPDATE SET url = excluded.url, title = excluded.title,
            manual = excluded.manual, virtualized = excluded.virtualized,
            vm_host = excluded.vm_host, vm_reset_protocol = excluded.vm_reset_protocol,
            clean_status = excluded.clean_status, clean_changed_at = excluded.clean_changed_at,
            active = TRUE, builderok = TRUE, failnotes = NULL, failure_count = 0,
            protocol = {UNKNOWN_FORM}, version = NULL
        RETURNING id"
    );
    let row = tx.query_one(
        &sql,
        &params![
            &new.name,
            &new.url,
            &new.title,
            new.manual,
            new.virtualized,
            new.vm_host.clone(),
            new.reset,
            CleanStatus::Dirty,
            now,
        ],
    )?;
    let id: i64 = row.get(0)?;
    let sql = "DELETE FROM builder_processor WHERE builder_id = $1";
    tx.execute(sql, &params![id])?;
    for &processor in &new.processors {
        let sql = "INSERT INTO builder_processor (builder_id, processor_id) VALUES ($1, $2)";
        tx.execute(sql, &params![id, processor])?;
    }
    Ok(id)
}

/// Puts a builder into service. Its failure notes and failure count are reset. The builder is
/// DIRTY, so the next look cleans it.
pub(crate) fn enable(tx: &mut Tx<'_>, builder: i64, now: i64) -> Result<(), Error> {
    let sql = "
        UPDATE builder SET builderok = TRUE, failnotes = NULL, failure_count = 0,
            clean_status = $2, clean_changed_at = $3
        WHERE id = $1";
    let dirty = CleanStatus::Dirty;
    tx.execute(sql, &params![builder, dirty, now]).map(drop)
}

/// Takes a builder out of service. The reason replaces its failure notes.
pub(crate) fn disable(tx: &mut Tx<'_>, builder: i64, reason: Option<&str>) -> Result<(), Error> {
    let sql = "UPDATE builder SET builderok = FALSE, failnotes = $2 WHERE id = $1";
    tx.execute(sql, &params![builder, reason]).map(drop)
}

/// Sets whether a builder is manual: no automatic dispatch.
pub(crate) fn set_manual(tx: &mut Tx<'_>, builder: i64, manual: bool) -> Result<(), Error> {
    let sql = "UPDATE builder SET manual = $2 WHERE id = $1";
    tx.execute(sql, &params![builder, manual]).map(drop)
}

/// Marks a virtual builder CLEAN after its asynchronous reset (docs/farm.md §3.4). False if no such
/// reset was requested.
pub(crate) fn set_clean(tx: &mut Tx<'_>, builder: i64, now: i64) -> Result<bool, Error> {
    let sql = format!(
        "UPDATE builder SET clean_status = {CLEAN}, clean_changed_at = $2
        WHERE id = $1 AND clean_status = {CLEANING} AND vm_reset_protocol = {ASYNCHRONOUS}"
    );
    Ok(tx.execute(&sql, &params![builder, now])? > 0)
}

/// Removes a builder. A builder that has built something keeps its row, inactive, for the history;
/// then this returns true.
pub(crate) fn remove(tx: &mut Tx<'_>, builder: i64) -> Result<bool, Error> {
    let sql = "DELETE FROM builder_processor WHERE builder_id = $1";
    tx.execute(sql, &params![builder])?;
    let sql = "
        SELECT 1 WHERE EXISTS (SELECT 1 FROM build WHERE builder_id = $1)
            OR EXISTS (SELECT 1 FROM attempt WHERE builder_id = $1)";
    if tx.query_opt(sql, &params![builder])?.is_none() {
        tx.execute("DELETE FROM builder WHERE id = $1", &params![builder])?;
        return Ok(false);
    }
    // Another builder may be registered with its URL.
    let sql = "
        UPDATE builder SET active = FALSE, builderok = FALSE, failnotes = 'removed',
            url = 'removed:' || CAST(id AS TEXT)
        WHERE id = $1";
    tx.execute(sql, &params![builder])?;
    Ok(true)
}

/// Returns whether the builder of that name is neither disabled nor removed.
pub(crate) fn is_in_use(tx: &mut Tx<'_>, name: &str) -> Result<bool, Error> {
    let sql = "SELECT id FROM builder WHERE name = $1 AND active AND builderok";
    Ok(tx.query_opt(sql, &params![name])?.is_some())
}

/// Returns whether a master process of `host` has announced itself at `since` or later.
pub(crate) fn host_is_alive(tx: &mut Tx<'_>, host: &str, since: i64) -> Result<bool, Error> {
    let sql = "SELECT owner FROM master_process WHERE host = $1 AND seen_at >= $2 LIMIT 1";
    Ok(tx.query_opt(sql, &params![host, since])?.is_some())
}

/// Returns whether a master process has announced itself at `since` or later.
pub(crate) fn any_master_is_alive(tx: &mut Tx<'_>, since: i64) -> Result<bool, Error> {
    let sql = "SELECT owner FROM master_process WHERE seen_at >= $1 LIMIT 1";
    Ok(tx.query_opt(sql, &params![since])?.is_some())
}
