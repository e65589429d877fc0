//! Files of the librarian, for the tables that refer to them.

use crate::db::{Error, Row, Tx, params};

/// A file of the librarian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) alias: i64,
    pub(crate) name: String,
    pub(crate) restricted: bool,
    /// `None` after the file has expired.
    pub(crate) content: Option<Content>,
}

impl File {
    /// Returns the SHA-1 of the content; empty after the file has expired.
    pub(crate) fn sha1(&self) -> &str {
        self.content.as_ref().map_or("", |content| &content.sha1)
    }
}

/// The bytes of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    /// In bytes.
    pub(crate) size: i64,
    pub(crate) sha1: String,
}

/// The columns that [`read`] reads: of alias `l` and content `c`.
pub(super) const COLUMNS: &str = "l.id, l.filename, l.restricted, c.size, c.sha1";
/// The number of [`COLUMNS`].
pub(super) const COLUMN_COUNT: usize = 5;

/// Reads [`COLUMNS`], which start at column `at`.
pub(super) fn read(row: &Row, at: usize) -> Result<File, Error> {
    let size: Option<i64> = row.get(at + 3)?;
    let sha1: Option<String> = row.get(at + 4)?;
    Ok(File {
        alias: row.get(at)?,
        name: row.get(at + 1)?,
        restricted: row.get(at + 2)?,
        content: size.zip(sha1).map(|(size, sha1)| Content { size, sha1 }),
    })
}

/// Like [`read`], for an outer join. `None` if the join found no alias.
pub(super) fn read_if_any(row: &Row, at: usize) -> Result<Option<File>, Error> {
    match row.get::<Option<i64>>(at)? {
        Some(_) => read(row, at).map(Some),
        None => Ok(None),
    }
}

/// Returns the file of an alias; `None` if there is no such alias.
pub(crate) fn find(tx: &mut Tx<'_>, alias: i64) -> Result<Option<File>, Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM library_alias l
        LEFT JOIN library_content c ON c.id = l.content_id WHERE l.id = $1"
    );
    let row = tx.query_opt(&sql, &params![alias])?;
    row.map(|row| read(&row, 0)).transpose()
}
