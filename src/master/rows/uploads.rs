//! Results that wait for the uploader, and the outcome of an upload.

use super::numbers::UPLOADING;
use super::{NAME_COLUMNS, NAME_JOINS, build_name};
use crate::db::{Error, Row, Tx, params};
use crate::master::model::{BuildName, BuildState};

/// The results of a build in UPLOADING.
#[derive(Clone, Debug)]
pub(crate) struct Upload {
    pub(crate) build: i64,
    /// Their folder, below `incoming/`.
    pub(crate) leaf: String,
    pub(crate) arch_series: i64,
    pub(crate) archive: i64,
    pub(crate) component: String,
    pub(crate) builder: String,
    pub(crate) started_at: i64,
    /// The archive is private; then the uploader's log is restricted.
    pub(crate) private: bool,
    pub(crate) name: BuildName,
}

/// Returns all waiting uploads, ordered by build id.
pub(crate) fn waiting(tx: &mut Tx<'_>) -> Result<Vec<Upload>, Error> {
    let sql = format!(
        "SELECT b.id, b.leaf, b.arch_series_id, b.archive_id, s.component,
             COALESCE(w.name, ''), COALESCE(b.started_at, b.created_at), a.private, {NAME_COLUMNS}
         FROM build b {NAME_JOINS} JOIN archive a ON a.id = b.archive_id
         LEFT JOIN builder w ON w.id = b.builder_id
         WHERE b.state = {UPLOADING} AND b.leaf IS NOT NULL ORDER BY b.id"
    );
    let read = |row: &Row| {
        Ok(Upload {
            build: row.get(0)?,
            leaf: row.get(1)?,
            arch_series: row.get(2)?,
            archive: row.get(3)?,
            component: row.get(4)?,
            builder: row.get(5)?,
            started_at: row.get(6)?,
            private: row.get(7)?,
            name: build_name(row, 8)?,
        })
    };
    tx.query(&sql, &[])?.iter().map(read).collect()
}

/// Stores the outcome of an upload; false if another process has stored one. There is no fence: the
/// state UPLOADING lets only the first write match.
pub(crate) fn done(
    tx: &mut Tx<'_>,
    upload: &Upload,
    state: BuildState,
    log_alias: Option<i64>,
    reason: Option<&str>,
) -> Result<bool, Error> {
    let sql = format!(
        "UPDATE build SET state = $3, upload_log_alias_id = $4, reason = $5
        WHERE id = $1 AND leaf = $2 AND state = {UPLOADING}"
    );
    let params = params![upload.build, &upload.leaf, state, log_alias, reason];
    if tx.execute(&sql, &params)? == 0 {
        return Ok(false);
    }
    let sql = "
        UPDATE attempt SET upload_log_alias_id = $3, reason = $4
        WHERE build_id = $1 AND leaf = $2";
    tx.execute(sql, &params![upload.build, &upload.leaf, log_alias, reason])?;
    Ok(true)
}
