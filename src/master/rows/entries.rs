//! Finds and repairs queue rows: missing ones, and those of disabled architectures and archives.
//!
//! The rows are searched in a read transaction, which blocks nobody. The writes check them again.

use super::bulk;
use super::numbers::{NEEDS_BUILD, SUSPENDED, WAITING};
use super::queue::insert_entries;
use crate::db::{Error, Row, Tx, params};

/// Returns at most `limit` builds in NEEDSBUILD without a queue row.
pub(crate) fn missing(tx: &mut Tx<'_>, limit: i64) -> Result<Vec<i64>, Error> {
    let sql = format!(
        "SELECT b.id FROM build b
        WHERE b.state = {NEEDS_BUILD}
            AND NOT EXISTS (SELECT 1 FROM build_queue q WHERE q.build_id = b.id)
        ORDER BY b.id LIMIT $1"
    );
    ids(&tx.query(&sql, &params![limit])?)
}

/// Adds unscored queue rows for builds that still lack one (docs/farm.md §2.2), and returns their
/// number.
pub(crate) fn add(tx: &mut Tx<'_>, builds: &[i64], now: i64) -> Result<u64, Error> {
    let sql = insert_entries(&format!(
        "b.id = $2 AND b.state = {NEEDS_BUILD} ON CONFLICT (build_id) DO NOTHING"
    ));
    let mut added = 0;
    for &build in builds {
        added += tx.execute(&sql, &params![now, build])?;
    }
    Ok(added)
}

/// Returns at most `limit` waiting jobs of disabled architectures and archives. A claim refuses
/// these jobs anyway. Suspended, they are out of its index and do not slow its search.
pub(crate) fn to_suspend(tx: &mut Tx<'_>, limit: i64) -> Result<Vec<i64>, Error> {
    let mut found = Vec::new();
    for (table, column) in [("archive", "archive_id"), ("arch_series", "arch_series_id")] {
        let disabled = tx.query(&format!("SELECT id FROM {table} WHERE NOT enabled"), &[])?;
        for id in ids(&disabled)? {
            let sql = format!(
                "SELECT q.id FROM build b CROSS JOIN build_queue q
                WHERE b.{column} = $1 AND b.state = {NEEDS_BUILD} AND q.build_id = b.id
                    AND q.status = {WAITING}
                LIMIT $2"
            );
            found.extend(ids(&tx.query(&sql, &params![id, limit])?)?);
        }
    }
    found.sort_unstable();
    found.dedup();
    found.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    Ok(found)
}

/// Returns at most `limit` suspended jobs of enabled architectures and archives.
pub(crate) fn to_resume(tx: &mut Tx<'_>, limit: i64) -> Result<Vec<i64>, Error> {
    let sql = format!(
        "SELECT q.id FROM build_queue q
        JOIN build b ON b.id = q.build_id
        JOIN arch_series t ON t.id = b.arch_series_id
        JOIN archive a ON a.id = b.archive_id
        WHERE q.status = {SUSPENDED} AND b.state = {NEEDS_BUILD} AND t.enabled AND a.enabled
        LIMIT $1"
    );
    ids(&tx.query(&sql, &params![limit])?)
}

/// Suspends waiting jobs, or resumes suspended ones; returns the number of changed jobs.
pub(crate) fn set_suspended(tx: &mut Tx<'_>, jobs: &[i64], suspended: bool) -> Result<u64, Error> {
    let (from, to) = match suspended {
        true => (WAITING, SUSPENDED),
        false => (SUSPENDED, WAITING),
    };
    let sql = format!(
        "UPDATE build_queue SET status = {to}
        WHERE id IN ({{LIST}}) AND +status = {from} RETURNING id"
    );
    Ok(bulk::query_ids(tx, &sql, &[], jobs)?.len() as u64)
}

fn ids(rows: &[Row]) -> Result<Vec<i64>, Error> {
    rows.iter().map(|row| row.get(0)).collect()
}
