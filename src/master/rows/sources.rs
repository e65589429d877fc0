//! Submitted sources, their files and their publications.
//!
//! Name and version identify a source within the archive that it was submitted to.

use super::files::{self, File};
use super::numbers::{PENDING, PUBLISHED};
use crate::db::{Error, Row, Tx, params};
use crate::master::model::{Pocket, PublishingStatus, SourceFileType, Urgency};

/// A source to add: fields of the source package and options of its submission.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) component: String,
    pub(crate) section: String,
    pub(crate) urgency: Urgency,
    /// The `Architecture` field of the `.dsc`.
    pub(crate) arch_hint: String,
    /// The `Build-Indep-Architecture` field of the `.dsc`.
    pub(crate) indep_hint: Option<String>,
    pub(crate) archive: i64,
    pub(crate) creator_email: Option<String>,
}

/// Returns the id of a source that was submitted to an archive. `None` if it was not.
pub(crate) fn find(
    tx: &mut Tx<'_>,
    archive: i64,
    name: &str,
    version: &str,
) -> Result<Option<i64>, Error> {
    let sql = "
        SELECT id FROM source WHERE name = $1 AND version = $2 AND upload_archive_id = $3
        ORDER BY id LIMIT 1";
    let row = tx.query_opt(sql, &params![name, version, archive])?;
    row.map(|row| row.get(0)).transpose()
}

/// Adds a source and returns its id.
pub(crate) fn add(tx: &mut Tx<'_>, source: &Source, now: i64) -> Result<i64, Error> {
    let sql = "
        INSERT INTO source (name, version, component, section, urgency, arch_hint, indep_hint,
            upload_archive_id, creator_email, created_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING id";
    let row = tx.query_one(
        sql,
        &params![
            &source.name,
            &source.version,
            &source.component,
            &source.section,
            source.urgency,
            &source.arch_hint,
            source.indep_hint.clone(),
            source.archive,
            source.creator_email.clone(),
            now,
        ],
    )?;
    row.get(0)
}

/// Adds a file of the librarian to a source. `name` decides its type. False if the librarian no
/// longer has the file.
pub(crate) fn add_file(
    tx: &mut Tx<'_>,
    source: i64,
    alias: i64,
    name: &str,
) -> Result<bool, Error> {
    let sql = "
        INSERT INTO source_file (source_id, alias_id, filetype)
        SELECT CAST($1 AS BIGINT), l.id, CAST($3 AS SMALLINT) FROM library_alias l WHERE l.id = $2";
    let kind = SourceFileType::of(name);
    Ok(tx.execute(sql, &params![source, alias, kind])? > 0)
}

/// Returns the files of a source, ordered by name.
pub(crate) fn files(tx: &mut Tx<'_>, source: i64) -> Result<Vec<File>, Error> {
    let sql = format!(
        "SELECT {} FROM source_file f JOIN library_alias l ON l.id = f.alias_id
        LEFT JOIN library_content c ON c.id = l.content_id
        WHERE f.source_id = $1 ORDER BY l.filename",
        files::COLUMNS
    );
    let rows = tx.query(&sql, &params![source])?;
    rows.iter().map(|row| files::read(row, 0)).collect()
}

/// Returns the alias of an earlier source's file with this name, content and restriction. Files
/// that expire are left out. `size` is in bytes.
pub(crate) fn known_file(
    tx: &mut Tx<'_>,
    name: &str,
    sha1: &str,
    size: i64,
    restricted: bool,
) -> Result<Option<i64>, Error> {
    let sql = "
        SELECT a.id FROM library_content c JOIN library_alias a ON a.content_id = c.id
        JOIN source_file f ON f.alias_id = a.id
        WHERE c.sha1 = $1 AND c.size = $2 AND a.filename = $3 AND a.restricted = $4
            AND a.expires_at IS NULL
        ORDER BY a.id LIMIT 1";
    let row = tx.query_opt(sql, &params![sha1, size, name, restricted])?;
    row.map(|row| row.get(0)).transpose()
}

/// A publication of a source. `source` is its id, `version` its version.
#[derive(Clone, Debug)]
pub(crate) struct Publication {
    pub(crate) id: i64,
    pub(crate) source: i64,
    pub(crate) version: String,
    pub(crate) component: String,
}

/// The series, archive and pocket that a source is published in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Destination {
    pub(crate) series: i64,
    pub(crate) archive: i64,
    pub(crate) pocket: Pocket,
}

/// Returns the PENDING and PUBLISHED publications of a source name at a destination, the oldest
/// first.
pub(crate) fn published(
    tx: &mut Tx<'_>,
    to: Destination,
    name: &str,
) -> Result<Vec<Publication>, Error> {
    let sql = format!(
        "SELECT p.id, s.id, s.version, p.component
        FROM source s CROSS JOIN publication p
        WHERE s.name = $1 AND p.source_id = s.id AND p.series_id = $2 AND p.archive_id = $3
            AND p.pocket = $4
            AND p.status IN ({PENDING}, {PUBLISHED})
        ORDER BY p.id"
    );
    let Destination {
        series,
        archive,
        pocket,
    } = to;
    let rows = tx.query(&sql, &params![name, series, archive, pocket])?;
    rows.iter().map(read_publication).collect()
}

fn read_publication(row: &Row) -> Result<Publication, Error> {
    Ok(Publication {
        id: row.get(0)?,
        source: row.get(1)?,
        version: row.get(2)?,
        component: row.get(3)?,
    })
}

/// Adds a publication with the status PUBLISHED.
pub(crate) fn publish(
    tx: &mut Tx<'_>,
    to: Destination,
    source: i64,
    component: &str,
    now: i64,
) -> Result<(), Error> {
    let sql = "
        INSERT INTO publication
            (source_id, series_id, archive_id, pocket, component, status, created_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7)";
    let status = PublishingStatus::Published;
    tx.execute(
        sql,
        &params![
            source, to.series, to.archive, to.pocket, component, status, now
        ],
    )
    .map(drop)
}

/// Supersedes a publication. The caller ends its waiting builds.
pub(crate) fn supersede(tx: &mut Tx<'_>, publication: i64, now: i64) -> Result<(), Error> {
    let sql = "UPDATE publication SET status = $2, superseded_at = $3 WHERE id = $1";
    let status = PublishingStatus::Superseded;
    tx.execute(sql, &params![publication, status, now])
        .map(drop)
}
