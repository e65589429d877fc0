//! Finds the rows for names and numbers on the command line, or refuses the command.

use crate::db::{self, Tx};
use crate::master::model::Archive;
use crate::master::rows::archives;
use crate::master::rows::builders::{self, Builder, Job};
use crate::master::rows::builds::{self, Build};
use crate::master::rows::series::{self, ArchSeries, Series};

use super::names;

/// Wraps a message as `Refused`, which rolls the transaction back.
pub(super) fn refuse(reason: impl ToString) -> db::Error {
    db::Error::Refused(reason.to_string())
}

/// Finds a series by `NAME` or `DISTRIBUTION/NAME`.
pub(super) fn find_series(tx: &mut Tx<'_>, word: &str) -> Result<Series, db::Error> {
    let all = series::all(tx)?;
    names::series(&all, word).cloned().map_err(refuse)
}

pub(super) fn find_architecture(
    tx: &mut Tx<'_>,
    series: &Series,
    tag: &str,
) -> Result<ArchSeries, db::Error> {
    let all = series::architectures(tx)?;
    names::architecture(&all, series, tag)
        .cloned()
        .map_err(refuse)
}

/// Finds an archive of a distribution by `NAME` or `OWNER/NAME`.
pub(super) fn find_archive(
    tx: &mut Tx<'_>,
    distribution: &str,
    word: &str,
) -> Result<Archive, db::Error> {
    let all = archives::all(tx)?;
    names::archive(&all, distribution, word)
        .cloned()
        .map_err(refuse)
}

/// Returns the id of a distribution.
pub(super) fn find_distribution(tx: &mut Tx<'_>, word: &str) -> Result<i64, db::Error> {
    let all = series::distributions(tx)?;
    if let Some((id, _)) = all.iter().find(|(_, name)| name == word) {
        return Ok(*id);
    }
    let existing = all.into_iter().map(|(_, name)| name).collect();
    let hint = format!("`master series add {word} SERIES` adds one");
    Err(refuse(names::unknown(
        "distribution",
        word,
        existing,
        &hint,
    )))
}

pub(super) fn find_build(tx: &mut Tx<'_>, id: i64) -> Result<Build, db::Error> {
    let build = builds::view(tx, id)?;
    build.ok_or_else(|| {
        refuse(format!(
            "no build {id}; `buildd-slave master builds` lists builds"
        ))
    })
}

/// Finds a builder by name, and its job.
pub(super) fn find_builder(
    tx: &mut Tx<'_>,
    name: &str,
) -> Result<(Builder, Option<Job>), db::Error> {
    match builders::named(tx, name)? {
        Some(found) => Ok(found),
        None => {
            let hint = "`master builder add NAME URL` adds one";
            let existing = builders::names(tx)?;
            Err(refuse(names::unknown("builder", name, existing, hint)))
        }
    }
}
