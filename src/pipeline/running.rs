//! A running build: its session, its log, and the programs it runs.
//!
//! Every program runs under the shim's timeouts, writes to the build log, and can be killed at any
//! time. `stages` chooses the programs; `shim` runs the stages in order.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::config::Overlay;
use crate::protocol::{BuildStatus, FileName, Sha1Hex};
use crate::session::live::Session;
use crate::session::store;
use crate::sys::cgroup::BuildLimits;
use crate::sys::wait::HOST_FAILED;
use crate::sys::{self, exe, host, procs};

use super::autopsy;
use super::buildlog::BuildLog;
use super::command::{CommandOutcome, Deadlines, Exceeded, Mailbox};
use super::disk::{Disk, Resource};
use super::journal::JournalEntry;
use super::logscan::{Findings, LogScan, Sign};
use super::network::BuildNetwork;
use super::platform::Platform;
use super::sbuild;
use super::spec::Spec;
use super::stage::{Failure, Stage};
use super::usage::Usage;
use super::verdict::Exit;

/// Why a stage did not succeed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum StageError {
    Failed(Failure),
    /// An abort was requested; everything is killed already.
    Aborted,
    /// The build starts again from the beginning, with other storage for what it writes.
    Restart(Restart),
}

/// Why a build starts again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Restart {
    /// The writable layer in memory is full: the next one is on disk.
    LayerFull,
    /// The layer is an overlay, in which no folder of the chroot can be renamed: the next session
    /// gets a copy of the chroot.
    CannotRename,
}

impl Restart {
    /// Returns the line of the build log.
    pub(crate) const fn sentence(self) -> &'static str {
        match self {
            Self::LayerFull => "The writable layer in memory is full: once more, on disk.",
            Self::CannotRename => {
                "dpkg cannot rename a folder of the chroot, because the session is an overlay over \
                 it: once more, in a copy of the chroot."
            }
        }
    }
}

impl From<Failure> for StageError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// A build while its stages run.
#[derive(Debug)]
pub(crate) struct Build {
    pub(crate) spec: Spec,
    pub(crate) log: BuildLog,
    pub(crate) mailbox: Mailbox,
    pub(crate) files: Vec<(FileName, Sha1Hex)>,
    /// Processes that could not be killed; with any, the verdict is BUILDERFAIL.
    pub(crate) stuck: Vec<String>,
    pub(super) entry: JournalEntry,
    pub(super) began: Instant,
    /// Keeps the chroot's tree from being evicted.
    pub(super) chroot: Option<store::Held>,
    pub(super) session: Option<Session>,
    /// `None` if sessions have no network.
    pub(super) network: Option<BuildNetwork>,
    /// The architecture of the chroot.
    pub(super) platform: Platform,
    pub(super) in_memory: bool,
    pub(super) memory_is_too_small: bool,
    /// True if a folder of the chroot must be renamed, which an overlay refuses.
    pub(super) needs_copy: bool,
    /// True if a program reported a full disk.
    pub(super) saw_disk_full: bool,
    /// True if dpkg could not rename a folder.
    pub(super) saw_rename_fail: bool,
    /// True if a program reported that it cannot fork.
    pub(super) saw_no_fork: bool,
    /// True if the shim ended a command at a limit: its reason names the limit already.
    pub(super) was_ended: bool,
    pub(super) disk: Disk,
    pub(super) usage: Usage,
    /// `None` if an older program started the shim.
    pub(super) limits: Option<BuildLimits>,
}

/// A disk with less free space, in bytes, counts as full.
const FULL_BYTES: u64 = 16 << 20;
/// The same in inodes.
const FULL_INODES: u64 = 16;
/// The timeout for killing all processes when no abort waits for it. On a busy machine, the kernel
/// needs long to free a tree of 200,000 files.
const KILL_TIMEOUT: Duration = Duration::from_secs(60);

pub(super) type StageResult = Result<(), StageError>;

impl Build {
    pub(crate) fn new(spec: Spec, entry: JournalEntry, log: BuildLog, mailbox: Mailbox) -> Self {
        let disk = Disk::at_start(&spec, entry.path());
        let limits = BuildLimits::inherited();
        Self {
            spec,
            log,
            mailbox,
            files: Vec::new(),
            stuck: Vec::new(),
            entry,
            began: Instant::now(),
            chroot: None,
            session: None,
            network: None,
            platform: Platform::default(),
            in_memory: false,
            memory_is_too_small: false,
            needs_copy: false,
            saw_disk_full: false,
            saw_rename_fail: false,
            saw_no_fork: false,
            was_ended: false,
            disk,
            usage: Usage::new(limits.as_ref()),
            limits,
        }
    }

