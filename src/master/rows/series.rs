//! Distributions, their series, the architectures of a series, processors and chroots.
//!
//! The caller checks whether a change is allowed.

use super::files::{self, File};
use super::numbers::CHROOT_TARBALL;
use crate::db::{Error, Row, Tx, params};
use crate::master::model::{Pocket, SeriesStatus};

/// A series of a distribution.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) id: i64,
    pub(crate) distribution_id: i64,
    pub(crate) distribution: String,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) status: SeriesStatus,
    /// The tag of the architecture that builds the architecture-independent packages.
    pub(crate) nominated: Option<String>,
}

impl Series {
    /// Returns the unique name of the series, `ubuntu/hoary`.
    pub(crate) fn full_name(&self) -> String {
        full_name(&self.distribution, &self.name)
    }
}

fn full_name(distribution: &str, series: &str) -> String {
    format!("{distribution}/{series}")
}

/// Returns all series, ordered by distribution and name.
pub(crate) fn all(tx: &mut Tx<'_>) -> Result<Vec<Series>, Error> {
    let sql = "
        SELECT r.id, d.id, d.name, r.name, r.version, r.status, r.nominated_arch_tag
        FROM series r JOIN distribution d ON d.id = r.distribution_id
        ORDER BY d.name, r.name";
    let rows = tx.query(sql, &[])?;
    rows.iter().map(read_series).collect()
}

fn read_series(row: &Row) -> Result<Series, Error> {
    Ok(Series {
        id: row.get(0)?,
        distribution_id: row.get(1)?,
        distribution: row.get(2)?,
        name: row.get(3)?,
        version: row.get(4)?,
        status: row.get(5)?,
        nominated: row.get(6)?,
    })
}

/// Returns the id and name of every distribution, ordered by name.
pub(crate) fn distributions(tx: &mut Tx<'_>) -> Result<Vec<(i64, String)>, Error> {
    let rows = tx.query("SELECT id, name FROM distribution ORDER BY name", &[])?;
    rows.iter()
        .map(|row| Ok((row.get(0)?, row.get(1)?)))
        .collect()
}

/// Returns the id of a distribution; adds the distribution if there is none of that name.
pub(crate) fn ensure_distribution(tx: &mut Tx<'_>, name: &str) -> Result<i64, Error> {
    let sql = "INSERT INTO distribution (name) VALUES ($1) ON CONFLICT (name) DO NOTHING";
    tx.execute(sql, &params![name])?;
    let sql = "SELECT id FROM distribution WHERE name = $1";
    tx.query_one(sql, &params![name])?.get(0)
}

/// Adds a series and returns its id. The `id` and `distribution` of the argument are ignored.
pub(crate) fn add(tx: &mut Tx<'_>, series: &Series) -> Result<i64, Error> {
    let sql = "
        INSERT INTO series (distribution_id, name, version, status, nominated_arch_tag)
        VALUES ($1, $2, $3, $4, $5) RETURNING id";
    let row = tx.query_one(
        sql,
        &params![
            series.distribution_id,
            &series.name,
            &series.version,
            series.status,
            series.nominated.clone(),
        ],
    )?;
    row.get(0)
}

/// Stores the version, status and nominated architecture of a series.
pub(crate) fn set(tx: &mut Tx<'_>, series: &Series) -> Result<(), Error> {
    let sql = "UPDATE series SET version = $2, status = $3, nominated_arch_tag = $4 WHERE id = $1";
    let nominated = series.nominated.clone();
    tx.execute(
        sql,
        &params![series.id, &series.version, series.status, nominated],
    )?;
    Ok(())
}

/// An architecture of a series.
#[derive(Clone, Debug)]
pub(crate) struct ArchSeries {
    pub(crate) id: i64,
    pub(crate) series_id: i64,
    /// The unique name of its series, `ubuntu/hoary`.
    pub(crate) series: String,
    pub(crate) tag: String,
    pub(crate) processor_id: i64,
    pub(crate) processor: String,
    pub(crate) family: String,
    pub(crate) enabled: bool,
    pub(crate) virtualized: bool,
    /// The pockets that have a chroot, in ascending order.
    pub(crate) chroots: Vec<Pocket>,
}

/// Returns the architectures of all series, ordered by distribution, series and tag.
pub(crate) fn architectures(tx: &mut Tx<'_>) -> Result<Vec<ArchSeries>, Error> {
    let sql = "
        SELECT t.id, t.series_id, d.name, r.name, t.arch_tag, p.id, p.name, p.family, t.enabled,
            t.supports_virtualized
        FROM arch_series t JOIN processor p ON p.id = t.processor_id
        JOIN series r ON r.id = t.series_id JOIN distribution d ON d.id = r.distribution_id
        ORDER BY d.name, r.name, t.arch_tag";
    let rows = tx.query(sql, &[])?;
    let mut found: Vec<ArchSeries> = rows.iter().map(read_arch).collect::<Result<_, _>>()?;
    let sql = format!(
        "SELECT arch_series_id, pocket FROM chroot
        WHERE image_type = {CHROOT_TARBALL} AND alias_id IS NOT NULL
        ORDER BY arch_series_id, pocket"
    );
    for row in tx.query(&sql, &[])? {
        let id: i64 = row.get(0)?;
        let pocket = row.get(1)?;
        if let Some(arch) = found.iter_mut().find(|arch| arch.id == id) {
            arch.chroots.push(pocket);
        }
    }
    Ok(found)
}

