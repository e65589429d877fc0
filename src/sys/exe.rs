//! How does a process of ours start another program?
//!
//! This binary by `/proc/self/exe`, never by name: it stays the same program after an upgrade,
//! and it can be run by a mapped root that may not search the folders above it. Others by a
//! tether, so that they do not outlive the shim.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::RawFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

use super::cgroup::LIMITS_VAR;

/// Returns a command for this binary's internal entry point `name` (see `internal.rs`).
pub(crate) fn internal(name: &str) -> Command {
    this_program(["internal", name])
}

/// Returns a command for this binary with the given arguments, as a user would type them.
pub(crate) fn this_program<I, S>(args: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new("/proc/self/exe");
    command.arg0("buildd-slave").args(args);
    command
}

/// Returns where a program started by name is.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| {
            file.metadata()
                .is_ok_and(|about| about.is_file() && about.mode() & 0o111 != 0)
        })
}

/// Returns a command for `program` that dies with the thread that starts it.
pub(crate) fn tethered(program: impl AsRef<OsStr>) -> Command {
    let mut command = internal("tether");
    command.arg(program);
    command
}

/// Closes what this process was started with besides stdin, stdout and stderr, so that it reaches
/// nobody further down. To be called before anything is opened.
pub(crate) fn close_inherited() {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten();
    let numbers: Vec<RawFd> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2)
        .collect();
    for number in numbers {
        // The one of the listing itself is closed already.
        let _ = nix::unistd::close(number);
    }
}

/// The other half of [`tethered`]: becomes the program. Returns only if that fails.
pub(crate) fn tether(argv: &[OsString]) -> io::Result<()> {
    let [program, args @ ..] = argv else {
        return Err(io::Error::other("tether: no program"));
    };
    set_pdeathsig(Signal::SIGKILL)?;
    let error = Command::new(program)
        .args(args)
        .env_remove(LIMITS_VAR)
        .exec();
    Err(io::Error::new(
        error.kind(),
        format!("{}: {error}", program.display()),
    ))
}
