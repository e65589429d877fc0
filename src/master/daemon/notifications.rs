//! Delivers notifications with the site's command, several at a time.
//!
//! The process that owns the singleton `notifications` delivers them, in a thread each. A command
//! that hangs occupies one of these threads until its timeout. New notifications come before those
//! that have failed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::db;

use super::workers::Workers;
use crate::master::rows::outbox::{self, Notification};
use crate::sys::bounded_command::{self, Input};
use crate::sys::clock::now_ms as now;
use crate::sys::lock::lock;

/// Interval between two rounds.
const ROUND: Duration = Duration::from_secs(1);
/// Lease of the singleton.
const LEASE: Duration = Duration::from_secs(90);
/// Timeout of one delivery.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Deliveries at the same time.
const AT_ONCE: usize = 8;
/// Delay after a failed delivery.
const RETRY_DELAY: Duration = Duration::from_secs(60);
/// Age at which an undelivered notification is dropped, in milliseconds.
const KEPT_MS: i64 = 24 * 3600 * 1000;

/// The deliveries of this process, by the id of their notification.
type Deliveries = Mutex<HashMap<i64, Delivery>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delivery {
    Running,
    /// It failed; the next try is due at this time.
    Failed(Instant),
}

/// Delivers until the process stops.
pub(super) fn run(workers: &Arc<Workers>) {
    let deliveries = Arc::new(Deliveries::default());
    while !workers.wait_for_stop(ROUND) {
        if let Err(error) = round(workers, &deliveries) {
            let next = ROUND.as_secs();
            log::warn!("cannot deliver notifications: {error}; retrying in {next} s");
        }
    }
}

/// Starts the deliveries that are due, if this process owns the singleton.
fn round(workers: &Arc<Workers>, deliveries: &Arc<Deliveries>) -> Result<(), db::Error> {
    let db = &workers.farm.db;
    if !workers.take_singleton("notifications", LEASE)? {
        return Ok(());
    }
    let pending = db.read(outbox::pending)?;
    let due = due(&pending, &mut lock(deliveries), Instant::now());
    for id in due {
        if workers.is_stopping() {
            break;
        }
        if let Some(notification) = db.read(|tx| outbox::get(tx, id))? {
            start(workers, deliveries, notification);
        }
    }
    Ok(())
}

/// Returns the notifications to deliver now: new ones first, then those that have failed. Forgets
/// those that are no longer pending.
fn due(pending: &[i64], deliveries: &mut HashMap<i64, Delivery>, now: Instant) -> Vec<i64> {
    deliveries
        .retain(|id, delivery| *delivery == Delivery::Running || pending.binary_search(id).is_ok());
    let running = deliveries.values().filter(|one| **one == Delivery::Running);
    let free = AT_ONCE.saturating_sub(running.count());
    let is_new = |id: &&i64| !deliveries.contains_key(id);
    let again = |id: &&i64| match deliveries.get(id) {
        Some(Delivery::Failed(at)) => *at <= now,
        Some(Delivery::Running) | None => false,
    };
    let new = pending.iter().filter(is_new);
    let all = new.chain(pending.iter().filter(again));
    all.take(free).copied().collect()
}

fn start(workers: &Arc<Workers>, deliveries: &Arc<Deliveries>, notification: Notification) {
    let id = notification.id;
    lock(deliveries).insert(id, Delivery::Running);
    let (shared, all) = (Arc::clone(workers), Arc::clone(deliveries));
    let deliver = move || {
        let retry = || Delivery::Failed(Instant::now() + RETRY_DELAY);
        let delivered = deliver(&shared, &notification).unwrap_or_else(|error| {
            // After the next try, it may be delivered twice; it is never lost.
            log::warn!("cannot record the delivery of notification {id}: {error}");
            false
        });
        match delivered {
            true => lock(&all).remove(&id),
            false => lock(&all).insert(id, retry()),
        };
    };
    if let Err(error) = thread::Builder::new()
        .name("notify".to_owned())
        .spawn(deliver)
    {
        log::warn!("cannot start a thread for a notification: {error}");
        lock(deliveries).insert(id, Delivery::Failed(Instant::now() + RETRY_DELAY));
    }
}

/// Delivers one notification; returns whether it is done. One that is too old is dropped.
fn deliver(workers: &Workers, notification: &Notification) -> Result<bool, db::Error> {
    let farm = &workers.farm;
    let document = &notification.document;
    let result = bounded_command::run(&farm.config().notify, Input::Text(document), TIMEOUT);
    if let Err(error) = result {
        if now() - notification.created_at <= KEPT_MS {
            let delay = RETRY_DELAY.as_secs();
            log::warn!("[master] notify: {error}; retrying in {delay} s");
            return Ok(false);
        }
        log::error!("[master] notify: {error}; dropped after a day: {document}");
    }
    farm.db.write(|tx| outbox::done(tx, notification.id))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_notifications_come_before_failed_ones_and_few_run_at_once() {
        let now = Instant::now();
        let pending: Vec<i64> = (1..=20).collect();
        let mut deliveries = HashMap::new();
        deliveries.insert(1, Delivery::Failed(now));
        deliveries.insert(2, Delivery::Failed(now + RETRY_DELAY));
        deliveries.insert(3, Delivery::Running);
        deliveries.insert(99, Delivery::Failed(now));
        assert_eq!(due(&pending, &mut deliveries, now), [4, 5, 6, 7, 8, 9, 10]);
        assert!(!deliveries.contains_key(&99));
        assert_eq!(due(&pending[..4], &mut deliveries, now), [4, 1]);
        for id in 11..18 {
            deliveries.insert(id, Delivery::Running);
        }
        assert_eq!(due(&pending, &mut deliveries, now), [0_i64; 0]);
    }
}
