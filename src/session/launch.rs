//! Starts a process in a new user namespace and maps the subordinate ids into it.
//!
//! The parent's side of [`super::outer`]. The child unshares and prints `unshared`; the parent then
//! runs `newuidmap` and `newgidmap`, and sends `mapped`. The child is killed when the thread
//! that launched it ends.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};

use nix::unistd::{Gid, Uid, User};

use crate::sys::cgroup::LIMITS_VAR;
use crate::sys::pipe::pipe;
use crate::sys::{descriptors, exe};

use super::Error;
use super::idmap::{self, Map, SubIds};

/// The environment variable that holds the journal entry's path, in every process of a build.
pub(crate) const MARK: &str = "BUILDD_SLAVE_RUN";

/// A process in its own user namespace. Dropping it kills the process, which nothing else would.
#[derive(Debug)]
pub(crate) struct Namespace {
    child: Child,
    answers: BufReader<ChildStdout>,
    /// The other end of the child's stdin.
    socket: UnixStream,
}

/// Looks up the caller's subordinate ids in `/etc/subuid` and `/etc/subgid`.
pub(crate) fn own_sub_ids() -> Result<SubIds, Error> {
    let uid = Uid::effective();
    let user = User::from_uid(uid)
        .ok()
        .flatten()
        .map_or_else(|| uid.to_string(), |user| user.name);
    let first = |file: &'static str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        idmap::first_of_range(&text, &user, uid.as_raw()).ok_or_else(|| Error::NoSubIds {
            user: user.clone(),
            file,
        })
    };
    Ok(SubIds {
        first_uid: first("/etc/subuid")?,
        first_gid: first("/etc/subgid")?,
    })
}

/// Checks that this host can map ids, and returns the caller's subordinate ids.
pub(crate) fn check_host() -> Result<SubIds, Error> {
    let missing = ["newuidmap", "newgidmap"]
        .into_iter()
        .find(|program| exe::find_program(program).is_none());
    missing.map_or_else(own_sub_ids, |program| Err(Error::NoMapper(program)))
}

/// Starts `internal outer TASK…` in new namespaces, with stderr to `log`.
pub(crate) fn launch(
    ids: SubIds,
    map: Map,
    task: &[OsString],
    log: impl Into<Stdio>,
) -> Result<Namespace, Error> {
    launch_with(ids, map, task, log, &[])
}

/// The same, with further variables of this process's environment.
pub(crate) fn launch_with(
    ids: SubIds,
    map: Map,
    task: &[OsString],
    log: impl Into<Stdio>,
    variables: &[&str],
) -> Result<Namespace, Error> {
    let (socket, stdin) = UnixStream::pair().map_err(|source| Error::Start {
        what: "a pair of sockets".into(),
        source,
    })?;
    let kept = std::env::vars_os().filter(|(name, _)| {
        let is = |word: &&str| name == *word;
        ["PATH", MARK, LIMITS_VAR].iter().any(is) || variables.iter().any(is)
    });
    let mut child = exe::internal("outer")
        .args(task)
        // The session must not see the host's environment. The mark finds a dead shim's processes,
        // and the limits apply to all processes of a build.
        .env_clear()
        .envs(kept)
        .stdin(OwnedFd::from(stdin))
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|source| Error::Start {
            what: "a namespace".into(),
            source,
        })?;
    let answers = BufReader::new(child.stdout.take().expect("stdout is piped"));
    let mut namespace = Namespace {
        child,
        answers,
        socket,
    };
    match namespace.answer() {
        Ok(line) if line == "unshared" => {}
        Ok(line) => return Err(Error::Unshare(line)),
        Err(error) => return Err(Error::Unshare(error.to_string())),
    }
    let pid = namespace.child.id();
    let uids = idmap::arguments(pid, map, ids.first_uid, Uid::effective().as_raw());
    let gids = idmap::arguments(pid, map, ids.first_gid, Gid::effective().as_raw());
    write_map("newuidmap", &uids)?;
    write_map("newgidmap", &gids)?;
    namespace
        .socket
        .write_all(b"mapped\n")
        .map_err(|source| Error::Start {
            what: "a mapped namespace".into(),
            source,
        })?;
    Ok(namespace)
}

/// Runs a task in a namespace to its end and discards its output.
pub(crate) fn run(ids: SubIds, map: Map, task: &[OsString]) -> Result<(), Error> {
    run_for_output(ids, map, task).map(drop)
}

/// Runs a task in a namespace to its end and returns its output.
pub(crate) fn run_for_output(ids: SubIds, map: Map, task: &[OsString]) -> Result<String, Error> {
    let (mut errors, log) = pipe().map_err(|source| Error::Start {
        what: "a pipe".into(),
        source,
    })?;
    let mut namespace = launch(ids, map, task, log)?;
    let mut text = String::new();
    // Returns once the last process of the task has closed its stderr.
    let _ = errors.read_to_string(&mut text);
    let mut output = String::new();
    let _ = namespace.answers.read_to_string(&mut output);
    match namespace.wait() {
        Ok(status) if status.success() => Ok(output),
        Ok(status) => Err(Error::Child(format!("{} ({status})", text.trim()))),
        Err(source) => Err(Error::Start {
            what: "a wait".into(),
            source,
        }),
    }
}

fn write_map(program: &'static str, arguments: &[String]) -> Result<(), Error> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::Start {
            what: format!("{program} (package uidmap)"),
            source,
        })?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::Map { program, message })
}

impl Namespace {
    /// Returns the next line of the child's output; end of output is an error.
    pub(crate) fn answer(&mut self) -> Result<String, Error> {
        let mut line = String::new();
        match self.answers.read_line(&mut line) {
            Ok(0) => Err(Error::Child(
                "the process in the namespace ended early; its log says why".into(),
            )),
            Ok(_) => Ok(line.trim_end().to_owned()),
            Err(source) => Err(Error::Start {
                what: "a namespace".into(),
                source,
            }),
        }
    }

    /// Returns the two descriptors that the child sends over its stdin.
    pub(crate) fn receive_pair(&self) -> Result<[OwnedFd; 2], Error> {
        let received = descriptors::receive(&self.socket).map_err(|source| Error::Start {
            what: "the session's network".into(),
            source,
        })?;
        received
            .try_into()
            .map_err(|_| Error::Child("the process that sets up the session ended early".into()))
    }

    /// Returns the child's stdout. The answers so far have been read from it.
    pub(super) fn output(&self) -> &ChildStdout {
        self.answers.get_ref()
    }

    /// Takes the child's stderr, if it is piped.
    pub(super) fn take_stderr(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    pub(super) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits for the end of the child.
    pub(crate) fn wait(mut self) -> std::io::Result<ExitStatus> {
        self.child.wait()
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Kills the child and reaps it.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.kill();
    }
}
