//! The first process of a namespace: becomes its root, then carries out one task.
//!
//! Run as `internal outer TASK…` by [`super::launch`]. After unsharing and before becoming root, it
//! still has the caller's access rights. It then opens the folders that the mapped root cannot
//! reach, and mounts by these descriptors. So the folders above a chroot may be private.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{sethostname, setsid};
use serde::{Deserialize, Serialize};

use super::namespace::{become_root, by_descriptor, enter_new, open_folder, send_line};
use super::{binfmt, bootstrap};
use crate::sys::cgroup::{self, Side};
use crate::sys::compression::{Compression, MAGIC_BYTES};
use crate::sys::stderr;
use crate::sys::wait::exit_code;
use crate::sys::{descriptors, exe};

/// The description of a session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SessionSpec {
    /// The chroot's tree in the store; never written to.
    pub(crate) base: PathBuf,
    /// The session's own folder; holds what the session writes unless that is in memory.
    pub(crate) dir: PathBuf,
    pub(crate) layer: Layer,
    /// The content of `/etc/resolv.conf`; empty where no name server can be reached.
    pub(crate) resolver: String,
    /// The architectures whose programs qemu runs in the session.
    pub(crate) emulate: Vec<String>,
}

/// The place of what a session writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Layer {
    /// An overlay over the chroot, in memory, of at most this many bytes.
    Memory(u64),
    /// An overlay over the chroot, on disk.
    Disk,
    /// A copy of the chroot's tree on disk: folders of the chroot can be renamed in it.
    Copy,
}

/// The name of every session's host, as in plain sbuild.
pub(crate) const HOST_NAME: &str = "sbuild";

/// The mount point of the writable layer in the outer namespace, until init has pivoted. Every host
/// has this folder.
const STAGE: &str = "/tmp";
/// The folder, in a session's own, that has the copy of the chroot's tree.
const COPY: &str = "upper";
const NONE: Option<&str> = None;

/// Carries out the task that `args` name in a new namespace.
pub(crate) fn run(args: &[OsString]) -> io::Result<ExitCode> {
    // The session's processes must not reach the terminal of the person who started it, neither
    // through this process nor by its signals.
    setsid()?;
    let text = |n: usize| args.get(n).map(PathBuf::from).unwrap_or_default();
    match args.first().and_then(|task| task.to_str()) {
        Some("unpack") => unpack(&text(1), &text(2)),
        Some("chown") => chown_to_root(&text(1)),
        Some("copy") => copy(&text(1), &text(2)),
        Some("remove") => remove(&text(1)),
        Some("measure") => measure(&text(1)),
        Some("bootstrap") => bootstrap::outer(&text(1), &text(2)),
        Some("emulation") => bootstrap::report(args.get(1..).unwrap_or_default()),
        Some("session") => {
            let spec = serde_json::from_str(&text(1).to_string_lossy())?;
            session(&spec)
        }
        _ => Err(io::Error::other("unknown task")),
    }
}

