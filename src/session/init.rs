//! The session's init: sets up the root of the session, then reaps orphans until it is killed.
//!
//! Run as `internal init MERGED RESOLVER` by [`super::outer`], as process 1 of a new pid namespace.
//! It mounts the file systems that Debian expects, pivots into MERGED and prints `ready`. When init
//! is killed, the kernel kills the session's processes and removes its mounts.

use std::fs::{self, File};
use std::io::{self, BufRead as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::personality::{self, Persona};
use nix::sys::prctl::{set_name, set_pdeathsig};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout, pivot_root};

use super::namespace::send_line;
use super::outer::HOST_NAME;
use super::{machine, seccomp};

const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
const NONE: Option<&str> = None;

/// Files and folders of `/proc` that describe the host, hidden from the session.
const HIDDEN: [&str; 11] = [
    "acpi",
    "asound",
    "kallsyms",
    "kcore",
    "key-users",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
];
/// Parts of `/proc` that set something in the kernel.
const READ_ONLY: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];
/// A second `/proc` with nothing mounted on it, and the folder that is covered above it.
const SPARE: &str = "dev/.spare";

/// Sets up the session's root at `merged` and runs as its process 1 until killed. `resolver` is
/// the content of `/etc/resolv.conf`.
pub(crate) fn run(merged: &Path, resolver: &[u8]) -> io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    set_name(c"init")?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    if line != "go\n" {
        return Err(io::Error::other("the parent process has ended"));
    }
    if let Err(error) = set_up(merged, resolver) {
        send_line(&format!("failed: {error}"))?;
        return Err(error);
    }
    send_line("ready")?;
    // The session's root could use what this process has open.
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    drop(null);
    reap_for_ever()
}

fn set_up(merged: &Path, resolver: &[u8]) -> io::Result<()> {
    std::env::set_current_dir(merged)?;
    for folder in ["proc", "sys", "dev"] {
        if !fs::symlink_metadata(folder).is_ok_and(|meta| meta.is_dir()) {
            let _ = fs::remove_file(folder);
            fs::create_dir_all(folder)?;
        }
    }
    named("/proc", mount_new("proc", "proc", MsFlags::empty(), NONE))?;
    mount_sys()?;
    make_devices()?;
    cover_proc()?;
    named("the new root", pivot_root(".", "."))?;
    umount2(".", MntFlags::MNT_DETACH)?;
    std::env::set_current_dir("/")?;
    write_files(resolver)?;
    if machine::is_32_bit(Path::new("/")) {
        personality::set(Persona::from_bits_retain(PER_LINUX32))?;
    }
    seccomp::apply()
}

/// `PER_LINUX32` of `personality(2)`: `uname` then names the 32-bit machine.
const PER_LINUX32: i32 = 8;

fn write_files(resolver: &[u8]) -> io::Result<()> {
    // As plain sbuild writes it.
    let hosts = format!("127.0.0.1 localhost\n127.0.1.1 {HOST_NAME}\n");
    replace("/etc/hosts", hosts.as_bytes(), 0o644)?;
    replace("/etc/hostname", format!("{HOST_NAME}\n").as_bytes(), 0o644)?;
    replace("/etc/resolv.conf", resolver, 0o644)?;
    // Packages must not start services in the session.
    if !Path::new("/usr/sbin/policy-rc.d").exists() && Path::new("/usr/sbin").is_dir() {
        replace("/usr/sbin/policy-rc.d", b"#!/bin/sh\nexit 101\n", 0o755)?;
    }
    Ok(())
}

fn mount_new(kind: &str, place: &str, flags: MsFlags, options: Option<&str>) -> nix::Result<()> {
    mount(Some(kind), place, Some(kind), flags, options)
}

/// Mounts a `/sys` of the session's own network, or the host's where the kernel refuses (in some
/// containers); both read-only.
fn mount_sys() -> io::Result<()> {
    let harmless = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    if mount_new("sysfs", "sys", harmless | MsFlags::MS_RDONLY, NONE).is_ok() {
        return Ok(());
    }
    named(
        "/sys",
        bind(Path::new("/sys"), Path::new("sys"), MsFlags::MS_REC),
    )?;
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let here = std::env::current_dir()?.join("sys");
    let places = table.lines().filter_map(|line| line.split(' ').nth(4));
    for place in places.filter(|place| Path::new(place).starts_with(&here)) {
        // The kernel keeps the flags that it has locked; one of these sets fits.
        let sets = [
            harmless,
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            MsFlags::empty(),
        ];
        let tried = sets.map(|flags| read_only(Path::new(place), flags));
        if tried.iter().all(Result::is_err) {
            umount2(place, MntFlags::MNT_DETACH)?;
        }
    }
    Ok(())
}

fn bind(from: &Path, to: &Path, more: MsFlags) -> nix::Result<()> {
    mount(Some(from), to, NONE, MsFlags::MS_BIND | more, NONE)
}

/// Makes a mount read-only.
fn read_only(place: &Path, flags: MsFlags) -> nix::Result<()> {
    let remount = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    mount(NONE, place, NONE, remount | flags, NONE)
}

/// Hides parts of `/proc` and makes others read-only.
///
/// A build may use namespaces of its own. The kernel lets it mount `/proc` in them only if there is
/// a `/proc` with nothing mounted on it, so the session has a second one under a covered folder.
fn cover_proc() -> io::Result<()> {
    let proc = Path::new("proc");
    for path in READ_ONLY.map(|name| proc.join(name)) {
        if path.exists() {
            named("/proc", bind(&path, &path, MsFlags::empty()))?;
            named("/proc", read_only(&path, MsFlags::empty()))?;
        }
    }
    for path in HIDDEN.map(|name| proc.join(name)) {
        if path.is_dir() {
            let place = path.to_string_lossy();
            named(
                "/proc",
                mount_new("tmpfs", &place, MsFlags::MS_RDONLY, Some("size=4k")),
            )?;
        } else if path.exists() {
            named(
                "/proc",
                bind(Path::new("dev/null"), &path, MsFlags::empty()),
            )?;
        }
    }
    let spare = format!("{SPARE}/proc");
    fs::create_dir_all(&spare)?;
    named("/proc", mount_new("proc", &spare, MsFlags::empty(), NONE))?;
    named(
        "/proc",
        mount_new(
            "tmpfs",
            SPARE,
            MsFlags::MS_RDONLY,
            Some("size=4k,mode=0700"),
        ),
    )
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
            MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
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
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(content)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Has init kill all other processes of the session.
pub(super) const KILL_ALL: Signal = Signal::SIGUSR1;

fn reap_for_ever() -> io::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.add(KILL_ALL);
    signals.thread_block()?;
    loop {
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            if status == WaitStatus::StillAlive {
                break;
            }
        }
        if signals.wait()? == KILL_ALL {
            // In one step, so that no process forks meanwhile. There may be none.
            let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
        }
    }
}