    pub(super) fn site_command(&self, program: &Path, arguments: &[String]) -> Command {
        let mut command = exe::tethered(program);
        command
            .args(arguments)
            .env("HOME", &self.spec.settings.home)
            .env("LANG", "C")
            .env("LC_ALL", "C")
            .env("DEB_BUILD_OPTIONS", sbuild::build_options(&self.spec));
        command
    }

    /// Runs a site program with the build id as its first argument, as in 2008.
    pub(super) fn run_site_program(
        &mut self,
        stage: Stage,
        program: &Path,
        arguments: &[String],
    ) -> StageResult {
        let id = self.spec.request.build_id.to_string();
        let arguments: Vec<String> = std::iter::once(id)
            .chain(arguments.iter().cloned())
            .collect();
        let command = self.site_command(program, &arguments);
        self.run_stage_command(stage, command)
    }

    /// Runs a command whose exit code decides whether the stage succeeds.
    pub(super) fn run_stage_command(&mut self, stage: Stage, command: Command) -> StageResult {
        let (exit, findings) = self.run_scanned(stage, command)?;
        let name = stage.name();
        let builder = |reason: String| Err(Failure::new(BuildStatus::BuilderFail, reason).into());
        match exit {
            Exit::Code(0) => Ok(()),
            Exit::Code(code) if code == i32::from(HOST_FAILED) => {
                let why = findings.sign(Sign::SessionFailed);
                let why = why.unwrap_or("the log shows why");
                builder(format!("{name} could not be done on this builder: {why}"))
            }
            _ if findings.sign(Sign::NoSpace).is_some() || self.disk_is_full() => {
                builder(format!("{name} failed: the builder's disk is full."))
            }
            Exit::Code(code) => Err(stage_failure(
                stage,
                format!("{name} failed with exit code {code}."),
            )),
            Exit::Signal(signal) => Err(stage_failure(
                stage,
                format!("{name} was killed by signal {signal}."),
            )),
        }
    }

    /// Runs a command, and logs and scans its output.
    pub(super) fn run_scanned(
        &mut self,
        stage: Stage,
        command: Command,
    ) -> Result<(Exit, Findings), StageError> {
        self.log.line(&format!("RUN: {}", host::shown(&command)));
        let mut scan = LogScan::new();
        let exit = self.run_command(stage, command, &mut |log, bytes| {
            log.write(bytes);
            scan.feed(bytes);
        })?;
        self.log.flush();
        let findings = scan.finish();
        self.saw_disk_full |= findings.sign(Sign::NoSpace).is_some();
        // In other programs the same message may concern any two folders.
        self.saw_rename_fail |= findings
            .sign(Sign::CannotRename)
            .is_some_and(|line| line.contains("unable to move aside"));
        self.saw_no_fork |= findings.sign(Sign::NoFork).is_some();
        Ok((exit, findings))
    }

    /// Runs a command under the timeouts of its stage. An abort, a timeout or an exceeded limit
    /// kills every process of the build.
    pub(super) fn run_command(
        &mut self,
        stage: Stage,
        command: Command,
        sink: &mut dyn FnMut(&mut BuildLog, &[u8]),
    ) -> Result<Exit, StageError> {
        let deadlines = self.deadlines(stage);
        let in_memory = self.folders_in_memory();
        let (log, disk, usage) = (&mut self.log, &self.disk, &mut self.usage);
        let mut watch = || match stage.closes() {
            true => None,
            false => disk.shortage().or_else(|| usage.check(&in_memory)),
        };
        let abortable = !stage.closes();
        let outcome = self
            .mailbox
            .run(command, deadlines, abortable, &mut watch, &mut |bytes| {
                sink(log, bytes)
            });
        let outcome = outcome.map_err(|error| {
            let reason = format!("cannot run a program for {}: {error}", stage.name());
            Failure::new(BuildStatus::BuilderFail, reason)
        })?;
        match outcome {
            CommandOutcome::Exited(exit) => Ok(exit),
            CommandOutcome::Aborted => {
                self.kill_everything();
                Err(StageError::Aborted)
            }
            CommandOutcome::Exceeded(found) => Err(self.exceeded(stage, found)),
            CommandOutcome::TimedOut(how) => Err(self.timed_out(stage, &how)),
        }
    }

    fn deadlines(&self, stage: Stage) -> Deadlines {
        let timeouts = &self.spec.settings.timeouts;
        let total = self.began + timeouts.total;
        let own = Instant::now() + timeouts.stage;
        let until = match stage {
            Stage::Sbuild => total,
            _ if stage.closes() => own,
            _ => own.min(total),
        };
        Deadlines {
            until,
            silence: timeouts.silence,
        }
    }

