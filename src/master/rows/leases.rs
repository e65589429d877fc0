//! Leases, which give each builder to one master process at a time.
//!
//! A process renews its leases before they expire (docs/farm.md §6.4). Taking a lease raises the
//! builder's epoch. The former holder's writes name the old epoch, so they match no row. A
//! singleton is the same for work that one process does at a time, without an epoch.

use super::bulk;
use crate::db::{Engine, Error, Row, Tx, Value, params};

/// Identifies a lease. A fenced write carries it, and matches only while `epoch` is the builder's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Fence {
    pub(crate) builder: i64,
    pub(crate) epoch: i64,
}

/// A process that has not announced itself for this long is deleted.
const FORGET_AFTER_MS: i64 = 24 * 60 * 60 * 1000;

/// Records that this process is alive, and deletes processes that have not announced themselves for
/// a day.
pub(crate) fn announce(tx: &mut Tx<'_>, me: &str, host: &str, now: i64) -> Result<(), Error> {
    tx.execute(
        "INSERT INTO master_process (owner, host, started_at, seen_at) VALUES ($1, $2, $3, $3)
         ON CONFLICT (owner) DO UPDATE SET seen_at = excluded.seen_at",
        &params![me, host, now],
    )?;
    let forget = "DELETE FROM master_process WHERE seen_at < $1";
    tx.execute(forget, &params![now - FORGET_AFTER_MS])?;
    Ok(())
}

/// Returns the number of processes that have announced themselves in the last `within_ms`. It is at
/// least one, the caller.
pub(crate) fn live_processes(tx: &mut Tx<'_>, now: i64, within_ms: i64) -> Result<i64, Error> {
    let sql = "SELECT count(*) FROM master_process WHERE seen_at >= $1";
    let count: i64 = tx.query_one(sql, &params![now - within_ms])?.get(0)?;
    Ok(count.max(1))
}

/// Returns the number of builders.
pub(crate) fn builders(tx: &mut Tx<'_>) -> Result<i64, Error> {
    tx.query_one("SELECT count(*) FROM builder", &[])?.get(0)
}

/// Returns the current epoch of a builder; `None` if there is no such builder.
pub(crate) fn epoch(tx: &mut Tx<'_>, builder: i64) -> Result<Option<i64>, Error> {
    let sql = "SELECT lease_epoch FROM builder WHERE id = $1";
    let row = tx.query_opt(sql, &params![builder])?;
    row.map(|row| row.get(0)).transpose()
}

/// Returns whether any lease has expired or was released.
pub(crate) fn any_free(tx: &mut Tx<'_>, now: i64) -> Result<bool, Error> {
    let sql = "SELECT EXISTS (SELECT 1 FROM builder WHERE lease_until < $1)";
    tx.query_one(sql, &params![now])?.get(0)
}

/// Extends all leases of this process to `until` and returns them, in no particular order. A lease
/// that is missing was taken over, or its builder was removed.
pub(crate) fn renew(tx: &mut Tx<'_>, me: &str, until: i64) -> Result<Vec<Fence>, Error> {
    let sql =
        "UPDATE builder SET lease_until = $2 WHERE lease_owner = $1 RETURNING id, lease_epoch";
    fences(&tx.query(sql, &params![me, until])?)
}

/// Takes at most `limit` leases that are free or have expired, the longest free first. The order of
/// the result is undefined.
pub(crate) fn take(
    tx: &mut Tx<'_>,
    me: &str,
    now: i64,
    until: i64,
    limit: i64,
) -> Result<Vec<Fence>, Error> {
    let sql = "
        WITH free AS MATERIALIZED (
            SELECT id FROM builder WHERE lease_owner IS NULL OR lease_until < $2
            ORDER BY lease_until, id LIMIT $4 {SKIP LOCKED})
        UPDATE builder SET lease_owner = $1, lease_until = $3, lease_epoch = lease_epoch + 1
        WHERE id IN (SELECT id FROM free)
        RETURNING id, lease_epoch";
    fences(&tx.query(sql, &params![me, now, until, limit])?)
}

/// Releases the leases of this process on some builders.
pub(crate) fn release(tx: &mut Tx<'_>, me: &str, builders: &[i64]) -> Result<(), Error> {
    let sql = "
        WITH given (id) AS ({VALUES})
        UPDATE builder SET lease_owner = NULL, lease_until = 0
        WHERE lease_owner = $1 AND id IN (SELECT id FROM given)
        RETURNING id";
    let rows = builders.iter().map(|&id| [Value::Int(id)]);
    bulk::query(tx, sql, ["BIGINT"], &params![me], rows)?;
    Ok(())
}

/// Releases all leases and singletons of this process, and removes it from the live processes.
pub(crate) fn leave(tx: &mut Tx<'_>, me: &str) -> Result<(), Error> {
    for sql in [
        "UPDATE builder SET lease_owner = NULL, lease_until = 0 WHERE lease_owner = $1",
        "DELETE FROM singleton WHERE owner = $1",
        "DELETE FROM master_process WHERE owner = $1",
    ] {
        tx.execute(sql, &params![me])?;
    }
    Ok(())
}

/// Takes or renews a singleton until `until`; false while another process has it.
pub(crate) fn singleton(
    tx: &mut Tx<'_>,
    name: &str,
    me: &str,
    now: i64,
    until: i64,
) -> Result<bool, Error> {
    let touched = tx.execute(
        "INSERT INTO singleton (name, owner, until) VALUES ($1, $2, $4)
         ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, until = excluded.until
         WHERE singleton.owner = $2 OR singleton.until < $3",
        &params![name, me, now, until],
    )?;
    Ok(touched > 0)
}

/// Ends a singleton, even one of another process.
pub(crate) fn end_singleton(tx: &mut Tx<'_>, name: &str) -> Result<(), Error> {
    let sql = "DELETE FROM singleton WHERE name = $1";
    tx.execute(sql, &params![name]).map(drop)
}

/// Locks the builder's row until the transaction ends. False if another process has taken the
/// builder over. Every fenced write locks the builder first, before its job and its build, or two
/// of them could deadlock.
pub(super) fn hold(tx: &mut Tx<'_>, fence: Fence) -> Result<bool, Error> {
    hold_if(tx, fence, "TRUE")
}

/// Like [`hold`]. False, too, if the builder's row does not match the SQL `condition`.
pub(super) fn hold_if(tx: &mut Tx<'_>, fence: Fence, condition: &str) -> Result<bool, Error> {
    let lock = match tx.engine() {
        // SQLite has one writer at a time.
        Engine::Sqlite => "",
        Engine::Postgres => "FOR NO KEY UPDATE",
    };
    let sql = format!(
        "SELECT id FROM builder WHERE id = $1 AND lease_epoch = $2 AND ({condition}) {lock}"
    );
    let found = tx.query_opt(&sql, &params![fence.builder, fence.epoch])?;
    Ok(found.is_some())
}

fn fences(rows: &[Row]) -> Result<Vec<Fence>, Error> {
    let fence = |row: &Row| {
        Ok(Fence {
            builder: row.get(0)?,
            epoch: row.get(1)?,
        })
    };
    rows.iter().map(fence).collect()
}
