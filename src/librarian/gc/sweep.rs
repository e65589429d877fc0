//! Removes blobs without a content from the disk.

use std::collections::BTreeSet;

use super::{DAY_MS, Pass, Removed};
use crate::db::{self, Tx, params};
use crate::librarian::{Error, backup};

/// Blobs that are removed while uploads to their folder wait.
const BATCH: usize = 64;

/// Removes the old blobs that no content names. While a backup runs, none is removed: its copy of
/// the database may name them.
pub(super) fn remove(pass: &Pass<'_>, removed: &mut Removed) -> Result<(), Error> {
    let named = |hashes: &[String]| -> Result<BTreeSet<String>, Error> {
        // In one transaction: a backup takes its lease before it copies the database.
        Ok(pass.db.read(|tx| match backup::backup_is_running(tx)? {
            true => Ok(hashes.iter().cloned().collect()),
            false => named(tx, hashes, "TRUE", &[]),
        })?)
    };
    if pass.db.read(backup::backup_is_running)? {
        log::info!("garbage collection: a backup is running; blobs are removed the next time");
        return Ok(());
    }
    pass.blobs.each_old(pass.now, DAY_MS, |hashes| {
        let (mut orphans, kept) = (hashes.to_vec(), named(hashes)?);
        orphans.retain(|hash| !kept.contains(hash));
        for some in orphans.chunks(BATCH) {
            let sizes = pass.blobs.remove_old(some, pass.now, DAY_MS, named)?;
            sizes.into_iter().for_each(|size| removed.count_blob(size));
        }
        Ok(())
    })
}

/// Counts the old blobs that no content names which matches `condition`.
pub(super) fn count(
    pass: &Pass<'_>,
    condition: &str,
    parameters: &[db::Value],
    removed: &mut Removed,
) -> Result<(), Error> {
    pass.blobs.each_old(pass.now, DAY_MS, |hashes| {
        let named = pass
            .db
            .read(|tx| named(tx, hashes, condition, parameters))?;
        for sha256 in hashes.iter().filter(|hash| !named.contains(*hash)) {
            removed.count_blob(pass.blobs.size(sha256));
        }
        Ok(())
    })
}

impl Removed {
    fn count_blob(&mut self, size: u64) {
        self.blobs += 1;
        self.bytes += size;
    }
}

/// Returns the hashes of contents `c` that match `condition`, in the range of the given ones.
/// `parameters` are `$3` and on.
fn named(
    tx: &mut Tx<'_>,
    hashes: &[String],
    condition: &str,
    parameters: &[db::Value],
) -> Result<BTreeSet<String>, db::Error> {
    let (Some(first), Some(last)) = (hashes.iter().min(), hashes.iter().max()) else {
        return Ok(BTreeSet::new());
    };
    let sql = format!(
        "SELECT DISTINCT c.sha256 FROM library_content c \
         WHERE c.sha256 BETWEEN $1 AND $2 AND {condition}"
    );
    let mut all = params![first, last].to_vec();
    all.extend_from_slice(parameters);
    let rows = tx.query(&sql, &all)?;
    rows.iter().map(|row| row.get(0)).collect()
}
