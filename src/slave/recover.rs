//! What does the journal say, after whatever stopped the daemon?
//!
//! A shim that lives is a build that goes on; a verdict is a build that waits; neither is a
//! build whose shim died: that one is the builder's failure, with its log. Never silently IDLE.

use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use crate::build::leftovers::bury;
use crate::build::rundir::{RunDir, Standing};
use crate::protocol::BuildId;
use crate::sys;

use super::daemon::remove_entry;
use super::state::{Run, State, aborted};

/// The number of a run that an earlier daemon began.
const FOUND: u64 = 0;

/// Returns the state that the journal stands for, and the run to be watched if one goes on.
pub(super) fn recover(journal: &Path) -> io::Result<(State, Option<(Run, RunDir)>)> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(journal)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && entry.path().is_dir() {
            // Half-made or half-removed when the daemon stopped.
            sys::fs::remove_tree(&entry.path()).map_err(io::Error::other)?;
        } else if let (Ok(id), true) = (BuildId::parse(&name), entry.path().is_dir()) {
            let time = entry
                .metadata()?
                .modified()
                .unwrap_or(SystemTime::UNIX_EPOCH);
            let dir = RunDir::existing(entry.path());
            // What cannot be read is not shown to strangers.
            let private = dir
                .spec()
                .map_or(true, |spec| spec.request.args.archive_private);
            entries.push((
                time,
                Run {
                    number: FOUND,
                    id,
                    private,
                },
                dir,
            ));
        }
    }
    entries.sort_by_key(|(time, ..)| *time);
    let Some((_, run, dir)) = entries.pop() else {
        return Ok((State::Idle, None));
    };
    for (_, older, dir) in entries {
        log::warn!(
            "the journal also has build {}, which is older; removing it",
            older.id
        );
        bury(&dir, "the journal has a later build");
        remove_entry(dir.path(), &journal.join(".old-extra"))?;
    }
    let id = run.id.clone();
    Ok(match dir.standing() {
        Ok(Standing::Running) if dir.abort_asked() => {
            log::info!("build {id} is being aborted");
            // The request may not have reached the shim.
            dir.abort()?;
            (State::Aborting(run.clone()), Some((run, dir)))
        }
        Ok(Standing::Running) => {
            log::info!("build {id} goes on");
            (State::Building(run.clone()), Some((run, dir)))
        }
        Ok(Standing::Ended(ending)) => {
            let ending = if dir.abort_asked() {
                aborted(ending)
            } else {
                ending
            };
            log::info!("build {id} waits to be fetched: {}", ending.status);
            (State::Waiting(run, ending), None)
        }
        Ok(Standing::Dead) => {
            let ending = bury(&dir, "the process that did the build died");
            log::warn!("build {id} is over: {}", ending.reason);
            (State::Waiting(run, ending), None)
        }
        Err(error) => {
            let ending = bury(&dir, &format!("the journal cannot be read: {error}"));
            log::error!("build {id} is over: {}", ending.reason);
            (State::Waiting(run, ending), None)
        }
    })
}
