//! Makes the kernel run programs of other architectures by qemu-user, inside one session.
//!
//! From Linux 6.7 on, each user namespace can have its own `binfmt_misc`. [`register`] mounts it
//! for the session, registers qemu there, and hides the mount again: the host needs no set-up, and
//! its own handlers do not change. On older kernels, the host's handlers serve the session, if they
//! have flag F.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use serde::{Deserialize, Serialize};

use super::namespace::send_line;
use crate::arch::{self, Emulator};
use crate::sys::exe;

/// The place of the host's handlers.
const HOST: &str = "/proc/sys/fs/binfmt_misc";
/// Where a session's `binfmt_misc` is mounted for a moment. Every host has this folder. [`HOST`]
/// may lack, or be an automount of the host.
const PLACE: &str = "/var/tmp";
/// Program headers of every qemu begin and end before this.
const HEAD_BYTES: u64 = 4096;
/// The command that mends a [`Lack`].
pub(crate) const FIX: &str = "apt-get install qemu-user-static";
const NONE: Option<&str> = None;

/// The way in which one architecture is emulated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Way {
    /// The session registers this interpreter for itself.
    Own(PathBuf),
    /// The host's handlers serve the session.
    Host,
    /// Not at all, for this reason.
    Lacking(Lack),
}

/// Why an architecture cannot be emulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Lack {
    /// qemu has no emulator for it that is known here.
    Unknown,
    /// qemu-user is not installed, or only with shared libraries.
    Qemu,
    /// The kernel is older than 6.7 and the host has no handler with flag F.
    Handler,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "no emulator is known for it",
            Self::Qemu => "no statically linked qemu-user is installed",
            Self::Handler => {
                "this kernel has no binfmt_misc for sessions (Linux 6.7 has), and the host has no \
                 handler with flag F"
            }
        })
    }
}

/// Decides on the way of an architecture. `can_mount`: a session can have its own `binfmt_misc`.
/// `on_host`: the host has a handler that serves chroots.
fn way(interpreter: Option<PathBuf>, can_mount: bool, on_host: impl FnOnce() -> bool) -> Way {
    match interpreter {
        Some(path) if can_mount => Way::Own(path),
        _ if on_host() => Way::Host,
        Some(_) => Way::Lacking(Lack::Handler),
        None => Way::Lacking(Lack::Qemu),
    }
}

/// Makes the programs of the architectures `wanted` run in this user namespace. The caller is its
/// root, and its mounts are private.
///
/// The caller keeps the returned file open as long as the programs must run: the kernel drops the
/// handlers with the last reference to the mount. The descriptor closes on exec.
pub(crate) fn register(wanted: &[String]) -> io::Result<Option<File>> {
    let mut ours = Vec::new();
    for arch in wanted {
        let Some(emulator) = arch::emulator_of(arch) else {
            return Err(refused(arch, Lack::Unknown));
        };
        // The first mount of a namespace hides the host's handlers, so it must serve all.
        match way(interpreter(emulator), true, || is_on_host(emulator)) {
            Way::Own(path) => ours.push((arch, emulator, path)),
            Way::Host => {}
            Way::Lacking(lack) => return Err(refused(arch, lack)),
        }
    }
    if ours.is_empty() {
        return Ok(None);
    }
    if ours.len() < wanted.len() || mount_own().is_err() {
        // Either way, the host's handlers serve all, or the build cannot start.
        let lacking = ours.iter().find(|(_, emulator, _)| !is_on_host(*emulator));
        return match lacking {
            Some((arch, ..)) => Err(refused(arch, Lack::Handler)),
            None => Ok(None),
        };
    }
    let registered = ours
        .iter()
        .try_for_each(|(_, emulator, path)| write_handler(*emulator, path));
    let kept = File::open(PLACE);
    umount2(PLACE, MntFlags::MNT_DETACH)?;
    registered?;
    kept.map(Some)
}

