//! The outbox: notifications about builds that wait for delivery.
//!
//! A notification is written in the transaction of the change that it reports, and deleted after
//! its delivery. A crash in between repeats a notification; it never loses one.

use crate::db::{Error, Row, Tx, params};

/// Adds a notification. `document` is JSON.
pub(crate) fn put(tx: &mut Tx<'_>, build: i64, now: i64, document: &str) -> Result<(), Error> {
    tx.execute(
        "INSERT INTO notification (build_id, created_at, document) VALUES ($1, $2, $3)",
        &params![build, now, document],
    )?;
    Ok(())
}

/// A notification to deliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notification {
    pub(crate) id: i64,
    pub(crate) created_at: i64,
    /// JSON.
    pub(crate) document: String,
}

/// The number of notifications that [`pending`] returns.
const PENDING: i64 = 10_000;

/// Returns the ids of the oldest notifications, ascending.
pub(crate) fn pending(tx: &mut Tx<'_>) -> Result<Vec<i64>, Error> {
    let sql = "SELECT id FROM notification WHERE id > 0 ORDER BY id LIMIT $1";
    let rows = tx.query(sql, &params![PENDING])?;
    rows.iter().map(|row| row.get(0)).collect()
}

/// Returns a notification; `None` if it was delivered.
pub(crate) fn get(tx: &mut Tx<'_>, id: i64) -> Result<Option<Notification>, Error> {
    let sql = "SELECT id, created_at, document FROM notification WHERE id = $1";
    let row = tx.query_opt(sql, &params![id])?;
    let read = |row: Row| {
        Ok(Notification {
            id: row.get(0)?,
            created_at: row.get(1)?,
            document: row.get(2)?,
        })
    };
    row.map(read).transpose()
}

/// Deletes a notification, after its delivery.
pub(crate) fn done(tx: &mut Tx<'_>, id: i64) -> Result<(), Error> {
    tx.execute("DELETE FROM notification WHERE id = $1", &params![id])?;
    Ok(())
}
