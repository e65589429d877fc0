//! The steps that every task of `outer` begins with: unshare, and become root of the namespace.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

/// Unshares and waits until the parent has mapped the ids.
pub(super) fn enter_new(flags: CloneFlags) -> io::Result<()> {
    if let Err(errno) = unshare(CloneFlags::CLONE_NEWUSER | flags) {
        send_line(errno.desc())?;
        return Err(errno.into());
    }
    send_line("unshared")?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    if line != "mapped\n" {
        return Err(io::Error::other("the parent process has ended"));
    }
    Ok(())
}

/// Becomes root of the namespace. Changing ids clears the parent-death signal, so it is set last.
pub(crate) fn become_root() -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    setresgid(gid, gid, gid)?;
    setgroups(&[])?;
    setresuid(uid, uid, uid)?;
    set_pdeathsig(Signal::SIGKILL)?;
    Ok(())
}

/// Writes a line to stdout, which the parent reads.
pub(crate) fn send_line(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Opens a folder with `O_PATH`, to name it later by `/proc/self/fd`.
pub(super) fn open_folder(path: &Path) -> io::Result<File> {
    let flags = (OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).bits();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

pub(super) fn by_descriptor(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}
