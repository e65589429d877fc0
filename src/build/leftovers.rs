//! Removes what a build has outside its journal entry, and ends a build whose shim died.
//!
//! Its session, a chroot it was unpacking, its work tree. Used by CLEANUP, and by whoever started
//! a shim and finds it dead.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use crate::protocol::BuildStatus;

use crate::session::{self, launch, live, store};
use crate::sys::{self, procs};

use super::rundir::{Ending, RunDir};
use super::spec::Spec;

/// Removes the session's folder and a half-unpacked chroot; absent ones are no error.
pub(super) fn remove_session(spec: &Spec) -> Result<(), session::Error> {
    let settings = &spec.settings;
    let (sum, id) = (spec.request.chroot.as_str(), spec.request.build_id.as_str());
    let half_made = store::half_made(&settings.chroots, sum, id);
    let session = spec.session_dir();
    if [&session, &half_made]
        .iter()
        .all(|path| fs::symlink_metadata(path).is_err())
    {
        // Nor is there a need for subordinate ids then.
        return Ok(());
    }
    let ids = launch::own_sub_ids()?;
    live::remove_folder(&session, ids)?;
    store::remove(&half_made, ids)
}

/// Ends a build whose shim is dead: whatever it left running or lying about goes, the log and a
/// verdict stay.
pub(crate) fn bury(dir: &RunDir, reason: &str) -> Ending {
    let mut notes = Vec::new();
    let (name, value) = dir.mark();
    for process in procs::kill_marked(name, value, Duration::from_secs(2)) {
        notes.push(format!(
            "process {} ({}) does not die",
            process.pid, process.name
        ));
    }
    if let Some(Err(error)) = dir.bounds().map(|bounds| bounds.remove()) {
        notes.push(format!("a control group is left over: {error}"));
    }
    if let Ok(spec) = dir.spec() {
        notes.extend(remove_all(&spec));
    }
    notes.extend(dir.last_words());
    // An abort that met a shim too young to listen.
    let (status, reason) = if dir.abort_asked() && dir.stages().is_empty() {
        (BuildStatus::Aborted, "aborted on request")
    } else {
        (BuildStatus::BuilderFail, reason)
    };
    notes.push(format!("Verdict: {status}: {reason}"));
    let ending = Ending {
        status,
        reason: reason.to_owned(),
        dependencies: String::new(),
        files: Vec::new(),
        stages: Vec::new(),
    };
    let kept = append(&dir.log(), &notes).and_then(|()| dir.give_verdict(&ending));
    if let Err(error) = kept {
        log::error!("{}: cannot keep the verdict: {error}", dir.path().display());
    }
    ending
}

fn append(log: &Path, lines: &[String]) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).open(log)?;
    writeln!(file, "\n{}", lines.join("\n"))
}

/// Removes everything; returns what could not be, a sentence each.
fn remove_all(spec: &Spec) -> Vec<String> {
    let session = remove_session(spec).map_err(|error| error.to_string());
    let tree = sys::fs::remove_tree(&spec.work_tree()).map_err(|error| error.to_string());
    [session, tree]
        .into_iter()
        .filter_map(Result::err)
        .collect()
}
