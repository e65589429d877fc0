//! Removes the leftovers of builds, and ends a build whose shim died.
//!
//! A build has three things outside its journal entry: its session, a chroot being unpacked, and
//! its work tree. CLEANUP removes them. If the shim dies, its starter removes them. A starting
//! daemon removes those of builds that are not in the journal. Only files named by a build and of
//! the expected form are removed, and no mount is entered.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::protocol::{BuildId, BuildStatus};
use crate::session::launch::MARK;
use crate::session::{self, launch, live, store};
use crate::sys::{self, procs};

use super::buildlog;
use super::journal::{JournalEntry, Outcome};
use super::spec::{Settings, Spec};

/// The prefix of a work tree that is being removed.
const REMOVING: &str = ".left-";
/// The prefix of a work tree that cannot be removed, because it belongs to another user.
const ASIDE: &str = ".foreign-";
/// The time in which killed processes must disappear.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);

/// Removes the session's folder and a half-unpacked chroot, if they exist.
pub(super) fn remove_session(spec: &Spec) -> Result<(), session::Error> {
    let settings = &spec.settings;
    let (sha1, id) = (spec.request.chroot.as_str(), spec.request.build_id.as_str());
    let half_made = store::temp_tree(&settings.chroots, sha1, id);
    let session = spec.session_dir();
    if [&session, &half_made]
        .iter()
        .all(|path| fs::symlink_metadata(path).is_err())
    {
        // Return before subordinate ids are needed.
        return Ok(());
    }
    let ids = launch::own_sub_ids()?;
    live::remove_folder(&session, ids)?;
    store::remove(&half_made, ids)
}

/// Ends a build whose shim is dead: kills its processes, removes its leftovers, completes its log
/// and writes its verdict.
pub(crate) fn finish_dead(entry: &JournalEntry, reason: &str) -> Outcome {
    let mut lines = Vec::new();
    let (name, value) = entry.mark();
    for process in procs::kill_marked(name, |of| of == value, KILL_TIMEOUT) {
        lines.push(format!(
            "cannot kill process {} ({})",
            process.pid, process.name
        ));
    }
    if let Some(Err(error)) = entry.limits().map(|limits| limits.remove()) {
        lines.push(format!("cannot remove a control group: {error}"));
    }
    if let Ok(spec) = entry.spec() {
        lines.extend(remove_all(&spec, entry.has_work_tree()));
    }
    lines.extend(entry.shim_stderr());
    // The abort may have reached the shim before it handled signals.
    let (status, reason) = if entry.abort_requested() && entry.stages().is_empty() {
        (BuildStatus::Aborted, "aborted on request")
    } else {
        (BuildStatus::BuilderFail, reason)
    };
    lines.push(format!("Verdict: {status}: {reason}"));
    let mut outcome = Outcome {
        status,
        reason: reason.to_owned(),
        dependencies: String::new(),
        files: Vec::new(),
        stages: Vec::new(),
    };
    let log = entry.log();
    // Joining the log may fail on a full disk; appending one line may still work.
    let logged = [
        buildlog::join(&log),
        buildlog::append_line(&log, &lines.join("\n")),
    ];
    for error in logged.into_iter().filter_map(Result::err) {
        log::error!("{}: {error}", log.display());
    }
    if let Err(error) = entry.write_verdict(&outcome) {
        log::error!(
            "{}: cannot write the verdict: {error}",
            entry.path().display()
        );
        outcome.reason = format!("{reason}, and the journal cannot be written: {error}");
    }
    outcome
}

/// Removes all files of a build outside its journal entry; the work tree only with `has_work_tree`.
/// Returns the errors.
pub(crate) fn remove_all(spec: &Spec, has_work_tree: bool) -> Vec<String> {
    let session = remove_session(spec).map_err(|error| error.to_string());
    let tree = match has_work_tree {
        true => sys::fs::remove_tree(&spec.work_tree()).map_err(|error| error.to_string()),
        false => Ok(()),
    };
    [session, tree]
        .into_iter()
        .filter_map(Result::err)
        .collect()
}

