//! Writes files atomically and removes trees safely.
//!
//! A file appears under its name complete and on disk, or not at all. A tree is removed through
//! opened directories: symbolic links are not followed, and mount points, such as bind mounts of
//! the host, are not entered. Knows no folder layout.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{self, FallocateFlags, Flock, FlockArg, OFlag, OpenHow, ResolveFlag};
use nix::unistd::{self, UnlinkatFlags};

/// The prefix of an unfinished file's name.
pub(crate) const TEMP_PREFIX: &str = ".tmp-";

/// An I/O error with the failed action and its path.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub(crate) struct Error {
    action: &'static str,
    path: PathBuf,
    pub(crate) source: io::Error,
}

impl Error {
    /// Returns a closure for `map_err` that adds the action and the path.
    pub(crate) fn at<E: Into<io::Error>>(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> Self {
        let path = path.to_path_buf();
        move |source| Self {
            action,
            path,
            source: source.into(),
        }
    }
}

/// A file being written under a `.tmp-` name; removed when dropped before [`TempFile::persist`].
///
/// The open file is locked. So [`sweep_temps`], in any process, removes only files that a crash
/// left.
#[derive(Debug)]
pub(crate) struct TempFile {
    file: Flock<File>,
    path: PathBuf,
    persisted: bool,
}

impl TempFile {
    /// Creates an empty file in `dir` with a unique name.
    pub(crate) fn create(dir: &Path) -> Result<Self, Error> {
        Self::create_named(dir, TEMP_PREFIX)
    }

