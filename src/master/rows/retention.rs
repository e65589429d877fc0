//! Rows that the archives no longer keep (docs/farm.md §3.12).
//!
//! Candidates are read in windows of an index. Each function that deletes checks its condition
//! again, in the same transaction.

use super::numbers::{ENDED, PENDING, PUBLISHED, UPLOADING};
use crate::db::{Engine, Error, Row, Tx, params};
use crate::master::policy::retention::Folder;

/// Rows that one read transaction looks at.
const WINDOW: u32 = 2000;

/// The time before which archive `r` keeps nothing old; `now` is a parameter.
fn cutoff(now: &str) -> String {
    format!("(CAST({now} AS BIGINT) - CAST(r.keep_days AS BIGINT) * 86400000)")
}

/// The candidates of a window, and the key to continue after; `None` at the end.
type Window<T, K> = Option<(Vec<T>, K)>;

// ---- attempts ----

/// The condition that attempt `a` of build `b` in archive `r` may go. The attempts of a build that
/// waits count for the limits of docs/farm.md §3.3, so they stay.
fn removable_attempt(now: &str) -> String {
    format!(
        "r.keep_attempts > 0 AND r.keep_days > 0 AND b.state IN ({ENDED})
         AND a.ended_at < {}
         AND (SELECT COUNT(*) FROM attempt n WHERE n.build_id = a.build_id AND n.number > a.number)
             >= r.keep_attempts",
        cutoff(now)
    )
}

/// Returns the removable attempts (build, number) of the next window, and the build to continue
/// after; `None` at the end.
pub(crate) fn attempts(
    tx: &mut Tx<'_>,
    after: i64,
    now: i64,
) -> Result<Window<(i64, i64), i64>, Error> {
    let window = format!(
        "SELECT MAX(w.build_id) FROM (
             SELECT build_id FROM attempt WHERE build_id > $1 ORDER BY build_id LIMIT {WINDOW}) w"
    );
    let last: Option<i64> = tx.query_one(&window, &params![after])?.get(0)?;
    let Some(last) = last else { return Ok(None) };
    let sql = format!(
        "SELECT a.build_id, a.number FROM attempt a JOIN build b ON b.id = a.build_id
         JOIN archive r ON r.id = b.archive_id
         WHERE a.build_id > $1 AND a.build_id <= $2 AND {} ORDER BY a.build_id, a.number",
        removable_attempt("$3")
    );
    let rows = tx.query(&sql, &params![after, last, now])?;
    let found: Result<_, Error> = rows
        .iter()
        .map(|row| Ok((row.get(0)?, row.get(1)?)))
        .collect();
    Ok(Some((found?, last)))
}

/// Deletes an attempt if it may still go. Its log and its results are unreferenced then.
pub(crate) fn delete_attempt(
    tx: &mut Tx<'_>,
    (build, number): (i64, i64),
    now: i64,
) -> Result<u64, Error> {
    let sql = format!(
        "DELETE FROM attempt AS a WHERE a.build_id = $1 AND a.number = $2 AND EXISTS (
             SELECT 1 FROM build b JOIN archive r ON r.id = b.archive_id
             WHERE b.id = a.build_id AND {})",
        removable_attempt("$3")
    );
    tx.execute(&sql, &params![build, number, now])
}

// ---- sources ----

/// A version of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SourceVersion {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) archive: i64,
    /// Versions that the archive keeps.
    pub(crate) keep: u32,
}

/// Returns all versions of the source names in the next window, by name and archive, and the name
/// to continue after; `None` at the end.
pub(crate) fn sources(
    tx: &mut Tx<'_>,
    after: &str,
) -> Result<Window<SourceVersion, String>, Error> {
    let window = format!(
        "SELECT MAX(w.name) FROM (
             SELECT name FROM source WHERE name > $1 ORDER BY name LIMIT {WINDOW}) w"
    );
    let last: Option<String> = tx.query_one(&window, &params![after])?.get(0)?;
    let Some(last) = last else { return Ok(None) };
    let sql = "
        SELECT s.id, s.name, s.version, s.upload_archive_id, r.keep_versions
        FROM source s JOIN archive r ON r.id = s.upload_archive_id
        WHERE s.name > $1 AND s.name <= $2 AND r.keep_versions > 0 AND r.keep_days > 0
        ORDER BY s.name, s.upload_archive_id, s.id";
    let mut found = Vec::new();
    for row in tx.query(sql, &params![after, &last])? {
        found.push(SourceVersion {
            id: row.get(0)?,
            name: row.get(1)?,
            version: row.get(2)?,
            archive: row.get(3)?,
            keep: u32::try_from(row.get::<i64>(4)?).unwrap_or(0),
        });
    }
    Ok(Some((found, last)))
}

