//! Makes commands that start this binary again, or other programs.
//!
//! This binary starts by `/proc/self/exe`, never by name. So it stays the same program after an
//! upgrade, and a mapped root can run it without access to the folders above it. Other programs
//! start by `internal tether`, so that they do not outlive the shim.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::RawFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

use super::cgroup::LIMITS_VAR;
use super::service_manager;

/// Returns a command for this binary's internal entry point `name` (see `internal.rs`). It does not
/// get the socket of the service manager.
pub(crate) fn internal(name: &str) -> Command {
    let mut command = this_program(["internal", name]);
    for variable in service_manager::VARIABLES {
        command.env_remove(variable);
    }
    command
}

/// Returns a command for this binary with the given arguments.
pub(crate) fn this_program<I, S>(args: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new("/proc/self/exe");
    command.arg0("buildd-slave").args(args);
    command
}

/// Finds the program that `PATH` has for `name`.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| {
            file.metadata()
                .is_ok_and(|about| about.is_file() && about.mode() & 0o111 != 0)
        })
}

/// Returns a command for `program` whose process is killed when the thread that starts it ends.
pub(crate) fn tethered(program: impl AsRef<OsStr>) -> Command {
    let mut command = internal("tether");
    command.arg(program);
    command
}

/// Closes all inherited descriptors but stdin, stdout and stderr, so that no child gets them. Must
/// be called before this process opens a file.
pub(crate) fn close_inherited() {
    close_inherited_except(&[]);
}

/// Like [`close_inherited`], but keeps descriptors that an argument names as a file, such as
/// `/dev/fd/63` from a shell's `<(…)`.
pub(crate) fn close_inherited_except(args: &[OsString]) {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten();
    let numbers: Vec<RawFd> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2 && !args.iter().any(|arg| names_descriptor(arg, *number)))
        .collect();
    for number in numbers {
        // The descriptor of the listing itself is closed already.
        let _ = nix::unistd::close(number);
    }
}

/// Returns whether an argument contains the path of a descriptor.
fn names_descriptor(arg: &OsStr, number: RawFd) -> bool {
    let arg = arg.to_string_lossy();
    let path = ["/dev/fd/", "/proc/self/fd/"];
    let found = path.iter().find_map(|path| arg.split_once(path));
    found.is_some_and(|(_, rest)| rest == number.to_string())
}

/// The entry point `internal tether`, used by [`tethered`]: executes the program. Returns only on
/// failure.
pub(crate) fn tether(argv: &[OsString]) -> io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    Err(execute(argv))
}

/// Executes a program. Returns only on failure.
fn execute(argv: &[OsString]) -> io::Error {
    let [program, args @ ..] = argv else {
        return io::Error::other("no program");
    };
    let error = Command::new(program)
        .args(args)
        .env_remove(LIMITS_VAR)
        .exec();
    io::Error::new(
        error.kind(),
        format!("{}: {error}", Path::new(program).display()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_that_an_argument_names_is_recognized() {
        for arg in ["/dev/fd/63", "--key=/dev/fd/63", "/proc/self/fd/63"] {
            assert!(names_descriptor(arg.as_ref(), 63), "{arg}");
            assert!(!names_descriptor(arg.as_ref(), 6), "{arg}");
        }
        assert!(!names_descriptor("63".as_ref(), 63));
    }
}
