//! Changes files inside a session: apt's sources, keys and settings, `CurrentlyBuilding`.
//!
//! [`change`] starts `internal session-files PID` and writes the [`Task`] to its stdin, so that no
//! credential appears on a command line. That process joins the session and writes the files. Its
//! root is the session's, so symbolic links cannot lead outside.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::Path;
use std::process::Stdio;

use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};

use crate::sys::exe;

use super::enter::namespace_of;
use super::init::replace;
use super::namespace::become_root;
use super::secrets::{self, LIST, OWN_PART, own_sources};

/// A file to create or replace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NewFile {
    pub(crate) path: String,
    pub(crate) content: Vec<u8>,
    pub(crate) mode: u32,
}

/// The same sources in both formats of apt.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lists {
    pub(crate) one_line: String,
    pub(crate) deb822: String,
}

/// Sources with passwords.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SecretLists {
    /// The passwords in the format of apt_auth.conf(5); `None` if it cannot express them.
    pub(crate) auth: Option<String>,
    /// With the passwords in the URIs.
    pub(crate) lists: Lists,
}

/// A change to the files of a session.
#[derive(Serialize, Deserialize)]
pub(crate) enum Task {
    /// Create or replace these files.
    Write(Vec<NewFile>),
    /// Replace all of apt's sources, in the format that the chroot uses.
    Sources {
        public: Lists,
        secret: Option<SecretLists>,
    },
    /// Print the text of all of apt's sources, and of the lists of mirrors that they name.
    ReadSources,
    /// Write `/CurrentlyBuilding` if something in the chroot reads it.
    CurrentlyBuilding(String),
    /// Point `sources.list` at the list of a component (the 2008 model of components).
    Ogre(String),
}

/// Carries out `task` in the session of `init_pid`; returns its output, a line for the build log.
pub(crate) fn change(init_pid: i32, task: &Task) -> io::Result<String> {
    let mut child = exe::internal("session-files")
        .arg(init_pid.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let input = serde_json::to_vec(task)?;
    child
        .stdin
        .take()
        .expect("stdin is piped")
        .write_all(&input)?;
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned());
    }
    Err(io::Error::other(
        String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    ))
}

/// The entry point `internal session-files`: reads the task, joins the session, carries it out.
pub(crate) fn run(args: &[OsString]) -> io::Result<()> {
    let [pid] = args else {
        return Err(io::Error::other("session-files: PID"));
    };
    let mut input = String::new();
    io::stdin().read_to_string(&mut input)?;
    let task: Task = serde_json::from_str(&input)?;
    let (user, mounts) = (namespace_of(pid, "user")?, namespace_of(pid, "mnt")?);
    setns(user, CloneFlags::CLONE_NEWUSER)?;
    become_root()?;
    setns(mounts, CloneFlags::CLONE_NEWNS)?;
    std::env::set_current_dir("/")?;
    match task {
        Task::Write(files) => {
            for file in files {
                replace(&file.path, &file.content, file.mode)?;
            }
            Ok(())
        }
        Task::Sources { public, secret } => sources(&public, secret),
        Task::CurrentlyBuilding(text) if reads_currently_building() => {
            replace("/CurrentlyBuilding", text.as_bytes(), 0o644)
        }
        Task::CurrentlyBuilding(_) => Ok(()),
        Task::Ogre(component) => ogre(&component),
        Task::ReadSources => print_sources(),
    }
}

/// Returns whether `/CurrentlyBuilding` has readers: pkgbinarymangler, and source packages of
/// Ubuntu, such as its kernels, which take the file for the sign of a build on a builder.
fn reads_currently_building() -> bool {
    let mangler = ["/etc/pkgbinarymangler", "/usr/bin/pkgstripfiles"];
    mangler.iter().any(|path| fs::metadata(path).is_ok())
        || is_ubuntu(&read_regular("/etc/os-release"))
}

/// Returns whether the text of an os-release file is that of Ubuntu or a derivative.
fn is_ubuntu(os_release: &str) -> bool {
    os_release
        .lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(key, _)| matches!(*key, "ID" | "ID_LIKE"))
        .any(|(_, value)| {
            value
                .trim_matches(['"', '\''])
                .split(' ')
                .any(|id| id == "ubuntu")
        })
}