/// Returns whether a source of which the archive has enough newer versions may go: nobody publishes
/// it, all its builds have ended, and all of that is long ago.
pub(crate) fn is_removable_source(tx: &mut Tx<'_>, source: i64, now: i64) -> Result<bool, Error> {
    let cutoff = cutoff("$2");
    let sql = format!(
        "SELECT 1 FROM source s JOIN archive r ON r.id = s.upload_archive_id
         WHERE s.id = $1 AND r.keep_versions > 0 AND r.keep_days > 0 AND s.created_at < {cutoff}
           AND NOT EXISTS (
             SELECT 1 FROM publication p WHERE p.source_id = s.id
               AND (p.status IN ({PENDING}, {PUBLISHED})
                    OR COALESCE(p.superseded_at, p.created_at) >= {cutoff}))
           AND NOT EXISTS (
             SELECT 1 FROM build b WHERE b.source_id = s.id
               AND (b.state NOT IN ({ENDED})
                    OR COALESCE(b.finished_at, b.created_at) >= {cutoff}
                    OR EXISTS (SELECT 1 FROM build_queue q WHERE q.build_id = b.id)
                    OR EXISTS (SELECT 1 FROM attempt a
                               WHERE a.build_id = b.id AND a.ended_at IS NULL)))"
    );
    Ok(tx.query_opt(&sql, &params![source, now])?.is_some())
}

/// Deletes a source with its builds and all that belongs to them, if it may still go.
pub(crate) fn delete_source(tx: &mut Tx<'_>, source: i64, now: i64) -> Result<u64, Error> {
    let lock = "SELECT id FROM source WHERE id = $1 {SKIP LOCKED}";
    if tx.query_opt(lock, &params![source])?.is_none() {
        return Ok(0);
    }
    let lock = match tx.engine() {
        Engine::Sqlite => "",
        Engine::Postgres => " FOR UPDATE",
    };
    let builds = format!("SELECT id FROM build WHERE source_id = $1 ORDER BY id{lock}");
    let builds = tx.query(&builds, &params![source])?;
    // After the locks: a retry may have returned a build to the queue.
    if !is_removable_source(tx, source, now)? {
        return Ok(0);
    }
    for build in builds {
        let build: i64 = build.get(0)?;
        for sql in [
            "DELETE FROM event WHERE build_id = $1",
            "DELETE FROM notification WHERE build_id = $1",
            "DELETE FROM attempt WHERE build_id = $1",
            "DELETE FROM build WHERE id = $1",
        ] {
            tx.execute(sql, &params![build])?;
        }
    }
    for sql in [
        "DELETE FROM publication WHERE source_id = $1",
        "DELETE FROM source_file WHERE source_id = $1",
        "DELETE FROM source WHERE id = $1",
    ] {
        tx.execute(sql, &params![source])?;
    }
    Ok(1)
}

// ---- published binaries ----

/// The key of a published binary without its version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct BinaryName {
    pub(crate) arch_series: i64,
    pub(crate) archive: i64,
    pub(crate) name: String,
}

/// A version of a published binary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BinaryVersion {
    pub(crate) name: BinaryName,
    pub(crate) version: String,
    /// Versions that the archive keeps.
    pub(crate) keep: u32,
}

/// Returns all versions of the published binaries in the next window, by name, and the name to
/// continue after; `None` at the end.
pub(crate) fn binaries(
    tx: &mut Tx<'_>,
    after: &BinaryName,
) -> Result<Window<BinaryVersion, BinaryName>, Error> {
    let key = "arch_series_id, archive_id, name";
    let window = format!(
        "SELECT {key} FROM published_binary WHERE ({key}) > ($1, $2, $3)
         ORDER BY {key} LIMIT 1 OFFSET {WINDOW}"
    );
    let first = params![after.arch_series, after.archive, &after.name];
    // The last window has no end.
    let (upper, mut params) = (tx.query_opt(&window, &first)?, first.to_vec());
    let upper = upper.as_ref().map(binary_name).transpose()?;
    let until = match &upper {
        Some(last) => {
            params.extend(params![last.arch_series, last.archive, &last.name]);
            "AND (p.arch_series_id, p.archive_id, p.name) <= ($4, $5, $6)"
        }
        None => "",
    };
    let sql = format!(
        "SELECT p.arch_series_id, p.archive_id, p.name, p.version, r.keep_versions
         FROM published_binary p JOIN archive r ON r.id = p.archive_id
         WHERE (p.arch_series_id, p.archive_id, p.name) > ($1, $2, $3) {until}
         ORDER BY p.arch_series_id, p.archive_id, p.name"
    );
    let mut found = Vec::new();
    for row in tx.query(&sql, &params)? {
        found.push(BinaryVersion {
            name: binary_name(&row)?,
            version: row.get(3)?,
            keep: u32::try_from(row.get::<i64>(4)?).unwrap_or(0),
        });
    }
    let last = upper.or_else(|| found.last().map(|one| one.name.clone()));
    Ok(last.map(|last| (found, last)))
}

