//! Creates the file of a new SQLite database, which only its owner may read.
//!
//! The file gets its name when its last descriptor is closed. So nothing here closes a descriptor
//! of a file that SQLite has open and locked (see `sqlite.rs`), in any thread.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, fchown};
use std::path::Path;
use std::process;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

/// Creates an empty file with mode 0600, because a database may hold passwords of archives. `owner`
/// are the ids of the user and the group. Does nothing if `path` exists. SQLite gives `-wal` and
/// `-shm` the mode and the owner of this file.
pub(super) fn create(path: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanos = nanos.unwrap_or_default().as_nanos();
    let temporary = path.with_file_name(format!(".{name}.new-{}-{nanos}", process::id()));
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    let owned = owner.map_or(Ok(()), |(uid, gid)| fchown(&file, Some(uid), Some(gid)));
    drop(file);
    let moved = owned.and_then(|()| rename_unless_exists(&temporary, path));
    if moved.is_err() {
        // The error of the rename says more.
        let _ = fs::remove_file(&temporary);
    }
    match moved {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn rename_unless_exists(from: &Path, to: &Path) -> io::Result<()> {
    match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
        // A file system, such as NFS, without this kind of rename.
        Err(Errno::EINVAL | Errno::ENOSYS) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        other => Ok(other?),
    }
}
