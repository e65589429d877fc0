//! What does this process know about entries: which are good, when they were used, and which
//! somebody was promised?
//!
//! All of it is in memory: after a start every entry is looked at again before its first use.
//! Whoever looks at one has its [`Turn`], so that a file is read once for all who want it.

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
    turn_over: Condvar,
}

#[derive(Debug, Default, Clone, Copy)]
struct Mark {
    /// Somebody has the turn.
    busy: bool,
    /// The file whose bytes were right.
    good: Option<Identity>,
    used: Option<SystemTime>,
    promised: Option<Instant>,
}

/// The right to look at an entry, alone; ends when dropped.
pub(super) struct Turn<'a> {
    marks: &'a Marks,
    sum: &'a Sha1Hex,
}

impl Marks {
    /// Waits for the turn at an entry.
    pub(super) fn turn<'a>(&'a self, sum: &'a Sha1Hex) -> Turn<'a> {
        let is_busy = |marks: &mut HashMap<Sha1Hex, Mark>| marks.get(sum).is_some_and(|m| m.busy);
        let waiting = self.turn_over.wait_while(lock(&self.marks), is_busy);
        let mut marks = waiting.unwrap_or_else(PoisonError::into_inner);
        marks.entry(sum.clone()).or_default().busy = true;
        Turn { marks: self, sum }
    }

    /// Returns when an entry was last used, if that was by this process.
    pub(super) fn used(&self, sum: &Sha1Hex) -> Option<SystemTime> {
        lock(&self.marks).get(sum)?.used
    }

    /// Tells whether somebody was promised the entry, not longer than `ago`.
    pub(super) fn is_promised(&self, sum: &Sha1Hex, ago: Duration) -> bool {
        let promised = lock(&self.marks).get(sum).and_then(|mark| mark.promised);
        promised.is_some_and(|at| at.elapsed() <= ago)
    }

    /// Takes all promises back.
    pub(super) fn release(&self) {
        for mark in lock(&self.marks).values_mut() {
            mark.promised = None;
        }
    }

    /// Forgets an entry that is gone.
    pub(super) fn forget(&self, sum: &Sha1Hex) {
        let mut marks = lock(&self.marks);
        match marks.get_mut(sum) {
            Some(mark) if mark.busy => {
                *mark = Mark {
                    busy: true,
                    ..Mark::default()
                };
            }
            _ => drop(marks.remove(sum)),
        }
    }
}

impl Turn<'_> {
    /// Tells whether this is the file that was found good.
    pub(super) fn knows(&self, found: &Identity) -> bool {
        lock(&self.marks.marks)
            .get(self.sum)
            .is_some_and(|mark| mark.good.as_ref() == Some(found))
    }

    /// Notes that there is no such entry.
    pub(super) fn is_gone(&self) {
        self.marks.forget(self.sum);
    }

    /// Notes that the entry is good and, if so, used now or promised.
    pub(super) fn is_good(&self, found: Identity, used: bool, promised: bool) {
        let mut marks = lock(&self.marks.marks);
        let mark = marks.entry(self.sum.clone()).or_default();
        mark.good = Some(found);
        if used {
            mark.used = Some(SystemTime::now());
        }
        if promised {
            mark.promised = Some(Instant::now());
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut marks = lock(&self.marks.marks);
        if let Some(mark) = marks.get_mut(self.sum) {
            mark.busy = false;
            if mark.good.is_none() {
                // Of what is not there nothing is to be known.
                marks.remove(self.sum);
            }
        }
        self.marks.turn_over.notify_all();
    }
}
