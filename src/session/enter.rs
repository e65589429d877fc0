//! Runs one command inside a session.
//!
//! `internal enter PID … -- ARGV…` runs outside the session, where nothing of the session sees it.
//! It joins the namespaces of the session's init and starts ARGV there: the first program of the
//! chroot's own. When ARGV ends, the processes that it left behind are killed, so a daemon that
//! holds the output open cannot delay a build. The exit code is ARGV's, or 128 plus the signal.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use nix::fcntl::{OFlag, openat};
use nix::sched::{CloneFlags, setns};
use nix::sys::personality::{self, Persona};
use nix::sys::signal::kill;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, fchdir};

use crate::sys::wait::exit_code;
use crate::sys::{exe, procs, stderr};

use super::init::KILL_ALL;
use super::namespace::{become_root, by_descriptor};
use super::terminal::{self, Terminal};
use super::{seccomp, secrets};

/// The network that a command in the session uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Network {
    /// A loopback interface, without the gate.
    Alone,
    /// A loopback interface, on which the gate listens: the network of this namespace.
    Gate(PathBuf),
    /// The gate's, but [`Self::Alone`] for the build itself. Before the build starts, the gate is
    /// closed for good, by [`gate_socket`] of this folder.
    GateUntilBuild { namespace: PathBuf, folder: PathBuf },
}

/// Returns the path of the socket, in a journal entry, that closes the gate of a build. The gate is
/// closed when an answer of one byte comes. The path of a socket must be short; that of an entry
/// may not be, so this one is by descriptor.
pub(crate) fn gate_socket(entry: &File) -> PathBuf {
    by_descriptor(entry).join("gate")
}

impl Network {
    /// Returns the words on the command line of `internal enter`.
    pub(crate) fn words(&self) -> Vec<String> {
        let text = |path: &PathBuf| path.display().to_string();
        match self {
            Self::Alone => Vec::new(),
            Self::Gate(namespace) => vec![text(namespace)],
            Self::GateUntilBuild { namespace, folder } => vec![text(namespace), text(folder)],
        }
    }

    fn of_words(words: &[OsString]) -> io::Result<Self> {
        match words {
            [] => Ok(Self::Alone),
            [namespace] => Ok(Self::Gate(namespace.into())),
            [namespace, folder] => Ok(Self::GateUntilBuild {
                namespace: namespace.into(),
                folder: folder.into(),
            }),
            _ => Err(io::Error::other("enter: PID [NETWORK [FOLDER]] -- ARGV…")),
        }
    }
}

/// Returns a command that runs `program` in the session of `init_pid`.
pub(crate) fn command(init_pid: i32, network: &Network, program: &str) -> Command {
    command_with(init_pid, None, network, program)
}

/// Like [`command`], for a program that must not reach the caller's terminal.
pub(crate) fn detached(
    init_pid: i32,
    network: &Network,
    terminal: Terminal,
    program: &str,
) -> Command {
    command_with(init_pid, Some(terminal), network, program)
}

fn command_with(
    init_pid: i32,
    terminal: Option<Terminal>,
    network: &Network,
    program: &str,
) -> Command {
    let mut command = exe::internal("enter");
    command
        .arg(init_pid.to_string())
        .args(terminal.map(Terminal::word))
        .args(network.words())
        .args(["--", program]);
    command
}

/// Opens the namespace of type `kind` of process `pid`.
pub(crate) fn namespace_of(pid: &OsStr, kind: &str) -> io::Result<File> {
    open_namespace(&Path::new("/proc").join(pid).join("ns").join(kind))
}

