//! Results that wait for the uploader, the start of an upload and its outcome.

use super::numbers::UPLOADING;
use super::{NAME_COLUMNS, NAME_JOINS, build_name};
use crate::db::{Error, Row, Tx, Value, params};
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
    /// The host that has the results; `None` in attempts of older versions.
    pub(crate) host: Option<String>,
    /// When the uploader was started; `None` if it was not.
    pub(crate) upload_started_at: Option<i64>,
    /// The archive is private; then the uploader's log is restricted.
    pub(crate) private: bool,
    pub(crate) name: BuildName,
}

/// The number of uploads of one host that [`waiting`] returns.
const LIMIT: usize = 1000;

/// Returns uploads whose results `host` has or may have, ordered by build id, those first whose
/// uploader was started. If there are many, some are left for later.
pub(crate) fn waiting(tx: &mut Tx<'_>, host: &str) -> Result<Vec<Upload>, Error> {
    let of_host = format!("n.host = $1 ORDER BY n.upload_started_at IS NULL, b.id LIMIT {LIMIT}");
    let mut uploads = select(tx, &of_host, &params![host])?;
    // Attempts of older versions. Most may be on other hosts, so none is left out.
    uploads.extend(select(tx, "n.host IS NULL ORDER BY b.id", &[])?);
    Ok(uploads)
}

/// Returns the uploads that match `condition` about the attempt `n` and the build `b`.
fn select(tx: &mut Tx<'_>, condition: &str, params: &[Value]) -> Result<Vec<Upload>, Error> {
    let sql = format!(
        "SELECT b.id, b.leaf, b.arch_series_id, b.archive_id, s.component,
             COALESCE(w.name, ''), COALESCE(b.started_at, b.created_at), a.private,
             n.host, n.upload_started_at, {NAME_COLUMNS}
         FROM build b {NAME_JOINS} JOIN archive a ON a.id = b.archive_id
         LEFT JOIN builder w ON w.id = b.builder_id
         JOIN attempt n ON n.build_id = b.id AND n.leaf = b.leaf
         WHERE b.state = {UPLOADING} AND {condition}"
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
            host: row.get(8)?,
            upload_started_at: row.get(9)?,
            name: build_name(row, 10)?,
        })
    };
    tx.query(&sql, params)?.iter().map(read).collect()
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

/// Locks a build in UPLOADING until the transaction ends. False if it is in another state, or has
/// other results.
pub(crate) fn hold(tx: &mut Tx<'_>, build: i64, leaf: &str) -> Result<bool, Error> {
    let sql =
        format!("UPDATE build SET leaf = $2 WHERE id = $1 AND leaf = $2 AND state = {UPLOADING}");
    Ok(tx.execute(&sql, &params![build, leaf])? > 0)
}

/// Records that `host` starts the uploader. False if the build is no longer UPLOADING, or if
/// another host has the results.
pub(crate) fn claim(tx: &mut Tx<'_>, upload: &Upload, host: &str, now: i64) -> Result<bool, Error> {
    let sql = "
        UPDATE attempt SET host = $3, upload_started_at = COALESCE(upload_started_at, $4)
        WHERE build_id = $1 AND leaf = $2 AND (host IS NULL OR host = $3)";
    Ok(hold(tx, upload.build, &upload.leaf)?
        && tx.execute(sql, &params![upload.build, &upload.leaf, host, now])? > 0)
}

/// Ends a build in UPLOADING, without an uploader's outcome.
pub(crate) fn give_up(
    tx: &mut Tx<'_>,
    build: i64,
    leaf: Option<&str>,
    reason: &str,
) -> Result<(), Error> {
    let sql =
        format!("UPDATE build SET state = $2, reason = $3 WHERE id = $1 AND state = {UPLOADING}");
    tx.execute(&sql, &params![build, BuildState::FailedToUpload, reason])?;
    let sql = "UPDATE attempt SET reason = $3 WHERE build_id = $1 AND leaf = $2";
    tx.execute(sql, &params![build, leaf, reason]).map(drop)
}

/// Makes a build whose upload has failed wait for the uploader again. False if it is in another
/// state, or has no results.
pub(crate) fn again(tx: &mut Tx<'_>, build: i64) -> Result<bool, Error> {
    let sql = "
        UPDATE build SET state = $2, reason = NULL, upload_log_alias_id = NULL
        WHERE id = $1 AND state = $3 AND leaf IS NOT NULL";
    let (from, to) = (BuildState::FailedToUpload, BuildState::Uploading);
    if tx.execute(sql, &params![build, to, from])? == 0 {
        return Ok(false);
    }
    let sql = "
        UPDATE attempt SET upload_started_at = NULL
        WHERE build_id = $1 AND leaf = (SELECT leaf FROM build WHERE id = $1)";
    tx.execute(sql, &params![build])?;
    Ok(true)
}

/// An attempt that has results.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The host that has them; `None` in attempts of older versions.
    pub(crate) host: Option<String>,
    pub(crate) upload_started_at: Option<i64>,
    /// They wait for the uploader, or it runs.
    pub(crate) is_uploading: bool,
}

/// Returns the place of an attempt's results; `None` if there is no such attempt.
pub(crate) fn place(tx: &mut Tx<'_>, build: i64, cookie: &str) -> Result<Option<Place>, Error> {
    let sql = format!(
        "SELECT n.host, n.upload_started_at, b.state = {UPLOADING} AND b.leaf = n.cookie
        FROM attempt n JOIN build b ON b.id = n.build_id WHERE n.build_id = $1 AND n.cookie = $2"
    );
    let read = |row: Row| {
        Ok(Place {
            host: row.get(0)?,
            upload_started_at: row.get(1)?,
            is_uploading: row.get::<Option<bool>>(2)?.unwrap_or(false),
        })
    };
    tx.query_opt(&sql, &params![build, cookie])?
        .map(read)
        .transpose()
}
