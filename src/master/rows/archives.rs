//! Archives and their published binaries.
//!
//! A published binary can end a dep-wait (docs/farm.md §2.15). Operators and the uploads record
//! them.

use crate::db::{Error, Row, Tx, Value, params};
use crate::master::model::Archive;

/// Limits the parameters of one statement.
const ROWS_PER_INSERT: usize = 200;

/// The columns that [`read`] reads: of archive `a` and its distribution `d`.
pub(super) const COLUMNS: &str = "a.id, d.id, d.name, a.owner, a.name, a.purpose, a.private,
    a.require_virtualized, a.enabled, a.relative_score, a.base_url, a.buildd_secret IS NOT NULL,
    a.build_debug_symbols, a.build_profiles";
/// The number of [`COLUMNS`].
pub(super) const COLUMN_COUNT: usize = 14;

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
            relative_score = $5, base_url = $6, build_debug_symbols = $7, build_profiles = $8
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
        ],
    )
    .map(drop)
}

/// Sets the secret that lets builders read a private archive.
pub(crate) fn set_secret(tx: &mut Tx<'_>, archive: i64, secret: &str) -> Result<(), Error> {
    let sql = "UPDATE archive SET buildd_secret = $2 WHERE id = $1";
    tx.execute(sql, &params![archive, secret]).map(drop)
}

/// A binary package in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Binary {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) component: String,
    pub(crate) source: String,
}

/// The treatment of a binary that is already recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    /// The row stays unchanged.
    Keep,
    /// The row gets the new component and source.
    Update,
}

/// Records binaries of an archive. No two of them may have the same name and version.
pub(crate) fn publish(
    tx: &mut Tx<'_>,
    arch_series: i64,
    archive: i64,
    binaries: &[Binary],
    existing: Existing,
    now: i64,
) -> Result<(), Error> {
    let on_conflict = match existing {
        Existing::Keep => "NOTHING",
        Existing::Update => {
            "UPDATE SET component = excluded.component, source_name = excluded.source_name"
        }
    };
    for some in binaries.chunks(ROWS_PER_INSERT) {
        let mut values = params![arch_series, archive, now].to_vec();
        let mut places = Vec::new();
        for binary in some {
            let first = values.len() + 1;
            let [name, version, component, source] = [first, first + 1, first + 2, first + 3];
            places.push(format!(
                "($1, $2, ${name}, ${version}, ${component}, ${source}, $3)"
            ));
            let fields = [
                &binary.name,
                &binary.version,
                &binary.component,
                &binary.source,
            ];
            values.extend(fields.map(Value::from));
        }
        let sql = format!(
            "INSERT INTO published_binary
                (arch_series_id, archive_id, name, version, component, source_name, published_at)
            VALUES {}
            ON CONFLICT (arch_series_id, archive_id, name, version)
            DO {on_conflict}",
            places.join(", ")
        );
        tx.execute(&sql, &values)?;
    }
    Ok(())
}

/// The published binaries of one architecture and component of an archive.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) arch_series_id: i64,
    pub(crate) archive_id: i64,
    pub(crate) component: String,
    /// Their number.
    pub(crate) binaries: i64,
    /// The time of the newest record.
    pub(crate) updated_at: i64,
}

/// Counts the published binaries, ordered by archive id, architecture id and component.
pub(crate) fn published(tx: &mut Tx<'_>) -> Result<Vec<Published>, Error> {
    let sql = "
        SELECT arch_series_id, archive_id, component, COUNT(*), MAX(published_at)
        FROM published_binary GROUP BY arch_series_id, archive_id, component
        ORDER BY archive_id, arch_series_id, component";
    let rows = tx.query(sql, &[])?;
    rows.iter()
        .map(|row| {
            Ok(Published {
                arch_series_id: row.get(0)?,
                archive_id: row.get(1)?,
                component: row.get(2)?,
                binaries: row.get(3)?,
                updated_at: row.get(4)?,
            })
        })
        .collect()
}

/// Returns the names of the published binaries of a source, for one architecture of a series, in no
/// particular order.
pub(crate) fn binaries_of(
    tx: &mut Tx<'_>,
    series: i64,
    tag: &str,
    source: &str,
) -> Result<Vec<String>, Error> {
    let sql = "
        SELECT DISTINCT p.name FROM published_binary p
        JOIN arch_series t ON t.id = p.arch_series_id
        WHERE t.series_id = $1 AND t.arch_tag = $2 AND p.source_name = $3";
    let rows = tx.query(sql, &params![series, tag, source])?;
    rows.iter().map(|row| row.get(0)).collect()
}
