//! Holds what the threads of a master share: leases, signals, idle builders, and the stop flag.
//!
//! Another process takes over a builder if this one is gone or has more than its share. The lease
//! of a builder is not returned during a look at it.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::db::{self, Tx};
use crate::sys::clock::{now_ms as now, since_boot};

use crate::master::farm::{Farm, millis, process_name};
use crate::master::policy::next_step::ScanMode;
use crate::master::rows::leases::{self, Fence};
use crate::master::rows::queue;
use crate::master::scan::look::{Next, Scanner};
use crate::master::scan::steps;
use crate::sys::lock::lock;

/// Delay of the next look after an operation has started.
pub(crate) const SOON: Duration = Duration::from_secs(2);
/// Lateness of looks that is logged as a warning: the machine has too many builders.
const LATE: Duration = Duration::from_secs(2);
/// Delay of the next look after one that panicked.
const AFTER_PANIC: Duration = Duration::from_secs(60);

/// The state that all threads of a master share.
pub(crate) struct Workers {
    pub(crate) farm: Farm,
    /// The name of this process, as owner of leases.
    pub(crate) process: String,
    stop: Stop,
    builders: Mutex<HashMap<i64, Arc<Worker>>>,
    idle: Mutex<HashMap<i64, Idle>>,
    lateness: Mutex<Vec<Duration>>,
    /// The last renewal of the leases failed.
    lost_database: AtomicBool,
    lost_librarian: AtomicBool,
}

/// The jobs that an idle builder could run.
struct Idle {
    native: Vec<i64>,
    emulated: Vec<i64>,
    virtualized: bool,
}

/// The part of a builder's thread that other threads use.
pub(crate) struct Worker {
    fence: Fence,
    signal: Mutex<Signal>,
    signalled: Condvar,
    /// A look at the builder is running.
    busy: AtomicBool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Signal {
    None,
    /// There may be a job for the builder.
    Look,
    Exit,
}

/// The stop flag of the process.
#[derive(Default)]
struct Stop {
    requested: Mutex<bool>,
    changed: Condvar,
}

impl Workers {
    /// Announces this process to the others; an error if the database does not answer.
    pub(crate) fn start(farm: Farm) -> Result<Self, db::Error> {
        let process = process_name();
        farm.db.write(|tx| {
            let now = tx.now()?;
            leases::announce(tx, &process, &farm.host, now)
        })?;
        let interval = farm.config.scan_interval.as_secs();
        log::info!("master ready! {process} scans its builders every {interval} s");
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

    /// Takes or renews a singleton for `lease`; false while another process has it.
    pub(crate) fn take_singleton(&self, name: &str, lease: Duration) -> Result<bool, db::Error> {
        self.farm.db.write(|tx| {
            let now = tx.now()?;
            leases::singleton(tx, name, &self.process, now, now + millis(lease))
        })
    }

    /// Asks all threads to stop.
    pub(crate) fn stop(&self) {
        *lock(&self.stop.requested) = true;
        self.stop.changed.notify_all();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        *lock(&self.stop.requested)
    }

    /// Waits for `time`, or until the process stops; returns whether it is stopping.
    pub(crate) fn wait_for_stop(&self, time: Duration) -> bool {
        let requested = lock(&self.stop.requested);
        let waited = self
            .stop
            .changed
            .wait_timeout_while(requested, time, |requested| !*requested);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Stops the process unless it is stopping already: builders cannot fetch files without the
    /// librarian.
    pub(crate) fn librarian_ended(&self) {
        if !self.wait_for_stop(SOON) {
            self.lost_librarian.store(true, Ordering::SeqCst);
            self.stop();
        }
    }

    pub(crate) fn has_lost_librarian(&self) -> bool {
        self.lost_librarian.load(Ordering::SeqCst)
    }

    /// Asks the threads of all builders to exit.
    pub(crate) fn stop_builders(&self) {
        for worker in lock(&self.builders).values() {
            worker.send(Signal::Exit);
        }
    }

    /// Returns all leases, and removes this process from the live ones.
    pub(crate) fn release_leases(&self) -> Result<(), db::Error> {
        self.farm.db.write(|tx| leases::leave(tx, &self.process))
    }

    // ---- leases ----

    /// Renews the leases, takes free builders up to this process's share, and returns those above
    /// it. Threads of lost builders are asked to exit. Returns the builders that need a thread.
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
                let delay = (self.farm.config.lease / 3).as_secs();
                log::warn!("cannot renew the leases: {error}; retrying within {delay} s");
                self.lost_database.store(true, Ordering::SeqCst);
                Vec::new()
            }
        }
    }

    /// Returns whether a builder has no lease: it is new, or its process is gone.
    pub(crate) fn has_free_builders(&self) -> bool {
        let free = self.farm.db.read(|tx| {
            let now = tx.now()?;
            leases::any_free(tx, now)
        });
        free.unwrap_or(false)
    }

