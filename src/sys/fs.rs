//! How are files written so that a crash leaves the old or the new one, and trees removed safely?
//!
//! A file appears under its name whole, on disk, or not at all. A tree is removed through opened
//! directories only: no symbolic link is followed and no mount point, a bind mount of the host
//! included, is entered. Knows no folder layout. Used by the file cache, the journal and the
//! stages.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{self, FallocateFlags, Flock, FlockArg, OFlag, OpenHow, ResolveFlag};
use nix::unistd::{self, UnlinkatFlags};

/// What every unfinished file's name begins with.
pub(crate) const TEMP_PREFIX: &str = ".tmp-";

/// What could not be done to which path.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}", path.display())]
pub(crate) struct Error {
    action: &'static str,
    path: PathBuf,
    pub(crate) source: io::Error,
}

impl Error {
    /// Returns a closure for `map_err` that says what was being done, and to what.
    pub(crate) fn at<E: Into<io::Error>>(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> Self + use<E> {
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
/// It is locked while it is open, which is how [`sweep_temps`] in any process knows a file left by
/// a crash from one at work.
#[derive(Debug)]
pub(crate) struct TempFile {
    file: Flock<File>,
    path: PathBuf,
    persisted: bool,
}

impl TempFile {
    /// Creates an empty file in `dir`, under a name no other file has.
    pub(crate) fn create(dir: &Path) -> Result<Self, Error> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let path = dir.join(format!("{TEMP_PREFIX}{}-{number}", process::id()));
            let file = match OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
            {
                Ok(file) => file,
                // Left by an earlier process of our number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(Error::at("create", &path)(error)),
            };
            let file = Flock::lock(file, FlockArg::LockExclusive)
                .map_err(|(_, errno)| Error::at("lock", &path)(errno))?;
            let links = file
                .metadata()
                .map_err(Error::at("examine", &path))?
                .nlink();
            // A sweep may have come between creation and lock.
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

    /// Takes the disk space for `len` bytes from `offset` on, so that nobody else does; what is not
    /// written in the end is given back by [`TempFile::persist`]. Does nothing where the file
    /// system cannot.
    pub(crate) fn allocate(&self, offset: u64, len: u64) -> Result<(), Error> {
        let keep_size = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let bytes = |number: u64| i64::try_from(number).map_err(|_| Errno::EFBIG);
        let allocated = bytes(offset)
            .and_then(|offset| fcntl::fallocate(&*self.file, keep_size, offset, bytes(len)?));
        match allocated {
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => Ok(()),
            other => other.map_err(Error::at("make room for", &self.path)),
        }
    }

    /// Returns a closure for `map_err` that says what was being done to this file.
    pub(crate) fn failed_to<E: Into<io::Error>>(
        &self,
        action: &'static str,
    ) -> impl FnOnce(E) -> Error + use<E> {
        Error::at(action, &self.path)
    }

    /// Returns another handle on the file.
    pub(crate) fn handle(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Gives the file its `mode` and, once its bytes are on disk, its name: `dest`, in the same
    /// directory, replacing what is there. On return the name is on disk too.
    pub(crate) fn persist(mut self, dest: &Path, mode: u32) -> Result<(), Error> {
        self.sync()?;
        self.rename(dest, mode)?;
        fsync_dir(parent_of(dest))
    }

    /// Brings the bytes to the disk.
    pub(crate) fn sync(&mut self) -> Result<(), Error> {
        // Gives back what was allocated and not written.
        let len = self.file.stream_position();
        len.and_then(|len| self.file.set_len(len))
            .and_then(|()| self.file.sync_all())
            .map_err(Error::at("sync", &self.path))
    }

    /// Like [`TempFile::persist`] without waiting for the disk: what is there under that name after
    /// a power cut may be less, until somebody has synced it.
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
            // A failure leaves a file that the next sweep removes.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes the temporary files in `dir` that no living process is writing.
pub(crate) fn sweep_temps(dir: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(dir).map_err(Error::at("list", dir))? {
        let entry = entry.map_err(Error::at("list", dir))?;
        if !entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(TEMP_PREFIX.as_bytes())
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

/// Writes `bytes` to `path` (mode 0644) so that a reader, or a crash, sees the old or the new file.
pub(crate) fn atomic_write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut temp = TempFile::create(parent_of(path))?;
    temp.write_all(bytes)?;
    temp.persist(path, 0o644)
}

/// Makes a folder, and what is above it, that nobody but its owner may look into.
pub(crate) fn make_private(dir: &Path) -> Result<(), Error> {
    fs::create_dir_all(dir).map_err(Error::at("create", dir))?;
    let mode = Permissions::from_mode(0o700);
    fs::set_permissions(dir, mode).map_err(Error::at("make private", dir))
}

/// Puts a directory's names, as they are now, on disk.
pub(crate) fn fsync_dir(dir: &Path) -> Result<(), Error> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(Error::at("sync", dir))
}

/// Returns the bytes that the files below `dir` take on the disk, each counted once, whatever its
/// names.
pub(crate) fn disk_usage(dir: &Path) -> Result<u64, Error> {
    let (mut bytes, mut seen) = (0_u64, HashSet::new());
    let mut pending = vec![dir.to_path_buf()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).map_err(Error::at("list", &dir))? {
            let entry = entry.map_err(Error::at("list", &dir))?;
            let path = entry.path();
            let found = path.symlink_metadata();
            let found = found.map_err(Error::at("examine", &path))?;
            if found.nlink() == 1 || found.is_dir() || seen.insert((found.dev(), found.ino())) {
                bytes = bytes.saturating_add(found.blocks().saturating_mul(512));
            }
            if found.is_dir() {
                pending.push(path);
            }
        }
    }
    Ok(bytes)
}

/// Removes `path` and all below it; something absent is fine.
///
/// A symbolic link is removed, not followed. A mount point, be it `path` or below it, is an error
/// and what is mounted there stays untouched. Directories are emptied one level at a time, deeper
/// ones first moved up to the top, so that no depth of nesting exhausts stack or descriptors.
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

/// Empties the opened directory `top`, which is on one file system and stays.
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
                    // The tree has an entry of that name itself.
                    Err(Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENOTDIR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            });
        }
        unistd::unlinkat(top, name.as_os_str(), UnlinkatFlags::RemoveDir)?;
    }
    Ok(())
}

