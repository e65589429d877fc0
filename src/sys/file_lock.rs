//! Locks on whole files by flock(2), as `File::lock` of Rust 1.89.
//!
//! A lock belongs to the open file: processes that inherit the descriptor hold it too. It ends when
//! the last of them closes the descriptor.

use std::fs::File;
use std::io;

use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, retry_on_intr};

/// Waits for the exclusive lock.
pub(crate) fn lock(file: &File) -> io::Result<()> {
    wait(file, FlockOperation::LockExclusive)
}

/// Waits for the shared lock.
pub(crate) fn lock_shared(file: &File) -> io::Result<()> {
    wait(file, FlockOperation::LockShared)
}

/// Takes the exclusive lock. False if another open file has a lock.
pub(crate) fn try_lock(file: &File) -> io::Result<bool> {
    attempt(file, FlockOperation::NonBlockingLockExclusive)
}

/// Takes the shared lock. False if another open file has the exclusive lock.
pub(crate) fn try_lock_shared(file: &File) -> io::Result<bool> {
    attempt(file, FlockOperation::NonBlockingLockShared)
}

fn wait(file: &File, operation: FlockOperation) -> io::Result<()> {
    Ok(retry_on_intr(|| flock(file, operation))?)
}

fn attempt(file: &File, operation: FlockOperation) -> io::Result<bool> {
    match retry_on_intr(|| flock(file, operation)) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exclusive_lock_excludes_all_others_until_its_last_descriptor_closes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let open = || File::options().append(true).create(true).open(&path);
        let (first, second) = (open().unwrap(), open().unwrap());
        assert!(try_lock(&first).unwrap());
        assert!(!try_lock(&second).unwrap());
        assert!(!try_lock_shared(&second).unwrap());
        let inherited = first.try_clone().unwrap();
        drop(first);
        assert!(!try_lock_shared(&second).unwrap());
        drop(inherited);
        lock(&second).unwrap();
    }

    #[test]
    fn shared_locks_exclude_only_the_exclusive_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (first, second) = (file.reopen().unwrap(), file.reopen().unwrap());
        lock_shared(&first).unwrap();
        assert!(try_lock_shared(&second).unwrap());
        assert!(!try_lock(file.as_file()).unwrap());
    }
}
