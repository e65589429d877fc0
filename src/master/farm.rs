//! The state that all threads of a master share: the database, the configuration, the librarian,
//! the end of the leases, the log tails to be written, and the download slots.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use crate::config::{self, Scoring};
use crate::db::{self, Db};
use crate::librarian::Uploader;
use crate::sys::clock::now_ms as now;
use crate::sys::host;
use crate::sys::lock::lock;

use crate::master::policy::score::Rules;
use crate::master::rows::queue;

/// Shared by all threads of a master.
pub(crate) struct Farm {
    pub(crate) db: Db,
    pub(crate) config: config::Master,
    pub(crate) librarian: Uploader,
    /// The librarian's URL for slaves.
    pub(crate) library_url: String,
    /// The end of this process's leases, in milliseconds since 1970.
    leased_until: AtomicI64,
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
            config: config.master.clone(),
            librarian: Uploader::new(&config.librarian),
            library_url: config.librarian.url.clone(),
            leased_until: AtomicI64::new(i64::MAX),
            tails: Mutex::default(),
            slots: DownloadSlots::new(config.master.downloads),
        }
    }

    pub(crate) fn set_leased_until(&self, until: i64) {
        self.leased_until.store(until, Ordering::SeqCst);
    }

    /// Returns whether the leases are valid by this process's clock. The database fences writes,
    /// but slaves do not fence calls, so a process must not call a slave after its lease has ended.
    pub(crate) fn is_leased(&self) -> bool {
        now() < self.leased_until.load(Ordering::SeqCst)
    }

    pub(crate) fn rules(&self) -> Rules {
        self.config.scoring.into()
    }

    /// Returns the time since which a job must have waited for builders that need no emulation,
    /// before an emulating one may take it.
    pub(crate) fn emulate_since(&self, now: i64) -> i64 {
        now.saturating_sub(millis(self.config.prefer_native))
    }

    /// The folder `[master] results`.
    pub(crate) fn results_dir(&self) -> &PathBuf {
        &self.config.results
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

pub(crate) fn millis(duration: std::time::Duration) -> i64 {
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
