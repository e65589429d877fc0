//! Temporary folders that a later process removes if theirs was killed.
//!
//! The process that makes a folder holds a shared lock on it, and so does each other process that
//! uses the folder. A folder that nobody has locked was left by an interrupted process.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::file_lock;

/// A folder of this process; it is the owner's duty to remove it.
#[derive(Debug)]
pub(crate) struct LockedFolder {
    path: PathBuf,
    _lock: File,
}

impl LockedFolder {
    /// Creates the folder, with mode 0700. It must not exist.
    pub(crate) fn create(path: PathBuf) -> io::Result<Self> {
        loop {
            DirBuilder::new().mode(0o700).create(&path)?;
            match Self::hold(&path)? {
                Some(folder) => return Ok(folder),
                // Another process took it for a leftover, between creation and lock.
                None => continue,
            }
        }
    }

    /// Locks an existing folder, together with its other users. `None` if it is being removed.
    pub(crate) fn hold(path: &Path) -> io::Result<Option<Self>> {
        let lock = match open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        file_lock::lock_shared(&lock)?;
        let exists = lock.metadata()?.nlink() > 0;
        Ok(exists.then(|| Self {
            path: path.to_owned(),
            _lock: lock,
        }))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Returns a lock of the folder, with which the caller may remove it. `None` if a process uses it,
/// or if that cannot be found out.
pub(crate) fn lock_abandoned(path: &Path) -> Option<File> {
    let lock = open(path).ok()?;
    file_lock::try_lock(&lock).ok()?.then_some(lock)
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_abandoned_when_no_process_has_locked_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("work");
        let maker = LockedFolder::create(path.clone()).unwrap();
        let user = LockedFolder::hold(&path).unwrap().unwrap();
        assert!(lock_abandoned(&path).is_none());
        drop(maker);
        assert!(lock_abandoned(&path).is_none());
        drop(user);
        assert!(lock_abandoned(&path).is_some());
        assert!(LockedFolder::create(path).is_err());
        assert!(
            LockedFolder::hold(&dir.path().join("absent"))
                .unwrap()
                .is_none()
        );
    }
}
