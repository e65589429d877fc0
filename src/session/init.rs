//! The session's init: sets up the root of the session, then reaps orphans until it is killed.
//!
//! Run as `internal init MERGED` by [`super::outer`], as process 1 of a new pid namespace. It
//! mounts the file systems that Debian expects, pivots into MERGED and prints `ready`. When init is
//! killed, the kernel kills the session's processes and removes its mounts.

use std::fs;
use std::io::{self, BufRead as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::pivot_root;

use super::outer::send_line;

const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
const NONE: Option<&str> = None;

/// Sets up the session's root at `merged` and runs as its process 1 until killed.
pub(crate) fn run(merged: &Path) -> io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    if line != "go\n" {
        return Err(io::Error::other("the parent process has ended"));
    }
    if let Err(error) = set_up(merged) {
        send_line(&format!("failed: {error}"))?;
        return Err(error);
    }
    send_line("ready")?;
    reap_for_ever()
}

fn set_up(merged: &Path) -> io::Result<()> {
    let host_files = ["/etc/resolv.conf", "/etc/hosts", "/etc/hostname"]
        .map(|path| (path, fs::read(path).unwrap_or_default()));
    std::env::set_current_dir(merged)?;
    for folder in ["proc", "sys", "dev"] {
        if !fs::symlink_metadata(folder).is_ok_and(|meta| meta.is_dir()) {
            let _ = fs::remove_file(folder);
            fs::create_dir_all(folder)?;
        }
    }
    named(
        "/proc",
        mount(Some("proc"), "proc", Some("proc"), MsFlags::empty(), NONE),
    )?;
    named(
        "/sys",
        mount(
            Some("/sys"),
            "sys",
            NONE,
            MsFlags::MS_BIND | MsFlags::MS_REC,
            NONE,
        ),
    )?;
    // Best effort: the kernel may refuse, and the session can write to almost nothing there anyway.
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    let _ = mount(NONE, "sys", NONE, read_only, NONE);
    make_devices()?;
    named("the new root", pivot_root(".", "."))?;
    umount2(".", MntFlags::MNT_DETACH)?;
    std::env::set_current_dir("/")?;
    for (path, content) in host_files {
        replace(path, &content, 0o644)?;
    }
    // Packages must not start services in the session.
    if !Path::new("/usr/sbin/policy-rc.d").exists() && Path::new("/usr/sbin").is_dir() {
        replace("/usr/sbin/policy-rc.d", b"#!/bin/sh\nexit 101\n", 0o755)?;
    }
    Ok(())
}

/// Sets up `/dev`: a small tmpfs with the host's harmless devices, new pseudo terminals and shared
/// memory.
fn make_devices() -> io::Result<()> {
    named(
        "/dev",
        mount(
            Some("tmpfs"),
            "dev",
            Some("tmpfs"),
            MsFlags::MS_NOSUID,
            Some("mode=0755,size=1m"),
        ),
    )?;
    for name in DEVICES {
        let (host, here) = (format!("/dev/{name}"), format!("dev/{name}"));
        fs::write(&here, "")?;
        named(
            &host,
            mount(
                Some(host.as_str()),
                here.as_str(),
                NONE,
                MsFlags::MS_BIND,
                NONE,
            ),
        )?;
    }
    for folder in ["dev/pts", "dev/shm"] {
        fs::create_dir(folder)?;
    }
    let options = Some("newinstance,gid=5,mode=620,ptmxmode=666");
    named(
        "/dev/pts",
        mount(
            Some("devpts"),
            "dev/pts",
            Some("devpts"),
            MsFlags::empty(),
            options,
        ),
    )?;
    named(
        "/dev/shm",
        mount(
            Some("tmpfs"),
            "dev/shm",
            Some("tmpfs"),
            MsFlags::empty(),
            Some("mode=1777"),
        ),
    )?;
    for (name, target) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlink(target, format!("dev/{name}"))?;
    }
    Ok(())
}

/// Adds the name of the mount to its error.
fn named(mount: &str, result: nix::Result<()>) -> io::Result<()> {
    result.map_err(|errno| io::Error::other(format!("mount of {mount}: {}", errno.desc())))
}

/// Writes a file, replacing an existing file or symbolic link of that name.
pub(crate) fn replace(path: &str, content: &[u8], mode: u32) -> io::Result<()> {
    let path = Path::new(path);
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent)?;
    }
    if fs::symlink_metadata(path).is_ok() {
        fs::remove_file(path)?;
    }
    fs::write(path, content)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn reap_for_ever() -> io::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.thread_block()?;
    loop {
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            if status == WaitStatus::StillAlive {
                break;
            }
        }
        signals.wait()?;
    }
}
