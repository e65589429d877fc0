//! All that giving a build to a builder needs to know of it, in four queries?

use std::fmt;

use super::{NAME_COLUMNS, NAME_JOINS, build_name};
use crate::db::{Error, Row, Tx, params};
use crate::master::model::{ArchivePurpose, BuildName, Pocket, SeriesStatus};

/// A file in the librarian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileRef {
    pub(crate) alias: i64,
    pub(crate) name: String,
    pub(crate) sha1: String,
    pub(crate) restricted: bool,
}

/// Where a source was uploaded to, and where its binaries will go.
#[derive(Clone)]
pub(crate) struct ArchiveRow {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) owner: String,
    pub(crate) purpose: ArchivePurpose,
    pub(crate) private: bool,
    /// Empty: the chroot's own sources are used.
    pub(crate) base_url: String,
    /// The password with which builders read a private archive.
    pub(crate) secret: Option<String>,
    pub(crate) require_virtualized: bool,
    /// It has binaries for the build's architecture: apt would fail over one that has none.
    pub(crate) has_binaries: bool,
}

/// Without the secret.
impl fmt::Debug for ArchiveRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArchiveRow")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("owner", &self.owner)
            .field("purpose", &self.purpose)
            .field("private", &self.private)
            .field("base_url", &self.base_url)
            .field("require_virtualized", &self.require_virtualized)
            .field("has_binaries", &self.has_binaries)
            .finish_non_exhaustive()
    }
}

/// A build somebody is to be given.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) name: BuildName,
    pub(crate) series_status: SeriesStatus,
    /// Of the current publication (docs/farm.md §1.2); none: it is not published any more.
    pub(crate) component: Option<String>,
    pub(crate) arch_indep: bool,
    pub(crate) archive: ArchiveRow,
    /// The primary archive of the distribution, if `archive` is another.
    pub(crate) primary: Option<ArchiveRow>,
    /// By pocket; those whose tarball has expired are left out.
    pub(crate) chroots: Vec<(Pocket, FileRef)>,
    /// By name; an expired file is left out.
    pub(crate) files: Vec<FileRef>,
    /// The source is published in its archive, not merely accepted: private ones let builders
    /// fetch nothing else.
    pub(crate) published_in_private: bool,
}

/// The component of the newest publication of build `b` that is in force; needs the joins of a
/// build's name.
pub(super) const CURRENT_COMPONENT: &str = "(
    SELECT p.component FROM publication p
    WHERE p.source_id = b.source_id AND p.series_id = t.series_id
      AND p.archive_id = b.archive_id AND p.status IN (1, 2)
    ORDER BY p.id DESC LIMIT 1)";

/// Of archive `a`, for build `b`.
const ARCHIVE_COLUMNS: &str = "
    a.id, a.name, a.owner, a.purpose, a.private, a.base_url, a.buildd_secret, a.require_virtualized,
    EXISTS (SELECT 1 FROM published_binary n
            WHERE n.archive_id = a.id AND n.arch_series_id = b.arch_series_id)";
const FILE_COLUMNS: &str = "l.id, l.filename, c.sha1, l.restricted";
const FILE_JOINS: &str = "
    JOIN library_alias l ON l.id = f.alias_id
    JOIN library_content c ON c.id = l.content_id";

/// Returns all about a build.
///
/// # Errors
/// There is no such build.
pub(crate) fn candidate(tx: &mut Tx<'_>, build: i64) -> Result<Candidate, Error> {
    let about = format!(
        "SELECT {ARCHIVE_COLUMNS}, r.status, {CURRENT_COMPONENT}, b.arch_indep,
             EXISTS (SELECT 1 FROM publication p
                     WHERE p.source_id = b.source_id AND p.series_id = t.series_id
                       AND p.archive_id = b.archive_id AND p.status = 2),
             {NAME_COLUMNS}
         FROM build b {NAME_JOINS} JOIN archive a ON a.id = b.archive_id
         WHERE b.id = $1"
    );
    let primary = format!(
        "SELECT {ARCHIVE_COLUMNS}
         FROM build b {NAME_JOINS} JOIN archive a ON a.distribution_id = d.id
         WHERE b.id = $1 AND a.purpose = 1 AND a.id <> b.archive_id
         ORDER BY a.id LIMIT 1"
    );
    let chroots = format!(
        "SELECT {FILE_COLUMNS}, f.pocket
         FROM build b JOIN chroot f ON f.arch_series_id = b.arch_series_id {FILE_JOINS}
         WHERE b.id = $1 AND f.image_type = 0 ORDER BY f.pocket"
    );
    let files = format!(
        "SELECT {FILE_COLUMNS}
         FROM build b JOIN source_file f ON f.source_id = b.source_id {FILE_JOINS}
         WHERE b.id = $1 ORDER BY l.filename, l.id"
    );
    let params = params![build];
    let row = tx.query_one(&about, &params)?;
    let chroot = |row: &Row| Ok((row.get(4)?, file(row)?));
    let primary = tx.query_opt(&primary, &params)?;
    let chroots = tx.query(&chroots, &params)?;
    let files = tx.query(&files, &params)?;
    Ok(Candidate {
        archive: archive(&row)?,
        primary: primary.as_ref().map(archive).transpose()?,
        series_status: row.get(9)?,
        component: row.get(10)?,
        arch_indep: row.get(11)?,
        published_in_private: row.get(12)?,
        name: build_name(&row, 13)?,
        chroots: chroots.iter().map(chroot).collect::<Result<_, Error>>()?,
        files: files.iter().map(file).collect::<Result<_, _>>()?,
    })
}

fn archive(row: &Row) -> Result<ArchiveRow, Error> {
    Ok(ArchiveRow {
        id: row.get(0)?,
        name: row.get(1)?,
        owner: row.get(2)?,
        purpose: row.get(3)?,
        private: row.get(4)?,
        base_url: row.get(5)?,
        secret: row.get(6)?,
        require_virtualized: row.get(7)?,
        has_binaries: row.get(8)?,
    })
}

fn file(row: &Row) -> Result<FileRef, Error> {
    Ok(FileRef {
        alias: row.get(0)?,
        name: row.get(1)?,
        sha1: row.get(2)?,
        restricted: row.get(3)?,
    })
}
