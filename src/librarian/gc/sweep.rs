//! Removes blobs without a content from the disk.

use std::collections::BTreeSet;

use super::{DAY_MS, Pass, Removed};
use crate::db::{self, Tx, params};
use crate::librarian::Error;

/// Removes the old blobs that no content names.
pub(super) fn remove(pass: &Pass<'_>, removed: &mut Removed) -> Result<(), Error> {
    pass.blobs.each_old(pass.now, DAY_MS, |hashes| {
        let named = pass.db.read(|tx| named(tx, hashes, "TRUE", &[]))?;
        for sha256 in hashes.iter().filter(|hash| !named.contains(*hash)) {
            let is_unreferenced = || Ok(!pass.db.read(|tx| has_content(tx, sha256))?);
            let size = pass
                .blobs
                .remove_old(sha256, pass.now, DAY_MS, is_unreferenced)?;
            removed.count_blob(size);
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
            removed.count_blob(Some(pass.blobs.size(sha256)));
        }
        Ok(())
    })
}

impl Removed {
    fn count_blob(&mut self, size: Option<u64>) {
        if let Some(size) = size {
            self.blobs += 1;
            self.bytes += size;
        }
    }
}

/// Returns the hashes of contents `c` that match `condition`, in the range of the given ones. The
/// hashes of one folder share their first digits. `parameters` are `$3` and on.
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

fn has_content(tx: &mut Tx<'_>, sha256: &str) -> Result<bool, db::Error> {
    let sql = "SELECT 1 FROM library_content WHERE sha256 = $1 LIMIT 1";
    Ok(tx.query_opt(sql, &params![sha256])?.is_some())
}
