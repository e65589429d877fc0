//! Carries out the stages of a build, each built in or by a site program.
//!
//! `shim` calls them in order; `running` has the functions that they share.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::config::Network;
use crate::dpkg::dsc;
use crate::protocol::BuildStatus;
use crate::session::files::Task;
use crate::session::live::remove_folder;
use crate::session::tree::architecture;
use crate::session::{bootstrap, store, store_owner};
use crate::sys::cgroup::LIMITS_VAR;
use crate::sys::{self, exe, host};

use super::depwait::{Cause, Named, Target};
use super::logscan::Findings;
use super::network::BuildNetwork;
use super::platform::{Host, Platform};
use super::running::{Build, StageError, StageResult};
use super::stage::{Failure, Stage};
use super::verdict::{self, Classification, Exit, Verdict};
use super::{apt, check_source, keep_results, leftovers, sbuild};

/// The wait before the second `apt-get update`: the mirror may be in the middle of a push.
const UPDATE_RETRY: Duration = Duration::from_secs(10);

impl Build {
    pub(crate) fn stage(&mut self, stage: Stage) -> StageResult {
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
        match (result, self.restart_reason()) {
            (Err(StageError::Failed(_)), Some(why)) => Err(StageError::Restart(why)),
            (result, _) => result,
        }
    }

