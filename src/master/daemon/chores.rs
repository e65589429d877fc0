//! Periodic work for the whole farm, done by one process at a time.
//!
//! Adds missing queue rows, rescores jobs, retries dep-waits, and ends builds that can never be
//! built. The process that owns the singleton `chores` does all of it in one thread.

use std::time::{Duration, Instant};

use crate::db::{self, Pace};

use super::workers::Workers;
use crate::master::farm::Farm;
use crate::master::policy::limits::DEP_WAIT_LIMIT;
use crate::master::queue::{Freed, add_missing_entries, rescore, retry_depwaits, suspend};
use crate::master::rows::unbuildable::{self, Place};
use crate::sys::clock::now_ms as now;

/// Interval between two rounds.
const ROUND: Duration = Duration::from_secs(2);
/// Lease of the singleton. Every chore is shorter.
const LEASE: Duration = Duration::from_secs(90);
const ENTRIES_EVERY: Duration = Duration::from_secs(60);
/// A submission ends the builds that it supersedes; here are those of other causes.
const UNBUILDABLE_EVERY: Duration = Duration::from_secs(600);

/// When a chore is due; at once if `None`.
struct Due(Option<Instant>);

impl Due {
    /// Returns whether the chore is due, and if so sets its next time.
    fn is_now(&mut self, every: Duration) -> bool {
        let due = self.0.is_none_or(|at| Instant::now() >= at);
        if due {
            self.0 = Some(Instant::now() + every);
        }
        due
    }
}

/// Does chores until the process stops.
pub(crate) fn run(workers: &Workers) {
    let farm = &workers.farm;
    let [mut entries, mut scores, mut depwaits, mut unbuildable] = [const { Due(None) }; 4];
    while !workers.wait_for_stop(ROUND) {
        let is_owner = workers.take_singleton("chores", LEASE);
        let config = farm.config();
        let done = is_owner.and_then(|is_owner| {
            if !is_owner {
                return Ok(());
            }
            if entries.is_now(ENTRIES_EVERY) {
                add_entries(farm)?;
            }
            if scores.is_now(config.rescore_interval) {
                rescore(&farm.db, farm.rules(), now())?;
            }
            if depwaits.is_now(config.depwait_interval) {
                free_depwaits(farm)?;
            }
            if unbuildable.is_now(UNBUILDABLE_EVERY) {
                end_unbuildable(farm)?;
            }
            Ok(())
        });
        if let Err(error) = done {
            log::warn!("chores: {error}; retrying in {} s", ROUND.as_secs());
        }
    }
}

fn add_entries(farm: &Farm) -> Result<(), db::Error> {
    let added = add_missing_entries(&farm.db, now())?;
    let switched = suspend(&farm.db)?;
    if switched > 0 {
        log::info!(
            "suspended or resumed {switched} jobs: an archive or architecture was disabled or \
             enabled"
        );
    }
    if added > 0 {
        log::info!("added {added} missing queue entries");
        rescore(&farm.db, farm.rules(), now())?;
    }
    Ok(())
}

/// Returns builds to the queue whose dependencies have been published.
pub(crate) fn free_depwaits(farm: &Farm) -> Result<(), db::Error> {
    let report = retry_depwaits(&farm.db, farm.rules(), now())?;
    for Freed { build, title, met } in &report.retried {
        log::info!(
            "{title} (build {build}): its dependencies are published: {met}; returned to the queue"
        );
    }
    for build in &report.unreadable {
        log::warn!(
            "build {build}: cannot parse its dependencies; retry it with `master retry {build}`"
        );
    }
    for build in &report.fruitless {
        log::warn!(
            "build {build}: its last {DEP_WAIT_LIMIT} attempts missed the same dependencies, \
             although they are published; retry it with `master retry {build}`"
        );
    }
    Ok(())
}

/// Ends the waiting builds that can never be built: nobody publishes their source, or the series no
/// longer accepts them.
fn end_unbuildable(farm: &Farm) -> Result<(), db::Error> {
    let mut pace = Pace::default();
    for place in [Place::Queue, Place::DepWaits] {
        let mut after = 0;
        while let Some((found, last)) = farm.db.read(|tx| unbuildable::window(tx, place, after))? {
            let ended = pace.write(&farm.db, &found, |tx, found| {
                let mut count = 0;
                for one in found {
                    count += u64::from(unbuildable::end(tx, one, now())?);
                }
                Ok(count)
            })?;
            if ended > 0 {
                log::info!("ended {ended} builds that waited and can never be built");
            }
            after = last;
        }
    }
    Ok(())
}
