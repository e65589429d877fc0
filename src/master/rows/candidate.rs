//! Reads the facts that dispatch needs about a build, in four queries.

use super::files::{self, File};
use super::numbers::{CHROOT_TARBALL, PENDING, PRIMARY, PUBLISHED};
use super::{NAME_COLUMNS, NAME_JOINS, archives, build_name};
use crate::db::{Error, Row, Tx, params};
use crate::master::model::{BuildName, Pocket, SeriesStatus};
use crate::master::policy::pockets::AptArchive;

/// A build to dispatch.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) name: BuildName,
    pub(crate) series_status: SeriesStatus,
    /// The component of the current publication (docs/farm.md §1.2). `None` if there is none.
    pub(crate) component: Option<String>,
    pub(crate) arch_indep: bool,
    pub(crate) archive: AptArchive,
    /// The primary archive of the distribution. `None` if `archive` is it.
    pub(crate) primary: Option<AptArchive>,
    /// Ordered by pocket. Expired tarballs are left out.
    pub(crate) chroots: Vec<(Pocket, File)>,
    /// Ordered by name. Expired files are left out.
    pub(crate) files: Vec<File>,
    /// The source is PUBLISHED in its archive, not only PENDING. Builders can fetch no other source
    /// from a private archive.
    pub(crate) published_in_private: bool,
}

/// The component of the current publication of build `b` (docs/farm.md §1.2), for a query with
/// [`NAME_JOINS`].
pub(super) fn current_component() -> String {
    format!(
        "(SELECT p.component FROM publication p
          WHERE p.source_id = b.source_id AND p.series_id = t.series_id
            AND p.archive_id = b.archive_id AND p.status IN ({PENDING}, {PUBLISHED})
          ORDER BY p.id DESC LIMIT 1)"
    )
}

/// The columns of archive `a` that follow [`archives::COLUMNS`]; the query needs a build `b`.
const APT_COLUMNS: &str = "a.buildd_secret,
    EXISTS (SELECT 1 FROM published_binary n
            WHERE n.archive_id = a.id AND n.arch_series_id = b.arch_series_id)";
/// The first column after those of an archive.
const AFTER_ARCHIVE: usize = archives::COLUMN_COUNT + 2;
const FILE_JOINS: &str = "
    JOIN library_alias l ON l.id = f.alias_id
    JOIN library_content c ON c.id = l.content_id";

/// Reads a build to dispatch.
///
/// # Errors
/// There is no such build.
pub(crate) fn candidate(tx: &mut Tx<'_>, build: i64) -> Result<Candidate, Error> {
    let archive_columns = format!("{}, {APT_COLUMNS}", archives::COLUMNS);
    let component = current_component();
    let about = format!(
        "SELECT {archive_columns}, r.status, {component}, b.arch_indep,
             EXISTS (SELECT 1 FROM publication p
                     WHERE p.source_id = b.source_id AND p.series_id = t.series_id
                       AND p.archive_id = b.archive_id AND p.status = {PUBLISHED}),
             {NAME_COLUMNS}
         FROM build b {NAME_JOINS} JOIN archive a ON a.id = b.archive_id
         WHERE b.id = $1"
    );
    let primary = format!(
        "SELECT {archive_columns}
         FROM build b {NAME_JOINS} JOIN archive a ON a.distribution_id = d.id
         WHERE b.id = $1 AND a.purpose = {PRIMARY} AND a.id <> b.archive_id
         ORDER BY a.id LIMIT 1"
    );
    let chroots = format!(
        "SELECT {}, f.pocket
         FROM build b JOIN chroot f ON f.arch_series_id = b.arch_series_id {FILE_JOINS}
         WHERE b.id = $1 AND f.image_type = {CHROOT_TARBALL} ORDER BY f.pocket",
        files::COLUMNS
    );
    let files = format!(
        "SELECT {}
         FROM build b JOIN source_file f ON f.source_id = b.source_id {FILE_JOINS}
         WHERE b.id = $1 ORDER BY l.filename, l.id",
        files::COLUMNS
    );
    let params = params![build];
    let row = tx.query_one(&about, &params)?;
    let chroot = |row: &Row| Ok((row.get(files::COLUMN_COUNT)?, files::read(row, 0)?));
    let primary = tx.query_opt(&primary, &params)?;
    let chroots = tx.query(&chroots, &params)?;
    let found = tx.query(&files, &params)?;
    Ok(Candidate {
        archive: archive(&row)?,
        primary: primary.as_ref().map(archive).transpose()?,
        series_status: row.get(AFTER_ARCHIVE)?,
        component: row.get(AFTER_ARCHIVE + 1)?,
        arch_indep: row.get(AFTER_ARCHIVE + 2)?,
        published_in_private: row.get(AFTER_ARCHIVE + 3)?,
        name: build_name(&row, AFTER_ARCHIVE + 4)?,
        chroots: chroots.iter().map(chroot).collect::<Result<_, Error>>()?,
        files: found
            .iter()
            .map(|row| files::read(row, 0))
            .collect::<Result<_, _>>()?,
    })
}

fn archive(row: &Row) -> Result<AptArchive, Error> {
    Ok(AptArchive {
        archive: archives::read(row)?,
        secret: row.get(archives::COLUMN_COUNT)?,
        has_binaries: row.get(archives::COLUMN_COUNT + 1)?,
    })
}