    fn init(&mut self) -> StageResult {
        let failed = |error: &dyn std::fmt::Display| {
            Failure::new(
                BuildStatus::BuilderFail,
                format!("cannot prepare the build: {error}"),
            )
        };
        self.log.line(&format!("Kernel: {}", host::kernel()));
        let tree = self.spec.work_tree();
        // An empty folder may be removed in any case.
        let exists = fs::symlink_metadata(&tree).is_ok() && fs::remove_dir(&tree).is_err();
        if exists && !leftovers::is_work_tree(&tree, &self.spec.settings.filecache) {
            let reason = format!(
                "{} exists and is not the tree of a build; move it away",
                tree.display()
            );
            return Err(Failure::new(BuildStatus::BuilderFail, reason).into());
        }
        if exists {
            self.log.line(&format!(
                "Removing {}, left by an earlier build",
                tree.display()
            ));
            if let Err(error) = sys::fs::remove_tree(&tree) {
                self.log
                    .line(&format!("{error}; moving it aside, for root to remove"));
                leftovers::move_aside(&tree).map_err(|error| failed(&error))?;
            }
        }
        self.entry
            .record_work_tree()
            .map_err(|error| failed(&error))?;
        // A program of the site may build as another user.
        let mode = match self.spec.settings.programs.sbuild {
            Some(_) => 0o755,
            None => 0o700,
        };
        DirBuilder::new()
            .mode(mode)
            .create(&tree)
            .map_err(|error| failed(&error))?;
        if self.spec.settings.programs.sbuild.is_none() {
            let name = check_source::check(&self.spec)?;
            self.spec.request.rename_dsc(name);
        }
        for (name, sha1) in self.spec.request.files.iter() {
            let target = self.spec.settings.filecache.join(sha1.as_str());
            symlink(target, tree.join(name.as_str())).map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    fn unpack(&mut self) -> StageResult {
        let tarball = self.spec.tarball();
        if let Some(program) = self.spec.settings.programs.unpack.clone() {
            let tarball = tarball.display().to_string();
            return self.run_site_program(Stage::Unpack, &program, &[tarball]);
        }
        let sha1 = self.spec.request.chroot.to_string();
        let ids = self.sub_ids()?;
        let discarded = store_owner::discard_unusable(&self.spec.settings.chroots, &sha1, ids);
        let discarded =
            discarded.map_err(|error| Failure::new(BuildStatus::BuilderFail, error.to_string()))?;
        if let Some(sentence) = discarded {
            self.log.line(&sentence);
        }
        let held = store::hold(&self.spec.settings.chroots, &sha1);
        self.chroot = Some(held.map_err(|error| {
            Failure::new(
                BuildStatus::BuilderFail,
                format!("cannot use the chroot store: {error}"),
            )
        })?);
        if store::tree(&self.spec.settings.chroots, &sha1).is_dir() {
            self.log.line("The chroot is unpacked already.");
            return Ok(());
        }
        let mut command = exe::internal("unpack");
        command
            .arg(&self.spec.settings.chroots)
            .arg(&sha1)
            .arg(&tarball)
            .arg(self.spec.request.build_id.as_str())
            .arg(self.spec.settings.space.chroots.to_string())
            .arg(self.spec.settings.space.reserve.to_string())
            .arg(self.entry.evictions_file());
        self.run_stage_command(Stage::Unpack, command)
    }

    fn mount(&mut self) -> StageResult {
        if let Some(program) = self.spec.settings.programs.mount.clone() {
            return self.run_site_program(Stage::Mount, &program, &[]);
        }
        // UNPACK has checked the chroot: a failure here is the builder's.
        let failed =
            |reason: String| StageError::from(Failure::new(BuildStatus::BuilderFail, reason));
        let ids = self.sub_ids()?;
        self.platform = self.read_platform()?;
        let dir = self.spec.session_dir();
        remove_folder(&dir, ids).map_err(|error| failed(error.to_string()))?;
        let session = self.start_session(ids, &dir).map_err(|reason| {
            failed(format!(
                "The session could not start: {reason}; `buildd-slave doctor` on the builder \
                 shows whether sessions work there"
            ))
        })?;
        self.session = Some(session);
        let gate = self.start_network().map_err(failed)?;
        let files = apt::settings(gate.as_deref());
        let currently_building = sbuild::currently_building(&self.spec);
        self.change_files(&Task::Write(files))
            .and_then(|()| self.change_files(&Task::CurrentlyBuilding(currently_building)))
            .map_err(|error| chroot_failure("cannot prepare the session", &error))
    }

    /// Reads the architecture of the unpacked chroot, and checks it against that of the build.
    fn read_platform(&mut self) -> Result<Platform, Failure> {
        let (settings, sha1) = (&self.spec.settings, &self.spec.request.chroot);
        let tree = store::tree(&settings.chroots, sha1.as_str());
        let found = architecture(&tree).map_err(|error| {
            let reason = format!("cannot read the architecture of the chroot: {error}");
            Failure::new(BuildStatus::ChrootFail, reason)
        })?;
        let host = Host {
            arch: host::debian_arch(),
            tag: &settings.arch,
            emulate: &settings.emulate,
        };
        let platform = Platform::of(self.spec.arch(), found.as_deref(), &host)?;
        if let Some(emulated) = &platform.emulated {
            bootstrap::check_emulation(emulated)
                .map_err(|error| Failure::new(BuildStatus::BuilderFail, error.to_string()))?;
            self.log
                .line(&format!("Programs for {emulated} are emulated here."));
        }
        Ok(platform)
    }

    fn ogre(&mut self) -> StageResult {
        let component = self
            .spec
            .request
            .args
            .ogrecomponent
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default();
        if let Some(program) = self.spec.settings.programs.ogre.clone() {
            return self.run_site_program(Stage::Ogre, &program, &[component]);
        }
        self.change_files(&Task::Ogre(component))
            .map_err(|error| chroot_failure("cannot restrict the component", &error))
    }

    fn sources(&mut self) -> StageResult {
        let archives = self.spec.request.args.archives.clone();
        if let Some(program) = self.spec.settings.programs.sources.clone() {
            return self.run_site_program(Stage::Sources, &program, &archives);
        }
        let sources = apt::translate(&archives);
        for number in &sources.unreadable {
            self.log.line(&format!(
                "Line {number} of archives is not valid in sources.list; it is left out."
            ));
        }
        for line in sources.public.one_line.lines() {
            self.log.line(line);
        }
        let task = Task::Sources {
            public: sources.public,
            secret: sources.secret,
        };
        self.change_files(&task)
            .map_err(|error| chroot_failure("cannot write apt's sources", &error))
    }

    fn keys(&mut self) -> StageResult {
        let files = apt::keyrings(&self.spec.request.args.trusted_keys)
            .map_err(|reason| Failure::new(BuildStatus::ChrootFail, reason))?;
        self.log.line(&format!(
            "apt trusts {} keyring(s) of this build.",
            files.len()
        ));
        self.change_files(&Task::Write(files))
            .map_err(|error| chroot_failure("cannot write the keys", &error))
    }

    fn update(&mut self) -> StageResult {
        if let Some(program) = self.spec.settings.programs.update.clone() {
            return self.run_site_program(Stage::Update, &program, &[]);
        }
        if self.spec.settings.network == Network::Never {
            self.log.line(
                "The chroot is taken as it is: builds have no network here ([slave] network).",
            );
            return Ok(());
        }
        self.allow_sources()
            .map_err(|error| chroot_failure("cannot read apt's sources", &error))?;
        let mut findings = self.fetch_lists()?;
        if findings.0 != Exit::Code(0) {
            self.log.line(&format!(
                "apt-get update failed; retrying in {} s.",
                UPDATE_RETRY.as_secs()
            ));
            let mut pause = Command::new("sleep");
            pause.arg(UPDATE_RETRY.as_secs().to_string());
            self.run_command(Stage::Update, pause, &mut |_, _| {})?;
            findings = self.fetch_lists()?;
        }
        if findings.0 == Exit::Code(0) {
            self.learn_hashes();
            findings = self.run_scanned(Stage::Update, self.session_command(&apt::UPGRADE))?;
        }
        match findings {
            (Exit::Code(0), _) => Ok(()),
            (_, findings) => {
                let failure = apt::blame_update(&findings, self.disk_is_full());
                Err(self.blame_network(failure).into())
            }
        }
    }

    /// Tells the gate the hashes of all packages, while the build goes on. Without them it only
    /// caches fewer files.
    fn learn_hashes(&mut self) {
        let Some(network) = self.network.clone() else {
            return;
        };
        let command = self.session_command(&apt::PACKAGE_LISTS);
        if let Err(error) = network.learn_hashes(command) {
            self.log
                .line(&format!("Cannot read the hashes of packages: {error}"));
        }
    }

    /// Refreshes the package lists. A timeout is the archive's fault.
    fn fetch_lists(&mut self) -> Result<(Exit, Findings), StageError> {
        match self.run_scanned(Stage::Update, self.session_command(&apt::UPDATE)) {
            Err(StageError::Failed(failure)) if failure.status == BuildStatus::ChrootFail => {
                Err(apt::archive_failed(&failure.reason).into())
            }
            other => other,
        }
    }

    fn sbuild(&mut self) -> StageResult {
        let site = self.spec.settings.programs.sbuild.clone();
        let command = match &site {
            Some(program) => self.site_command(program, &sbuild::site_arguments(&self.spec)),
            None => self.sbuild_command()?,
        };
        let before = self.hits();
        let done = self.run_scanned(Stage::Sbuild, command);
        let done = done.and_then(|(exit, findings)| {
            self.finish_sbuild(match site {
                Some(_) => verdict::classify_site(exit, &findings),
                None => verdict::classify(exit, &findings),
            })
        });
        let never = self.spec.settings.network == Network::Never;
        match done {
            // A retry would not help: the chroot must contain the packages.
            Err(StageError::Failed(failure))
                if never && failure.status == BuildStatus::GivenBack =>
            {
                let reason = format!("There is no network for builds here. {}", failure.reason);
                Err(Failure::new(BuildStatus::ChrootFail, reason).into())
            }
            Err(StageError::Failed(failure)) => {
                let failure = self.blame_network(failure);
                Err(self.blame_limit(failure, before))
            }
            other => other,
        }
    }

    fn reap(&mut self) -> StageResult {
        let result = match self.spec.settings.programs.process_scan.clone() {
            Some(program) => self.run_site_program(Stage::Reap, &program, &[]),
            None => Ok(()),
        };
        self.kill_everything();
        result
    }

    fn umount(&mut self) -> StageResult {
        for line in self
            .network
            .as_ref()
            .map(BuildNetwork::report)
            .unwrap_or_default()
        {
            self.log.line(&line);
        }
        match self.spec.settings.programs.umount.clone() {
            Some(program) => self.run_site_program(Stage::Umount, &program, &[]),
            None => {
                self.kill_everything();
                Ok(())
            }
        }
    }

    fn cleanup(&mut self) -> StageResult {
        let tree = self.spec.work_tree();
        if !self.entry.has_work_tree() && fs::symlink_metadata(&tree).is_ok() {
            // INIT refused this folder: it belongs to no build.
            return Ok(());
        }
        if let Some(program) = self.spec.settings.programs.clean.clone() {
            return self.run_site_program(Stage::Cleanup, &program, &[]);
        }
        let failed = |error: String| {
            Failure::new(
                BuildStatus::BuilderFail,
                format!("cannot clean up: {error}"),
            )
        };
        self.kill_everything();
        leftovers::remove_session(&self.spec).map_err(|error| failed(error.to_string()))?;
        sys::fs::remove_tree(&tree).map_err(|error| failed(error.to_string()).into())
    }

    fn sbuild_command(&mut self) -> Result<Command, StageError> {
        let version = host::package_version("sbuild");
        self.log.line(&format!(
            "sbuild {}",
            version.as_deref().unwrap_or("of unknown version")
        ));
        let minor = sbuild::minor(version.as_deref().unwrap_or_default());
        let configuration = self.entry.path().join("sbuild.conf");
        fs::write(&configuration, sbuild::configuration(minor)).map_err(|error| {
            Failure::new(
                BuildStatus::BuilderFail,
                format!("{}: {error}", configuration.display()),
            )
        })?;
        let network = self.network_of_commands(true);
        // /proc names the running program, even if another version is installed meanwhile.
        let program = PathBuf::from(format!("/proc/{}/exe", std::process::id()));
        let arguments = sbuild::arguments(
            &self.spec,
            minor,
            &program,
            self.session_pid(),
            &network.words(),
        );
        let (mark, mark_value) = self.entry.mark();
        let mut command = exe::tethered("sbuild");
        command
            .args(arguments)
            .current_dir(self.spec.work_tree())
            .env_clear()
            .envs(sbuild::ENVIRONMENT)
            .env("HOME", self.entry.path())
            .env(mark, mark_value)
            .envs(std::env::var(LIMITS_VAR).map(|text| (LIMITS_VAR, text)))
            .env("SBUILD_CONFIG", configuration)
            .env("DEB_BUILD_OPTIONS", sbuild::build_options(&self.spec));
        Ok(command)
    }

    /// Turns the classification of sbuild's exit into the result of the stage; keeps the results.
    fn finish_sbuild(&mut self, classification: Classification) -> StageResult {
        let Classification { verdict, reason } = classification;
        let (status, dependencies) = match verdict {
            Verdict::Ok => return self.keep_results(),
            Verdict::PackageFail => (BuildStatus::PackageFail, String::new()),
            Verdict::GivenBack => (BuildStatus::GivenBack, String::new()),
            Verdict::ChrootFail => (BuildStatus::ChrootFail, String::new()),
            Verdict::BuilderFail => (BuildStatus::BuilderFail, String::new()),
            Verdict::DepFail { relations } => (BuildStatus::DepFail, relations),
            Verdict::DepCheck { named } => return Err(self.dependency_failure(&named, reason)),
        };
        Err(Failure {
            status,
            reason,
            dependencies,
        }
        .into())
    }

    /// Returns the failure for dependencies that apt calls unmet; `reason` quotes it.
    fn dependency_failure(&mut self, named: &[Named], reason: String) -> StageError {
        let failed = |reason| Failure::new(BuildStatus::PackageFail, reason).into();
        match self.cause_of_unmet(named) {
            Err(error) => error,
            Ok(None) => failed(reason),
            Ok(Some(Cause::Refused(why))) => failed(format!("{reason} ({why})")),
            Ok(Some(Cause::Missing(dependencies))) => Failure {
                status: BuildStatus::DepFail,
                reason: format!("The package waits for {dependencies}."),
                dependencies,
            }
            .into(),
        }
    }

    /// Searches the package lists of the chroot for the dependencies; `None` if the lists or the
    /// .dsc cannot be read.
    fn cause_of_unmet(&mut self, named: &[Named]) -> Result<Option<Cause>, StageError> {
        let path = self.spec.work_tree().join(self.spec.request.dsc().as_str());
        let target = Target {
            arch: self.spec.arch(),
            arch_indep: self.spec.request.args.arch_indep,
            profiles: &self.spec.request.args.build_profiles,
        };
        let mut text = Vec::new();
        let read =
            File::open(&path).and_then(|file| file.take(dsc::MAX_BYTES).read_to_end(&mut text));
        let text = String::from_utf8_lossy(if read.is_ok() { &text } else { b"" });
        let Ok(mut query) = apt::Query::new(&text, target) else {
            return Ok(None);
        };
        let command = self.session_command(&apt::PACKAGE_LISTS);
        let exit = self.run_command(Stage::Sbuild, command, &mut |_, bytes| query.feed(bytes))?;
        Ok(match exit {
            Exit::Code(0) => query.cause(named),
            _ => None,
        })
    }

    fn keep_results(&mut self) -> StageResult {
        let result = keep_results::keep(&self.spec, &self.entry, &mut || {
            self.mailbox.abort_requested()
        });
        match result {
            Ok(files) => {
                self.files = files;
                Ok(())
            }
            Err(keep_results::Error::Aborted) => Err(StageError::Aborted),
            Err(keep_results::Error::Builder(reason)) => {
                Err(Failure::new(BuildStatus::BuilderFail, reason).into())
            }
            Err(keep_results::Error::Package(reason)) => {
                let reason = format!("Failed to gather results: {reason}");
                Err(Failure::new(BuildStatus::PackageFail, reason).into())
            }
        }
    }
}

fn chroot_failure(problem: &str, error: &io::Error) -> StageError {
    Failure::new(BuildStatus::ChrootFail, format!("{problem}: {error}")).into()
}
