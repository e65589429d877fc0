//! Recovers the builder's state from the journal when the daemon starts.
//!
//! If the shim is alive, the build is running. If there is a verdict, the build waits. If neither,
//! the shim died, and the verdict is BUILDERFAIL with the log so far. The daemon starts, and builds
//! can be cleaned, with any content of the journal.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::unistd::Uid;

use crate::pipeline::journal::{EntryState, JournalEntry};
use crate::pipeline::leftovers::finish_dead;
use crate::protocol::BuildId;
use crate::sys;

use super::state::{Run, State, aborted};

/// The number of a run that an earlier daemon started.
const RECOVERED: u64 = 0;
/// The prefixes of entries that are being made or removed.
const UNFINISHED: [&str; 2] = [".new-", ".old-"];
/// The most entries kept that cannot be removed.
const MAX_OLD: u32 = 1000;

/// Returns the state that the journal shows, and the run to watch if a build is running.
pub(super) fn recover(journal: &Path) -> io::Result<(State, Option<(Run, JournalEntry)>)> {
    remove_unfinished(journal)?;
    let Some((id, path)) = current_entry(journal)? else {
        return Ok((State::Idle, None));
    };
    let entry = JournalEntry::existing(path);
    // An unreadable spec counts as private, so that its log is not shown.
    let private = entry
        .spec()
        .map_or(true, |spec| spec.request.args.archive_private);
    let run = Run {
        number: RECOVERED,
        id,
        private,
    };
    let state = state_of(&run, &entry);
    let is_running = matches!(state, State::Building(_) | State::Aborting(_));
    Ok((state, is_running.then_some((run, entry))))
}

/// Returns the journal's one entry. Surplus entries, which only tampering leaves, are removed: a
/// running build is kept, else the latest.
fn current_entry(journal: &Path) -> io::Result<Option<(BuildId, PathBuf)>> {
    let mut entries = entries(journal)?;
    entries.sort_by_cached_key(|(_, path)| {
        let modified = fs::metadata(path).and_then(|about| about.modified());
        let state = JournalEntry::existing(path.clone()).state();
        let is_running = state.is_ok_and(|state| state == EntryState::Running);
        (is_running, modified.unwrap_or(SystemTime::UNIX_EPOCH))
    });
    let current = entries.pop();
    for (other, path) in entries {
        log::warn!("the journal also has build {other}; removing it");
        finish_dead(
            &JournalEntry::existing(path.clone()),
            "the journal has another build",
        );
        if let Err(error) = remove_entry(&path) {
            log::error!("cannot remove build {other} from the journal: {error}");
        }
    }
    Ok(current)
}

/// Returns the builder's state while `entry` is the build of `run`.
fn state_of(run: &Run, entry: &JournalEntry) -> State {
    let (id, run) = (&run.id, run.clone());
    match entry.state() {
        Ok(EntryState::Running) if entry.abort_requested() => {
            log::info!("build {id} is being aborted");
            // The request may not have reached the shim.
            if let Err(error) = entry.abort() {
                log::error!("build {id}: cannot request an abort: {error}");
            }
            State::Aborting(run)
        }
        Ok(EntryState::Running) => {
            log::info!("build {id} is still running");
            State::Building(run)
        }
        Ok(EntryState::Finished(outcome)) => {
            let outcome = if entry.abort_requested() {
                aborted(outcome)
            } else {
                outcome
            };
            log::info!("build {id} waits for its master: {}", outcome.status);
            State::Waiting(run, outcome)
        }
        Ok(EntryState::Dead) => {
            let outcome = finish_dead(entry, "the process that did the build died");
            log::warn!("build {id} has ended: {}", outcome.reason);
            State::Waiting(run, outcome)
        }
        Err(error) => {
            let outcome = finish_dead(entry, &format!("the journal cannot be read: {error}"));
            log::error!("build {id} has ended: {}", outcome.reason);
            State::Waiting(run, outcome)
        }
    }
}

/// Removes all entries before a new build; there should be none. A running build is an error.
pub(super) fn clear(journal: &Path) -> io::Result<()> {
    for (id, path) in entries(journal)? {
        if JournalEntry::existing(path.clone()).state()? == EntryState::Running {
            return Err(io::Error::other(format!("build {id} is still running")));
        }
        log::warn!("the journal still has build {id}; removing it");
        remove_entry(&path)?;
    }
    Ok(())
}

/// Removes entries that were being made or removed when a daemon stopped.
fn remove_unfinished(journal: &Path) -> io::Result<()> {
    for entry in fs::read_dir(journal)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if UNFINISHED.iter().any(|prefix| name.starts_with(prefix)) {
            log::info!("removing {}", entry.path().display());
            if let Err(error) = sys::fs::remove_tree(&entry.path()) {
                log::warn!("{error}");
            }
        }
    }
    Ok(())
}

/// Returns the entries of builds: folders named by a build id and owned by this user.
fn entries(journal: &Path) -> io::Result<Vec<(BuildId, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(journal)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let id = name.to_str().and_then(|name| BuildId::parse(name).ok());
        let about = entry.metadata()?;
        match id {
            Some(id) if about.is_dir() && about.uid() == Uid::effective().as_raw() => {
                found.push((id, entry.path()));
            }
            _ => log::warn!("{} belongs to no build; left alone", entry.path().display()),
        }
    }
    Ok(found)
}

/// Renames a journal entry, so that it belongs to no build, then removes it. Errors of the removal
/// are only logged.
pub(super) fn remove_entry(entry: &Path) -> io::Result<()> {
    for number in 0..MAX_OLD {
        let old = entry.with_file_name(format!(".old-{number}"));
        match fs::rename(entry, &old) {
            Ok(()) => {
                // The entry may have lost its permissions.
                let _ = fs::set_permissions(&old, fs::Permissions::from_mode(0o700));
                if let Err(error) = sys::fs::remove_tree(&old) {
                    log::warn!("{error}");
                }
                return Ok(());
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            // An older entry of this name could not be removed.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::DirectoryNotEmpty
                        | ErrorKind::AlreadyExists
                        | ErrorKind::NotADirectory
                ) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other(format!(
        "{MAX_OLD} old entries in the journal cannot be removed; remove its .old-* folders"
    )))
}