/// Unpacks `tarball` into the new folder `dir/root`. If the tree is below `chroot-autobuild`, moves
/// it up. The mapped root must own `dir`.
fn unpack(tarball: &Path, dir: &Path) -> io::Result<ExitCode> {
    let mut magic = Vec::new();
    let start = MAGIC_BYTES as u64;
    File::open(tarball)?.take(start).read_to_end(&mut magic)?;
    let archive = File::open(tarball)?;
    enter_new(CloneFlags::CLONE_NEWPID)?;
    let dir = open_folder(dir)?;
    become_root()?;
    let dir = by_descriptor(&dir);
    let root = dir.join("root");
    fs::create_dir(&root)?;
    let mut tar = Command::new("tar");
    tar.args([
        "--extract",
        "--numeric-owner",
        "--preserve-permissions",
        "--same-owner",
    ])
    .args(["--delay-directory-restore", "--anchored"])
    .args(
        [
            "./dev/*",
            "dev/*",
            "chroot-autobuild/dev/*",
            "./chroot-autobuild/dev/*",
        ]
        .map(|p| format!("--exclude={p}")),
    )
    .args(Compression::by_magic(&magic).tar_option())
    .current_dir(&root)
    .stdin(archive)
    .stdout(io::stderr());
    // The first process of the new pid namespace: killing it ends the decompressor as well.
    let status = tar.status()?;
    if !status.success() {
        return Ok(ExitCode::from(exit_code(status)));
    }
    let nested = root.join("chroot-autobuild");
    if fs::symlink_metadata(&nested).is_ok_and(|meta| meta.is_dir()) {
        let lifted = dir.join("lifted");
        fs::rename(&nested, &lifted)?;
        fs::remove_dir_all(&root)?;
        fs::rename(&lifted, &root)?;
    }
    for needed in ["etc", "usr", "var"] {
        if !fs::symlink_metadata(root.join(needed)).is_ok_and(|m| m.is_dir()) {
            stderr::line(format_args!(
                "the tarball has no folder /{needed}: this is not a chroot"
            ));
            return Ok(ExitCode::FAILURE);
        }
    }
    if fs::symlink_metadata(root.join("bin")).is_err() {
        stderr::line("the tarball has no /bin: this is not a chroot");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// Copies the tree of `base` into the session folder `dir`, sharing blocks where the file system
/// can. The mapped root must own `dir`.
fn copy(base: &Path, dir: &Path) -> io::Result<ExitCode> {
    enter_new(CloneFlags::CLONE_NEWNS)?;
    let (base, dir) = (open_folder(base)?, open_folder(dir)?);
    become_root()?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    mount_layer(&dir, Layer::Disk)?;
    // The folders of an overlay, so that a leftover is recognized as a session's.
    for folder in [COPY, "work"] {
        fs::create_dir(format!("{STAGE}/{folder}"))?;
    }
    let status = Command::new("cp")
        .args(["--archive", "--reflink=auto", "--no-target-directory", "."])
        .arg(format!("{STAGE}/{COPY}"))
        .current_dir(by_descriptor(&base))
        .stdin(Stdio::null())
        .stdout(io::stderr())
        .status()?;
    Ok(ExitCode::from(exit_code(status)))
}

/// Changes the owner of `dir` from the caller to the mapped root.
fn chown_to_root(dir: &Path) -> io::Result<ExitCode> {
    enter_new(CloneFlags::empty())?;
    become_root()?;
    std::os::unix::fs::chown(dir, Some(0), Some(0))?;
    Ok(ExitCode::SUCCESS)
}

/// Removes a tree owned by subordinate ids; success if absent.
fn remove(dir: &Path) -> io::Result<ExitCode> {
    enter_new(CloneFlags::empty())?;
    become_root()?;
    crate::sys::fs::remove_tree(dir).map_err(io::Error::other)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints the bytes and the inodes of a tree owned by subordinate ids.
fn measure(dir: &Path) -> io::Result<ExitCode> {
    enter_new(CloneFlags::empty())?;
    let dir = open_folder(dir)?;
    become_root()?;
    let used = crate::sys::fs::disk_usage(&by_descriptor(&dir)).map_err(io::Error::other)?;
    send_line(&format!("{} {}", used.bytes, used.inodes))?;
    Ok(ExitCode::SUCCESS)
}

/// Sets up the session's root, starts its init and waits for its end.
///
/// A session has two networks, each with a loopback interface only. On the first, the gate listens:
/// the parent gets the network and the listening socket. The second is that of init and the build.
fn session(spec: &SessionSpec) -> io::Result<ExitCode> {
    enter_new(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWCGROUP
            | CloneFlags::CLONE_NEWNET,
    )?;
    let (base, dir) = (open_folder(&spec.base)?, open_folder(&spec.dir)?);
    become_root()?;
    sethostname(HOST_NAME)?;
    super::netlink::loopback_up()?;
    let gate = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    // Until init changes the root, `/proc` is the host's.
    let network = File::open("/proc/self/ns/net")?;
    unshare(CloneFlags::CLONE_NEWNET)?;
    super::netlink::loopback_up()?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    // qemu is a file of the host. This process outlives the session, and no process of the session
    // sees it.
    let _handlers = binfmt::register(&spec.emulate)?;
    mount_layer(&dir, spec.layer)?;
    let root = match spec.layer {
        Layer::Copy => mount_copy()?,
        Layer::Memory(_) | Layer::Disk => mount_overlay(&base)?,
    };
    send_network(&network, &gate)?;
    drop((network, gate));
    // Both this process and init are killed when their parents end, so neither outlives the shim.
    let mut init = start_init(&root, &spec.resolver)?;
    Ok(ExitCode::from(exit_code(init.wait()?)))
}

/// Sends a network and a socket in it to the parent, over the socket that is this process's stdin.
/// The parent has no access to this process's files in `/proc`.
fn send_network(network: &File, socket: &TcpListener) -> io::Result<()> {
    descriptors::send(io::stdin(), &[network.as_fd(), socket.as_fd()])
}

/// Mounts the folder of what the session writes at [`STAGE`]: a tmpfs, or `dir` on disk.
fn mount_layer(dir: &File, layer: Layer) -> io::Result<()> {
    if let Layer::Memory(bytes) = layer {
        // Empty files take memory too, so inodes are limited to one for each page.
        let options = format!("size={bytes},mode=0755,nr_inodes={}", bytes / 4096);
        mount(
            Some("tmpfs"),
            STAGE,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(options.as_str()),
        )?;
    } else {
        let source = by_descriptor(dir);
        mount(Some(&source), STAGE, NONE, MsFlags::MS_BIND, NONE)?;
    }
    Ok(())
}

/// Mounts the overlay of the writable layer over `base`; returns its path.
fn mount_overlay(base: &File) -> io::Result<String> {
    let merged = format!("{STAGE}/merged");
    for folder in ["upper", "work", "merged"] {
        fs::create_dir(format!("{STAGE}/{folder}"))?;
    }
    // `userxattr`: without it removing a folder of the base fails with EIO. `volatile`: the layer
    // is temporary, so nothing in it needs a sync. `xino=on`: all files of the tree then have one
    // device number, without which `tar --one-file-system` leaves files out.
    let options = format!(
        "userxattr,volatile,xino=on,lowerdir={},upperdir={STAGE}/upper,workdir={STAGE}/work",
        by_descriptor(base).display()
    );
    mount(
        Some("overlay"),
        merged.as_str(),
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .map_err(|errno| io::Error::other(format!("overlay mount: {}", errno.desc())))?;
    Ok(merged)
}

/// Makes the copy of the chroot a mount point, and returns its path.
fn mount_copy() -> io::Result<String> {
    let copy = format!("{STAGE}/{COPY}");
    let path = Some(copy.as_str());
    mount(path, copy.as_str(), NONE, MsFlags::MS_BIND, NONE)?;
    Ok(copy)
}

/// Starts the session's init with the root at `merged`, and reports its pid.
fn start_init(merged: &str, resolver: &str) -> io::Result<Child> {
    // The session can read the arguments and the environment of its process 1.
    // From here on, the kernel counts threads for each user of the session.
    cgroup::join_inherited(Side::Session)?;
    let mut init = exe::internal("init")
        .arg0("init")
        .arg(merged)
        .arg(resolver)
        .env_clear()
        .stdin(Stdio::piped())
        .spawn()?;
    send_line(&format!("init {}", init.id()))?;
    // init has set its parent-death signal when it reads this line. If this process ended before,
    // init reads the end of the pipe instead, and ends too.
    let mut pipe = init.stdin.take().expect("stdin is piped");
    pipe.write_all(b"go\n")?;
    Ok(init)
}
