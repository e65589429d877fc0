//! What do the threads of a master share: whose turn it is, which builders are idle, and whether
//! it is over?
//!
//! A builder goes to another process when this one is gone or has more than its share. It is not
//! given away while something is being done for it.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::db;
use crate::sys::clock::now_ms as now;
use crate::sys::host;

use crate::master::farm::process_name;
use crate::master::farm::{Farm, millis};
use crate::master::policy::next_step::ScanMode;
use crate::master::rows::leases::{self, Fence};
use crate::master::rows::queue;
use crate::master::scan::look::{Next, Scanner};
use crate::master::scan::steps;
use crate::sys::lock::lock;

/// Before a builder is looked at again after something was set going.
pub(crate) const SOON: Duration = Duration::from_secs(2);
/// Looks as late as this are worth a word: the machine is too small for its builders.
const LATE: Duration = Duration::from_secs(2);
/// After a look that panicked.
const AFTER_PANIC: Duration = Duration::from_secs(60);

/// All threads of a process, and what they tell each other.
pub(crate) struct Workers {
    pub(crate) farm: Farm,
    pub(crate) process: String,
    stop: Stop,
    builders: Mutex<HashMap<i64, Arc<Worker>>>,
    idle: Mutex<HashMap<i64, Idle>>,
    lateness: Mutex<Vec<Duration>>,
    /// The last attempt to renew leases failed.
    lost_database: AtomicBool,
    lost_librarian: AtomicBool,
}

/// What an idle builder could run.
struct Idle {
    processors: Vec<i64>,
    virtualized: bool,
}

/// Where a builder's thread waits for its turn.
pub(crate) struct Worker {
    fence: Fence,
    signal: Mutex<Signal>,
    signalled: Condvar,
    /// The builder is being looked at.
    busy: AtomicBool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Signal {
    None,
    /// There may be a job for it.
    Look,
    Exit,
}

/// Whether the process is to end.
#[derive(Default)]
struct Stop {
    requested: Mutex<bool>,
    changed: Condvar,
}

impl Workers {
    /// Makes this process known; fails when the database does not answer.
    pub(crate) fn start(farm: Farm) -> Result<Self, db::Error> {
        let process = process_name();
        farm.db
            .write(|tx| leases::announce(tx, &process, &host::name(), now()))?;
        let interval = farm.config.scan_interval.as_secs();
        log::info!("master ready! {process} looks after builders every {interval} s");
        Ok(Self {
            farm,
            process,
            stop: Stop::default(),
            builders: Mutex::default(),
            idle: Mutex::default(),
            lateness: Mutex::default(),
            lost_database: AtomicBool::new(false),
            lost_librarian: AtomicBool::new(false),
        })
    }

    /// Says that the process is to end.
    pub(crate) fn stop(&self) {
        *lock(&self.stop.requested) = true;
        self.stop.changed.notify_all();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *lock(&self.stop.requested)
    }