fn read_arch(row: &Row) -> Result<ArchSeries, Error> {
    Ok(ArchSeries {
        id: row.get(0)?,
        series_id: row.get(1)?,
        series: {
            let (distribution, name): (String, String) = (row.get(2)?, row.get(3)?);
            full_name(&distribution, &name)
        },
        tag: row.get(4)?,
        processor_id: row.get(5)?,
        processor: row.get(6)?,
        family: row.get(7)?,
        enabled: row.get(8)?,
        virtualized: row.get(9)?,
        chroots: Vec::new(),
    })
}

/// Adds an architecture to a series and returns its id.
pub(crate) fn add_architecture(
    tx: &mut Tx<'_>,
    series: i64,
    tag: &str,
    processor: i64,
    virtualized: bool,
) -> Result<i64, Error> {
    let sql = "
        INSERT INTO arch_series (series_id, arch_tag, processor_id, supports_virtualized)
        VALUES ($1, $2, $3, $4) RETURNING id";
    let row = tx.query_one(sql, &params![series, tag, processor, virtualized])?;
    row.get(0)
}

/// Sets whether builds for an architecture are dispatched.
pub(crate) fn enable_architecture(tx: &mut Tx<'_>, id: i64, enabled: bool) -> Result<(), Error> {
    let sql = "UPDATE arch_series SET enabled = $2 WHERE id = $1";
    tx.execute(sql, &params![id, enabled]).map(drop)
}

/// Returns all processors as (id, name, family), ordered by name.
pub(crate) fn processors(tx: &mut Tx<'_>) -> Result<Vec<(i64, String, String)>, Error> {
    let sql = "SELECT id, name, family FROM processor ORDER BY name";
    let rows = tx.query(sql, &[])?;
    rows.iter()
        .map(|row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .collect()
}

/// Adds a processor and returns its id.
pub(crate) fn add_processor(tx: &mut Tx<'_>, name: &str, family: &str) -> Result<i64, Error> {
    let sql = "INSERT INTO processor (name, family) VALUES ($1, $2) RETURNING id";
    tx.query_one(sql, &params![name, family])?.get(0)
}

/// The chroot tarball of an architecture and a pocket.
#[derive(Clone, Debug)]
pub(crate) struct Chroot {
    pub(crate) arch_series_id: i64,
    pub(crate) pocket: Pocket,
    pub(crate) updated_at: i64,
    pub(crate) file: File,
}

/// Returns all chroots, ordered by architecture id and pocket.
pub(crate) fn chroots(tx: &mut Tx<'_>) -> Result<Vec<Chroot>, Error> {
    let sql = format!(
        "SELECT h.arch_series_id, h.pocket, h.updated_at, {}
        FROM chroot h JOIN library_alias l ON l.id = h.alias_id
        LEFT JOIN library_content c ON c.id = l.content_id
        WHERE h.image_type = {CHROOT_TARBALL} ORDER BY h.arch_series_id, h.pocket",
        files::COLUMNS
    );
    let rows = tx.query(&sql, &[])?;
    rows.iter()
        .map(|row| {
            Ok(Chroot {
                arch_series_id: row.get(0)?,
                pocket: row.get(1)?,
                updated_at: row.get(2)?,
                file: files::read(row, 3)?,
            })
        })
        .collect()
}

/// Adds a chroot, or replaces the one of the same architecture and pocket (docs/farm.md §1.2).
pub(crate) fn set_chroot(
    tx: &mut Tx<'_>,
    arch_series: i64,
    pocket: Pocket,
    alias: i64,
    now: i64,
) -> Result<(), Error> {
    let sql = format!(
        "INSERT INTO chroot (arch_series_id, pocket, image_type, alias_id, updated_at)
        VALUES ($1, $2, {CHROOT_TARBALL}, $3, $4)
        ON CONFLICT (arch_series_id, pocket, image_type)
        DO UPDATE SET alias_id = excluded.alias_id, updated_at = excluded.updated_at"
    );
    tx.execute(&sql, &params![arch_series, pocket, alias, now])
        .map(drop)
}

/// Removes a chroot; false if there was none.
pub(crate) fn remove_chroot(
    tx: &mut Tx<'_>,
    arch_series: i64,
    pocket: Pocket,
) -> Result<bool, Error> {
    let sql = format!(
        "DELETE FROM chroot
        WHERE arch_series_id = $1 AND pocket = $2 AND image_type = {CHROOT_TARBALL}"
    );
    Ok(tx.execute(&sql, &params![arch_series, pocket])? > 0)
}