/// Removes processes, work trees and sessions of builds that are not in `journal`. Leaves alone
/// `known`, the journal's one build, and folders in use. Errors are logged; the next start of the
/// daemon tries again.
pub(crate) fn sweep(settings: &Settings, journal: &Path, known: Option<&BuildId>) {
    let is_stray = |entry: &OsStr| {
        let ours = Path::new(entry).parent() == Some(journal);
        ours && entry_id(entry).as_ref() != known
    };
    let (strays, others): (Vec<_>, Vec<_>) = procs::marked(MARK)
        .into_iter()
        .partition(|(_, entry)| is_stray(entry));
    for (process, entry) in &strays {
        let (pid, name, entry) = (process.pid, &process.name, Path::new(entry).display());
        log::warn!("killing process {pid} ({name}) of {entry}, a build that is not in the journal");
    }
    if !strays.is_empty() {
        for process in procs::kill_marked(MARK, is_stray, KILL_TIMEOUT) {
            log::error!("cannot kill process {} ({})", process.pid, process.name);
        }
    }
    let living: Vec<BuildId> = others
        .iter()
        .filter_map(|(_, entry)| entry_id(entry))
        .chain(known.cloned())
        .collect();
    let keep = [
        journal,
        &settings.home,
        &settings.filecache,
        &settings.chroots,
        &settings.sessions,
    ];
    let is_leftover = |path: &PathBuf| {
        // The configured folders may lie within each other.
        let holds_folders = keep.iter().any(|kept| kept.starts_with(path));
        !holds_folders && !procs::is_named(path)
    };
    for path in builds_in(&settings.home, "build-", &living) {
        if is_leftover(&path) && is_work_tree(&path, &settings.filecache) {
            // Rename first: removal soon deletes the links by which the tree is recognised.
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let doomed = settings.home.join(format!("{REMOVING}{name}"));
            if let Err(error) = fs::rename(&path, &doomed) {
                log_removal(&path, Err(error));
            }
        }
    }
    for path in builds_in(&settings.home, &format!("{REMOVING}build-"), &[]) {
        log_removal(&path, sys::fs::remove_tree(&path));
    }
    for path in builds_in(&settings.sessions, "", &living) {
        if is_leftover(&path) && live::is_session_folder(&path) {
            let removed = launch::own_sub_ids().and_then(|ids| live::remove_folder(&path, ids));
            log_removal(&path, removed);
        }
    }
}

/// True if the folder is the work tree of a build: it has links into the file cache. The name alone
/// proves nothing: `build-area` may be a user's own folder.
pub(super) fn is_work_tree(path: &Path, filecache: &Path) -> bool {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .any(|target| target.parent() == Some(filecache))
}

/// Renames a work tree that cannot be removed, so that its name is free.
pub(super) fn move_aside(tree: &Path) -> io::Result<()> {
    let name = tree.file_name().unwrap_or_default().to_string_lossy();
    let aside = |number: u32| tree.with_file_name(format!("{ASIDE}{name}-{number}"));
    let free = (0..)
        .map(aside)
        .find(|path| fs::symlink_metadata(path).is_err());
    fs::rename(tree, free.unwrap_or_else(|| aside(0)))
}

fn log_removal<E: std::fmt::Display>(path: &Path, removed: Result<(), E>) {
    let path = path.display();
    match removed {
        Ok(()) => log::warn!("removed {path}, left by an earlier build"),
        Err(error) => {
            log::error!("cannot remove {path}, left by an earlier build: {error}");
        }
    }
}

/// Returns the build that a mark names.
fn entry_id(entry: &OsStr) -> Option<BuildId> {
    BuildId::parse(Path::new(entry).file_name()?.to_str()?).ok()
}

/// Returns the folders in `folder` named by `prefix` and a build that is not `living`.
fn builds_in(folder: &Path, prefix: &str, living: &[BuildId]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.strip_prefix(prefix));
        let id = id.and_then(|id| BuildId::parse(id).ok());
        let dead = id.is_some_and(|id| !living.contains(&id));
        if dead && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
        }
    }
    found
}
