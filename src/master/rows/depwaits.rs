//! Builds that wait for dependencies, and the published packages that they could use.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::builds::{self, Build};
use super::bulk;
use super::numbers::{DEP_WAIT, OBSOLETE, PRIMARY};
use crate::db::{Error, Row, Tx, Value, params};
use crate::dpkg::packages::Package;
use crate::dpkg::relations::{MultiArch, Provided};
use crate::master::policy::dependencies::Known;

/// A package name in an archive: the architecture of a series, the archive, the name. A build wants
/// names in its own archive.
pub(crate) type Wanted = (i64, i64, String);

/// Returns at most `limit` builds in MANUALDEPWAIT with an id above `after`, ordered by id. Builds
/// of obsolete series and of disabled architectures or archives are left out, and so are builds
/// without a chroot: none of them could be built now.
pub(crate) fn waiting(tx: &mut Tx<'_>, after: i64, limit: i64) -> Result<Vec<Build>, Error> {
    let rest = format!(
        "WHERE b.state = {DEP_WAIT} AND b.id > $1 AND r.status <> {OBSOLETE}
          AND t.enabled AND x.enabled
          AND EXISTS (SELECT 1 FROM chroot f
                      WHERE f.arch_series_id = t.id AND f.alias_id IS NOT NULL)
        ORDER BY b.id LIMIT $2"
    );
    builds::select(tx, &rest, &params![after, limit])
}

/// Returns the published binaries that have or provide a wanted name, with all their versions, each
/// with the name that wanted it. They are those of the archive of the build, and of the primary
/// archive of its distribution, which every build may use. The order is undefined.
pub(crate) fn published(
    tx: &mut Tx<'_>,
    wanted: impl IntoIterator<Item = Wanted>,
) -> Result<Vec<(Wanted, Known)>, Error> {
    let wanted: BTreeSet<Wanted> = wanted.into_iter().collect();
    let usable = usable_archives(tx, wanted.iter().map(|(_, own, _)| *own))?;
    // The place of a name in each archive, with those that want it there.
    let mut asked: BTreeMap<Wanted, BTreeSet<&Wanted>> = BTreeMap::new();
    for name in &wanted {
        for (archive, _) in usable.get(&name.1).into_iter().flatten() {
            let place = (name.0, *archive, name.2.clone());
            asked.entry(place).or_default().insert(name);
        }
    }
    let mut provided: HashMap<(&Wanted, Published), Vec<Provided>> = HashMap::new();
    let mut providers: Vec<(&Wanted, String)> = Vec::new();
    for row in provides(tx, asked.keys().cloned())? {
        let (place, by, entry) = read_provided(&row)?;
        for name in asked.get(&place).into_iter().flatten() {
            providers.push((name, by.name.clone()));
            let entries = provided.entry((name, by.clone())).or_default();
            entries.push(entry.clone());
        }
    }
    // A newer version that provides nothing may be in another archive.
    for (name, provider) in providers {
        for (archive, _) in usable.get(&name.1).into_iter().flatten() {
            let place = (name.0, *archive, provider.clone());
            asked.entry(place).or_default().insert(name);
        }
    }
    let mut found = Vec::new();
    for row in binaries(tx, asked.keys().cloned())? {
        let (place, binary, known) = read_binary(&row)?;
        for name in asked.get(&place).into_iter().flatten() {
            let mut known = known.clone();
            let mut archives = usable.get(&name.1).into_iter().flatten();
            let archive = archives.find(|(id, _)| *id == binary.archive);
            known.archive = archive.map(|(_, name)| name.clone()).unwrap_or_default();
            let entries = provided.get(&(*name, binary.clone()));
            known.package.provides = entries.cloned().unwrap_or_default();
            found.push(((*name).clone(), known));
        }
    }
    Ok(found)
}

/// The key of a published binary of one architecture.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Published {
    archive: i64,
    name: String,
    version: String,
}