    /// Creates an empty file in `dir` with a unique name that begins with `prefix`.
    pub(crate) fn create_named(dir: &Path, prefix: &str) -> Result<Self, Error> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let path = dir.join(format!("{prefix}{}-{number}", process::id()));
            let file = match OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
            {
                Ok(file) => file,
                // An earlier process with the same pid left it.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(Error::at("create", &path)(error)),
            };
            let file = Flock::lock(file, FlockArg::LockExclusive)
                .map_err(|(_, errno)| Error::at("lock", &path)(errno))?;
            let links = file
                .metadata()
                .map_err(Error::at("examine", &path))?
                .nlink();
            // A sweep may have removed the file between creation and lock.
            if links > 0 {
                return Ok(Self {
                    file,
                    path,
                    persisted: false,
                });
            }
        }
    }

    /// Appends all of `bytes`.
    pub(crate) fn write_all(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file
            .write_all(bytes)
            .map_err(Error::at("write", &self.path))
    }

    /// Reserves disk space for `len` bytes from `offset` on. [`TempFile::sync`] releases the unused
    /// part. Does nothing if the file system does not support it.
    pub(crate) fn allocate(&self, offset: u64, len: u64) -> Result<(), Error> {
        let keep_size = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let bytes = |number: u64| i64::try_from(number).map_err(|_| Errno::EFBIG);
        let allocated = bytes(offset)
            .and_then(|offset| fcntl::fallocate(&*self.file, keep_size, offset, bytes(len)?));
        match allocated {
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(()),
            other => other.map_err(Error::at("reserve disk space for", &self.path)),
        }
    }

    pub(crate) fn handle(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Syncs the file, sets its `mode` and renames it to `dest` in the same directory, replacing a
    /// file there. On return, bytes and name are on disk.
    pub(crate) fn persist(mut self, dest: &Path, mode: u32) -> Result<(), Error> {
        self.sync()?;
        self.rename(dest, mode)?;
        fsync_dir(parent_of(dest))
    }

    /// Syncs the bytes to disk and releases unused reserved space.
    pub(crate) fn sync(&mut self) -> Result<(), Error> {
        // Releases the space that was reserved and not written.
        let len = self.file.stream_position();
        len.and_then(|len| self.file.set_len(len))
            .and_then(|()| self.file.sync_all())
            .map_err(Error::at("sync", &self.path))
    }

    /// Like [`TempFile::persist`], but without fsync. Until the caller syncs file and directory, a
    /// power cut may leave the file truncated.
    pub(crate) fn place(mut self, dest: &Path, mode: u32) -> Result<(), Error> {
        self.rename(dest, mode)
    }

    fn rename(&mut self, dest: &Path, mode: u32) -> Result<(), Error> {
        self.file
            .set_permissions(Permissions::from_mode(mode))
            .map_err(Error::at("set the mode of", &self.path))?;
        fs::rename(&self.path, dest).map_err(Error::at("rename into place", dest))?;
        self.persisted = true;
        Ok(())
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.persisted {
            // If this fails, the next sweep removes the file.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Returns the paths in `dir`, in no order.
pub(crate) fn entries(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let list = |entries: fs::ReadDir| entries.map(|entry| Ok(entry?.path())).collect();
    fs::read_dir(dir)
        .and_then(list)
        .map_err(Error::at("list", dir))
}

/// Removes the temporary files in `dir` that no process has locked.
pub(crate) fn sweep_temps(dir: &Path) -> Result<(), Error> {
    sweep_named(dir, TEMP_PREFIX)
}

/// Removes the files of [`TempFile::create_named`] in `dir` that no process has locked.
pub(crate) fn sweep_named(dir: &Path, prefix: &str) -> Result<(), Error> {
    for entry in fs::read_dir(dir).map_err(Error::at("list", dir))? {
        let entry = entry.map_err(Error::at("list", dir))?;
        if !entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(prefix.as_bytes())
        {
            continue;
        }
        let path = entry.path();
        match File::open(&path) {
            Ok(file) => {
                let Ok(_lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
                    continue;
                };
                ignore_absent(fs::remove_file(&path)).map_err(Error::at("remove", &path))?;
            }
            Err(error) => ignore_absent(Err(error)).map_err(Error::at("open", &path))?,
        }
    }
    Ok(())
}

/// Writes `bytes` to `path` with mode 0644. Even after a crash, readers see the old or the new
/// file.
pub(crate) fn atomic_write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut temp = TempFile::create(parent_of(path))?;
    temp.write_all(bytes)?;
    temp.persist(path, 0o644)
}

/// Creates `dir` and its parents, and sets the mode of `dir` to 0700.
pub(crate) fn make_private(dir: &Path) -> Result<(), Error> {
    fs::create_dir_all(dir).map_err(Error::at("create", dir))?;
    let mode = Permissions::from_mode(0o700);
    fs::set_permissions(dir, mode).map_err(Error::at("make private", dir))
}

/// Creates `dir` with mode 0700 if it is absent. Its parent must exist.
pub(crate) fn make_folder(dir: &Path) -> Result<(), Error> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(Error::at("create", dir)),
    }
}

/// Sets the mode of a directory to 0700 if other users have any access; returns whether they had.
pub(crate) fn make_unreadable(dir: &Path) -> Result<bool, Error> {
    let found = fs::metadata(dir).map_err(Error::at("examine", dir))?;
    if found.mode() & 0o077 == 0 {
        return Ok(false);
    }
    let mode = Permissions::from_mode(0o700);
    fs::set_permissions(dir, mode).map_err(Error::at("make private", dir))?;
    Ok(true)
}

/// Syncs a directory, so that its present names are on disk.
pub(crate) fn fsync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(Error::at("sync", dir))
}

/// Syncs the whole file system that holds `path`: one wait instead of one for each file.
pub(crate) fn sync_file_system(path: &Path) -> Result<(), Error> {
    let opened = File::open(path).map_err(Error::at("open", path))?;
    unistd::syncfs(&opened).map_err(Error::at("sync the file system of", path))
}

/// The space that a tree uses on its file system, or that is free there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DiskUsage {
    pub(crate) bytes: u64,
    pub(crate) inodes: u64,
}

