//! A running build: its session, its log, and the programs it runs.
//!
//! Every program runs under the shim's timeouts, writes to the build log, and can be killed at any
//! time. `stages` chooses the programs; `shim` runs the stages in order.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::config::{Network, Overlay};
use crate::protocol::{BuildStatus, FileName, Sha1Hex};
use crate::session::files::{self, Task};
use crate::session::idmap::SubIds;
use crate::session::live::{Session, remove_folder};
use crate::session::outer::{Layer, SessionSpec};
use crate::session::{enter, launch, machine, outside, store};
use crate::sys::cgroup::{BuildLimits, Hits};
use crate::sys::fs::DiskUsage;
use crate::sys::wait::HOST_FAILED;
use crate::sys::{self, exe, host, procs};

use super::autopsy;
use super::buildlog::BuildLog;
use super::command::{CommandOutcome, Deadlines, Exceeded, Mailbox};
use super::disk::{Disk, Resource};
use super::journal::JournalEntry;
use super::logscan::{Findings, LogScan, Sign};
use super::network::BuildNetwork;
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
    began: Instant,
    /// Keeps the chroot's tree from being evicted.
    pub(super) chroot: Option<store::Held>,
    pub(super) session: Option<Session>,
    /// `None` if sessions have no network.
    pub(super) network: Option<BuildNetwork>,
    pub(super) in_memory: bool,
    memory_is_too_small: bool,
    /// True if a folder of the chroot must be renamed, which an overlay refuses.
    needs_copy: bool,
    /// True if a program reported a full disk.
    saw_disk_full: bool,
    /// True if dpkg could not rename a folder.
    saw_rename_fail: bool,
    /// True if a program reported that it cannot fork.
    saw_no_fork: bool,
    /// True if the shim ended a command at a limit: its reason names the limit already.
    was_ended: bool,
    disk: Disk,
    usage: Usage,
    /// `None` if an older program started the shim.
    limits: Option<BuildLimits>,
}

