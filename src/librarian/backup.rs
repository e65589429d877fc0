//! The librarian's part of a backup: the list of blobs, and the folder to copy them from or to.
//!
//! While a backup has a lease, garbage collection deletes no blob. So every blob that the copied
//! database names is there until the backup has it.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::Error;
use super::blobs::Blobs;
use crate::db::{self, Tx, params};

/// The start of the names of the singletons by which backups hold off garbage collection.
pub(crate) const BACKUP_LEASE: &str = "backup:";
/// Blobs that one statement lists.
const WINDOW: u32 = 2000;

/// A blob that the database names.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct NamedBlob {
    pub(crate) sha256: String,
    pub(crate) sha1: String,
    pub(crate) size: u64,
    /// The name of one of its files; empty if it has none.
    pub(crate) name: String,
}

/// Returns the next blobs in the order of their SHA-256; none at the end.
pub(crate) fn blobs_after(tx: &mut Tx<'_>, after: &str) -> Result<Vec<NamedBlob>, db::Error> {
    let sql = format!(
        "SELECT c.sha256, MIN(c.sha1), MIN(c.size), COALESCE(MIN(a.filename), '')
         FROM library_content c LEFT JOIN library_alias a ON a.content_id = c.id
         WHERE c.sha256 > $1 GROUP BY c.sha256 ORDER BY c.sha256 LIMIT {WINDOW}"
    );
    let rows = tx.query(&sql, &params![after])?;
    let blob = |row: &db::Row| {
        Ok(NamedBlob {
            sha256: row.get(0)?,
            sha1: row.get(1)?,
            size: u64::try_from(row.get::<i64>(2)?).unwrap_or(0),
            name: row.get(3)?,
        })
    };
    rows.iter().map(blob).collect()
}

/// Returns whether a backup is running.
pub(crate) fn backup_is_running(tx: &mut Tx<'_>) -> Result<bool, db::Error> {
    let now = tx.now()?;
    // The next character after the colon ends the range.
    let end = BACKUP_LEASE.replace(':', ";");
    let sql = "SELECT 1 FROM singleton WHERE name >= $1 AND name < $2 AND until >= $3 LIMIT 1";
    Ok(tx
        .query_opt(sql, &params![BACKUP_LEASE, end, now])?
        .is_some())
}

/// The folder `[librarian] root`.
pub(crate) struct BlobFolder(Blobs);

impl BlobFolder {
    /// Opens the folder, and creates it if it is absent. Writes keep `reserve` bytes free.
    pub(crate) fn open(root: &Path, reserve: u64) -> Result<Self, Error> {
        Blobs::open(root, reserve).map(Self)
    }

    pub(crate) fn path(&self, sha256: &str) -> PathBuf {
        self.0.path(sha256)
    }

    /// Opens a blob; `None` if it is absent.
    pub(crate) fn find(&self, sha256: &str) -> Result<Option<(File, u64)>, Error> {
        self.0.find(sha256)
    }

    /// Stores a blob of `size` bytes that `fill` passes in pieces. False, without a blob, if the
    /// bytes have another SHA-256. The caller syncs the file system at the end.
    pub(crate) fn put<E: From<Error>>(
        &self,
        sha256: &str,
        size: u64,
        fill: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<(), Error>) -> Result<(), E>,
    ) -> Result<bool, E> {
        let mut incoming = self.0.receive(size)?;
        fill(&mut |piece| incoming.write(piece))?;
        let content = incoming.content();
        if content.sha256 != sha256 || content.size != size {
            return Ok(false);
        }
        incoming.place_unsynced(&content)?;
        Ok(true)
    }
}