/// Returns what the tree below `dir` uses. A file with several hard links counts
/// once.
pub(crate) fn disk_usage(dir: &Path) -> Result<DiskUsage, Error> {
    let (mut used, mut seen) = (DiskUsage::default(), HashSet::new());
    let mut pending = vec![dir.to_path_buf()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).map_err(Error::at("list", &dir))? {
            let entry = entry.map_err(Error::at("list", &dir))?;
            let path = entry.path();
            let found = path.symlink_metadata();
            let found = found.map_err(Error::at("examine", &path))?;
            if found.nlink() == 1 || found.is_dir() || seen.insert((found.dev(), found.ino())) {
                used.bytes = (used.bytes).saturating_add(found.blocks().saturating_mul(512));
                used.inodes = used.inodes.saturating_add(1);
            }
            if found.is_dir() {
                pending.push(path);
            }
        }
    }
    Ok(used)
}

/// Removes `path` and all below it; success if absent.
///
/// A symbolic link is removed, not followed. A mount point, at `path` or below it, is an error, and
/// the mounted tree stays untouched. Nested directories are moved up to the top and emptied one by
/// one, so that no depth exhausts stack or descriptors.
pub(crate) fn remove_tree(path: &Path) -> Result<(), Error> {
    let fail = || Error::at::<Errno>("remove", path);
    let Some(name) = path.file_name() else {
        return Err(fail()(Errno::EINVAL));
    };
    let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let parent = match fcntl::open(parent_of(path), flags, nix::sys::stat::Mode::empty()) {
        Err(Errno::ENOENT) => return Ok(()),
        other => other.map_err(fail())?,
    };
    if remove_entry(parent.as_fd(), name).map_err(fail())? {
        return Ok(());
    }
    let top = open_below(parent.as_fd(), name).map_err(fail())?;
    empty(&top).map_err(Error::at("remove", path))?;
    unistd::unlinkat(&parent, name, UnlinkatFlags::RemoveDir).map_err(fail())
}