/// A disk with less free space, in bytes, counts as full.
const FULL_BYTES: u64 = 16 << 20;
/// The same in inodes.
const FULL_INODES: u64 = 16;
/// The timeout for killing all processes when no abort waits for it. On a busy machine, the kernel
/// needs long to free a tree of 200,000 files.
const KILL_TIMEOUT: Duration = Duration::from_secs(60);
/// The least available memory, in bytes, for a layer in memory.
const MEMORY_LAYER_BYTES: u64 = 4 << 30;

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

    pub(super) fn sub_ids(&self) -> Result<SubIds, StageError> {
        launch::own_sub_ids()
            .map_err(|error| Failure::new(BuildStatus::BuilderFail, error.to_string()).into())
    }

    /// Starts the session, with its writable layer in memory if configured and possible.
    pub(super) fn start_session(&mut self, ids: SubIds, dir: &Path) -> Result<Session, String> {
        let base = store::tree(
            &self.spec.settings.chroots,
            self.spec.request.chroot.as_str(),
        );
        // A 32-bit program may be unable to read the inode numbers of an overlay in memory.
        let fits_memory = !machine::is_32_bit(&base);
        let mut spec = SessionSpec {
            base,
            dir: dir.to_owned(),
            layer: Layer::Disk,
            resolver: match self.spec.settings.network {
                Network::Always => outside::resolver(),
                Network::BuildDeps | Network::Never => String::new(),
            },
        };
        let memory_limit = self
            .limits
            .as_ref()
            .map_or(u64::MAX, |limits| limits.memory_bytes);
        // The layer counts as the build's memory as well: half is for its processes.
        let available = host::available_memory_bytes().min(memory_limit);
        let use_memory = match self.spec.settings.overlay {
            _ if self.memory_is_too_small || self.needs_copy || !fits_memory => false,
            Overlay::Disk | Overlay::Copy => false,
            Overlay::Tmpfs => true,
            Overlay::Auto => host::memory_layer_works() && available >= MEMORY_LAYER_BYTES,
        };
        if use_memory {
            let limit = self.spec.settings.memory_layer_bytes.unwrap_or(u64::MAX);
            spec.layer = Layer::Memory(limit.min(available / 2));
            match start(ids, &spec) {
                Ok(session) => {
                    self.in_memory = true;
                    return Ok(session);
                }
                Err(reason) if self.spec.settings.overlay == Overlay::Tmpfs => return Err(reason),
                Err(reason) => self.log.line(&format!(
                    "Cannot keep the writable layer in memory ({reason}); it is on disk."
                )),
            }
            spec.layer = Layer::Disk;
            remove_folder(dir, ids).map_err(|error| error.to_string())?;
        }
        self.in_memory = false;
        if self.needs_copy || self.spec.settings.overlay == Overlay::Copy {
            spec.layer = Layer::Copy;
        }
        start(ids, &spec)
    }

    pub(super) fn session_pid(&self) -> i32 {
        self.session.as_ref().map_or(0, Session::init_pid)
    }

    /// The network of the session's commands, or of sbuild with `until_build`.
    pub(super) fn network_of_commands(&self, until_build: bool) -> enter::Network {
        let Some(session) = self.session.as_ref().filter(|_| self.network.is_some()) else {
            return enter::Network::Alone;
        };
        let namespace = session.gate_network();
        if until_build && self.spec.settings.network == Network::BuildDeps {
            let folder = self.entry.path().to_owned();
            return enter::Network::GateUntilBuild { namespace, folder };
        }
        enter::Network::Gate(namespace)
    }

    /// Starts the gate of a new session, unless builds have no network. Returns its URL for apt.
    pub(super) fn start_network(&mut self) -> Result<Option<String>, String> {
        let private = self.spec.request.args.archive_private;
        let settings = self.spec.settings.gate.as_ref();
        let (Some(session), Some(settings)) = (&mut self.session, settings) else {
            return Ok(None);
        };
        if self.spec.settings.network == Network::Never {
            return Ok(None);
        }
        let socket = session.take_gate().expect("a new session has a gate");
        let started = BuildNetwork::start(socket, settings, private).and_then(|network| {
            network.close_on_request(self.entry.path())?;
            Ok(network)
        });
        let network = started.map_err(|error| format!("The gate could not start: {error}"))?;
        if self.spec.settings.network == Network::Always {
            session
                .connect_outside()
                .map_err(|error| error.to_string())?;
        }
        let url = network.url();
        self.network = Some(network);
        Ok(Some(url))
    }

    /// Lets the session reach the archives of its sources. No program of a package has run yet.
    pub(super) fn allow_sources(&self) -> io::Result<()> {
        if let Some(network) = &self.network {
            network.allow(&files::change(self.session_pid(), &Task::ReadSources)?);
        }
        Ok(())
    }

    /// Blames what the gate refused, rather than the archive: a retry would not help.
    pub(super) fn blame_network(&self, failure: Failure) -> Failure {
        let refusals = self.network.as_ref().map(BuildNetwork::refusals);
        match refusals.unwrap_or_default().first() {
            Some(refusal) if failure.status == BuildStatus::GivenBack => {
                let reason = format!("{refusal} {}", failure.reason);
                Failure::new(BuildStatus::ChrootFail, reason)
            }
            _ => failure,
        }
    }

    /// Changes files in the session, and logs the messages.
    pub(super) fn change_files(&mut self, task: &Task) -> io::Result<()> {
        if self.session.is_none() {
            return Err(io::Error::other(
                "the site's mountpath made the chroot, so this stage needs a site program as well",
            ));
        }
        let messages = files::change(self.session_pid(), task)?;
        if !messages.is_empty() {
            self.log.line(&messages);
        }
        Ok(())
    }

    /// Returns a command that runs inside the session.
    pub(super) fn session_command(&self, words: &[&str]) -> Command {
        let (program, rest) = words.split_first().expect("a command has a name");
        let network = self.network_of_commands(false);
        let mut command = enter::command(self.session_pid(), &network, program);
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
    fn exceeded(&mut self, stage: Stage, found: Exceeded) -> StageError {
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
    fn layer_was_too_small(&self) -> bool {
        self.in_memory && self.session.is_some() && (self.saw_disk_full || is_full(&self.root()))
    }

    /// Decides whose fault a full disk is. Kills everything, so that usage no longer changes.
    fn blame_disk(&mut self, stage: Stage, resource: Resource) -> Failure {
        self.kill_everything();
        let used = match stage {
            Stage::Sbuild => self.disk_usage(),
            // No program of the package has run.
            _ => DiskUsage::default(),
        };
        self.disk.blame(resource, used)
    }

    /// Measures the build on the disk; unreadable folders count as empty.
    fn disk_usage(&self) -> DiskUsage {
        let folders = [self.spec.session_dir(), self.spec.work_tree()];
        let Ok(ids) = launch::own_sub_ids() else {
            return DiskUsage::default();
        };
        let measure = |dir: &PathBuf| store::measure(dir, ids).unwrap_or_default();
        let [session, tree] = folders.each_ref().map(measure);
        DiskUsage {
            bytes: session.bytes.saturating_add(tree.bytes),
            inodes: session.inodes.saturating_add(tree.inodes),
        }
    }

    /// Replaces a package failure by the limit that caused it: memory, processes or disk, if the
    /// build has hit one since `before`.
    pub(super) fn blame_limit(&mut self, failure: Failure, before: Hits) -> StageError {
        if self.was_ended {
            return failure.into();
        }
        if self.layer_was_too_small() {
            return StageError::Restart(Restart::LayerFull);
        }
        let now = self.hits();
        let killed = now.oom_kills > before.oom_kills;
        let limit = if killed && self.usage.measures_memory() {
            return self.blame_host_memory(failure).into();
        } else if killed {
            if self.layer_takes_the_memory() {
                return StageError::Restart(Restart::LayerFull);
            }
            self.out_of_memory()
        } else if now.forks > before.forks {
            self.out_of_processes("ran")
        } else if self.saw_no_fork && self.usage.counts_processes() {
            self.out_of_processes("probably ran")
        } else if let Some(resource) = self.scarce_on_disk() {
            let mut blamed = self.blame_disk(Stage::Sbuild, resource);
            blamed.reason = format!("{} {}", blamed.reason, failure.reason);
            return blamed.into();
        } else {
            return failure.into();
        };
        let reason = format!("{limit}. {}", failure.reason);
        Failure::new(BuildStatus::PackageFail, reason).into()
    }

    /// The failure of a build when the host's OOM killer has killed a process. No group says
    /// whether the process was the build's; its use at the last measurement decides.
    fn blame_host_memory(&self, failure: Failure) -> Failure {
        let limit = self.limits.as_ref().map_or(0, |it| it.memory_bytes);
        let used = self.usage.last_bytes();
        let status = match used > limit / 2 {
            true => BuildStatus::PackageFail,
            false => failure.status,
        };
        let reason = format!(
            "The host ran out of memory, and the kernel killed a process. The build used {} MiB \
             at its last measurement; it may use {} MiB ([limits] memory). {}",
            used >> 20,
            limit >> 20,
            failure.reason
        );
        Failure {
            reason,
            status,
            ..failure
        }
    }

    /// The resource of the disk that is short, or was when a program reported a full disk.
    fn scarce_on_disk(&self) -> Option<Resource> {
        let below = self.disk.below_reserve().map(|(_, resource)| resource);
        below
            .or_else(|| self.disk_is_full().then_some(Resource::Bytes))
            .or_else(|| self.disk.broken_promise().filter(|_| self.saw_disk_full))
    }

    /// The beginning of a reason.
    fn out_of_memory(&self) -> String {
        let mib = self.limits.as_ref().map_or(0, |it| it.memory_bytes) >> 20;
        format!("The build ran out of memory: it may use {mib} MiB ([limits] memory)")
    }

    /// The same for processes.
    fn out_of_processes(&self, ran: &str) -> String {
        let count = self.limits.as_ref().map_or(0, |it| it.processes);
        format!("The build {ran} out of processes: it may have {count} ([limits] processes)")
    }

    /// True if a layer in memory takes much of the build's memory: a layer on disk may help.
    fn layer_takes_the_memory(&self) -> bool {
        let limit = self.limits.as_ref().map_or(u64::MAX, |it| it.memory_bytes);
        self.layer_bytes() > limit / 4
    }

    /// The folders of the session on file systems that keep their files in memory.
    fn folders_in_memory(&self) -> Vec<PathBuf> {
        let Some(_) = &self.session else {
            return Vec::new();
        };
        let shared = self.root().join("dev/shm");
        let mut folders: Vec<_> = self.in_memory.then(|| self.root()).into_iter().collect();
        folders.extend(host::is_on_tmpfs(&shared).then_some(shared));
        folders
    }

    /// How often the build hit its limits so far.
    pub(super) fn hits(&self) -> Hits {
        self.limits
            .as_ref()
            .map(BuildLimits::hits)
            .unwrap_or_default()
    }

    /// Removes the control groups of the build, all of whose processes must have ended.
    pub(crate) fn remove_limits(&mut self) {
        if let Some(Err(error)) = self.limits.take().map(|limits| limits.remove()) {
            self.log
                .line(&format!("Cannot remove a control group: {error}"));
        }
    }

    /// The bytes used in a layer in memory.
    fn layer_bytes(&self) -> u64 {
        match &self.session {
            Some(_) if self.in_memory => host::used_bytes(&self.root()).unwrap_or_default(),
            _ => 0,
        }
    }

    /// The session's root, as seen from outside.
    fn root(&self) -> PathBuf {
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

/// Starts a session. The error is the last line that its processes printed.
fn start(ids: SubIds, spec: &SessionSpec) -> Result<Session, String> {
    let (mut messages, log) = io::pipe().map_err(|error| error.to_string())?;
    Session::start(ids, spec, log).map_err(|error| {
        let mut text = String::new();
        let _ = io::Read::read_to_string(&mut messages, &mut text);
        let last = text.trim().lines().last().map(str::to_owned);
        last.unwrap_or_else(|| error.to_string())
    })
}

/// Returns a failure with the default status of its stage.
fn stage_failure(stage: Stage, reason: String) -> StageError {
    Failure::new(
        stage.failure_status().unwrap_or(BuildStatus::BuilderFail),
        reason,
    )
    .into()
}
