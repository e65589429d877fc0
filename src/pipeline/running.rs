//! A build in the making: its session, its log, its timeouts, and the running of its programs.
//!
//! Everything that is started here is under the shim's timeouts and in its log, and can be killed
//! at any moment. `stages` says what to run, `shim` in which order.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::config::{Network, Overlay};
use crate::protocol::{BuildStatus, FileName, Sha1Hex};
use crate::session::files::{self, Task};
use crate::session::idmap::SubIds;
use crate::session::live::{Session, remove_folder};
use crate::session::outer::SessionSpec;
use crate::session::{enter, launch, store};
use crate::sys::cgroup::{BuildLimits, Hits};
use crate::sys::wait::HOST_FAILED;
use crate::sys::{self, exe, host, procs};

use super::autopsy;
use super::buildlog::BuildLog;
use super::command::{CommandOutcome, Deadlines, Mailbox, OutOfSpace};
use super::disk::Disk;
use super::journal::JournalEntry;
use super::logscan::{Findings, LogScan, Sign};
use super::sbuild;
use super::spec::Spec;
use super::stage::{Failure, Stage};
use super::verdict::Exit;

/// How a stage ended, if not well.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum StageError {
    Failed(Failure),
    /// Somebody asked for an abort; everything is killed already.
    Aborted,
    /// The writable layer in memory is full: once more from MOUNT, on disk.
    LayerFull,
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
    /// Processes that would not die; the build is the builder's failure then.
    pub(crate) stuck: Vec<String>,
    pub(super) entry: JournalEntry,
    began: Instant,
    /// Keeps the chroot's tree where it is.
    pub(super) chroot: Option<store::Held>,
    pub(super) session: Option<Session>,
    pub(super) in_memory: bool,
    memory_is_too_small: bool,
    /// Whether a program has complained of a full disk.
    saw_disk_full: bool,
    disk: Disk,
    /// None if the starter was an older program.
    cgroups: Option<BuildLimits>,
}

/// Below this much free space a disk counts as full.
const FULL_BYTES: u64 = 16 << 20;
/// How long the last process may take to end where nobody waits for an abort: on a busy machine the
/// kernel needs its time to forget a tree of 200,000 files.
const KILL_TIMEOUT: Duration = Duration::from_secs(60);
/// The least memory available for a layer in memory.
const MEMORY_LAYER_BYTES: u64 = 4 << 30;

/// How a stage ended.
pub(super) type StageResult = Result<(), StageError>;

