//! The state that all threads of a master share: the database, the configuration, the librarian,
//! the end of the leases, the log tails to be written, and the download slots.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::config::{self, Scoring};
use crate::db::{self, Db};
use crate::librarian::Uploader;
use crate::sys::clock::{now_ms as now, since_boot};
use crate::sys::host;
use crate::sys::lock::lock;

use crate::master::policy::score::Rules;
use crate::master::rows::queue;

/// Shared by all threads of a master.
pub(crate) struct Farm {
    pub(crate) db: Db,
    /// Replaced by a reload.
    config: Mutex<Arc<config::Master>>,
    /// The folder `[master] results`.
    results: PathBuf,
    pub(crate) librarian: Uploader,
    /// The name of this host in the farm.
    pub(crate) host: String,
    /// The librarian's URL for slaves.
    pub(crate) library_url: String,
    /// The end of this process's leases by [`since_boot`]; `None` without leases.
    leased_until: Mutex<Option<Duration>>,
    tails: Mutex<HashMap<i64, Tail>>,
    slots: DownloadSlots,
}

struct Tail {
    builder: i64,
    text: String,
}

impl Farm {
    pub(crate) fn new(db: Db, config: &config::Farm) -> Self {
        Self {
            db,
            config: Mutex::new(Arc::new(config.master.clone())),
            results: config.master.results.clone(),
            librarian: Uploader::new(&config.librarian),
            host: config.master.host.clone().unwrap_or_else(host::name),
            library_url: config.librarian.url.clone(),
            leased_until: Mutex::default(),
            tails: Mutex::default(),
            slots: DownloadSlots::new(config.master.downloads),
        }
    }

    /// Returns the configuration in force.
    pub(crate) fn config(&self) -> Arc<config::Master> {
        Arc::clone(&lock(&self.config))
    }

    /// Puts the keys of `new` in force that a running master can change.
    pub(crate) fn reload(&self, new: &config::Master) {
        let mut config = lock(&self.config);
        *config = Arc::new(config.reloaded(new));
    }

    /// Records that all leases of this process were taken or renewed. `began` is the time by
    /// [`since_boot`] before the database read its clock, so the leases do not end there sooner.
    pub(crate) fn set_leased(&self, began: Duration) {
        *lock(&self.leased_until) = Some(began + self.config().lease);
    }

    /// Returns whether the leases are valid by this host's clock since its start, whatever its time
    /// of day is. The database fences writes, but slaves do not fence calls, so a process must not
    /// call a slave after its lease has ended.
    pub(crate) fn is_leased(&self) -> bool {
        let until = *lock(&self.leased_until);
        until.is_some_and(|until| since_boot() < until)
    }

    pub(crate) fn rules(&self) -> Rules {
        self.config().scoring.into()
    }

    /// Returns the time since which a job must have waited for builders that need no emulation,
    /// before an emulating one may take it.
    pub(crate) fn emulate_since(&self, now: i64) -> i64 {
        now.saturating_sub(millis(self.config().prefer_native))
    }

    /// The folder `[master] results`.
    pub(crate) fn results_dir(&self) -> &PathBuf {
        &self.results
    }

    /// Keeps a log tail until the next flush.
    pub(crate) fn keep_tail(&self, queue: i64, builder: i64, text: String) {
        lock(&self.tails).insert(queue, Tail { builder, text });
    }

    /// Writes the log tails kept since the last flush, in one transaction.
    pub(crate) fn flush_tails(&self) -> Result<(), db::Error> {
        let tails = std::mem::take(&mut *lock(&self.tails));
        if tails.is_empty() {
            return Ok(());
        }
        let tails: Vec<(i64, i64, String)> = tails
            .into_iter()
            .map(|(queue, tail)| (queue, tail.builder, tail.text))
            .collect();
        self.db.write(|tx| queue::flush_tails(tx, &tails))
    }

    /// Waits for a slot to download one file.
    pub(crate) fn download_slot(&self) -> DownloadSlot<'_> {
        self.slots.take()
    }
}

impl From<Scoring> for Rules {
    fn from(scoring: Scoring) -> Self {
        match scoring {
            Scoring::Y2008 => Self::Y2008,
            Scoring::Modern => Self::Modern,
        }
    }
}

/// Returns a name for this process that is unique in the farm: host, process id and time.
pub(crate) fn process_name() -> String {
    format!("{}:{}:{}", host::name(), process::id(), now())
}

pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Limits the number of simultaneous downloads (`[master] downloads`).
struct DownloadSlots {
    free: Mutex<u32>,
    freed: Condvar,
}

/// One slot; released when dropped.
pub(crate) struct DownloadSlot<'a>(&'a DownloadSlots);

impl DownloadSlots {
    fn new(count: u32) -> Self {
        Self {
            free: Mutex::new(count),
            freed: Condvar::new(),
        }
    }

    fn take(&self) -> DownloadSlot<'_> {
        let none = |free: &mut u32| *free == 0;
        let wait = self.freed.wait_while(lock(&self.free), none);
        *wait.unwrap_or_else(PoisonError::into_inner) -= 1;
        DownloadSlot(self)
    }
}

impl Drop for DownloadSlot<'_> {
    fn drop(&mut self) {
        *lock(&self.0.free) += 1;
        self.0.freed.notify_one();
    }
}
