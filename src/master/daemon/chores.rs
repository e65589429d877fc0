//! Periodic work for the whole farm, done by one process at a time.
//!
//! Adds missing queue rows, rescores jobs, retries dep-waits, prunes events, and delivers
//! notifications. The process that owns the singleton `chores` does all of it in one thread.

use std::time::{Duration, Instant};

use crate::db::{self, Tx};

use super::workers::Workers;
use crate::master::farm::{Farm, millis};
use crate::master::queue::{Freed, rescore, retry_depwaits};
use crate::master::rows::{events, leases, outbox, queue};
use crate::sys::bounded_command::{self, Input};
use crate::sys::clock::now_ms as now;

/// Interval between two rounds.
const ROUND: Duration = Duration::from_secs(2);
/// Lease of the singleton. Every chore is shorter.
const LEASE: Duration = Duration::from_secs(90);
/// Timeout of one notification.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(30);
const ENTRIES_EVERY: Duration = Duration::from_secs(60);
const PRUNE_EVERY: Duration = Duration::from_secs(6 * 3600);
/// Age at which events are deleted, in milliseconds.
const EVENTS_KEPT_MS: i64 = 90 * 24 * 3600 * 1000;
/// Age at which an undelivered notification is dropped, in milliseconds.
const NOTIFICATION_KEPT_MS: i64 = 24 * 3600 * 1000;
/// Delay after a failed delivery.
const NOTIFY_RETRY_DELAY: Duration = Duration::from_secs(60);

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

/// Takes or renews the singleton `chores`; false while another process has it.
fn take_singleton(tx: &mut Tx<'_>, workers: &Workers) -> Result<bool, db::Error> {
    let now = tx.now()?;
    leases::singleton(tx, "chores", &workers.process, now, now + millis(LEASE))
}

/// Does chores until the process stops.
pub(crate) fn run(workers: &Workers) {
    let farm = &workers.farm;
    let [mut entries, mut scores, mut depwaits, mut prune] = [const { Due(None) }; 4];
    let mut notify = Due(None);
    while !workers.wait_for_stop(ROUND) {
        let is_owner = farm.db.write(|tx| take_singleton(tx, workers));
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
            log::warn!("chores: {error}; retrying in {} s", ROUND.as_secs());
        }
    }
}

fn add_entries(farm: &Farm) -> Result<(), db::Error> {
    let added = farm.db.write(|tx| queue::add_missing_entries(tx, now()))?;
    let switched = farm.db.write(queue::suspend)?;
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
    Ok(())
}

/// Delivers the pending notifications with the site's command; returns false if one failed. A
/// notification that is too old is dropped.
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
                    "[master] notify: {error}; dropped after a day: {}",
                    notification.document
                );
                farm.db.write(|tx| outbox::done(tx, notification.id))?;
            }
            Err(error) => {
                let delay = NOTIFY_RETRY_DELAY.as_secs();
                log::warn!("[master] notify: {error}; retrying in {delay} s");
                all_taken = false;
            }
        }
        if workers.is_stopping() || !farm.db.write(|tx| take_singleton(tx, workers))? {
            break;
        }
    }
    Ok(all_taken)
}
