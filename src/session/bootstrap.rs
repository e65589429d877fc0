//! Runs the program that creates a chroot, as root of a user namespace.
//!
//! The namespace has the ids, the mounts and the processes of its own, and the handlers of emulated
//! architectures (`binfmt`). The host needs no set-up, and nothing outlives the program.
//!
//! ```text
//! chroot create ── outer bootstrap (user, mount, pid namespace)
//!                   └── internal bootstrap (process 1 of the pid namespace)
//!                         └── mmdebstrap
//! ```

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitCode, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::binfmt::{self, Way};
use super::idmap::{Map, SubIds};
use super::launch::{self, Namespace, launch_with};
use super::namespace::{become_root, by_descriptor, enter_new, open_folder};
use super::{Error, at};
use crate::sys::exe;
use crate::sys::wait::exit_code;

/// Where the work folder is mounted. Every host has this folder.
const WORK: &str = "/var/tmp";
/// Variables of the caller that reach the program: it downloads packages.
const KEPT: [&str; 8] = [
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "SOURCE_DATE_EPOCH",
    "TERM",
];
const NONE: Option<&str> = None;

/// The program and what it needs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Bootstrap {
    pub(crate) argv: Vec<String>,
    /// Architectures whose programs qemu runs.
    pub(crate) emulate: Vec<String>,
}

/// The running program. Dropping it kills the program.
#[derive(Debug)]
pub(crate) struct Running(Namespace);

impl Bootstrap {
    /// Starts the program, with its temporary files below `work`, a folder of the caller that
    /// must be empty. `stderr` is piped or inherited.
    pub(crate) fn start(
        &self,
        ids: SubIds,
        work: &Path,
        stderr: impl Into<Stdio>,
    ) -> Result<Running, Error> {
        launch::run(ids, Map::Wide, &["chown".into(), work.into()])?;
        let text = serde_json::to_string(self).expect("a program's description is plain data");
        let task: [OsString; 3] = ["bootstrap".into(), work.into(), text.into()];
        launch_with(ids, Map::Session, &task, stderr, &KEPT).map(Running)
    }
}

impl Running {
    /// Returns the program's stdout, as a descriptor of its own.
    pub(crate) fn stdout(&self) -> Result<ChildStdout, Error> {
        let output = self.0.output().as_fd().try_clone_to_owned();
        output.map(Into::into).map_err(at(WORK))
    }

    /// Takes the program's stderr, if it is piped.
    pub(crate) fn stderr(&mut self) -> Option<ChildStderr> {
        self.0.take_stderr()
    }

    /// The process to signal and to wait for. The program does not outlive it.
    pub(crate) fn child(&mut self) -> &mut Child {
        self.0.child()
    }
}

/// The task of `outer`: mounts the work folder and starts process 1 of the pid namespace.
pub(super) fn outer(work: &Path, text: &Path) -> io::Result<ExitCode> {
    enter_new(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID)?;
    let work = open_folder(work)?;
    become_root()?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    mount(
        Some(&by_descriptor(&work)),
        WORK,
        NONE,
        MsFlags::MS_BIND,
        NONE,
    )?;
    let status = exe::internal("bootstrap").arg(text).status()?;
    Ok(ExitCode::from(exit_code(status)))
}

/// Runs the program; this process is the first of its pid namespace.
pub(crate) fn run(args: &[OsString]) -> io::Result<ExitCode> {
    set_pdeathsig(Signal::SIGKILL)?;
    let text = args.first().map(|text| text.to_string_lossy());
    let bootstrap: Bootstrap = serde_json::from_str(&text.unwrap_or_default())?;
    let _handlers: Option<File> = binfmt::register(&bootstrap.emulate)?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), NONE)?;
    let [program, rest @ ..] = &bootstrap.argv[..] else {
        return Err(io::Error::other("bootstrap: no program"));
    };
    let path = std::env::var("PATH").unwrap_or_default();
    let status = Command::new(program)
        .args(rest)
        .stdin(Stdio::null())
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .env("TMPDIR", WORK)
        // The caller's home is closed to the mapped root.
        .env("HOME", "/")
        .current_dir("/")
        .status()?;
    Ok(ExitCode::from(exit_code(status)))
}

/// Returns for each architecture how sessions on this host emulate it.
pub(crate) fn emulation(ids: SubIds, wanted: &[String]) -> Result<Vec<(String, Way)>, Error> {
    let mut task: Vec<OsString> = vec!["emulation".into()];
    task.extend(wanted.iter().map(Into::into));
    let output = launch::run_for_output(ids, Map::Session, &task)?;
    serde_json::from_str(&output).map_err(|error| Error::Child(error.to_string()))
}

/// Returns an error that names the reason and the fix if this host cannot emulate `arch`.
pub(crate) fn check_emulation(arch: &str) -> Result<(), Error> {
    let ways = emulation(launch::own_sub_ids()?, &[arch.to_owned()])?;
    let lack = ways.iter().find_map(|(_, way)| match way {
        Way::Lacking(lack) => Some(*lack),
        Way::Own(_) | Way::Host => None,
    });
    lack.map_or(Ok(()), |lack| {
        Err(Error::Child(binfmt::refused(arch, lack).to_string()))
    })
}

/// The task of `outer` for [`emulation`].
pub(super) fn report(wanted: &[OsString]) -> io::Result<ExitCode> {
    enter_new(CloneFlags::CLONE_NEWNS)?;
    become_root()?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    let wanted = wanted.iter().map(|word| word.to_string_lossy().into());
    binfmt::report(&wanted.collect::<Vec<_>>())?;
    Ok(ExitCode::SUCCESS)
}