const PARTS: &str = "/etc/apt/sources.list.d";

fn print_sources() -> io::Result<()> {
    let mut text = read_regular(LIST);
    let parts = fs::read_dir(PARTS).into_iter().flatten().flatten();
    for path in parts.map(|entry| entry.path()) {
        if path
            .extension()
            .is_some_and(|kind| kind == "list" || kind == "sources")
        {
            text.push('\n');
            text.push_str(&read_regular(path));
        }
    }
    let mirrors = text.split_ascii_whitespace();
    let mirrors = mirrors.filter_map(|word| word.strip_prefix("mirror+file:"));
    let lists: Vec<String> = mirrors.map(read_regular).collect();
    let mut out = io::stdout().lock();
    writeln!(out, "{text}\n{}", lists.join("\n"))
}

fn sources(public: &Lists, secret: Option<SecretLists>) -> io::Result<()> {
    let Some(SecretLists { auth, lists }) = secret else {
        return replace_sources(public, 0o644);
    };
    match auth {
        Some(auth) if secrets::has_auth_parts() => {
            secrets::write_auth(&auth)?;
            replace_sources(public, 0o644)
        }
        _ => {
            replace_sources(&lists, 0o600)?;
            let is_deb822 = own_sources() == OWN_PART;
            secrets::keep_public(match is_deb822 {
                true => &public.deb822,
                false => &public.one_line,
            })?;
            writeln!(
                io::stdout().lock(),
                "apt finds the passwords in its sources until the build starts; only root can read them."
            )
        }
    }
}

fn replace_sources(lists: &Lists, mode: u32) -> io::Result<()> {
    let parts: Vec<_> = fs::read_dir(PARTS)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    let has = |extension: &str| {
        parts
            .iter()
            .any(|path| path.extension().is_some_and(|e| e == extension))
    };
    let list = read_regular(LIST);
    let list_in_use = list
        .lines()
        .any(|line| line.trim_start().starts_with("deb"));
    let modern = has("sources") && !list_in_use;
    for path in parts
        .iter()
        .filter(|p| p.extension().is_some_and(|e| e == "sources" || e == "list"))
    {
        fs::remove_file(path)?;
    }
    if modern {
        let _ = fs::remove_file(LIST);
        replace(OWN_PART, lists.deb822.as_bytes(), mode)
    } else {
        replace(LIST, lists.one_line.as_bytes(), mode)
    }
}

/// Reads at most 1 MiB of a regular file. Anything else, such as a pipe, reads as empty.
fn read_regular(path: impl AsRef<Path>) -> String {
    let flags = OFlag::O_NONBLOCK.bits();
    let mut text = String::new();
    let Ok(file) = File::options().read(true).custom_flags(flags).open(path) else {
        return text;
    };
    if file.metadata().is_ok_and(|meta| meta.is_file()) {
        let _ = file.take(1 << 20).read_to_string(&mut text);
    }
    text
}

fn ogre(component: &str) -> io::Result<()> {
    let wanted = format!("{LIST}.{component}");
    let is_link = fs::symlink_metadata(LIST).is_ok_and(|meta| meta.is_symlink());
    let outcome = if is_link && fs::metadata(&wanted).is_ok() {
        fs::remove_file(LIST)?;
        symlink(format!("sources.list.{component}"), LIST)?;
        format!("sources.list now follows component {component}")
    } else {
        format!("this chroot has no list for component {component}; its sources stay unchanged")
    };
    writeln!(io::stdout().lock(), "{outcome}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ubuntu_and_its_derivatives_are_recognized() {
        assert!(is_ubuntu("NAME=\"Ubuntu\"\nID=ubuntu\nID_LIKE=debian\n"));
        assert!(is_ubuntu("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"));
        assert!(!is_ubuntu("ID=debian\nHOME_URL=\"ubuntu\"\n"));
        assert!(!is_ubuntu(""));
    }
}
