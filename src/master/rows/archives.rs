//! Archives.

use crate::db::{Error, Row, Tx, params};
use crate::master::model::{Archive, Retention};

/// The columns that [`read`] reads: of archive `a` and its distribution `d`.
pub(super) const COLUMNS: &str = "a.id, d.id, d.name, a.owner, a.name, a.purpose, a.private,
    a.require_virtualized, a.enabled, a.relative_score, a.base_url, a.buildd_secret IS NOT NULL,
    a.build_debug_symbols, a.build_profiles, a.keep_attempts, a.keep_days, a.keep_versions";
/// The number of [`COLUMNS`].
pub(super) const COLUMN_COUNT: usize = 17;

/// Returns all archives, ordered by distribution, owner and name.
pub(crate) fn all(tx: &mut Tx<'_>) -> Result<Vec<Archive>, Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM archive a JOIN distribution d ON d.id = a.distribution_id
        ORDER BY d.name, a.owner, a.name"
    );
    let rows = tx.query(&sql, &[])?;
    rows.iter().map(read).collect()
}

/// Reads [`COLUMNS`], which start at the row's first column.
pub(super) fn read(row: &Row) -> Result<Archive, Error> {
    Ok(Archive {
        id: row.get(0)?,
        distribution_id: row.get(1)?,
        distribution: row.get(2)?,
        owner: row.get(3)?,
        name: row.get(4)?,
        purpose: row.get(5)?,
        private: row.get(6)?,
        virtualized: row.get(7)?,
        enabled: row.get(8)?,
        relative_score: row.get(9)?,
        base_url: row.get(10)?,
        has_secret: row.get(11)?,
        debug_symbols: row.get(12)?,
        profiles: row.get(13)?,
        retention: retention(row, 14)?,
    })
}

/// Reads the three columns of a [`Retention`], which start at column `at`.
fn retention(row: &Row, at: usize) -> Result<Retention, Error> {
    let count = |at: usize| Ok(u32::try_from(row.get::<i64>(at)?).unwrap_or(0));
    Ok(Retention {
        attempts: count(at)?,
        days: count(at + 1)?,
        versions: count(at + 2)?,
    })
}

/// Adds an archive without a secret and returns its id. The `id` and `distribution` of the argument
/// are ignored.
pub(crate) fn add(tx: &mut Tx<'_>, archive: &Archive) -> Result<i64, Error> {
    let sql = "
        INSERT INTO archive (distribution_id, owner, name, purpose) VALUES ($1, $2, $3, $4)
        RETURNING id";
    let name = &archive.name;
    let row = tx.query_one(
        sql,
        &params![
            archive.distribution_id,
            &archive.owner,
            name,
            archive.purpose
        ],
    )?;
    let id = row.get(0)?;
    let added = Archive {
        id,
        ..archive.clone()
    };
    set(tx, &added)?;
    Ok(id)
}

/// Stores the changeable columns of an archive, except its secret.
pub(crate) fn set(tx: &mut Tx<'_>, archive: &Archive) -> Result<(), Error> {
    let sql = "
        UPDATE archive SET private = $2, require_virtualized = $3, enabled = $4,
            relative_score = $5, base_url = $6, build_debug_symbols = $7, build_profiles = $8,
            keep_attempts = $9, keep_days = $10, keep_versions = $11
        WHERE id = $1";
    tx.execute(
        sql,
        &params![
            archive.id,
            archive.private,
            archive.virtualized,
            archive.enabled,
            archive.relative_score,
            &archive.base_url,
            archive.debug_symbols,
            &archive.profiles,
            i64::from(archive.retention.attempts),
            i64::from(archive.retention.days),
            i64::from(archive.retention.versions),
        ],
    )
    .map(drop)
}

/// Sets the secret that lets builders read a private archive.
pub(crate) fn set_secret(tx: &mut Tx<'_>, archive: i64, secret: &str) -> Result<(), Error> {
    let sql = "UPDATE archive SET buildd_secret = $2 WHERE id = $1";
    tx.execute(sql, &params![archive, secret]).map(drop)
}
