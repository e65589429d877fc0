//! Mounts in a private mount namespace of a test, which end with its last process.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount, umount2};
use nix::sched::{CloneFlags, unshare};

/// Gives this test a private mount namespace. Without the rights for it, prints `NOT RUN` and
/// returns `false`.
pub(crate) fn may_mount(what: &str) -> bool {
    let none = None::<&str>;
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    let own = unshare(CloneFlags::CLONE_NEWNS).and_then(|()| mount(none, "/", none, flags, none));
    if let Err(error) = own {
        not_run(what, &format!("root: {error}"));
    }
    own.is_ok()
}

/// Prints that a test does not run. The test harness does not capture this.
pub(crate) fn not_run(what: &str, needs: &str) {
    let loud = format!("\n*** NOT RUN: {what} (needs {needs}) ***\n");
    let _ = std::io::stderr().write_all(loud.as_bytes());
}

/// Mounts an empty file system of `kib` KiB in memory on `folder`.
pub(crate) fn mount_tmpfs(folder: &Path, kib: u32) {
    mount_tmpfs_for(folder, kib, 0);
}

/// The same with `files` inodes, its root included; 0 means no limit.
pub(crate) fn mount_tmpfs_for(folder: &Path, kib: u32, files: u32) {
    let options = format!("size={kib}k,nr_inodes={files},mode=0755");
    let (none, kind) = (MsFlags::empty(), Some("tmpfs"));
    mount(kind, folder, kind, none, Some(options.as_str())).unwrap();
}

/// Makes the mount at `folder` read-only or writable.
pub(crate) fn set_read_only(folder: &Path, read_only: bool) {
    let (none, mut flags) = (None::<&str>, MsFlags::MS_REMOUNT);
    flags.set(MsFlags::MS_RDONLY, read_only);
    mount(none, folder, none, flags, none).unwrap();
}

/// Bind-mounts the folder `host` on `folder`.
pub(crate) fn mount_bind(host: &Path, folder: &Path) {
    let none = None::<&str>;
    mount(Some(host), folder, none, MsFlags::MS_BIND, none).unwrap();
}

pub(crate) fn unmount(folder: &Path) {
    umount(folder).unwrap();
}

/// Whether something is mounted at or below `folder`.
pub(crate) fn has_mounts(folder: &Path) -> bool {
    !mounts_below(folder).is_empty()
}

/// Unmounts everything at and below `folder`.
pub(crate) fn unmount_all(folder: &Path) {
    for mount in mounts_below(folder).into_iter().rev() {
        let _ = umount2(&mount, MntFlags::MNT_DETACH);
    }
}

/// The mounts at or below `folder`, in the order of mounting.
fn mounts_below(folder: &Path) -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    let places = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    places
        .map(PathBuf::from)
        .filter(|place| place.starts_with(folder))
        .collect()
}
