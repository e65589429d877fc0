//! Garbage collection: removes unreferenced files, safely alongside uploads (docs/farm.md §4.5).
//!
//! The steps, in order:
//!
//! * Aliases that expired a week ago lose their content.
//! * Unreferenced aliases are removed with their tokens, if they are older than a week, and have no
//!   expiry date or expired a week ago.
//! * Duplicate contents are merged.
//! * Contents without an alias are removed.
//! * Tokens older than a day are removed.
//! * Blobs without a content are removed once they are a day old.
//!
//! Candidates are read in windows of a table, in read transactions. They are removed in short
//! write transactions, which check them again. A collection that is killed loses nothing: the next
//! one continues.

mod candidates;
mod dry_run;
mod references;
mod removal;
mod sweep;

use std::path::Path;
use std::thread;
use std::time::Duration;

use super::Error;
use super::blobs::Blobs;
use super::rows::TOKEN_LIFE_MS;
use references::Reference;

use crate::db::Db;
use crate::sys::clock::now_ms;

const DAY_MS: i64 = 24 * 3600 * 1000;
/// Time that a file is kept after its expiry or its creation.
const GRACE_MS: i64 = 7 * DAY_MS;
/// 2038-01-01: this date or a later one means never (docs/farm.md §4.5).
pub(super) const NEVER_MS: i64 = 2_145_916_800_000;
/// Columns that refer to aliases: source files, chroots, and the two logs of builds and of
/// attempts. If fewer are found, the query for them is wrong, and nothing may be removed.
const MIN_REFERENCES: usize = 6;
/// Longest delay of the first collection after a start.
const FIRST_AFTER: Duration = Duration::from_secs(300);

/// The counts of a collection; a dry run counts without removing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Removed {
    /// Aliases that lost their content.
    pub(crate) expired: u64,
    /// Unreferenced aliases.
    pub(crate) aliases: u64,
    /// Duplicate contents.
    pub(crate) merged: u64,
    /// Contents without alias.
    pub(crate) contents: u64,
    pub(crate) blobs: u64,
    /// Size of the blobs.
    pub(crate) bytes: u64,
}

/// The input of all steps.
struct Pass<'a> {
    db: &'a Db,
    blobs: Blobs,
    now: i64,
    /// Files that expired, or were created, before this time may go.
    before: i64,
    /// References to aliases.
    aliases: Vec<Reference>,
    /// References to contents.
    contents: Vec<Reference>,
}

/// Runs all steps. A dry run only reads, and returns what would be removed.
pub(crate) fn gc(db: &Db, root: &Path, now: i64, dry_run: bool) -> Result<Removed, Error> {
    let aliases = db.read(|tx| references::to(tx, "library_alias"))?;
    let contents = db.read(|tx| references::to(tx, "library_content"))?;
    if aliases.len() < MIN_REFERENCES || contents.is_empty() {
        return Err(Error::References {
            found: aliases.len(),
            least: MIN_REFERENCES,
        });
    }
    let pass = Pass {
        db,
        blobs: Blobs::open(root, 0)?,
        now,
        before: now - GRACE_MS,
        aliases,
        contents,
    };
    if dry_run {
        return dry_run::count(&pass);
    }
    let mut removed = Removed {
        expired: removal::expire(&pass)?,
        aliases: removal::drop_aliases(&pass)?,
        merged: removal::merge(&pass)?,
        contents: removal::drop_contents(&pass)?,
        ..Removed::default()
    };
    removal::drop_tokens(&pass)?;
    sweep::remove(&pass, &mut removed)?;
    Ok(removed)
}

/// Collects garbage at each interval, for ever. The first collection comes soon after a start.
pub(super) fn repeat(db: &Db, root: &Path, interval: Duration) {
    let mut wait = interval.min(FIRST_AFTER);
    loop {
        thread::sleep(wait);
        wait = interval;
        match gc(db, root, now_ms(), false) {
            Ok(removed) if removed == Removed::default() => {}
            Ok(removed) => log::info!("garbage collection: {}", removed.summary("were")),
            Err(error) => {
                let next = interval.as_secs();
                log::warn!("garbage collection: {error}; retrying in {next} s");
            }
        }
    }
}

impl Removed {
    /// Returns the counts in one line; `verb` is `were` or `would be`.
    fn summary(&self, verb: &str) -> String {
        self.lines(verb).join("; ")
    }

    /// Returns a line for each kind of removal.
    pub(super) fn lines(&self, verb: &str) -> [String; 5] {
        let Self {
            expired,
            aliases,
            merged,
            contents,
            blobs,
            bytes,
        } = self;
        [
            format!("{expired} files {verb} expired"),
            format!("{aliases} files that nothing refers to {verb} removed"),
            format!("{merged} contents {verb} merged with equal ones"),
            format!("{contents} contents without a file {verb} removed"),
            format!("{blobs} blobs ({bytes} bytes) {verb} removed from disk"),
        ]
    }
}