impl Build {
    pub(crate) fn new(spec: Spec, entry: JournalEntry, log: BuildLog, mailbox: Mailbox) -> Self {
        let disk = Disk::at_start(&spec, entry.path());
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
            in_memory: false,
            memory_is_too_small: false,
            saw_disk_full: false,
            disk,
            cgroups: BuildLimits::inherited(),
        }
    }

    pub(super) fn sub_ids(&self) -> Result<SubIds, StageError> {
        launch::own_sub_ids()
            .map_err(|error| Failure::new(BuildStatus::BuilderFail, error.to_string()).into())
    }

    /// Starts the session: in memory where that is wished and works, else on disk.
    pub(super) fn start_session(&mut self, ids: SubIds, dir: &Path) -> Result<Session, String> {
        let base = store::tree(
            &self.spec.settings.chroots,
            self.spec.request.chroot.as_str(),
        );
        let mut spec = SessionSpec {
            base,
            dir: dir.to_owned(),
            memory_bytes: None,
            network: self.spec.settings.network != Network::Never,
        };
        let may_use = self
            .cgroups
            .as_ref()
            .map_or(u64::MAX, |cgroups| cgroups.memory_bytes);
        // What is in the layer counts as the build's memory as well: half is for its processes.
        let available = host::available_memory_bytes().min(may_use);
        let wish = match self.spec.settings.overlay {
            _ if self.memory_is_too_small => false,
            Overlay::Disk => false,
            Overlay::Tmpfs => true,
            Overlay::Auto => host::memory_layer_works() && available >= MEMORY_LAYER_BYTES,
        };
        if wish {
            let bound = self.spec.settings.memory_layer_bytes.unwrap_or(u64::MAX);
            spec.memory_bytes = Some(bound.min(available / 2));
            match start(ids, &spec) {
                Ok(session) => {
                    self.in_memory = true;
                    return Ok(session);
                }
                Err(reason) if self.spec.settings.overlay == Overlay::Tmpfs => return Err(reason),
                Err(reason) => self.log.line(&format!(
                    "No writable layer in memory here ({reason}); it is on disk."
                )),
            }
            spec.memory_bytes = None;
            remove_folder(dir, ids).map_err(|error| error.to_string())?;
        }
        self.in_memory = false;
        start(ids, &spec)
    }

    pub(super) fn session_pid(&self) -> i32 {
        self.session.as_ref().map_or(0, Session::init_pid)
    }

    /// Changes files in the session; what it has to say goes to the log.
    pub(super) fn change_files(&mut self, task: &Task) -> io::Result<()> {
        if self.session.is_none() {
            return Err(io::Error::other(
                "the site's mountpath made the chroot, so this stage needs a site program as well",
            ));
        }
        let said = files::change(self.session_pid(), task)?;
        if !said.is_empty() {
            self.log.line(&said);
        }
        Ok(())
    }

    /// A command inside the session.
    pub(super) fn session_command(&self, words: &[&str]) -> Command {
        let (program, rest) = words.split_first().expect("a command has a name");
        let network = match self.spec.settings.network {
            Network::Never => enter::Network::Session,
            Network::BuildDeps | Network::Always => enter::Network::Host,
        };
        let mut command = enter::command(self.session_pid(), network, program);
        command.args(rest);
        command
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

    /// Runs a site program as 2008 did: the build id first.
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

    /// Runs a command whose exit code is the stage's.
    pub(super) fn run_stage_command(&mut self, stage: Stage, command: Command) -> StageResult {
        let (exit, findings) = self.run_scanned(stage, command)?;
        let name = stage.name();
        let builder = |reason: String| Err(Failure::new(BuildStatus::BuilderFail, reason).into());
        match exit {
            Exit::Code(0) => Ok(()),
            Exit::Code(code) if code == i32::from(HOST_FAILED) => {
                builder(format!("{name} could not be started; the log says why."))
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

    /// Runs a command, its output to the log and through the scan.
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
        Ok((exit, findings))
    }

    /// Runs a command under the timeouts of its stage. An abort, a timeout or a full disk kills
    /// every process of the build.
    pub(super) fn run_command(
        &mut self,
        stage: Stage,
        command: Command,
        sink: &mut dyn FnMut(&mut BuildLog, &[u8]),
    ) -> Result<Exit, StageError> {
        let deadlines = self.deadlines(stage);
        let (log, disk) = (&mut self.log, &self.disk);
        let watch = || disk.shortage().filter(|_| !stage.closes());
        let outcome = self
            .mailbox
            .run(command, deadlines, !stage.closes(), &watch, &mut |bytes| {
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
            CommandOutcome::OutOfSpace(found) => Err(self.out_of_space(stage, &found).into()),
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

    fn out_of_space(&mut self, stage: Stage, found: &OutOfSpace) -> Failure {
        match found {
            OutOfSpace::Results(bytes) => {
                self.kill_everything();
                let reason = format!(
                    "The package's results are too large: {} MiB and not at an end, more than {} \
                     ([limits] results).",
                    bytes >> 20,
                    self.spec.settings.result_bytes >> 20
                );
                Failure::new(BuildStatus::PackageFail, reason)
            }
            OutOfSpace::Disk(folder) => {
                self.log
                    .line(&format!("The disk at {} is full.", folder.display()));
                self.blame_disk(stage)
            }
        }
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

    /// Ends the session and every other descendant; remembers what would not die.
    pub(crate) fn kill_everything(&mut self) {
        if let Some(mut session) = self.session.take() {
            session.kill();
        }
        let clock = self.spec.settings.timeouts.abort;
        let bound = if self.mailbox.abort_requested() {
            clock
        } else {
            clock.max(KILL_TIMEOUT)
        };
        for process in procs::kill_descendants(bound) {
            let said = format!(
                "process {} ({}) is in state {} and does not die",
                process.pid, process.name, process.state
            );
            if !self.stuck.contains(&said) {
                self.log.line(&said);
                self.stuck.push(said);
            }
        }
    }

    /// Forgets a session whose layer in memory was too small; the next one is on disk.
    pub(crate) fn switch_to_disk(&mut self) {
        self.memory_is_too_small = true;
        self.saw_disk_full = false;
        self.kill_everything();
        // A second sbuild must not find the first one's files.
        let _ = sys::fs::remove_tree(&self.spec.work_tree());
    }

    /// Tells whether a failure may come from a layer in memory that was too small. Most programs
    /// remove what they could not finish, so their complaint counts as well.
    pub(super) fn layer_was_too_small(&self) -> bool {
        let is_full = || host::free_bytes(&self.root()).is_some_and(|free| free < FULL_BYTES);
        self.in_memory && self.session.is_some() && (self.saw_disk_full || is_full())
    }

    /// Says whose fault a full disk is; ends everything to find that out.
    fn blame_disk(&mut self, stage: Stage) -> Failure {
        self.kill_everything();
        let used = match stage {
            Stage::Sbuild => self.used_bytes(),
            // Nothing of the package has run.
            _ => 0,
        };
        self.disk.blame(used)
    }

    /// The bytes of the disk that the build takes, as far as that can be told.
    fn used_bytes(&self) -> u64 {
        let folders = [self.spec.session_dir(), self.spec.work_tree()];
        launch::own_sub_ids().map_or(0, |ids| {
            let taken = |dir: &PathBuf| store::measure(dir, ids).unwrap_or_default();
            folders.iter().map(taken).sum()
        })
    }

    /// Weighs a failure of the package's own against what the build may use: what ran into a
    /// bound failed for that, whatever it says.
    pub(super) fn blame_limit(&mut self, failure: Failure, before: Hits) -> StageError {
        if self.layer_was_too_small() {
            return StageError::LayerFull;
        }
        let now = self.hits();
        let full = self.disk_is_full() || self.disk.below_reserve().is_some();
        let (bound, limit) = match &self.cgroups {
            Some(cgroups) if now.oom_kills > before.oom_kills => {
                if self.layer_bytes() > cgroups.memory_bytes / 4 {
                    return StageError::LayerFull;
                }
                let mib = cgroups.memory_bytes >> 20;
                let limit = format!("it may use {mib} MiB ([limits] memory)");
                ("The build ran out of memory", limit)
            }
            Some(cgroups) if now.forks > before.forks => {
                let limit = format!("it may have {} ([limits] processes)", cgroups.processes);
                ("The build ran out of processes", limit)
            }
            _ if full || (self.saw_disk_full && !self.disk.had_guaranteed_space()) => {
                let mut blamed = self.blame_disk(Stage::Sbuild);
                blamed.reason = format!("{} {}", blamed.reason, failure.reason);
                return blamed.into();
            }
            _ => return failure.into(),
        };
        let reason = format!("{bound}: {limit}. {}", failure.reason);
        Failure::new(BuildStatus::PackageFail, reason).into()
    }

    /// How often the build came up against its bounds so far.
    pub(super) fn hits(&self) -> Hits {
        self.cgroups
            .as_ref()
            .map(BuildLimits::hits)
            .unwrap_or_default()
    }

    /// Removes what bounded the build. Nothing of it may run any more.
    pub(crate) fn remove_cgroups(&mut self) {
        if let Some(Err(error)) = self.cgroups.take().map(|cgroups| cgroups.remove()) {
            self.log
                .line(&format!("A control group is left over: {error}"));
        }
    }

    /// The bytes in a layer in memory.
    fn layer_bytes(&self) -> u64 {
        match &self.session {
            Some(_) if self.in_memory => host::used_bytes(&self.root()).unwrap_or_default(),
            _ => 0,
        }
    }

    /// The session's root, as it is seen from outside.
    fn root(&self) -> PathBuf {
        format!("/proc/{}/root", self.session_pid()).into()
    }

    pub(super) fn disk_is_full(&self) -> bool {
        let settings = &self.spec.settings;
        [&settings.home, &settings.sessions, &settings.filecache]
            .into_iter()
            .any(|dir| host::free_bytes(dir).is_some_and(|free| free < FULL_BYTES))
            || self.log.write_error().is_some()
    }
}

fn start(ids: SubIds, spec: &SessionSpec) -> Result<Session, String> {
    let (mut complaints, log) = io::pipe().map_err(|error| error.to_string())?;
    Session::start(ids, spec, log).map_err(|error| {
        let mut text = String::new();
        let _ = io::Read::read_to_string(&mut complaints, &mut text);
        format!("{error} {}", text.trim())
    })
}

/// The failure of a stage that failed for a reason nobody knows better.
fn stage_failure(stage: Stage, reason: String) -> StageError {
    Failure::new(
        stage.failure_status().unwrap_or(BuildStatus::BuilderFail),
        reason,
    )
    .into()
}
