//! Which process looks after which builder?
//!
//! A lease is had until a time, and renewed before (docs/farm.md §6.4). Taking one over raises the
//! builder's epoch: whoever had it before still knows the old one, and what it writes then touches
//! nothing. The same, without a fence, for work that only one process does at a time.

use super::bulk;
use crate::db::{Engine, Error, Row, Tx, Value, params};

/// What fenced writes carry: whose builder, since which take-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fence {
    pub(crate) builder: i64,
    pub(crate) epoch: i64,
}

/// Processes not heard of for so long are forgotten.
const FORGET_AFTER_MS: i64 = 24 * 60 * 60 * 1000;

/// Tells the others that this process is alive.
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

/// Returns how many processes have announced themselves within so many milliseconds; at least one,
/// which is who asks.
pub(crate) fn live_processes(tx: &mut Tx<'_>, now: i64, within_ms: i64) -> Result<i64, Error> {
    let sql = "SELECT count(*) FROM master_process WHERE seen_at >= $1";
    let count: i64 = tx.query_one(sql, &params![now - within_ms])?.get(0)?;
    Ok(count.max(1))
}

/// Returns how many builders there are to share.
pub(crate) fn builders(tx: &mut Tx<'_>) -> Result<i64, Error> {
    tx.query_one("SELECT count(*) FROM builder", &[])?.get(0)
}

/// Returns the number of the last take-over of a builder.
pub(crate) fn epoch(tx: &mut Tx<'_>, builder: i64) -> Result<Option<i64>, Error> {
    let sql = "SELECT lease_epoch FROM builder WHERE id = $1";
    let row = tx.query_opt(sql, &params![builder])?;
    row.map(|row| row.get(0)).transpose()
}

/// Tells whether some builder is nobody's.
pub(crate) fn any_free(tx: &mut Tx<'_>, now: i64) -> Result<bool, Error> {
    let sql = "SELECT EXISTS (SELECT 1 FROM builder WHERE lease_until < $1)";
    tx.query_one(sql, &params![now])?.get(0)
}

/// Makes this process's leases last until `until`, and returns them: a builder that is not among
/// them is somebody else's now, or is no more.
pub(crate) fn renew(tx: &mut Tx<'_>, me: &str, until: i64) -> Result<Vec<Fence>, Error> {
    let sql =
        "UPDATE builder SET lease_until = $2 WHERE lease_owner = $1 RETURNING id, lease_epoch";
    fences(&tx.query(sql, &params![me, until])?)
}

/// Takes up to `limit` builders that nobody looks after, those longest without first.
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

/// Gives some leases back, for others to take.
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

/// Gives back all that this process has, and takes its name off the list.
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

/// Takes or keeps what only one process does at a time. Returns false while another has it.
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

/// Makes sure that the lease is still this process's, and will be until the transaction ends.
/// The first thing any fenced write does: all lock the builder before its job and its build.
pub(super) fn hold(tx: &mut Tx<'_>, fence: Fence) -> Result<bool, Error> {
    hold_if(tx, fence, "TRUE")
}

/// The same, if the builder's row is besides as `condition` has it.
pub(super) fn hold_if(tx: &mut Tx<'_>, fence: Fence, condition: &str) -> Result<bool, Error> {
    let lock = match tx.engine() {
        // There is one writer at a time.
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
