//! Holds what the threads of a master share: leases, looks, idle builders, and the stop flag.
//!
//! Another process takes over a builder if this one is gone or has more than its share. The lease
//! of a builder is not returned during a look at it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::db::{self, Tx};
use crate::sys::clock::{now_ms as now, since_boot};

use crate::master::farm::{Farm, millis, process_name};
use crate::master::policy::next_step::ScanMode;
use crate::master::rows::leases::{self, Fence};
use crate::master::rows::{builders, queue};
use crate::master::scan::look::{Memory, Next, Scanner};
use crate::master::scan::steps;
use crate::sys::lock::lock;

use super::looks::Looks;
use super::schedule::{After, Look};

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
    pub(super) looks: Looks,
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
        let interval = farm.config().scan_interval.as_secs();
        log::info!("master ready! {process} scans its builders every {interval} s");
        Ok(Self {
            farm,
            process,
            stop: Stop::default(),
            looks: Looks::new(),
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

    /// Returns all leases, and removes this process from the live ones.
    pub(crate) fn release_leases(&self) -> Result<(), db::Error> {
        self.farm.db.write(|tx| leases::leave(tx, &self.process))
    }

    // ---- leases ----

    /// Renews the leases, takes free builders up to this process's share, and returns those above
    /// it. Adds the new builders to the schedule, and removes the lost ones. Errors are logged;
    /// the next round tries again.
    ///
    /// # Errors
    /// A newer program has upgraded the schema, so this one must stop.
    pub(crate) fn renew_leases(&self) -> Result<(), db::Error> {
        match self.try_renew_leases() {
            Ok(held) => {
                let kept: HashSet<Fence> = held.iter().copied().collect();
                let interval = self.farm.config().scan_interval;
                self.looks.with(|schedule| {
                    schedule.retain(|fence| kept.contains(&fence));
                    for fence in held {
                        if !schedule.has(fence) {
                            // Spreads the first looks at all builders.
                            let delay = spread(fence.builder, interval.min(SOON));
                            schedule.add(fence, Instant::now() + delay);
                        }
                    }
                });
            }
            Err(error @ db::Error::Newer { .. }) => return Err(error),
            Err(error) => {
                let delay = (self.farm.config().lease / 3).as_secs();
                log::warn!("cannot renew the leases: {error}; retrying within {delay} s");
                self.lost_database.store(true, Ordering::SeqCst);
            }
        }
        Ok(())
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
        let lease = millis(self.farm.config().lease);
        let may_take = !self.lost_database.load(Ordering::SeqCst);
        let (held, began) = self.farm.db.write(|tx| {
            let began = since_boot();
            self.farm.db.check_schema(tx)?;
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
        let builders = held.iter().map(|fence| fence.builder);
        self.looks.with(|schedule| {
            builders
                .filter(|builder| !schedule.is_running(*builder))
                .take(most)
                .collect()
        })
    }

    /// Wakes the parked builders whose rows have changed.
    pub(crate) fn wake_parked(&self) {
        let parked: HashSet<i64> = self.looks.with(|schedule| schedule.parked().collect());
        if parked.is_empty() {
            return;
        }
        match self
            .farm
            .db
            .read(|tx| builders::with_work(tx, &self.process))
        {
            Ok(found) => self.looks.with(|schedule| {
                for builder in found.into_iter().filter(|builder| parked.contains(builder)) {
                    schedule.wake(builder, Instant::now());
                }
            }),
            Err(error) => {
                let text = "cannot read which builders are in service again";
                log::warn!("{text}: {error}; retrying in the next round");
            }
        }
    }

    // ---- one builder ----

    /// Looks at one builder, and schedules the next look.
    pub(crate) fn look(&self, look: Look<Memory>) {
        let fence = look.fence;
        let began = Instant::now();
        lock(&self.lateness).push(began.saturating_duration_since(look.due));
        lock(&self.idle).remove(&fence.builder);
        let mut scanner = Scanner::new(&self.farm, fence, ScanMode::Daemon);
        scanner.memory = look.memory.unwrap_or_default();
        let looked = catch_unwind(AssertUnwindSafe(|| steps::scan(&mut scanner)));
        let interval = self.farm.config().scan_interval;
        let wait = match looked {
            Ok(Next::Now) => Duration::ZERO,
            Ok(Next::Soon) => SOON.min(interval),
            Ok(Next::Turn) => interval,
            Ok(Next::Idle) => {
                self.record_idle(&scanner);
                interval
            }
            Ok(Next::Parked) => return self.looks.finish(fence, scanner.memory, After::Parked),
            Ok(Next::Gone) => return self.looks.finish(fence, scanner.memory, After::Never),
            Err(_) => {
                // The panic hook has logged the panic itself.
                let (builder, delay) = (fence.builder, AFTER_PANIC.as_secs());
                log::error!("the look at builder {builder} panicked; next look in {delay} s");
                scanner.memory = Memory::default();
                AFTER_PANIC
            }
        };
        let due = Instant::now() + wait;
        self.looks.finish(fence, scanner.memory, After::At(due));
    }

    fn record_idle(&self, scanner: &Scanner<'_>) {
        let Some(builder) = &scanner.memory.last_builder else {
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
        let since = self.farm.emulate_since(now());
        for (emulated, since) in [(false, None), (true, Some(since))] {
            let mut groups: BTreeMap<(i64, bool), Vec<i64>> = BTreeMap::new();
            for (builder, idle) in lock(&self.idle).iter() {
                let processors = match emulated {
                    true => &idle.emulated,
                    false => &idle.native,
                };
                for processor in processors {
                    let group = groups.entry((*processor, idle.virtualized)).or_default();
                    group.push(*builder);
                }
            }
            for (group, builders) in groups {
                self.wake_group(group, &builders, since);
            }
        }
    }

    /// Wakes builders that can run the jobs of a processor, as many as there are jobs.
    fn wake_group(&self, group: (i64, bool), builders: &[i64], emulate_since: Option<i64>) {
        let most = i64::try_from(builders.len()).unwrap_or(i64::MAX);
        let read = |tx: &mut Tx<'_>| queue::claimable_jobs(tx, now(), group, emulate_since, most);
        let jobs = match self.farm.db.read(read) {
            Ok(jobs) => usize::try_from(jobs).unwrap_or(0),
            Err(error) => {
                let text = "cannot search the queue for jobs";
                return log::warn!("{text}: {error}; retrying in the next round");
            }
        };
        for builder in builders.iter().take(jobs) {
            // A builder that another group has woken is no longer idle.
            if lock(&self.idle).remove(builder).is_some() {
                self.looks
                    .with(|schedule| schedule.wake(*builder, Instant::now()));
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
            self.looks.with(|schedule| schedule.len()),
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