/// Returns an error with the reason and the fix.
pub(super) fn refused(arch: &str, lack: Lack) -> io::Error {
    io::Error::other(format!("cannot emulate {arch}: {lack}; try: {FIX}"))
}

/// Mounts the `binfmt_misc` of this user namespace at [`PLACE`].
fn mount_own() -> nix::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("binfmt_misc"), PLACE, Some("binfmt_misc"), flags, NONE)
}

/// Registers one handler; two architectures may share it.
fn write_handler(emulator: Emulator, interpreter: &Path) -> io::Result<()> {
    let at = Path::new(PLACE);
    if at.join(emulator.handler()).exists() {
        return Ok(());
    }
    let line = emulator.registration(&interpreter.to_string_lossy());
    let mut file = fs::OpenOptions::new()
        .write(true)
        .open(at.join("register"))?;
    // The kernel takes a handler by one write.
    file.write_all(line.as_bytes()).map_err(|error| {
        let path = interpreter.display();
        io::Error::other(format!("binfmt_misc refuses {path}: {error}"))
    })
}

/// Finds the statically linked qemu of an architecture.
fn interpreter(emulator: Emulator) -> Option<PathBuf> {
    let names = [format!("{}-static", emulator.handler()), emulator.handler()];
    let found = names.iter().filter_map(|name| exe::find_program(name));
    found.into_iter().find(|path| {
        let mut head = Vec::new();
        let read = File::open(path).and_then(|file| file.take(HEAD_BYTES).read_to_end(&mut head));
        read.is_ok() && arch::is_static(&head)
    })
}

/// Returns whether the host has an enabled handler with flag F.
fn is_on_host(emulator: Emulator) -> bool {
    let read = |name: &str| fs::read_to_string(Path::new(HOST).join(name)).unwrap_or_default();
    read("status").trim() == "enabled" && serves_chroots(&read(&emulator.handler()))
}

/// Returns whether a handler, as `binfmt_misc` shows it, is enabled and has flag F.
fn serves_chroots(handler: &str) -> bool {
    let flags = handler.lines().find_map(|line| line.strip_prefix("flags:"));
    handler.starts_with("enabled\n") && flags.is_some_and(|flags| flags.contains('F'))
}

/// Prints the way of each architecture, as JSON on one line: a task of `outer`.
pub(super) fn report(wanted: &[String]) -> io::Result<()> {
    let can_mount = mount_own().is_ok();
    let way_of = |name: &str| match arch::emulator_of(name) {
        Some(emulator) => way(interpreter(emulator), can_mount, || is_on_host(emulator)),
        None => Way::Lacking(Lack::Unknown),
    };
    let ways: Vec<(&String, Way)> = wanted.iter().map(|name| (name, way_of(name))).collect();
    send_line(&serde_json::to_string(&ways)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_prefers_its_own_handlers() {
        let qemu = || Some(PathBuf::from("/usr/bin/qemu-aarch64-static"));
        let own = Way::Own("/usr/bin/qemu-aarch64-static".into());
        assert_eq!(way(qemu(), true, || true), own);
        assert_eq!(way(qemu(), true, || false), own);
        assert_eq!(way(qemu(), false, || true), Way::Host);
        assert_eq!(way(qemu(), false, || false), Way::Lacking(Lack::Handler));
        assert_eq!(way(None, true, || true), Way::Host);
        assert_eq!(way(None, true, || false), Way::Lacking(Lack::Qemu));
    }

    #[test]
    fn a_host_handler_serves_chroots_with_flag_f_only() {
        let handler = "enabled\ninterpreter /usr/bin/q\nflags: POF\noffset 0\nmagic 7f\n";
        assert!(serves_chroots(handler));
        assert!(!serves_chroots(&handler.replace("POF", "PO")));
        assert!(!serves_chroots(&handler.replace("enabled", "disabled")));
        assert!(!serves_chroots(""));
    }
}
