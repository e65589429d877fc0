//! The shim: the process of one build, which outlives the daemon that started it.
//!
//! `internal shim ENTRY` leads a session of its own and is the reaper of all its descendants. It
//! holds the lock of its journal entry as stdout and reads the spec from stdin. It alone writes the
//! build log, and its last act is to write the verdict. SIGTERM ends the build: as an abort if the
//! journal entry has one, else the build is given back, since the host shuts down.

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
use crate::sys::host;

use super::buildlog::BuildLog;
use super::command::{Event, Mailbox};
use super::journal::{JournalEntry, Outcome};
use super::running::{Build, StageError};
use super::spec::Spec;
use super::stage::{Failure, Record, Stage};

/// Runs the build of the journal entry that `args` names.
pub(crate) fn run(args: &[OsString]) -> io::Result<()> {
    let entry = JournalEntry::existing(args.first().map(PathBuf::from).unwrap_or_default());
    // This fails only for a process that leads a group already.
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

/// Makes SIGTERM and SIGINT end the build; SIGHUP is ignored.
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

fn log_header(build: &mut Build) {
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
            "Unknown arguments, ignored: {}",
            request.args.unknown.join(", ")
        ));
    }
    lines.push(format!("Files from {}", settings.filecache.display()));
    for line in lines {
        build.log.line(&line);
    }
}

/// Runs the stages, and returns the outcome.
fn build(mut build: Build) -> Outcome {
    log_header(&mut build);
    let mut record = Record::default();
    let mut times: Vec<(Stage, f64)> = Vec::new();
    let mut next = Some(Stage::Init);
    while let Some(stage) = next {
        let begun = Instant::now();
        build
            .log
            .line(&format!("[{}] {}", host::utc_now(), stage.name()));
        if let Err(error) = build.entry.begin_stage(stage) {
            build.log.line(&format!("cannot record the stage: {error}"));
        }
        let aborted = !stage.closes() && build.mailbox.abort_requested();
        let result = if aborted {
            Err(StageError::Aborted)
        } else {
            build.stage(stage)
        };
        times.push((stage, begun.elapsed().as_secs_f64()));
        next = match result {
            Err(StageError::Restart(why)) => {
                build.log.line(why.sentence());
                build.restart(why);
                Some(Stage::Init)
            }
            Ok(()) => stage.next(true, &build.spec.request.args),
            Err(error) => {
                record_error(error, stage, &mut record, &mut build);
                stage.next(false, &build.spec.request.args)
            }
        };
    }
    if build.mailbox.abort_requested() {
        record_end(&mut record, &build.entry);
    }
    if !build.stuck.is_empty() {
        record.stuck();
    }
    finish(record, build, times)
}

/// Records why a signal has ended the build: its master, or the end of the host.
fn record_end(record: &mut Record, entry: &JournalEntry) {
    match entry.abort_requested() {
        true => record.abort(),
        false => record.interrupt(),
    }
}

fn record_error(error: StageError, stage: Stage, record: &mut Record, build: &mut Build) {
    match error {
        StageError::Aborted if build.entry.abort_requested() => {
            build.log.line(&format!("Aborted in {}.", stage.name()));
            record.abort();
        }
        StageError::Aborted => {
            let line = format!("Interrupted in {}.", stage.name());
            build.log.line(&line);
            record.fail(Failure::new(BuildStatus::GivenBack, line));
            record.interrupt();
        }
        StageError::Failed(failure) => {
            // Most reasons begin with the stage.
            let line = match failure.reason.starts_with(stage.name()) {
                true => failure.reason.clone(),
                false => format!("{} failed: {}", stage.name(), failure.reason),
            };
            build.log.line(&line);
            // A failed REAP is ignored: the kill after it decides.
            if stage != Stage::Reap {
                record.fail(failure);
            }
        }
        StageError::Restart(_) => {}
    }
}

fn finish(record: Record, mut build: Build, stages: Vec<(Stage, f64)>) -> Outcome {
    let Failure {
        status,
        reason,
        dependencies,
    } = record.verdict();
    let reason = match build.log.left_out_bytes() {
        0 => reason,
        bytes => format!("{reason} ({bytes} bytes of its log were left out.)"),
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
    build.remove_limits();
    let files = build.files;
    let (status, reason) = match (build.log.finish(), status) {
        // An incomplete log proves neither a success nor a failure of the package.
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
        // Also for an aborted build: its files must be removed from the cache.
        files,
        stages,
    }
}
