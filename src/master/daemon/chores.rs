//! What is done for the whole farm, by one process at a time, and when?
//!
//! Queue rows that are missing, scores, waiting dependencies, old events, notifications. The
//! process that has the singleton does all of it, one thing after the other.

use std::time::{Duration, Instant};

use crate::db::{self, Tx};

use super::workers::Workers;
use crate::master::farm::{Farm, millis};
use crate::master::queue::{rescore, retry_depwaits};
use crate::master::rows::{events, leases, outbox, queue};
use crate::sys::bounded_command::{self, Input};
use crate::sys::clock::now_ms as now;

/// Between two rounds.
const ROUND: Duration = Duration::from_secs(2);
/// How long the right to do chores is had; no single one takes longer.
const LEASE: Duration = Duration::from_secs(90);
/// For one notification.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(30);
const ENTRIES_EVERY: Duration = Duration::from_secs(60);
const PRUNE_EVERY: Duration = Duration::from_secs(6 * 3600);
/// How long events are kept, in milliseconds.
const EVENTS_KEPT_MS: i64 = 90 * 24 * 3600 * 1000;
/// How long it is tried to tell somebody of a build, in milliseconds.
const NOTIFICATION_KEPT_MS: i64 = 24 * 3600 * 1000;
/// Before a notification that failed is tried again.
const NOTIFY_RETRY_DELAY: Duration = Duration::from_secs(60);

/// When something is to be done again.
struct Due(Option<Instant>);

impl Due {
    /// Tells whether it is, and if so sets the next time.
    fn is_now(&mut self, every: Duration) -> bool {
        let due = self.0.is_none_or(|at| Instant::now() >= at);
        if due {
            self.0 = Some(Instant::now() + every);
        }
        due
    }
}

/// Does chores until the process is to end.
pub(crate) fn run(workers: &Workers) {
    let farm = &workers.farm;
    let [mut entries, mut scores, mut depwaits, mut prune] = [const { Due(None) }; 4];
    let mut notify = Due(None);
    while !workers.wait_for_stop(ROUND) {
        let until = now() + millis(LEASE);
        let is_owner = farm
            .db
            .write(|tx| leases::singleton(tx, "chores", &workers.process, now(), until));
        let config = &farm.config;
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
            if prune.is_now(PRUNE_EVERY) {
                farm.db
                    .write(|tx| events::prune(tx, now() - EVENTS_KEPT_MS))?;
            }
            if notify.is_now(Duration::ZERO) && !deliver(workers)? {
                notify = Due(Some(Instant::now() + NOTIFY_RETRY_DELAY));
            }
            Ok(())
        });
        if let Err(error) = done {
            log::warn!("chores: {error}; trying again");
        }
    }
}

fn add_entries(farm: &Farm) -> Result<(), db::Error> {
    let added = farm.db.write(|tx| queue::add_missing_entries(tx, now()))?;
    let switched = farm.db.write(queue::suspend)?;
    if switched > 0 {
        log::info!("{switched} waiting jobs follow what was disabled or enabled");
    }
    if added > 0 {
        log::info!("{added} builds that wait had no place in the queue; they have now");
        rescore(&farm.db, farm.rules(), now())?;
    }
    Ok(())
}

/// Sends builds back to the queue whose dependencies are there now.
pub(crate) fn free_depwaits(farm: &Farm) -> Result<(), db::Error> {
    let report = retry_depwaits(&farm.db, farm.rules(), now())?;
    for (build, name) in &report.retried {
        log::info!("{name} (build {build}): its dependencies are there; to be tried again");
    }
    for build in &report.unreadable {
        log::warn!("build {build}: what it waits for cannot be read");
    }
    Ok(())
}

/// Hands notifications to the site's command, each until it takes it or is too old. False when it
/// does not take one.
fn deliver(workers: &Workers) -> Result<bool, db::Error> {
    let farm = &workers.farm;
    let (mut after, mut all_taken) = (0, true);
    while let Some(notification) = farm.db.read(|tx| outbox::next(tx, after))? {
        after = notification.id;
        let result = bounded_command::run(
            &farm.config.notify,
            Input::Text(&notification.document),
            NOTIFY_TIMEOUT,
        );
        let too_old = now() - notification.created_at > NOTIFICATION_KEPT_MS;
        match result {
            Ok(()) => farm.db.write(|tx| outbox::done(tx, notification.id))?,
            Err(error) if too_old => {
                log::error!(
                    "[master] notify: {error}; given up: {}",
                    notification.document
                );
                farm.db.write(|tx| outbox::done(tx, notification.id))?;
            }
            Err(error) => {
                log::warn!("[master] notify: {error}; trying again");
                all_taken = false;
            }
        }
        let until = now() + millis(LEASE);
        let is_owner =
            |tx: &mut Tx<'_>| leases::singleton(tx, "chores", &workers.process, now(), until);
        if workers.is_stopping() || !farm.db.write(is_owner)? {
            break;
        }
    }
    Ok(all_taken)
}