fn binary_name(row: &Row) -> Result<BinaryName, Error> {
    Ok(BinaryName {
        arch_series: row.get(0)?,
        archive: row.get(1)?,
        name: row.get(2)?,
    })
}

/// Deletes a version of a published binary, if it was recorded long ago.
pub(crate) fn delete_binary(
    tx: &mut Tx<'_>,
    name: &BinaryName,
    version: &str,
    now: i64,
) -> Result<u64, Error> {
    let sql = format!(
        "DELETE FROM published_binary AS p
         WHERE p.arch_series_id = $1 AND p.archive_id = $2 AND p.name = $3 AND p.version = $4
           AND EXISTS (
             SELECT 1 FROM archive r WHERE r.id = p.archive_id
               AND r.keep_versions > 0 AND r.keep_days > 0 AND p.published_at < {})",
        cutoff("$5")
    );
    tx.execute(
        &sql,
        &params![name.arch_series, name.archive, &name.name, version, now],
    )
}

// ---- the rest ----

const UNUSED_BUILDER: &str = "NOT n.active
    AND NOT EXISTS (SELECT 1 FROM build b WHERE b.builder_id = n.id)
    AND NOT EXISTS (SELECT 1 FROM attempt a WHERE a.builder_id = n.id)
    AND NOT EXISTS (SELECT 1 FROM build_queue q WHERE q.builder_id = n.id)";

/// Returns the removed builders that nothing refers to any more.
pub(crate) fn builders(tx: &mut Tx<'_>) -> Result<Vec<i64>, Error> {
    let sql = format!("SELECT n.id FROM builder n WHERE {UNUSED_BUILDER} ORDER BY n.id");
    let rows = tx.query(&sql, &[])?;
    rows.iter().map(|row| row.get(0)).collect()
}

/// Deletes the hidden row of a removed builder, if nothing refers to it.
pub(crate) fn delete_builder(tx: &mut Tx<'_>, builder: i64) -> Result<u64, Error> {
    let lock = "SELECT id FROM builder WHERE id = $1 {SKIP LOCKED}";
    let still = format!("SELECT 1 FROM builder n WHERE n.id = $1 AND {UNUSED_BUILDER}");
    if tx.query_opt(lock, &params![builder])?.is_none()
        || tx.query_opt(&still, &params![builder])?.is_none()
    {
        return Ok(0);
    }
    let sql = "DELETE FROM builder_processor WHERE builder_id = $1";
    tx.execute(sql, &params![builder])?;
    tx.execute("DELETE FROM builder WHERE id = $1", &params![builder])
}

/// Deletes the singletons that ended before a time: their processes are gone.
pub(crate) fn delete_singletons(tx: &mut Tx<'_>, before: i64) -> Result<u64, Error> {
    tx.execute("DELETE FROM singleton WHERE until < $1", &params![before])
}

/// Returns whether an entry of a folder below `[master] results` is in use on any of the hosts that
/// share the folder.
pub(crate) fn is_in_use_on_any<'a>(
    tx: &mut Tx<'_>,
    folder: Folder,
    owner: (i64, &str),
    hosts: impl IntoIterator<Item = &'a String>,
) -> Result<bool, Error> {
    for host in hosts {
        if is_in_use(tx, folder, owner, host)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns whether an entry of a folder below `[master] results` of `host` is in use. The results
/// of an attempt that an older version recorded may be on any host.
pub(crate) fn is_in_use(
    tx: &mut Tx<'_>,
    folder: Folder,
    (build, cookie): (i64, &str),
    host: &str,
) -> Result<bool, Error> {
    let running = "EXISTS (SELECT 1 FROM attempt a WHERE a.build_id = $1 AND a.cookie = $2
        AND a.ended_at IS NULL)";
    let sql = match folder {
        Folder::Grabbing => format!("SELECT {running}"),
        Folder::Uploading => format!(
            "SELECT {running} OR EXISTS (
                 SELECT 1 FROM build WHERE id = $1 AND leaf = $2 AND state = {UPLOADING})"
        ),
        Folder::Incoming => format!(
            "SELECT {running}
                OR EXISTS (SELECT 1 FROM attempt a WHERE a.build_id = $1 AND a.leaf = $2
                           AND (a.host IS NULL OR a.host = $3))
                OR EXISTS (SELECT 1 FROM build b WHERE b.id = $1 AND b.leaf = $2
                           AND NOT EXISTS (SELECT 1 FROM attempt a
                                           WHERE a.build_id = $1 AND a.leaf = $2))"
        ),
    };
    let mut params = params![build, cookie].to_vec();
    if folder == Folder::Incoming {
        params.push(host.into());
    }
    tx.query_one(&sql, &params)?.get(0)
}