    /// Kills a build that exceeds a limit; returns the failure, which names the limit.
    pub(super) fn exceeded(&mut self, stage: Stage, found: Exceeded) -> StageError {
        self.was_ended = true;
        let settings = &self.spec.settings;
        let (full, resource) = match found {
            Exceeded::Disk(folder) => (folder, Resource::Bytes),
            Exceeded::Inodes(folder) => (folder, Resource::Inodes),
            Exceeded::Results(bytes) => {
                let reason = format!(
                    "The package's results are too large: {} MiB so far, more than {} \
                     ([limits] results).",
                    bytes >> 20,
                    settings.result_bytes >> 20
                );
                self.kill_everything();
                return Failure::new(BuildStatus::PackageFail, reason).into();
            }
            Exceeded::Memory(bytes) => {
                if self.layer_takes_the_memory() {
                    return StageError::Restart(Restart::LayerFull);
                }
                let limit = self.out_of_memory();
                let reason = format!("{limit}. It used {} MiB and was killed.", bytes >> 20);
                self.kill_everything();
                return stage_failure(stage, reason);
            }
            Exceeded::Processes(threads) => {
                let limit = self.out_of_processes("ran");
                let reason = format!("{limit}. It had {threads} and was killed.");
                self.kill_everything();
                return stage_failure(stage, reason);
            }
        };
        let what = match resource {
            Resource::Bytes => "space",
            Resource::Inodes => "inodes",
        };
        let folder = full.display();
        self.log
            .line(&format!("The disk at {folder} has no {what} left."));
        self.blame_disk(stage, resource).into()
    }

    /// Logs the processes of the build, then kills them.
    fn timed_out(&mut self, stage: Stage, how: &str) -> StageError {
        let init = self.session.as_ref().map(Session::init_pid);
        for line in autopsy::of_descendants(init).lines() {
            self.log.line(line);
        }
        self.kill_everything();
        stage_failure(stage, format!("{} {how}; it was killed.", stage.name()))
    }

    /// Kills the session and every other descendant. Survivors are logged and added to `stuck`.
    pub(crate) fn kill_everything(&mut self) {
        if let Some(mut session) = self.session.take() {
            session.kill();
        }
        if let Some(network) = &self.network {
            network.close();
        }
        let abort = self.spec.settings.timeouts.abort;
        let timeout = if self.mailbox.abort_requested() {
            abort
        } else {
            abort.max(KILL_TIMEOUT)
        };
        for process in procs::kill_descendants(timeout) {
            let line = format!(
                "cannot kill process {} ({}) in state {}",
                process.pid, process.name, process.state
            );
            if !self.stuck.contains(&line) {
                self.log.line(&line);
                self.stuck.push(line);
            }
        }
    }

    /// Ends the session, and chooses the storage of the next one.
    pub(crate) fn restart(&mut self, why: Restart) {
        match why {
            Restart::LayerFull => self.memory_is_too_small = true,
            Restart::CannotRename => self.needs_copy = true,
        }
        self.saw_disk_full = false;
        self.saw_rename_fail = false;
        self.was_ended = false;
        self.kill_everything();
        // The retry must not find the files of the first attempt.
        let _ = sys::fs::remove_tree(&self.spec.work_tree());
    }

    /// Returns why a failed stage may succeed when the build starts again.
    pub(super) fn restart_reason(&self) -> Option<Restart> {
        let is_copy = self.needs_copy || self.spec.settings.overlay == Overlay::Copy;
        if self.layer_was_too_small() {
            Some(Restart::LayerFull)
        } else {
            let failed = self.saw_rename_fail && !is_copy && self.session.is_some();
            failed.then_some(Restart::CannotRename)
        }
    }

    /// True if a failure may come from a layer in memory that was too small. Most programs remove
    /// unfinished files, so an error message of a full disk counts as well.
    pub(super) fn layer_was_too_small(&self) -> bool {
        self.in_memory && self.session.is_some() && (self.saw_disk_full || is_full(&self.root()))
    }

    /// Removes the control groups of the build, all of whose processes must have ended.
    pub(crate) fn remove_limits(&mut self) {
        if let Some(Err(error)) = self.limits.take().map(|limits| limits.remove()) {
            self.log
                .line(&format!("Cannot remove a control group: {error}"));
        }
    }

    /// The session's root, as seen from outside.
    pub(super) fn root(&self) -> PathBuf {
        format!("/proc/{}/root", self.session_pid()).into()
    }

    pub(super) fn disk_is_full(&self) -> bool {
        let settings = &self.spec.settings;
        [&settings.home, &settings.sessions, &settings.filecache]
            .into_iter()
            .any(|dir| is_full(dir))
            || self.log.write_error().is_some()
    }
}

fn is_full(dir: &Path) -> bool {
    host::disk_of(dir)
        .is_ok_and(|disk| disk.free_bytes < FULL_BYTES || disk.free_inodes < FULL_INODES)
}

/// Returns a failure with the default status of its stage.
fn stage_failure(stage: Stage, reason: String) -> StageError {
    Failure::new(
        stage.failure_status().unwrap_or(BuildStatus::BuilderFail),
        reason,
    )
    .into()
}
