//! The process that does one build, and outlives the daemon that started it.
//!
//! `internal shim RUNDIR`. It leads a login session of its own and is the reaper of all its
//! descendants, holds the run directory's lock as its stdout, reads the spec from its stdin, is the
//! only writer of the build log, and leaves its verdict as its last act. TERM is the request to abort.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::Instant;

use nix::sys::prctl::set_child_subreaper;
use nix::unistd::setsid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::protocol::BuildStatus;
use crate::sys::{exe, host};

use super::buildlog::BuildLog;
use super::command::{Event, Mailbox};
use super::journal::{JournalEntry, Outcome};
use super::running::{Build, StageError};
use super::spec::Spec;
use super::stage::{Failure, Record, Stage};

/// Does the build of the run directory that `args` name.
pub(crate) fn run(args: &[OsString]) -> io::Result<()> {
    // The daemon's starter may have left something open.
    exe::close_inherited();
    let entry = JournalEntry::existing(args.first().map(PathBuf::from).unwrap_or_default());
    // Fails for a process that leads a group already; it is one of its own then.
    let _ = setsid();
    set_child_subreaper(true)?;
    let spec: Spec = serde_json::from_reader(io::stdin().lock())?;
    std::env::set_current_dir(&spec.settings.home)?;
    let mailbox = Mailbox::new();
    listen(mailbox.sender())?;
    let log = BuildLog::create(
        &entry.log(),
        spec.request.args.archive_private,
        spec.settings.log_bytes,
    )?;
    let outcome = build(Build::new(spec, entry.clone(), log, mailbox));
    entry.write_verdict(&outcome)
}

/// Turns signals into events; a hang-up is nothing to a build.
fn listen(events: SyncSender<Event>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    thread::spawn(move || {
        for signal in &mut signals {
            if signal != SIGHUP && events.send(Event::Abort).is_err() {
                return;
            }
        }
    });
    Ok(())
}

fn greet(build: &mut Build) {
    let Spec { request, settings } = &build.spec;
    let mut lines = Vec::new();
    lines.extend(request.args.build_url.clone());
    lines.push(format!(
        "buildd-slave {}: build {} of {} for {} on {}",
        env!("CARGO_PKG_VERSION"),
        request.build_id,
        request.dsc(),
        build.spec.suite(),
        build.spec.arch()
    ));
    if !request.args.unknown.is_empty() {
        lines.push(format!(
            "Arguments without a meaning here: {}",
            request.args.unknown.join(", ")
        ));
    }
    lines.push(format!("Files from {}", settings.filecache.display()));
    for line in lines {
        build.log.line(&line);
    }
}

/// Walks through the stages; every way through ends in one verdict.
fn build(mut build: Build) -> Outcome {
    greet(&mut build);
    let mut record = Record::default();
    let mut times: Vec<(Stage, f64)> = Vec::new();
    let mut next = Some(Stage::Init);
    while let Some(stage) = next {
        let begun = Instant::now();
        build
            .log
            .line(&format!("[{}] {}", host::utc_now(), stage.name()));
        if let Err(error) = build.entry.begin_stage(stage) {
            build.log.line(&format!("cannot note the stage: {error}"));
        }
        let aborted = !stage.closes() && build.mailbox.abort_requested();
        let result = if aborted {
            Err(StageError::Aborted)
        } else {
            build.stage(stage)
        };
        times.push((stage, begun.elapsed().as_secs_f64()));
        next = match result {
            Err(StageError::LayerFull) => {
                build
                    .log
                    .line("The writable layer in memory is full: once more, on disk.");
                build.switch_to_disk();
                Some(Stage::Init)
            }
            Ok(()) => stage.next(true, &build.spec.request.args),
            Err(stop) => {
                note(stop, stage, &mut record, &mut build);
                stage.next(false, &build.spec.request.args)
            }
        };
    }
    if build.mailbox.abort_requested() {
        record.abort();
    }
    if !build.stuck.is_empty() {
        record.stuck();
    }
    end(record, build, times)
}

fn note(stop: StageError, stage: Stage, record: &mut Record, build: &mut Build) {
    match stop {
        StageError::Aborted => {
            build.log.line(&format!("Aborted in {}.", stage.name()));
            record.abort();
        }
        StageError::Failed(failure) => {
            // Most reasons begin with the stage.
            let said = match failure.reason.starts_with(stage.name()) {
                true => failure.reason.clone(),
                false => format!("{} failed: {}", stage.name(), failure.reason),
            };
            build.log.line(&said);
            // A failed REAP is nothing: the kill that follows it is what counts.
            if stage != Stage::Reap {
                record.fail(failure);
            }
        }
        StageError::LayerFull => {}
    }
}

fn end(record: Record, mut build: Build, stages: Vec<(Stage, f64)>) -> Outcome {
    let Failure {
        status,
        reason,
        dependencies,
    } = record.verdict();
    let reason = match build.log.left_out_bytes() {
        0 => reason,
        bytes => format!("{reason} ({bytes} bytes of its log were left out: see there.)"),
    };
    let shown: Vec<String> = stages
        .iter()
        .map(|(stage, secs)| format!("{} {secs:.1} s", stage.name()))
        .collect();
    build.log.line(&format!(
        "[{}] Stages: {}",
        host::utc_now(),
        shown.join(", ")
    ));
    build.log.line(&format!("Verdict: {status}: {reason}"));
    build.remove_cgroups();
    let files = build.files;
    let (status, reason) = match (build.log.finish(), status) {
        // A log with holes proves nothing: the disk is full, or worse.
        (Err(error), BuildStatus::Ok | BuildStatus::PackageFail) => (
            BuildStatus::BuilderFail,
            format!("the log could not be written: {error}"),
        ),
        _ => (status, reason),
    };
    Outcome {
        status,
        reason,
        dependencies,
        // An aborted build's too: they are in the cache and must be removed from it.
        files,
        stages,
    }
}
