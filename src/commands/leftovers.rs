//! Removes what interrupted `build` and `chroot` commands have left.
//!
//! Each command has a folder below `by-hand` that is locked while a process uses it. Its session,
//! its work tree and the folder go with it. A build whose shim is still running is left alone.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::Uid;

use crate::pipeline::journal::{EntryState, JournalEntry};
use crate::pipeline::leftovers::finish_dead;
use crate::session::idmap::SubIds;
use crate::session::{launch, live, store};
use crate::sys::locked_folder::lock_abandoned;
use crate::sys::{self, procs};

/// The start of the names of the folders below `by-hand`, and of their sessions.
pub(super) const HAND: &str = "hand-";
/// The start of the names of root's copies below the home.
pub(super) const STAGING: &str = ".staging-";
/// The start of the names of mmdebstrap's folders, in the system's folder for temporary files.
pub(super) const BOOTSTRAP: &str = "buildd-slave-create-";

/// Removes all leftovers of this user. Errors are logged: they do not concern the next command.
/// `by_hand` has the folders of these commands.
pub(super) fn sweep(home: &Path, by_hand: &Path, sessions: &Path) {
    sweep_staging(home);
    let folders = named(by_hand, HAND);
    let bootstraps = named(&std::env::temp_dir(), BOOTSTRAP);
    let strays: Vec<PathBuf> = named(sessions, HAND)
        .into_iter()
        .filter(|path| {
            path.file_name()
                .is_none_or(|name| !by_hand.join(name).exists())
        })
        .collect();
    if folders.is_empty() && bootstraps.is_empty() && strays.is_empty() {
        return;
    }
    let ids = match launch::own_sub_ids() {
        Ok(ids) => ids,
        Err(error) => return log::warn!("{error}"),
    };
    for path in folders {
        remove_if_abandoned(&path, ids, || {
            end_build(&path)
                && path.file_name().is_none_or(|name| {
                    let session = sessions.join(name);
                    report(&session, live::remove_folder(&session, ids))
                })
        });
    }
    for path in bootstraps {
        remove_if_abandoned(&path, ids, || true);
    }
    // Sessions without a folder: an older version of this program left them.
    for path in strays {
        if live::is_session_folder(&path) && !procs::is_named(&path) {
            log::warn!(
                "removing {}, left by an interrupted command",
                path.display()
            );
            report(&path, live::remove_folder(&path, ids));
        }
    }
}

/// Removes root's copies below `home` that no process uses.
pub(super) fn sweep_staging(home: &Path) {
    for path in named(home, STAGING) {
        if let Some(_lock) = lock_abandoned(&path) {
            log::warn!(
                "removing {}, left by an interrupted command",
                path.display()
            );
            report(&path, sys::fs::remove_tree(&path));
        }
    }
}

/// Removes a folder that no process uses, after `before` has returned true.
fn remove_if_abandoned(path: &Path, ids: SubIds, before: impl FnOnce() -> bool) {
    // A folder of another user has other ids.
    let is_own =
        fs::symlink_metadata(path).is_ok_and(|about| about.uid() == Uid::effective().as_raw());
    let lock = lock_abandoned(path).filter(|_| is_own);
    if lock.is_some() && before() {
        log::warn!(
            "removing {}, left by an interrupted command",
            path.display()
        );
        report(path, store::remove(path, ids));
    }
}

/// Ends the build of a folder if its shim is dead. Returns false if the build is still running, or
/// of a newer version.
fn end_build(folder: &Path) -> bool {
    let Some(name) = folder.file_name() else {
        return true;
    };
    let entry = folder.join(name);
    if !entry.is_dir() {
        return true;
    }
    let entry = JournalEntry::existing(entry);
    if let Err(newer) = entry.check_format() {
        log::warn!("{}: {newer}; left alone", entry.path().display());
        return false;
    }
    match entry.state() {
        Ok(EntryState::Running) => false,
        Ok(EntryState::Finished(_)) => true,
        Ok(EntryState::Dead) | Err(_) => {
            finish_dead(&entry, "the process that did the build died");
            true
        }
    }
}

/// Logs an error; returns whether there was none.
fn report<E: std::fmt::Display>(path: &Path, removed: Result<(), E>) -> bool {
    if let Err(error) = &removed {
        log::warn!("cannot remove {}: {error}", path.display());
    }
    removed.is_ok()
}

/// Returns the folders in `folder` whose names begin with `prefix`.
fn named(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            let name = entry.file_name();
            name.as_encoded_bytes().starts_with(prefix.as_bytes())
                && entry.file_type().is_ok_and(|kind| kind.is_dir())
        })
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::journal::FORMAT;
    use crate::sys::format;

    #[test]
    fn a_build_of_a_newer_version_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("hand-hello-1");
        let entry = folder.join("hand-hello-1");
        fs::create_dir_all(&entry).unwrap();
        let spec = format::write(FORMAT + 1, &serde_json::json!({})).unwrap();
        fs::write(entry.join("spec.json"), spec).unwrap();
        assert!(!end_build(&folder));
        assert!(!entry.join("verdict.json").exists());
        fs::remove_file(entry.join("spec.json")).unwrap();
        assert!(end_build(&folder));
        assert!(entry.join("verdict.json").exists());
    }
}
