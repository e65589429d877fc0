//! Removes what the archives no longer keep (docs/farm.md §3.12).
//!
//! The process that owns the singleton `retention` removes rows, in short transactions, so that no
//! writer waits. Then each process removes the folders of its host that no row names any more. A
//! crash in between leaves such folders to the next pass.

use std::time::Duration;

use crate::db::{self, Db, Pace};

use super::result_folders;
use super::workers::Workers;
use crate::master::policy::retention::surplus;
use crate::master::rows::events;
use crate::master::rows::retention::{self, BinaryName, BinaryVersion, SourceVersion};
use crate::sys::clock::now_ms as now;

/// Longest delay of the first pass after a start.
const FIRST_AFTER: Duration = Duration::from_secs(300);
/// Lease of the singleton. A pass that takes longer only meets rows that another one removes.
const LEASE: Duration = Duration::from_secs(600);
/// Age at which events are deleted, in milliseconds.
const EVENTS_KEPT_MS: i64 = 90 * 24 * 3600 * 1000;
/// Time after its end that a singleton is deleted, in milliseconds.
const SINGLETON_KEPT_MS: i64 = 24 * 3600 * 1000;

/// Removes at each interval until the process stops.
pub(super) fn run(workers: &Workers) {
    let every = || workers.farm.config().retention_interval;
    let mut wait = every().min(FIRST_AFTER);
    while !workers.wait_for_stop(wait) {
        wait = every();
        let farm = &workers.farm;
        let is_owner = workers.take_singleton("retention", LEASE);
        let done = is_owner.and_then(|is_owner| match is_owner {
            true => remove_rows(&farm.db, now()),
            false => Ok(Removed::default()),
        });
        match done {
            Ok(removed) => removed.log(),
            Err(error) => {
                let next = wait.as_secs();
                log::warn!("retention: {error}; retrying in {next} s");
            }
        }
        result_folders::remove_orphans(farm);
    }
}

/// The numbers of removed rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Removed {
    attempts: u64,
    sources: u64,
    binaries: u64,
    builders: u64,
    events: u64,
}

impl Removed {
    fn log(&self) {
        let Self {
            attempts,
            sources,
            binaries,
            builders,
            events,
        } = self;
        if *self != Self::default() {
            log::info!(
                "removed what the archives no longer keep: {attempts} attempts, {sources} source \
                 versions, {binaries} published binaries, {builders} removed builders, {events} \
                 events"
            );
        }
    }
}

/// Removes rows of all kinds.
fn remove_rows(db: &Db, now: i64) -> Result<Removed, db::Error> {
    let mut pace = Pace::default();
    let removed = Removed {
        attempts: remove_attempts(db, &mut pace, now)?,
        sources: remove_sources(db, now)?,
        binaries: remove_binaries(db, &mut pace, now)?,
        builders: remove_builders(db, &mut pace)?,
        events: remove_events(db, &mut pace, now)?,
    };
    db.write(|tx| retention::delete_singletons(tx, now - SINGLETON_KEPT_MS))?;
    Ok(removed)
}

fn remove_attempts(db: &Db, pace: &mut Pace, now: i64) -> Result<u64, db::Error> {
    let (mut after, mut count) = (0, 0);
    while let Some((found, last)) = db.read(|tx| retention::attempts(tx, after, now))? {
        count += pace.write(db, &found, |tx, found| {
            let mut count = 0;
            for attempt in found {
                count += retention::delete_attempt(tx, *attempt, now)?;
            }
            Ok(count)
        })?;
        after = last;
    }
    Ok(count)
}

fn remove_sources(db: &Db, now: i64) -> Result<u64, db::Error> {
    // A source has many rows: the batches have a size of their own.
    let mut pace = Pace::default();
    let (mut after, mut count) = (String::new(), 0);
    while let Some((versions, last)) = db.read(|tx| retention::sources(tx, &after))? {
        let mut old = Vec::new();
        for source in old_versions(&versions) {
            if db.read(|tx| retention::is_removable_source(tx, source, now))? {
                old.push(source);
            }
        }
        count += pace.write(db, &old, |tx, old| {
            let mut count = 0;
            for source in old {
                count += retention::delete_source(tx, *source, now)?;
            }
            Ok(count)
        })?;
        after = last;
    }
    Ok(count)
}

/// Returns the ids of the sources of which an archive has enough newer versions. `versions` are
/// ordered by name and archive.
fn old_versions(versions: &[SourceVersion]) -> Vec<i64> {
    let mut old = Vec::new();
    let same = |one: &SourceVersion, other: &SourceVersion| {
        (&one.name, one.archive) == (&other.name, other.archive)
    };
    for group in versions.chunk_by(same) {
        let keep = group.first().map_or(0, |one| one.keep);
        let texts: Vec<String> = group.iter().map(|one| one.version.clone()).collect();
        let surplus = surplus(&texts, keep).into_iter();
        old.extend(surplus.filter_map(|at| group.get(at)).map(|one| one.id));
    }
    old
}

fn remove_binaries(db: &Db, pace: &mut Pace, now: i64) -> Result<u64, db::Error> {
    let (mut after, mut count) = (BinaryName::default(), 0);
    while let Some((versions, last)) = db.read(|tx| retention::binaries(tx, &after))? {
        let old = old_binaries(&versions);
        count += pace.write(db, &old, |tx, old| {
            let mut count = 0;
            for one in old {
                count += retention::delete_binary(tx, &one.name, &one.version, now)?;
            }
            Ok(count)
        })?;
        after = last;
    }
    Ok(count)
}

/// Returns the versions of which an archive has enough newer ones. `versions` are ordered by name.
fn old_binaries(versions: &[BinaryVersion]) -> Vec<&BinaryVersion> {
    let mut old = Vec::new();
    for group in versions.chunk_by(|one, other| one.name == other.name) {
        let keep = group.first().map_or(0, |one| one.keep);
        let texts: Vec<String> = group.iter().map(|one| one.version.clone()).collect();
        let surplus = surplus(&texts, keep).into_iter();
        old.extend(surplus.filter_map(|at| group.get(at)));
    }
    old
}

fn remove_builders(db: &Db, pace: &mut Pace) -> Result<u64, db::Error> {
    let unused = db.read(retention::builders)?;
    pace.write(db, &unused, |tx, unused| {
        let mut count = 0;
        for builder in unused {
            count += retention::delete_builder(tx, *builder)?;
        }
        Ok(count)
    })
}

fn remove_events(db: &Db, pace: &mut Pace, now: i64) -> Result<u64, db::Error> {
    let before = now - EVENTS_KEPT_MS;
    let mut count = 0;
    loop {
        let old = db.read(|tx| events::before(tx, before))?;
        if old.is_empty() {
            return Ok(count);
        }
        count += pace.write(db, &old, events::delete)?;
    }
}
