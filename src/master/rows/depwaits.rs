//! Builds that wait for dependencies, and the published packages that they could use.

use super::builds::{self, Build};
use super::bulk;
use super::numbers::{DEP_WAIT, OBSOLETE, PRIMARY};
use crate::db::{Error, Row, Tx, Value, params};
use crate::master::policy::dependencies::Known;

/// A binary package that would help a build if it were published: the architecture of a series, the
/// archive of the build, the name.
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

/// Returns the wanted packages that are published in the archive of the build or in the primary
/// archive of its distribution, which every build may use. The order is undefined, and a package
/// may occur with several versions.
pub(crate) fn published(
    tx: &mut Tx<'_>,
    wanted: impl IntoIterator<Item = Wanted>,
) -> Result<Vec<(Wanted, Known)>, Error> {
    let sql = format!(
        "WITH wanted (arch_series, archive, name) AS ({{VALUES}})
        SELECT w.arch_series, w.archive, p.name, p.version, p.component
        FROM wanted w
        JOIN archive own ON own.id = w.archive
        JOIN archive a ON a.distribution_id = own.distribution_id
            AND (a.id = own.id OR a.purpose = {PRIMARY})
        JOIN published_binary p ON p.arch_series_id = w.arch_series AND p.archive_id = a.id
            AND p.name = w.name"
    );
    let row = |(arch_series, archive, name): Wanted| {
        [arch_series.into(), archive.into(), Value::Text(name)]
    };
    let types = ["BIGINT", "BIGINT", "TEXT"];
    let found = bulk::query(tx, &sql, types, &[], wanted.into_iter().map(row))?;
    found.iter().map(binary).collect()
}

fn binary(row: &Row) -> Result<(Wanted, Known), Error> {
    let name: String = row.get(2)?;
    let wanted = (row.get(0)?, row.get(1)?, name.clone());
    let known = Known {
        name,
        version: row.get(3)?,
        component: row.get(4)?,
    };
    Ok((wanted, known))
}

/// Stores the missing dependencies of a build, if it is still in MANUALDEPWAIT.
pub(crate) fn set_dependencies(
    tx: &mut Tx<'_>,
    build: i64,
    dependencies: &str,
) -> Result<(), Error> {
    let sql = format!("UPDATE build SET dependencies = $2 WHERE id = $1 AND state = {DEP_WAIT}");
    tx.execute(&sql, &params![build, dependencies])?;
    Ok(())
}