/// Empties the opened directory `top` and keeps it; fails at a mount point.
fn empty(top: &OwnedFd) -> io::Result<()> {
    let mut moved = 0_u64;
    let mut pending = remove_shallow(top)?;
    while let Some(name) = pending.pop() {
        let dir = open_below(top.as_fd(), &name)?;
        for child in remove_shallow(&dir)? {
            pending.push(loop {
                moved += 1;
                let lifted = OsString::from(format!(".removing-{moved}"));
                match fcntl::renameat(&dir, child.as_os_str(), top, lifted.as_os_str()) {
                    Ok(()) => break lifted,
                    // The tree already has an entry of that name: try the next.
                    Err(Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENOTDIR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            });
        }
        unistd::unlinkat(top, name.as_os_str(), UnlinkatFlags::RemoveDir)?;
    }
    Ok(())
}

/// Removes all entries except non-empty directories, and returns the names of these.
fn remove_shallow(dir: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(format!("/proc/self/fd/{}", dir.as_raw_fd()))? {
        names.push(entry?.file_name());
    }
    let mut left = Vec::new();
    for name in names {
        if !remove_entry(dir.as_fd(), &name)? {
            left.push(name);
        }
    }
    Ok(left)
}

/// Removes one entry; returns false for a non-empty directory, which stays.
fn remove_entry(dir: BorrowedFd<'_>, name: &OsStr) -> nix::Result<bool> {
    let removed = match unistd::unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::EISDIR) => unistd::unlinkat(dir, name, UnlinkatFlags::RemoveDir),
        other => other,
    };
    match removed {
        Ok(()) | Err(Errno::ENOENT) => Ok(true),
        Err(Errno::ENOTEMPTY | Errno::EEXIST) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Opens the directory `name` in `dir`. Fails with EXDEV at a mount point, with ELOOP at a link.
fn open_below(dir: BorrowedFd<'_>, name: &OsStr) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_SYMLINKS);
    fcntl::openat2(dir, name, how)
}

/// Returns the directory that holds `path`.
fn parent_of(path: &Path) -> &Path {
    path.parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."))
}

/// Turns `NotFound` into success.
fn ignore_absent(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn atomic_write_replaces_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        atomic_write(&path, b"old").unwrap();
        atomic_write(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(dir.path()), ["journal"]);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
    }

    #[test]
    fn a_failed_write_names_the_path_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taken");
        fs::create_dir_all(path.join("full")).unwrap();
        let error = atomic_write(&path, b"x").unwrap_err().to_string();
        assert!(
            error.starts_with("cannot rename into place ") && error.contains("taken"),
            "{error}"
        );
        assert_eq!(names(dir.path()), ["taken"]);
    }

    #[test]
    fn sweep_spares_locked_files_and_other_names() {
        let dir = tempfile::tempdir().unwrap();
        for name in [".tmp-1-1", ".tmp-left", "kept"] {
            fs::write(dir.path().join(name), b"x").unwrap();
        }
        let working = TempFile::create(dir.path()).unwrap();
        sweep_temps(dir.path()).unwrap();
        let locked = working
            .path
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        assert_eq!(names(dir.path()), [locked, "kept".to_owned()]);
        drop(working);
        assert_eq!(names(dir.path()), ["kept"]);
    }

    #[test]
    fn remove_tree_does_not_follow_links() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir_all(outside.join("kept")).unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("a/b/c")).unwrap();
        fs::create_dir_all(tree.join(".removing-1/full")).unwrap();
        fs::write(tree.join(".removing-2"), b"x").unwrap();
        fs::write(tree.join("a/b/c/file"), b"x").unwrap();
        symlink(&outside, tree.join("a/link")).unwrap();
        remove_tree(&tree).unwrap();
        assert_eq!(names(dir.path()), ["outside"]);
        assert_eq!(names(&outside), ["kept"]);

        let link = dir.path().join("link");
        symlink(&outside, &link).unwrap();
        remove_tree(&link).unwrap();
        assert_eq!(names(dir.path()), ["outside"]);
        assert_eq!(names(&outside), ["kept"]);
    }

    #[test]
    fn disk_usage_counts_a_file_once() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("a/b")).unwrap();
        let empty = disk_usage(&tree).unwrap();
        fs::write(tree.join("a/b/file"), vec![1; 100_000]).unwrap();
        let one = disk_usage(&tree).unwrap();
        assert!(one.bytes >= empty.bytes + 100_000, "{empty:?} {one:?}");
        assert_eq!((empty.inodes, one.inodes), (2, 3));
        fs::hard_link(tree.join("a/b/file"), tree.join("again")).unwrap();
        symlink("/usr", tree.join("link")).unwrap();
        let again = disk_usage(&tree).unwrap();
        assert!(again.bytes < one.bytes + 100_000);
        assert_eq!(again.inodes, 4, "the symbolic link");
    }

    #[test]
    fn remove_tree_accepts_absence() {
        let dir = tempfile::tempdir().unwrap();
        remove_tree(&dir.path().join("absent")).unwrap();
        remove_tree(&dir.path().join("absent/below")).unwrap();
    }

    #[test]
    fn remove_tree_has_no_depth_limit() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let mut at = File::open(&tree).map(OwnedFd::from).unwrap();
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o755);
        // Longer than a path may be, and more levels than a process may have descriptors.
        for _ in 0..3000 {
            nix::sys::stat::mkdirat(&at, "d", mode).unwrap();
            at = open_below(at.as_fd(), OsStr::new("d")).unwrap();
        }
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn a_mount_point_cannot_be_opened_from_its_parent() {
        // Opens only: a test must not try to remove a mounted tree.
        let root = File::open("/").map(OwnedFd::from).unwrap();
        let refused = open_below(root.as_fd(), OsStr::new("proc")).unwrap_err();
        assert_eq!(refused, Errno::EXDEV);
    }
}
