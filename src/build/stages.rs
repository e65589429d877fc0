//! Does one stage of a build: the built-in way, or by the site's program.
//!
//! `shim` says which stage; a stage says how it ended. Everything a stage starts is under the
//! shim's clocks and in its log, and can be killed at any moment.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::config::Overlay;
use crate::protocol::{BuildStatus, FileName, Sha1Hex};
use crate::session::files::{self, NewFile, Task};
use crate::session::idmap::SubIds;
use crate::session::live::{Session, remove_folder};
use crate::session::outer::SessionSpec;
use crate::session::{enter, launch, store};
use crate::sys::{self, exe, host, procs};

use super::buildlog::BuildLog;
use super::exec::{End, Limits, Mailbox};
use super::logscan::{Findings, LogScan};
use super::plan::{Failure, Stage};
use super::spec::Spec;
use super::verdict::{self, Exit, Judgement, Verdict};
use super::{apt, gather, leftovers, sbuild};

/// How a stage ended, if not well.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    Failed(Failure),
    /// Somebody asked for an abort; everything is killed already.
    Aborted,
    /// The writable layer in memory is full: once more from MOUNT, on disk.
    LayerFull,
}

impl From<Failure> for Stop {
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
    /// Where this build's own files (sbuild's configuration) are kept.
    run_dir: PathBuf,
    began: Instant,
    session: Option<Session>,
    in_memory: bool,
    memory_is_too_small: bool,
}

/// How long to wait before the second `apt-get update`: a mirror may be in mid-pulse.
const UPDATE_RETRY: Duration = Duration::from_secs(10);
/// Below this much free space a disk counts as full.
const FULL_BYTES: u64 = 16 << 20;
/// The least memory available for a layer in memory.
const MEMORY_LAYER_BYTES: u64 = 4 << 30;

type Done = Result<(), Stop>;

impl Build {
    pub(crate) fn new(spec: Spec, run_dir: &Path, log: BuildLog, mailbox: Mailbox) -> Self {
        Self {
            spec,
            log,
            mailbox,
            files: Vec::new(),
            stuck: Vec::new(),
            run_dir: run_dir.to_owned(),
            began: Instant::now(),
            session: None,
            in_memory: false,
            memory_is_too_small: false,
        }
    }

    /// Does `stage`.
    pub(crate) fn run(&mut self, stage: Stage) -> Done {
        let result = match stage {
            Stage::Init => self.init(),
            Stage::Unpack => self.unpack(),
            Stage::Mount => self.mount(),
            Stage::Ogre => self.ogre(),
            Stage::Sources => self.sources(),
            Stage::Keys => self.keys(),
            Stage::Update => self.update(),
            Stage::Sbuild => self.sbuild(),
            Stage::Reap => self.reap(),
            Stage::Umount => self.umount(),
            Stage::Cleanup => self.cleanup(),
        };
        match result {
            Err(Stop::Failed(_)) if self.in_memory && self.layer_is_full() => Err(Stop::LayerFull),
            other => other,
        }
    }

    // ---- the stages, in their order ----

