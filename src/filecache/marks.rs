//! Marks on cache entries, in memory: verified, last used, held for a master.
//!
//! After a restart, each entry is verified again before its first use. Verifying needs the entry's
//! [`EntryLock`], so that concurrent requests read a file only once.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::protocol::Sha1Hex;
use crate::sys::lock::lock;

/// Identifies a file and its state; every ordinary change of the file changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    pub(super) fn of(found: &Metadata) -> Self {
        Self {
            device: found.dev(),
            inode: found.ino(),
            len: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }

    /// Returns whether both are the same file, even if its contents have changed.
    pub(super) fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// The marks of all entries.
#[derive(Debug, Default)]
pub(super) struct Marks {
    marks: Mutex<HashMap<Sha1Hex, Mark>>,
    unlocked: Condvar,
}

#[derive(Debug, Default, Clone, Copy)]
struct Mark {
    /// An [`EntryLock`] on the entry exists.
    locked: bool,
    /// The file that was verified.
    verified: Option<Identity>,
    used: Option<SystemTime>,
    held: Option<Instant>,
}

/// The exclusive right to verify an entry; released when dropped.
pub(super) struct EntryLock<'a> {
    marks: &'a Marks,
    sha1: &'a Sha1Hex,
}

impl Marks {
    /// Waits for the lock of an entry.
    pub(super) fn lock_entry<'a>(&'a self, sha1: &'a Sha1Hex) -> EntryLock<'a> {
        let is_locked =
            |marks: &mut HashMap<Sha1Hex, Mark>| marks.get(sha1).is_some_and(|m| m.locked);
        let waiting = self.unlocked.wait_while(lock(&self.marks), is_locked);
        let mut marks = waiting.unwrap_or_else(PoisonError::into_inner);
        marks.entry(sha1.clone()).or_default().locked = true;
        EntryLock { marks: self, sha1 }
    }

    /// Returns when this process last used an entry.
    pub(super) fn used(&self, sha1: &Sha1Hex) -> Option<SystemTime> {
        lock(&self.marks).get(sha1)?.used
    }

    /// Returns whether the entry is held, and has been for at most `ago`.
    pub(super) fn is_held(&self, sha1: &Sha1Hex, ago: Duration) -> bool {
        let held = lock(&self.marks).get(sha1).and_then(|mark| mark.held);
        held.is_some_and(|at| at.elapsed() <= ago)
    }

    /// Ends the holds of all entries.
    pub(super) fn release(&self) {
        for mark in lock(&self.marks).values_mut() {
            mark.held = None;
        }
    }

    /// Removes the marks of a removed entry.
    pub(super) fn forget(&self, sha1: &Sha1Hex) {
        let mut marks = lock(&self.marks);
        match marks.get_mut(sha1) {
            Some(mark) if mark.locked => {
                *mark = Mark {
                    locked: true,
                    ..Mark::default()
                };
            }
            _ => drop(marks.remove(sha1)),
        }
    }
}

impl EntryLock<'_> {
    /// Returns whether the file is the one that was verified.
    pub(super) fn is_verified(&self, found: &Identity) -> bool {
        lock(&self.marks.marks)
            .get(self.sha1)
            .is_some_and(|mark| mark.verified.as_ref() == Some(found))
    }

    /// Records that there is no such entry.
    pub(super) fn set_absent(&self) {
        self.marks.forget(self.sha1);
    }

    /// Marks the entry as verified and, if requested, as used now or held.
    pub(super) fn set_verified(&self, found: Identity, used: bool, held: bool) {
        let mut marks = lock(&self.marks.marks);
        let mark = marks.entry(self.sha1.clone()).or_default();
        mark.verified = Some(found);
        if used {
            mark.used = Some(SystemTime::now());
        }
        if held {
            mark.held = Some(Instant::now());
        }
    }
}

impl Drop for EntryLock<'_> {
    fn drop(&mut self) {
        let mut marks = lock(&self.marks.marks);
        if let Some(mark) = marks.get_mut(self.sha1) {
            mark.locked = false;
            if mark.verified.is_none() {
                // An absent entry has no marks.
                marks.remove(self.sha1);
            }
        }
        self.marks.unlocked.notify_all();
    }
}
