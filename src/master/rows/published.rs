//! The binaries published in an archive, and their `Provides`. They end dep-waits
//! (docs/farm.md §2.15).
//!
//! Operators and the uploads record them.

use std::collections::HashMap;

use crate::db::{Error, Row, Tx, Value, params};
use crate::dpkg::packages::Package;
use crate::dpkg::relations::{MultiArch, Provided};

/// The rows of an INSERT or DELETE. A connection caches every statement, so that few lengths are
/// best.
const ROWS: usize = 100;

/// The packages of one architecture of a series in an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct List {
    pub(crate) arch_series: i64,
    pub(crate) archive: i64,
}

/// A binary package in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Binary {
    pub(crate) package: Package,
    pub(crate) component: String,
    pub(crate) source: String,
}

/// Name and version of a binary.
pub(crate) type Key = (String, String);

impl Binary {
    pub(crate) fn key(&self) -> Key {
        (self.package.name.clone(), self.package.version.clone())
    }

    /// The number of its rows.
    pub(crate) fn rows(&self) -> usize {
        1 + self.package.provides.len()
    }
}

/// The treatment of a binary that is already recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    /// The row stays unchanged.
    Keep,
    /// All columns are replaced.
    Update,
}

/// Records binaries of a list. No two of them may have the same name and version.
pub(crate) fn publish(
    tx: &mut Tx<'_>,
    list: List,
    binaries: &[Binary],
    existing: Existing,
    now: i64,
) -> Result<(), Error> {
    let on_conflict = match existing {
        Existing::Keep => "NOTHING",
        Existing::Update => {
            "UPDATE SET component = excluded.component, source_name = excluded.source_name,
                architecture = excluded.architecture, multi_arch = excluded.multi_arch"
        }
    };
    let sql = format!(
        "INSERT INTO published_binary (arch_series_id, archive_id, published_at, name, version,
            component, source_name, architecture, multi_arch)
        VALUES {{ROWS}}
        ON CONFLICT (arch_series_id, archive_id, name, version) DO {on_conflict}"
    );
    let fixed = params![list.arch_series, list.archive, now];
    let row = |binary: &Binary| {
        let package = &binary.package;
        let multi_arch = package.multi_arch.as_str();
        [
            (&package.name).into(),
            (&package.version).into(),
            (&binary.component).into(),
            (&binary.source).into(),
            (&package.architecture).into(),
            multi_arch.into(),
        ]
    };
    execute(tx, &sql, &fixed, binaries.iter().map(row))?;
    if existing == Existing::Update {
        let keys: Vec<Key> = binaries.iter().map(Binary::key).collect();
        delete(tx, "published_provides", list, &keys)?;
    }
    provide(tx, list, binaries)
}

/// Records the `Provides` of binaries.
fn provide(tx: &mut Tx<'_>, list: List, binaries: &[Binary]) -> Result<(), Error> {
    let sql = "
        INSERT INTO published_provides (arch_series_id, archive_id, name, version, provided,
            qualifier, provided_version)
        VALUES {ROWS} ON CONFLICT DO NOTHING";
    let fixed = params![list.arch_series, list.archive];
    let rows = binaries.iter().flat_map(|binary| {
        let package = &binary.package;
        package.provides.iter().map(move |entry| {
            [
                (&package.name).into(),
                (&package.version).into(),
                entry.bare_name().into(),
                entry.qualifier().into(),
                (&entry.version).into(),
            ]
        })
    });
    execute(tx, sql, &fixed, rows).map(drop)
}

/// Retracts binaries of a list with their `Provides`; returns their number.
pub(crate) fn retract(tx: &mut Tx<'_>, list: List, keys: &[Key]) -> Result<u64, Error> {
    delete(tx, "published_provides", list, keys)?;
    delete(tx, "published_binary", list, keys)
}

fn delete(tx: &mut Tx<'_>, table: &str, list: List, keys: &[Key]) -> Result<u64, Error> {
    let sql = format!(
        "DELETE FROM {table} WHERE arch_series_id = $1 AND archive_id = $2
            AND name IN ({{FIRST}}) AND (name, version) IN (VALUES {{PAIRS}})"
    );
    let fixed = params![list.arch_series, list.archive];
    let row = |(name, version): &Key| [name.into(), version.into()];
    execute(tx, &sql, &fixed, keys.iter().map(row))
}