    /// Waits so long, or until the process is to end; tells whether it is.
    pub(crate) fn wait_for_stop(&self, time: Duration) -> bool {
        let requested = lock(&self.stop.requested);
        let waited = self
            .stop
            .changed
            .wait_timeout_while(requested, time, |requested| !*requested);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Ends the process if nobody has: without its librarian it is of no use.
    pub(crate) fn librarian_ended(&self) {
        if !self.wait_for_stop(SOON) {
            self.lost_librarian.store(true, Ordering::SeqCst);
            self.stop();
        }
    }

    pub(crate) fn has_lost_librarian(&self) -> bool {
        self.lost_librarian.load(Ordering::SeqCst)
    }

    /// Tells all builders' threads to end.
    pub(crate) fn stop_builders(&self) {
        for worker in lock(&self.builders).values() {
            worker.send(Signal::Exit);
        }
    }

    /// Gives all leases back.
    pub(crate) fn release_leases(&self) -> Result<(), db::Error> {
        self.farm.db.write(|tx| leases::leave(tx, &self.process))
    }

    // ---- leases ----

    /// Renews what this process has, takes what is free up to its share, gives back what is above,
    /// and returns the builders that need a thread. Those lost are told to their threads.
    pub(crate) fn renew_leases(&self) -> Vec<Fence> {
        match self.try_renew_leases() {
            Ok(held) => {
                let mut builders = lock(&self.builders);
                builders.retain(|builder, worker| {
                    let kept = held
                        .iter()
                        .any(|fence| fence.builder == *builder && *fence == worker.fence);
                    if !kept {
                        worker.send(Signal::Exit);
                    }
                    kept
                });
                held.into_iter()
                    .filter(|fence| !builders.contains_key(&fence.builder))
                    .collect()
            }
            Err(error) => {
                log::warn!("leases: {error}; trying again");
                self.lost_database.store(true, Ordering::SeqCst);
                Vec::new()
            }
        }
    }

    /// Tells whether there are builders that nobody looks after: new ones, or those of a process
    /// that is gone.
    pub(crate) fn has_free_builders(&self) -> bool {
        let free = self.farm.db.read(|tx| leases::any_free(tx, now()));
        free.unwrap_or(false)
    }

    /// Who comes back from being cut off takes nothing at first: the others were cut off as well,
    /// perhaps, and are about to come back for theirs.
    fn try_renew_leases(&self) -> Result<Vec<Fence>, db::Error> {
        let lease = millis(self.farm.config.lease);
        let may_take = !self.lost_database.load(Ordering::SeqCst);
        let (held, until) = self.farm.db.write(|tx| {
            let now = now();
            leases::announce(tx, &self.process, &host::name(), now)?;
            let mut held = leases::renew(tx, &self.process, now + lease)?;
            let processes = leases::live_processes(tx, now, lease)?;
            let share = (leases::builders(tx)? + processes - 1) / processes;
            let have = i64::try_from(held.len()).unwrap_or(i64::MAX);
            if have > share {
                let above = self.not_busy(&held, usize::try_from(have - share).unwrap_or(0));
                leases::release(tx, &self.process, &above)?;
                held.retain(|fence| !above.contains(&fence.builder));
            } else if have < share && may_take {
                held.extend(leases::take(
                    tx,
                    &self.process,
                    now,
                    now + lease,
                    share - have,
                )?);
            }
            Ok((held, now + lease))
        })?;
        self.farm.set_leased_until(until);
        self.lost_database.store(false, Ordering::SeqCst);
        Ok(held)
    }

    /// Returns up to `most` builders for which nothing is being done at the moment.
    fn not_busy(&self, held: &[Fence], most: usize) -> Vec<i64> {
        let builders = lock(&self.builders);
        let busy = |builder: &i64| {
            let worker = builders.get(builder);
            worker.is_some_and(|worker| worker.busy.load(Ordering::SeqCst))
        };
        let builders = held.iter().map(|fence| fence.builder);
        builders
            .filter(|builder| !busy(builder))
            .take(most)
            .collect()
    }

    /// Takes back a worker nobody stands at.
    pub(crate) fn remove(&self, fence: Fence) {
        let mut builders = lock(&self.builders);
        if builders
            .get(&fence.builder)
            .is_some_and(|worker| worker.fence == fence)
        {
            builders.remove(&fence.builder);
        }
    }

    pub(crate) fn add(&self, fence: Fence) -> Arc<Worker> {
        let worker = Arc::new(Worker {
            fence,
            signal: Mutex::new(Signal::None),
            signalled: Condvar::new(),
            busy: AtomicBool::new(false),
        });
        lock(&self.builders).insert(fence.builder, Arc::clone(&worker));
        worker
    }

    // ---- one builder ----

    /// Looks after one builder until its lease is gone or the process ends.
    pub(crate) fn scan_builder(&self, worker: &Worker) {
        let interval = self.farm.config.scan_interval;
        let mut scanner = Scanner::new(&self.farm, worker.fence, ScanMode::Daemon);
        // Not all at once at the start.
        let mut due = Instant::now() + spread(worker.fence.builder, interval.min(SOON));
        loop {
            match worker.wait(due) {
                Signal::Exit => break,
                Signal::Look => {}
                Signal::None => lock(&self.lateness).push(due.elapsed()),
            }
            lock(&self.idle).remove(&worker.fence.builder);
            worker.busy.store(true, Ordering::SeqCst);
            let looked = catch_unwind(AssertUnwindSafe(|| steps::scan(&mut scanner)));
            worker.busy.store(false, Ordering::SeqCst);
            let Ok(next) = looked else {
                // The panic itself has been told.
                log::error!("builder {}: the look at it panicked", worker.fence.builder);
                scanner = Scanner::new(&self.farm, worker.fence, ScanMode::Daemon);
                due = Instant::now() + AFTER_PANIC;
                continue;
            };
            let wait = match next {
                Next::Now => Duration::ZERO,
                Next::Soon => SOON.min(interval),
                Next::Turn => interval,
                Next::Idle => {
                    self.record_idle(&scanner);
                    interval
                }
                Next::Gone => break,
            };
            due = Instant::now() + wait;
        }
        lock(&self.idle).remove(&worker.fence.builder);
        self.remove(worker.fence);
    }

    fn record_idle(&self, scanner: &Scanner<'_>) {
        let Some(builder) = &scanner.last_builder else {
            return;
        };
        let idle = Idle {
            processors: builder.processors.iter().map(|one| one.id).collect(),
            virtualized: builder.virtualized,
        };
        lock(&self.idle).insert(builder.id, idle);
    }

    // ---- the rest ----

    /// Calls as many idle builders as there are jobs for them.
    pub(crate) fn wake_idle(&self) {
        if lock(&self.idle).is_empty() {
            return;
        }
        let groups = match self.farm.db.read(|tx| queue::waiting_groups(tx, now())) {
            Ok(groups) => groups,
            Err(error) => return log::warn!("looking for jobs: {error}; trying again"),
        };
        let mut idle = lock(&self.idle);
        for (processor, virtualized, jobs) in groups {
            let fits = |idle: &Idle| {
                idle.virtualized == virtualized && idle.processors.contains(&processor)
            };
            let chosen = idle
                .iter()
                .filter(|(_, idle)| fits(idle))
                .map(|(id, _)| *id);
            let chosen: Vec<i64> = chosen.take(usize::try_from(jobs).unwrap_or(0)).collect();
            for builder in chosen {
                idle.remove(&builder);
                if let Some(worker) = lock(&self.builders).get(&builder) {
                    worker.send(Signal::Look);
                }
            }
        }
    }

    pub(crate) fn flush_tails(&self) {
        if let Err(error) = self.farm.flush_tails() {
            log::warn!("log tails: {error}");
        }
    }

    /// Says how far behind its turns scanning is: for whoever wants to know, or when it is much.
    pub(crate) fn report_lateness(&self) {
        let mut late = std::mem::take(&mut *lock(&self.lateness));
        late.sort_unstable();
        let at = |part: usize| {
            let place = (late.len() * part / 100).min(late.len().saturating_sub(1));
            late.get(place).copied().unwrap_or_default()
        };
        let level = match at(99) >= LATE {
            true => log::Level::Warn,
            false => log::Level::Debug,
        };
        log::log!(
            level,
            "{} builders, {} looks in their turn, late by {} ms (median), {} ms (99 %), {} ms (at most)",
            lock(&self.builders).len(),
            late.len(),
            at(50).as_millis(),
            at(99).as_millis(),
            at(100).as_millis()
        );
    }
}

/// Spreads builders over a length of time, each always at the same place.
fn spread(builder: i64, over: Duration) -> Duration {
    let place = u32::try_from(builder.unsigned_abs().wrapping_mul(2_654_435_761) % 1000);
    over * place.unwrap_or(0) / 1000
}

impl Worker {
    fn send(&self, signal: Signal) {
        let mut current = lock(&self.signal);
        if *current != Signal::Exit {
            *current = signal;
        }
        self.signalled.notify_one();
    }

    /// Waits until `due`, or until something is requested.
    fn wait(&self, due: Instant) -> Signal {
        let time = due.saturating_duration_since(Instant::now());
        let nothing = |signal: &mut Signal| *signal == Signal::None;
        let waited = self
            .signalled
            .wait_timeout_while(lock(&self.signal), time, nothing);
        let mut signal = waited.unwrap_or_else(PoisonError::into_inner).0;
        let received = *signal;
        if received == Signal::Look {
            *signal = Signal::None;
        }
        received
    }
}