fn open_namespace(path: &Path) -> io::Result<File> {
    File::open(path).map_err(|error| {
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

/// The entry point `internal enter`: joins the session and runs the command in it.
pub(crate) fn run(args: &[OsString]) -> io::Result<ExitCode> {
    let (own, argv) = split(args)?;
    let ([pid, options @ ..], [program, arguments @ ..]) = (own, argv) else {
        return Err(io::Error::other("enter: no command"));
    };
    let (terminal, network) = Terminal::of_words(options);
    ignore_keyboard()?;
    let init = pid.to_str().and_then(|pid| pid.parse().ok());
    let init = init.ok_or_else(|| io::Error::other("enter: PID is no number"))?;
    let host_proc = File::options()
        .read(true)
        .custom_flags((OFlag::O_PATH | OFlag::O_DIRECTORY).bits())
        .open("/proc")?;
    let is_build = runs_the_build(argv);
    let network = match Network::of_words(network)? {
        Network::GateUntilBuild { folder, .. } if is_build => {
            close_gate(&folder)?;
            Network::Alone
        }
        network => network,
    };
    join(&host_proc, pid, &network)?;
    if is_build {
        // Processes that a package's scripts left behind may still have the gate's network.
        sweep(&host_proc, init)?;
        secrets::remove()?;
    }
    std::env::set_current_dir("/")?;
    let mut command = Command::new(program);
    // Kept until the command has ended, so that its end is the end of the terminal.
    let _terminal = terminal::give(terminal, &mut command)?;
    let spawned = environment(command.args(arguments)).spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            stderr::line(format_args!(
                "buildd-slave: cannot run {} in the chroot: {error}",
                Path::new(program).display()
            ));
            return Ok(ExitCode::from(127));
        }
    };
    let status = child.wait()?;
    sweep(&host_proc, init)?;
    Ok(ExitCode::from(exit_code(status)))
}

/// Has the shim close the gate, and waits until it is closed.
fn close_gate(folder: &Path) -> io::Result<()> {
    let entry = File::open(folder)?;
    let closed =
        UnixStream::connect(gate_socket(&entry)).and_then(|mut gate| gate.read_exact(&mut [0]));
    closed.map_err(|error| {
        io::Error::other(format!(
            "the gate could not be closed before the build: {error}"
        ))
    })
}

/// Joins all namespaces of the session, and becomes its root with the limits of its processes.
fn join(host_proc: &File, pid: &OsStr, network: &Network) -> io::Result<()> {
    let network = match network {
        Network::Alone => namespace_of(pid, "net")?,
        Network::Gate(namespace) | Network::GateUntilBuild { namespace, .. } => {
            open_namespace(namespace)?
        }
    };
    let opened = [
        (namespace_of(pid, "user")?, CloneFlags::CLONE_NEWUSER),
        (namespace_of(pid, "ipc")?, CloneFlags::CLONE_NEWIPC),
        (namespace_of(pid, "uts")?, CloneFlags::CLONE_NEWUTS),
        (namespace_of(pid, "cgroup")?, CloneFlags::CLONE_NEWCGROUP),
        (network, CloneFlags::CLONE_NEWNET),
        (namespace_of(pid, "pid")?, CloneFlags::CLONE_NEWPID),
        (namespace_of(pid, "mnt")?, CloneFlags::CLONE_NEWNS),
    ];
    for (namespace, kind) in opened {
        setns(namespace, kind)?;
    }
    become_root()?;
    personality::set(persona_of(host_proc, pid)?)?;
    seccomp::apply()
}

/// Returns the personality of the session's init. Only the session's root may read it.
fn persona_of(host_proc: &File, pid: &OsStr) -> io::Result<Persona> {
    let path = Path::new(pid).join("personality");
    let file = openat(
        host_proc,
        &path,
        OFlag::O_RDONLY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )?;
    let text = io::read_to_string(File::from(file))?;
    let bits = i32::from_str_radix(text.trim(), 16).map_err(io::Error::other)?;
    Ok(Persona::from_bits_retain(bits))
}

/// Gives a command the environment of a login of the session's root.
fn environment(command: &mut Command) -> &mut Command {
    let term = std::env::var_os("TERM").unwrap_or_else(|| "dumb".into());
    command
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("HOME", "/root")
        .env("LANG", "C.UTF-8")
        .env("TERM", term)
}

/// The time for killing what a command left behind one by one, and then for killing everything.
const SWEEP_TIMEOUT: Duration = Duration::from_secs(1);
const KILL_ALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Kills the processes that a command left behind: the kernel made them children of the session's
/// init. Only the host's `/proc` shows them reliably; it becomes the working folder, because no
/// path leads to it from inside the session.
fn sweep(host_proc: &File, init: i32) -> io::Result<()> {
    fchdir(host_proc)?;
    if procs::kill_below(Path::new("."), init, SWEEP_TIMEOUT) {
        return Ok(());
    }
    // Processes that fork faster than they are found, as a fork bomb. Init kills all at once.
    kill(Pid::from_raw(init), KILL_ALL)?;
    match procs::kill_below(Path::new("."), init, KILL_ALL_TIMEOUT) {
        true => Ok(()),
        false => Err(io::Error::other(
            "cannot kill the processes that a command left behind",
        )),
    }
}

/// Returns whether a command line, which sbuild wraps in `env`, `runuser` and `sh`, is the build.
fn runs_the_build(argv: &[OsString]) -> bool {
    argv.iter()
        .any(|arg| Path::new(arg).file_name() == Some(OsStr::new("dpkg-buildpackage")))
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
