//! Reads facts about an unpacked chroot, whose files are a stranger's.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use crate::arch;

/// Larger than any real `/var/lib/dpkg/status`, in bytes.
const MAX_STATUS_BYTES: u64 = 64 << 20;

/// Returns the architecture of the chroot at `root`, which is that of its dpkg; `None` without
/// dpkg.
pub(crate) fn architecture(root: &Path) -> io::Result<Option<String>> {
    let file = match open_beneath(root, "var/lib/dpkg/status") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let mut status = Vec::new();
    file.take(MAX_STATUS_BYTES).read_to_end(&mut status)?;
    let status = String::from_utf8_lossy(&status);
    Ok(arch::of_status(&status).map(str::to_owned))
}

/// Opens a regular file of the chroot. Links in the chroot lead to files of the chroot.
fn open_beneath(root: &Path, path: &str) -> io::Result<File> {
    let root = File::open(root)?;
    let how = OpenHow::new()
        // A named pipe would block.
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = File::from(openat2(&root, path, how)?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other(format!("/{path} is not a regular file"))),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_architecture_is_read_from_the_chroot_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        let dpkg = root.join("var/lib/dpkg");
        fs::create_dir_all(&dpkg).unwrap();
        assert_eq!(architecture(&root).unwrap(), None);
        let status = "Package: dpkg\nArchitecture: armhf\n";
        fs::write(dir.path().join("outside"), status).unwrap();
        symlink(dir.path().join("outside"), dpkg.join("status")).unwrap();
        assert_eq!(architecture(&root).unwrap(), None);
        fs::remove_file(dpkg.join("status")).unwrap();
        symlink("/var/lib/other", dpkg.join("status")).unwrap();
        fs::write(root.join("var/lib/other"), status).unwrap();
        assert_eq!(architecture(&root).unwrap().as_deref(), Some("armhf"));
        fs::remove_file(dpkg.join("status")).unwrap();
        fs::create_dir(dpkg.join("status")).unwrap();
        assert!(architecture(&root).is_err());
    }
}