    /// After a database outage, takes no free builders in the first round: other masters may be
    /// about to renew their leases.
    fn try_renew_leases(&self) -> Result<Vec<Fence>, db::Error> {
        let lease = millis(self.farm.config.lease);
        let may_take = !self.lost_database.load(Ordering::SeqCst);
        let (held, began) = self.farm.db.write(|tx| {
            let began = since_boot();
            let now = tx.now()?;
            leases::announce(tx, &self.process, &self.farm.host, now)?;
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
            Ok((held, began))
        })?;
        self.farm.set_leased(began);
        self.lost_database.store(false, Ordering::SeqCst);
        Ok(held)
    }

    /// Returns up to `most` builders without a running look.
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

    /// Removes the worker of a builder, unless it belongs to a newer lease.
    pub(crate) fn remove(&self, fence: Fence) {
        let mut builders = lock(&self.builders);
        if builders
            .get(&fence.builder)
            .is_some_and(|worker| worker.fence == fence)
        {
            builders.remove(&fence.builder);
        }
    }

    /// Adds the worker of a leased builder. The caller starts its thread.
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

    /// Scans one builder until its lease is lost or the process stops.
    pub(crate) fn scan_builder(&self, worker: &Worker) {
        let interval = self.farm.config.scan_interval;
        let mut scanner = Scanner::new(&self.farm, worker.fence, ScanMode::Daemon);
        // Spreads the first looks at all builders.
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
                // The panic hook has logged the panic itself.
                let (builder, delay) = (worker.fence.builder, AFTER_PANIC.as_secs());
                log::error!("the look at builder {builder} panicked; next look in {delay} s");
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
        let of = |emulated: bool| {
            let processors = builder.processors.iter();
            let these = processors.filter(|one| one.emulated == emulated);
            these.map(|one| one.id).collect()
        };
        let idle = Idle {
            native: of(false),
            emulated: of(true),
            virtualized: builder.virtualized,
        };
        lock(&self.idle).insert(builder.id, idle);
    }

    // ---- the rest ----

    /// Wakes as many idle builders as there are jobs for them.
    pub(crate) fn wake_idle(&self) {
        if lock(&self.idle).is_empty() {
            return;
        }
        self.wake_for(None, |idle| &idle.native);
        if lock(&self.idle)
            .values()
            .any(|idle| !idle.emulated.is_empty())
        {
            let since = self.farm.emulate_since(now());
            self.wake_for(Some(since), |idle| &idle.emulated);
        }
    }

    /// Wakes idle builders for the jobs of [`queue::waiting_groups`]; `which` are the processors
    /// that count.
    fn wake_for(&self, emulate_since: Option<i64>, which: impl Fn(&Idle) -> &Vec<i64>) {
        let read = |tx: &mut Tx<'_>| queue::waiting_groups(tx, now(), emulate_since);
        let groups = match self.farm.db.read(read) {
            Ok(groups) => groups,
            Err(error) => {
                let text = "cannot search the queue for jobs";
                return log::warn!("{text}: {error}; retrying in the next round");
            }
        };
        let mut idle = lock(&self.idle);
        for (processor, virtualized, jobs) in groups {
            let fits =
                |idle: &Idle| idle.virtualized == virtualized && which(idle).contains(&processor);
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
            log::warn!("cannot write log tails: {error}; the next status brings newer ones");
        }
    }

    /// Logs how late looks are: as a warning if they are very late, else for debugging.
    pub(crate) fn report_lateness(&self) {
        let mut late = std::mem::take(&mut *lock(&self.lateness));
        late.sort_unstable();
        let at = |part: usize| {
            let index = (late.len() * part / 100).min(late.len().saturating_sub(1));
            late.get(index).copied().unwrap_or_default()
        };
        let level = match at(99) >= LATE {
            true => log::Level::Warn,
            false => log::Level::Debug,
        };
        log::log!(
            level,
            "{} builders, {} timed looks, late by {} ms (median), {} ms (99 %), {} ms (maximum)",
            lock(&self.builders).len(),
            late.len(),
            at(50).as_millis(),
            at(99).as_millis(),
            at(100).as_millis()
        );
    }
}

/// Returns a delay below `over`, always the same for a builder, and different for others.
fn spread(builder: i64, over: Duration) -> Duration {
    let thousandths = u32::try_from(builder.unsigned_abs().wrapping_mul(2_654_435_761) % 1000);
    over * thousandths.unwrap_or(0) / 1000
}

impl Worker {
    fn send(&self, signal: Signal) {
        let mut current = lock(&self.signal);
        if *current != Signal::Exit {
            *current = signal;
        }
        self.signalled.notify_one();
    }

    /// Waits for a signal until `due`.
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