/// Returns the archives that a build of each archive may use, with their names.
fn usable_archives(
    tx: &mut Tx<'_>,
    of: impl Iterator<Item = i64>,
) -> Result<HashMap<i64, Vec<(i64, String)>>, Error> {
    let sql = format!(
        "WITH wanted (archive) AS ({{VALUES}})
        SELECT own.id, a.id, a.owner, a.name
        FROM wanted w
        JOIN archive own ON own.id = w.archive
        JOIN archive a ON a.distribution_id = own.distribution_id
            AND (a.id = own.id OR a.purpose = {PRIMARY})"
    );
    let of: BTreeSet<i64> = of.collect();
    let rows = of.into_iter().map(|archive| [archive.into()]);
    let mut usable: HashMap<i64, Vec<(i64, String)>> = HashMap::new();
    for row in bulk::query(tx, &sql, ["BIGINT"], &[], rows)? {
        let (owner, name): (String, String) = (row.get(2)?, row.get(3)?);
        let name = match owner.as_str() {
            "" => name,
            owner => format!("{owner}/{name}"),
        };
        usable
            .entry(row.get(0)?)
            .or_default()
            .push((row.get(1)?, name));
    }
    Ok(usable)
}

/// Returns the entries of `Provides` that have a name in an archive.
fn provides(tx: &mut Tx<'_>, places: impl Iterator<Item = Wanted>) -> Result<Vec<Row>, Error> {
    // SQLite keeps the order of a CROSS JOIN, so that each place is looked up in the index.
    let sql = "
        WITH wanted (arch_series, archive, name) AS ({VALUES})
        SELECT w.arch_series, w.archive, w.name, v.name, v.version, v.qualifier, v.provided_version
        FROM wanted w CROSS JOIN published_provides v
        WHERE v.arch_series_id = w.arch_series AND v.archive_id = w.archive
            AND v.provided = w.name";
    look_up(tx, sql, places)
}

/// Returns all versions of the binaries with a name in an archive.
fn binaries(tx: &mut Tx<'_>, places: impl Iterator<Item = Wanted>) -> Result<Vec<Row>, Error> {
    let sql = "
        WITH wanted (arch_series, archive, name) AS ({VALUES})
        SELECT w.arch_series, w.archive, w.name, p.version, p.component, p.architecture,
            p.multi_arch
        FROM wanted w CROSS JOIN published_binary p
        WHERE p.arch_series_id = w.arch_series AND p.archive_id = w.archive AND p.name = w.name";
    look_up(tx, sql, places)
}

fn look_up(
    tx: &mut Tx<'_>,
    sql: &str,
    places: impl Iterator<Item = Wanted>,
) -> Result<Vec<Row>, Error> {
    let row = |(arch_series, archive, name): Wanted| {
        [arch_series.into(), archive.into(), Value::Text(name)]
    };
    bulk::query(tx, sql, ["BIGINT", "BIGINT", "TEXT"], &[], places.map(row))
}

/// Reads a row of [`provides`].
fn read_provided(row: &Row) -> Result<(Wanted, Published, Provided), Error> {
    let place: Wanted = (row.get(0)?, row.get(1)?, row.get(2)?);
    let by = Published {
        archive: place.1,
        name: row.get(3)?,
        version: row.get(4)?,
    };
    let qualifier: String = row.get(5)?;
    let entry = Provided::of(&place.2, &qualifier, row.get(6)?);
    Ok((place, by, entry))
}

/// Reads a row of [`binaries`], without the name of the archive.
fn read_binary(row: &Row) -> Result<(Wanted, Published, Known), Error> {
    let place: Wanted = (row.get(0)?, row.get(1)?, row.get(2)?);
    let package = Package {
        name: place.2.clone(),
        version: row.get(3)?,
        architecture: row.get(5)?,
        multi_arch: MultiArch::parse(&row.get::<String>(6)?),
        provides: Vec::new(),
    };
    let binary = Published {
        archive: place.1,
        name: package.name.clone(),
        version: package.version.clone(),
    };
    let known = Known {
        package,
        component: row.get(4)?,
        archive: String::new(),
    };
    Ok((place, binary, known))
}