/// Runs `sql` for the rows, some at a time; returns the number of rows it changed. `{ROWS}` stands
/// for rows that begin with the parameters `fixed`, `{PAIRS}` for rows without them, and `{FIRST}`
/// for the first column of these, which SQLite can look up in an index.
fn execute<const N: usize>(
    tx: &mut Tx<'_>,
    sql: &str,
    fixed: &[Value],
    rows: impl Iterator<Item = [Value; N]>,
) -> Result<u64, Error> {
    let rows: Vec<[Value; N]> = rows.collect();
    let mut changed = 0;
    for part in rows.chunks(ROWS) {
        let numbers = |from: usize, count: usize| {
            let places = (from..from + count).map(|number| format!("${number}"));
            places.collect::<Vec<_>>()
        };
        let row = |number: usize, with_fixed: bool| {
            let mut places = if with_fixed {
                numbers(1, fixed.len())
            } else {
                Vec::new()
            };
            places.extend(numbers(fixed.len() + 1 + number * N, N));
            format!("({})", places.join(", "))
        };
        let all = |with_fixed| {
            let rows = (0..part.len()).map(|number| row(number, with_fixed));
            rows.collect::<Vec<_>>().join(", ")
        };
        let first = (0..part.len()).map(|number| format!("${}", fixed.len() + 1 + number * N));
        let sql = sql
            .replace("{ROWS}", &all(true))
            .replace("{PAIRS}", &all(false))
            .replace("{FIRST}", &first.collect::<Vec<_>>().join(", "));
        let params: Vec<Value> = fixed.iter().chain(part.iter().flatten()).cloned().collect();
        changed += tx.execute(&sql, &params)?;
    }
    Ok(changed)
}

/// Returns at most `limit` binaries of a list after a key, ordered by name and version.
pub(crate) fn page(
    tx: &mut Tx<'_>,
    list: List,
    after: &Key,
    limit: i64,
) -> Result<Vec<Binary>, Error> {
    let sql = "
        SELECT name, version, component, source_name, architecture, multi_arch
        FROM published_binary
        WHERE arch_series_id = $1 AND archive_id = $2 AND (name, version) > ($3, $4)
        ORDER BY name, version LIMIT $5";
    let (name, version) = after;
    let start = params![list.arch_series, list.archive, name, version];
    let params = [&start[..], &[limit.into()]].concat();
    let rows = tx.query(sql, &params)?;
    let mut binaries: Vec<Binary> = rows.iter().map(read).collect::<Result<_, _>>()?;
    let Some((name, version)) = binaries.last().map(Binary::key) else {
        return Ok(binaries);
    };
    let sql = "
        SELECT name, version, provided, qualifier, provided_version FROM published_provides
        WHERE arch_series_id = $1 AND archive_id = $2
            AND (name, version) > ($3, $4) AND (name, version) <= ($5, $6)";
    let params = [&start[..], &[name.into(), version.into()]].concat();
    let keys = binaries.iter().map(Binary::key).enumerate();
    let places: HashMap<Key, usize> = keys.map(|(place, key)| (key, place)).collect();
    for row in tx.query(sql, &params)? {
        let key: Key = (row.get(0)?, row.get(1)?);
        let provided: String = row.get(2)?;
        let qualifier: String = row.get(3)?;
        let entry = Provided::of(&provided, &qualifier, row.get(4)?);
        if let Some(place) = places.get(&key) {
            binaries[*place].package.provides.push(entry);
        }
    }
    for binary in &mut binaries {
        binary.package.provides.sort();
    }
    Ok(binaries)
}

fn read(row: &Row) -> Result<Binary, Error> {
    Ok(Binary {
        package: Package {
            name: row.get(0)?,
            version: row.get(1)?,
            architecture: row.get(4)?,
            multi_arch: MultiArch::parse(&row.get::<String>(5)?),
            provides: Vec::new(),
        },
        component: row.get(2)?,
        source: row.get(3)?,
    })
}

/// Returns the recorded versions of a package in a list.
pub(crate) fn versions(tx: &mut Tx<'_>, list: List, name: &str) -> Result<Vec<String>, Error> {
    let sql = "
        SELECT version FROM published_binary
        WHERE arch_series_id = $1 AND archive_id = $2 AND name = $3 ORDER BY version";
    let rows = tx.query(sql, &params![list.arch_series, list.archive, name])?;
    rows.iter().map(|row| row.get(0)).collect()
}

/// The number of published binaries of one architecture and component of an archive.
#[derive(Clone, Debug)]
pub(crate) struct Count {
    pub(crate) arch_series_id: i64,
    pub(crate) archive_id: i64,
    pub(crate) component: String,
    /// Their number.
    pub(crate) binaries: i64,
    /// The time of the newest record.
    pub(crate) updated_at: i64,
}

/// Counts the published binaries, ordered by archive id, architecture id and component.
pub(crate) fn counts(tx: &mut Tx<'_>) -> Result<Vec<Count>, Error> {
    let sql = "
        SELECT arch_series_id, archive_id, component, COUNT(*), MAX(published_at)
        FROM published_binary GROUP BY arch_series_id, archive_id, component
        ORDER BY archive_id, arch_series_id, component";
    let rows = tx.query(sql, &[])?;
    rows.iter()
        .map(|row| {
            Ok(Count {
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