    fn init(&mut self) -> Done {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(
                BuildStatus::BuilderFail,
                format!("cannot prepare the build: {error}"),
            )
        };
        self.log.line(&format!("Kernel: {}", host::kernel()));
        let tree = self.spec.work_tree();
        if fs::symlink_metadata(&tree).is_ok() {
            self.log.line(&format!(
                "Removing what an earlier build left in {}",
                tree.display()
            ));
            sys::fs::remove_tree(&tree).map_err(|error| failed(&error))?;
        }
        fs::create_dir(&tree).map_err(|error| failed(&error))?;
        for (name, sum) in self.spec.request.files.iter() {
            let target = self.spec.settings.filecache.join(sum.as_str());
            symlink(target, tree.join(name.as_str())).map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    fn unpack(&mut self) -> Done {
        let tarball = self.spec.tarball();
        if let Some(program) = self.spec.settings.programs.unpack.clone() {
            let tarball = tarball.display().to_string();
            return self.site(Stage::Unpack, &program, &[tarball]);
        }
        let sum = self.spec.request.chroot.to_string();
        if store::tree(&self.spec.settings.chroots, &sum).is_dir() {
            self.log.line("The chroot is unpacked already.");
            return Ok(());
        }
        let mut command = exe::internal("unpack");
        command
            .arg(&self.spec.settings.chroots)
            .arg(&sum)
            .arg(&tarball)
            .arg(self.spec.request.build_id.as_str());
        self.stage_command(Stage::Unpack, command)
    }

    fn mount(&mut self) -> Done {
        if let Some(program) = self.spec.settings.programs.mount.clone() {
            return self.site(Stage::Mount, &program, &[]);
        }
        let failed = |what: String| Stop::from(Failure::new(BuildStatus::ChrootFail, what));
        let ids = self.sub_ids()?;
        let dir = self.spec.session_dir();
        remove_folder(&dir, ids).map_err(|error| failed(error.to_string()))?;
        let session = self.start_session(ids, &dir).map_err(failed)?;
        self.session = Some(session);
        let mut files = apt::settings(self.spec.settings.apt_proxy.as_deref());
        files.push(NewFile {
            path: "/CurrentlyBuilding".into(),
            content: sbuild::currently_building(&self.spec).into_bytes(),
            mode: 0o644,
        });
        self.change(&Task::Write(files))
            .map_err(|error| failed(format!("cannot prepare the session: {error}")))
    }

    fn ogre(&mut self) -> Done {
        let component = self
            .spec
            .request
            .args
            .ogrecomponent
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
        if let Some(program) = self.spec.settings.programs.ogre.clone() {
            return self.site(Stage::Ogre, &program, &[component]);
        }
        self.change(&Task::Ogre(component))
            .map_err(|error| chroot_failure("cannot follow the component", &error))
    }

    fn sources(&mut self) -> Done {
        let archives = self.spec.request.args.archives.clone();
        if let Some(program) = self.spec.settings.programs.sources.clone() {
            return self.site(Stage::Sources, &program, &archives);
        }
        let sources = apt::translate(&archives);
        for number in &sources.unreadable {
            self.log.line(&format!(
                "Line {number} of archives is not one of sources.list; it is left out."
            ));
        }
        for line in sources.one_line.lines() {
            self.log.line(line);
        }
        let task = Task::Sources {
            one_line: sources.one_line,
            deb822: sources.deb822,
        };
        self.change(&task)
            .map_err(|error| chroot_failure("cannot write apt's sources", &error))
    }

    fn keys(&mut self) -> Done {
        let files = apt::keyrings(&self.spec.request.args.trusted_keys)
            .map_err(|reason| Failure::new(BuildStatus::ChrootFail, reason))?;
        self.log.line(&format!(
            "{} keyring(s) are trusted by apt in this build.",
            files.len()
        ));
        self.change(&Task::Write(files))
            .map_err(|error| chroot_failure("cannot write the keys", &error))
    }

    fn update(&mut self) -> Done {
        if let Some(program) = self.spec.settings.programs.update.clone() {
            return self.site(Stage::Update, &program, &[]);
        }
        let mut findings = self.scanned(Stage::Update, self.inside(&apt::UPDATE))?;
        if findings.0 != Exit::Code(0) {
            self.log.line(&format!(
                "apt-get update failed; once more in {} s.",
                UPDATE_RETRY.as_secs()
            ));
            let mut pause = Command::new("sleep");
            pause.arg(UPDATE_RETRY.as_secs().to_string());
            self.exec(Stage::Update, pause, &mut |_, _| {})?;
            findings = self.scanned(Stage::Update, self.inside(&apt::UPDATE))?;
        }
        if findings.0 == Exit::Code(0) {
            findings = self.scanned(Stage::Update, self.inside(&apt::UPGRADE))?;
        }
        match findings {
            (Exit::Code(0), _) => Ok(()),
            (_, findings) => Err(apt::blame_update(&findings, self.disk_is_full()).into()),
        }
    }

    fn sbuild(&mut self) -> Done {
        let site = self.spec.settings.programs.sbuild.clone();
        let command = match &site {
            Some(program) => self.site_command(program, &sbuild::site_arguments(&self.spec)),
            None => self.sbuild_command()?,
        };
        let (exit, findings) = self.scanned(Stage::Sbuild, command)?;
        let full = self.disk_is_full();
        let judgement = match site {
            Some(_) => verdict::classify_site(exit, &findings),
            None => verdict::classify(exit, &findings, full),
        };
        self.judge(judgement)
    }

    fn reap(&mut self) -> Done {
        let result = match self.spec.settings.programs.process_scan.clone() {
            Some(program) => self.site(Stage::Reap, &program, &[]),
            None => Ok(()),
        };
        self.kill_everything();
        result
    }

    fn umount(&mut self) -> Done {
        match self.spec.settings.programs.umount.clone() {
            Some(program) => self.site(Stage::Umount, &program, &[]),
            None => {
                self.kill_everything();
                Ok(())
            }
        }
    }

    fn cleanup(&mut self) -> Done {
        if let Some(program) = self.spec.settings.programs.clean.clone() {
            return self.site(Stage::Cleanup, &program, &[]);
        }
        let failed = |error: String| {
            Failure::new(
                BuildStatus::BuilderFail,
                format!("cannot clean up: {error}"),
            )
        };
        self.kill_everything();
        leftovers::remove_session(&self.spec).map_err(|error| failed(error.to_string()))?;
        sys::fs::remove_tree(&self.spec.work_tree())
            .map_err(|error| failed(error.to_string()).into())
    }

    // ---- what stages share ----

    fn sub_ids(&self) -> Result<SubIds, Stop> {
        launch::own_sub_ids()
            .map_err(|error| Failure::new(BuildStatus::BuilderFail, error.to_string()).into())
    }

    /// Starts the session: in memory where that is wished and works, else on disk.
    fn start_session(&mut self, ids: SubIds, dir: &Path) -> Result<Session, String> {
        let base = store::tree(
            &self.spec.settings.chroots,
            self.spec.request.chroot.as_str(),
        );
        let mut spec = SessionSpec {
            base,
            dir: dir.to_owned(),
            memory_bytes: None,
        };
        let available = host::available_memory_bytes();
        let wish = match self.spec.settings.overlay {
            _ if self.memory_is_too_small => false,
            Overlay::Disk => false,
            Overlay::Tmpfs => true,
            Overlay::Auto => available >= MEMORY_LAYER_BYTES,
        };
        if wish {
            spec.memory_bytes = Some(available / 2);
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

    fn session_pid(&self) -> i32 {
        self.session.as_ref().map_or(0, Session::init_pid)
    }

    /// Changes files in the session; what it has to say goes to the log.
    fn change(&mut self, task: &Task) -> io::Result<()> {
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
    fn inside(&self, words: &[&str]) -> Command {
        let (program, rest) = words.split_first().expect("a command has a name");
        let mut command = enter::command(self.session_pid(), enter::Network::Host, program);
        command.args(rest);
        command
    }

    fn sbuild_command(&mut self) -> Result<Command, Stop> {
        let version = host::package_version("sbuild");
        self.log.line(&format!(
            "sbuild {}",
            version.as_deref().unwrap_or("of unknown version")
        ));
        let minor = sbuild::minor(version.as_deref().unwrap_or_default());
        let configuration = self.run_dir.join("sbuild.conf");
        fs::write(&configuration, sbuild::configuration(&host::name(), minor)).map_err(
            |error| {
                Failure::new(
                    BuildStatus::BuilderFail,
                    format!("{}: {error}", configuration.display()),
                )
            },
        )?;
        let network = if self.spec.settings.build_without_network {
            enter::Network::NotInBuild
        } else {
            enter::Network::Host
        };
        // By the shim's own entry in /proc: the same program, whatever is installed meanwhile.
        let program = PathBuf::from(format!("/proc/{}/exe", std::process::id()));
        let arguments = sbuild::arguments(
            &self.spec,
            minor,
            &program,
            self.session_pid(),
            network.word(),
        );
        let mut command = exe::tethered("sbuild");
        command
            .args(arguments)
            .current_dir(self.spec.work_tree())
            .env_clear()
            .envs(sbuild::ENVIRONMENT)
            .env("HOME", &self.run_dir)
            .env("SBUILD_CONFIG", configuration)
            .env("DEB_BUILD_OPTIONS", sbuild::build_options(&self.spec));
        Ok(command)
    }

    /// Turns a judgement of the build into the stage's end; gathers what was built.
    fn judge(&mut self, judgement: Judgement) -> Done {
        let Judgement { verdict, reason } = judgement;
        let (status, dependencies) = match verdict {
            Verdict::Ok => return self.gather(),
            Verdict::PackageFail => (BuildStatus::PackageFail, String::new()),
            Verdict::GivenBack => (BuildStatus::GivenBack, String::new()),
            Verdict::ChrootFail => (BuildStatus::ChrootFail, String::new()),
            Verdict::BuilderFail => (BuildStatus::BuilderFail, String::new()),
            Verdict::DepFail { relations } => (BuildStatus::DepFail, relations),
            Verdict::DepCheck => match self.missing_dependencies()? {
                Some(relations) => {
                    let reason = format!("The package waits for {relations}.");
                    let status = BuildStatus::DepFail;
                    return Err(Failure {
                        status,
                        reason,
                        dependencies: relations,
                    }
                    .into());
                }
                None => (BuildStatus::PackageFail, String::new()),
            },
        };
        Err(Failure {
            status,
            reason,
            dependencies,
        }
        .into())
    }

    /// Looks for the build dependencies in the package lists of the chroot.
    fn missing_dependencies(&mut self) -> Result<Option<String>, Stop> {
        let dsc = self.spec.work_tree().join(self.spec.request.dsc().as_str());
        let arch_indep = self.spec.request.args.arch_indep;
        let text = fs::read(&dsc).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let Ok(mut query) = apt::Query::new(&text, self.spec.arch(), arch_indep) else {
            return Ok(None);
        };
        let command = self.inside(&apt::PACKAGE_LISTS);
        let exit = self.exec(Stage::Sbuild, command, &mut |_, bytes| query.feed(bytes))?;
        Ok(if exit == Exit::Code(0) {
            query.missing()
        } else {
            None
        })
    }

    fn gather(&mut self) -> Done {
        let result = gather::gather(&self.spec, &mut || self.mailbox.abort_has_come());
        match result {
            Ok(files) => {
                self.files = files;
                Ok(())
            }
            Err(gather::Error::Aborted) => Err(Stop::Aborted),
            Err(gather::Error::Builder(reason)) => {
                Err(Failure::new(BuildStatus::BuilderFail, reason).into())
            }
            Err(gather::Error::Package(reason)) => {
                let reason = format!("Failed to gather results: {reason}");
                Err(Failure::new(BuildStatus::PackageFail, reason).into())
            }
        }
    }

    fn site_command(&self, program: &Path, arguments: &[String]) -> Command {
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
    fn site(&mut self, stage: Stage, program: &Path, arguments: &[String]) -> Done {
        let id = self.spec.request.build_id.to_string();
        let arguments: Vec<String> = std::iter::once(id)
            .chain(arguments.iter().cloned())
            .collect();
        let command = self.site_command(program, &arguments);
        self.stage_command(stage, command)
    }

    /// Runs a command whose exit code is the stage's.
    fn stage_command(&mut self, stage: Stage, command: Command) -> Done {
        match self.scanned(stage, command)?.0 {
            Exit::Code(0) => Ok(()),
            Exit::Code(code) => Err(blame(
                stage,
                format!("{} failed with exit code {code}.", stage.name()),
            )),
            Exit::Signal(signal) => Err(blame(
                stage,
                format!("{} was killed by signal {signal}.", stage.name()),
            )),
        }
    }

    /// Runs a command, its output to the log and through the scan.
    fn scanned(&mut self, stage: Stage, command: Command) -> Result<(Exit, Findings), Stop> {
        self.log.line(&format!("RUN: {}", host::shown(&command)));
        let mut scan = LogScan::new();
        let exit = self.exec(stage, command, &mut |log, bytes| {
            log.write(bytes);
            scan.feed(bytes);
        })?;
        self.log.flush();
        Ok((exit, scan.finish()))
    }

    /// Runs a command under the stage's clocks; an abort or a clock that runs out kills
    /// everything.
    fn exec(
        &mut self,
        stage: Stage,
        command: Command,
        sink: &mut dyn FnMut(&mut BuildLog, &[u8]),
    ) -> Result<Exit, Stop> {
        let clocks = &self.spec.settings.clocks;
        let total = self.began + clocks.total;
        let own = Instant::now() + clocks.stage;
        let until = match stage {
            Stage::Sbuild => total,
            _ if stage.closes() => own,
            _ => own.min(total),
        };
        let limits = Limits {
            until,
            silence: clocks.silence,
        };
        let log = &mut self.log;
        let end = self
            .mailbox
            .run(command, limits, !stage.closes(), &mut |bytes| {
                sink(log, bytes)
            });
        match end {
            Ok(End::Exited(exit)) => Ok(exit),
            Ok(End::Aborted) => {
                self.kill_everything();
                Err(Stop::Aborted)
            }
            Ok(End::TooLong(how)) => {
                self.kill_everything();
                Err(blame(
                    stage,
                    format!("{} {how}; it was killed.", stage.name()),
                ))
            }
            Err(error) => {
                let reason = format!("cannot run a program for {}: {error}", stage.name());
                Err(Failure::new(BuildStatus::BuilderFail, reason).into())
            }
        }
    }

    /// Ends the session and every other descendant; remembers what would not die.
    pub(crate) fn kill_everything(&mut self) {
        if let Some(mut session) = self.session.take() {
            session.kill();
        }
        for process in procs::kill_descendants(self.spec.settings.clocks.abort) {
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
    pub(crate) fn give_up_memory(&mut self) {
        self.memory_is_too_small = true;
        self.kill_everything();
        // A second sbuild must not find the first one's files.
        let _ = sys::fs::remove_tree(&self.spec.work_tree());
    }

    fn layer_is_full(&self) -> bool {
        let root = format!("/proc/{}/root", self.session_pid());
        self.session.is_some()
            && host::free_bytes(Path::new(&root)).is_some_and(|free| free < FULL_BYTES)
    }

    fn disk_is_full(&self) -> bool {
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

fn chroot_failure(what: &str, error: &io::Error) -> Stop {
    Failure::new(BuildStatus::ChrootFail, format!("{what}: {error}")).into()
}

/// The failure of a stage that failed for a reason nobody knows better.
fn blame(stage: Stage, reason: String) -> Stop {
    Failure::new(stage.blame().unwrap_or(BuildStatus::BuilderFail), reason).into()
}
