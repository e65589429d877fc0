//! What does this process know about entries: which are verified, when they were used, and which
//! somebody was held?
//!
//! All of it is in memory: after a start every entry is looked at again before its first use.
//! Whoever looks at one has its [`EntryLock`], so that a file is read once for all who want it.

use std::collections::HashMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::protocol::Sha1Hex;
use crate::sys::lock::lock;

/// What a file is recognized by: it changes with every ordinary change of the file.
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

    /// Tells whether both are one file, changed or not.
    pub(super) fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// What is known of all entries.
#[derive(Debug, Default)]
pub(super) struct Marks {
    marks: Mutex<HashMap<Sha1Hex, Mark>>,
    unlocked: Condvar,
}

#[derive(Debug, Default, Clone, Copy)]
struct Mark {
    /// Somebody has the turn.
    locked: bool,
    /// The file whose bytes were right.
    verified: Option<Identity>,
    used: Option<SystemTime>,
    held: Option<Instant>,
}

/// The right to look at an entry, alone; ends when dropped.
pub(super) struct EntryLock<'a> {
    marks: &'a Marks,
    sha1: &'a Sha1Hex,
}

impl Marks {
    /// Waits for the turn at an entry.
    pub(super) fn lock_entry<'a>(&'a self, sha1: &'a Sha1Hex) -> EntryLock<'a> {
        let is_locked =
            |marks: &mut HashMap<Sha1Hex, Mark>| marks.get(sha1).is_some_and(|m| m.locked);
        let waiting = self.unlocked.wait_while(lock(&self.marks), is_locked);
        let mut marks = waiting.unwrap_or_else(PoisonError::into_inner);
        marks.entry(sha1.clone()).or_default().locked = true;
        EntryLock { marks: self, sha1 }
    }

    /// Returns when an entry was last used, if that was by this process.
    pub(super) fn used(&self, sha1: &Sha1Hex) -> Option<SystemTime> {
        lock(&self.marks).get(sha1)?.used
    }

    /// Tells whether somebody was held the entry, not longer than `ago`.
    pub(super) fn is_held(&self, sha1: &Sha1Hex, ago: Duration) -> bool {
        let held = lock(&self.marks).get(sha1).and_then(|mark| mark.held);
        held.is_some_and(|at| at.elapsed() <= ago)
    }

    /// Takes all promises back.
    pub(super) fn release(&self) {
        for mark in lock(&self.marks).values_mut() {
            mark.held = None;
        }
    }

    /// Forgets an entry that is gone.
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
    /// Tells whether this is the file that was found verified.
    pub(super) fn is_verified(&self, found: &Identity) -> bool {
        lock(&self.marks.marks)
            .get(self.sha1)
            .is_some_and(|mark| mark.verified.as_ref() == Some(found))
    }

    /// Notes that there is no such entry.
    pub(super) fn set_absent(&self) {
        self.marks.forget(self.sha1);
    }

    /// Notes that the entry is verified and, if so, used now or held.
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
                // Of what is not there nothing is to be known.
                marks.remove(self.sha1);
            }
        }
        self.marks.unlocked.notify_all();
    }
}