/// Removes what is not a directory, and the empty directories; returns the names of the others.
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

/// Removes one entry, unless it is a directory with something in it: then returns false.
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

/// Opens the directory `name` in `dir`: EXDEV when it is a mount point, ELOOP when it is a link.
fn open_below(dir: BorrowedFd<'_>, name: &OsStr) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_XDEV | ResolveFlag::RESOLVE_NO_SYMLINKS);
    fcntl::openat2(dir, name, how)
}

/// The directory that holds `path`.
fn parent_of(path: &Path) -> &Path {
    path.parent()
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or_else(|| Path::new("."))
}

/// Turns the absence of something to be removed into success.
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
    fn sweep_spares_files_at_work_and_other_names() {
        let dir = tempfile::tempdir().unwrap();
        for name in [".tmp-1-1", ".tmp-left", "kept"] {
            fs::write(dir.path().join(name), b"x").unwrap();
        }
        let working = TempFile::create(dir.path()).unwrap();
        sweep_temps(dir.path()).unwrap();
        let at_work = working
            .path
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        assert_eq!(names(dir.path()), [at_work, "kept".to_owned()]);
        drop(working);
        assert_eq!(names(dir.path()), ["kept"]);
    }

    #[test]
    fn remove_tree_takes_all_but_what_links_point_to() {
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
        assert!(one >= empty + 100_000, "{empty} {one}");
        fs::hard_link(tree.join("a/b/file"), tree.join("again")).unwrap();
        symlink("/usr", tree.join("link")).unwrap();
        assert!(disk_usage(&tree).unwrap() < one + 100_000);
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
        // Deeper than a path may be long and a process may have files open.
        for _ in 0..3000 {
            nix::sys::stat::mkdirat(&at, "d", mode).unwrap();
            at = open_below(at.as_fd(), OsStr::new("d")).unwrap();
        }
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn a_mount_point_cannot_be_opened_from_its_parent() {
        // Only opens: a test should not try to remove a mounted tree.
        let root = File::open("/").map(OwnedFd::from).unwrap();
        let refused = open_below(root.as_fd(), OsStr::new("proc")).unwrap_err();
        assert_eq!(refused, Errno::EXDEV);
    }
}
