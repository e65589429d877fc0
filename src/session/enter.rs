//! Runs one command inside a session.
//!
//! ```text
//! internal enter PID NET -- ARGV…     joins the session's namespaces, becomes its root
//!  └ internal enter-pid NET -- …      unshares pids (and the network), inside the session's
//!     └ internal enter-run -- …       mounts its own /proc, runs ARGV, reaps
//! ```
//! A process joins or makes a pid namespace for its children only, hence the three steps. When ARGV
//! ends, the kernel kills all other processes of the new pid namespace. So a daemon that holds the
//! output open cannot delay a build. The session can see only the second and the third step, so
//! these have the session's root and environment, not the host's. The exit code is ARGV's, or 128
//! plus the signal.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Command, ExitCode};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::sys::exe;
use crate::sys::stderr;
use crate::sys::wait::exit_code;

use super::netlink;
use super::outer::become_root;

/// The network that a command in the session uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    /// The host's network.
    Host,
    /// Only a loopback interface if the command is `dpkg-buildpackage`, else the host's network.
    NotInBuild,
    /// The session's network, which has only a loopback interface.
    Session,
}

impl Network {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::NotInBuild => "not-in-build",
            Self::Session => "session",
        }
    }
}

/// Returns the arguments of this binary that make it run a command in the session; the command
/// follows them.
pub(crate) fn prefix(init_pid: i32, network: Network) -> Vec<String> {
    [
        "internal",
        "enter",
        &init_pid.to_string(),
        network.word(),
        "--",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Returns a command that runs `program` in the session of `init_pid`.
pub(crate) fn command(init_pid: i32, network: Network, program: &str) -> Command {
    let mut command = exe::this_program(prefix(init_pid, network));
    command.arg(program);
    command
}

/// Opens the namespace of type `kind` of process `pid`.
pub(crate) fn namespace_of(pid: &OsStr, kind: &str) -> io::Result<File> {
    let path = Path::new("/proc").join(pid).join("ns").join(kind);
    File::open(&path).map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("the session has ended ({}: {error})", path.display()),
        )
    })
}

fn split(args: &[OsString]) -> io::Result<(&[OsString], &[OsString])> {
    let at = args
        .iter()
        .position(|arg| arg == "--")
        .ok_or_else(|| io::Error::other("enter: no command"))?;
    Ok((
        args.get(..at).unwrap_or_default(),
        args.get(at + 1..).unwrap_or_default(),
    ))
}

/// Step one: joins the session.
pub(crate) fn join(args: &[OsString]) -> io::Result<ExitCode> {
    let (own, argv) = split(args)?;
    let [pid, network] = own else {
        return Err(io::Error::other("enter: PID NET -- ARGV…"));
    };
    ignore_keyboard()?;
    let mut opened = vec![
        (namespace_of(pid, "user")?, CloneFlags::CLONE_NEWUSER),
        (namespace_of(pid, "ipc")?, CloneFlags::CLONE_NEWIPC),
        (namespace_of(pid, "uts")?, CloneFlags::CLONE_NEWUTS),
        (namespace_of(pid, "mnt")?, CloneFlags::CLONE_NEWNS),
        (namespace_of(pid, "pid")?, CloneFlags::CLONE_NEWPID),
    ];
    if network == Network::Session.word() {
        opened.push((namespace_of(pid, "net")?, CloneFlags::CLONE_NEWNET));
    }
    for (namespace, kind) in opened {
        setns(namespace, kind)?;
    }
    become_root()?;
    let isolate = network == Network::NotInBuild.word() && runs_the_build(argv);
    let status = exe::internal("enter-pid")
        .env_clear()
        .env(
            "TERM",
            std::env::var_os("TERM").unwrap_or_else(|| "dumb".into()),
        )
        .args([if isolate { "alone" } else { "shared" }, "--"])
        .args(argv)
        .status()?;
    Ok(ExitCode::from(exit_code(status)))
}

/// Returns whether a command line, which sbuild wraps in `env`, `runuser` and `sh`, is the build.
fn runs_the_build(argv: &[OsString]) -> bool {
    argv.iter()
        .any(|arg| Path::new(arg).file_name() == Some(OsStr::new("dpkg-buildpackage")))
}

/// Step two: makes a pid namespace below the session's, and a network namespace if NET is `alone`.
pub(crate) fn unshare_pids(args: &[OsString]) -> io::Result<ExitCode> {
    set_pdeathsig(Signal::SIGKILL)?;
    ignore_keyboard()?;
    let (own, argv) = split(args)?;
    let [network] = own else {
        return Err(io::Error::other("enter-pid: NET -- ARGV…"));
    };
    unshare(CloneFlags::CLONE_NEWPID)?;
    if network == "alone" {
        unshare(CloneFlags::CLONE_NEWNET)?;
        netlink::loopback_up()?;
    }
    let status = exe::internal("enter-run").arg("--").args(argv).status()?;
    Ok(ExitCode::from(exit_code(status)))
}

/// Step three: mounts `/proc` for the new pid namespace and runs the command.
pub(crate) fn run(args: &[OsString]) -> io::Result<ExitCode> {
    set_pdeathsig(Signal::SIGKILL)?;
    ignore_keyboard()?;
    let (_, argv) = split(args)?;
    let [program, rest @ ..] = argv else {
        return Err(io::Error::other("enter: no command"));
    };
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none)?;
    std::env::set_current_dir("/")?;
    let spawned = Command::new(program)
        .args(rest)
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("HOME", "/root")
        .env("LANG", "C.UTF-8")
        .env(
            "TERM",
            std::env::var_os("TERM").unwrap_or_else(|| "dumb".into()),
        )
        .spawn();
    let child = match spawned {
        Ok(child) => child,
        Err(error) => {
            stderr::line(format_args!("{}: {error}", Path::new(program).display()));
            return Ok(ExitCode::from(127));
        }
    };
    let wanted = Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?);
    loop {
        match waitpid(None, None)? {
            WaitStatus::Exited(pid, code) if pid == wanted => {
                return Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)));
            }
            WaitStatus::Signaled(pid, signal, _) if pid == wanted => {
                return Ok(ExitCode::from(
                    u8::try_from(128 + signal as i32).unwrap_or(1),
                ));
            }
            _ => {}
        }
    }
}

/// Ignores Ctrl-C and Ctrl-\, which the terminal sends to the command as well.
fn ignore_keyboard() -> io::Result<()> {
    // A handler, not SIG_IGN: the command then starts with the default action.
    let flag = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGQUIT] {
        signal_hook::flag::register(signal, std::sync::Arc::clone(&flag))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_is_recognized_in_sbuilds_wrappers() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert!(runs_the_build(&words(
            "env A=b /sbin/runuser -u buildd -- sh -c x exec dpkg-buildpackage -us"
        )));
        assert!(runs_the_build(&words("/usr/bin/dpkg-buildpackage")));
        assert!(!runs_the_build(&words(
            "env apt-get install dpkg-buildpackage-helper"
        )));
    }
}
