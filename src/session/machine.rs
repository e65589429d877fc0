//! Reads from a chroot's programs whether they are for 32 bits.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

/// The programs that every chroot has, below its root. The first that exists tells.
const PROGRAMS: [&str; 3] = ["usr/bin/dpkg", "bin/sh", "usr/bin/apt-get"];
/// The first bytes of an ELF file, and the class in the fifth (`elf(5)`).
const MAGIC: &[u8] = b"\x7fELF";
const CLASS_32: u8 = 1;

/// Returns whether the programs of the chroot at `root` are for 32 bits. Links are followed inside
/// the chroot only.
pub(crate) fn is_32_bit(root: &Path) -> bool {
    let Ok(root) = File::open(root) else {
        return false;
    };
    let head = PROGRAMS
        .iter()
        .find_map(|program| head(&root, program).ok());
    head.is_some_and(|head| head.starts_with(MAGIC) && head.get(4) == Some(&CLASS_32))
}

/// Returns the first bytes of a regular file below `root`.
fn head(root: &File, program: &str) -> io::Result<[u8; 5]> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT);
    let file = File::from(openat2(root, program, how)?);
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut head = [0; 5];
    (&file).read_exact(&mut head)?;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_class_is_read_and_links_stay_in_the_chroot() {
        let root = tempfile::tempdir().unwrap();
        let bin = root.path().join("usr/bin");
        fs::create_dir_all(&bin).unwrap();
        assert!(!is_32_bit(root.path()));
        fs::write(bin.join("dash"), b"\x7fELF\x01\x01\x01").unwrap();
        symlink("usr/bin", root.path().join("bin")).unwrap();
        symlink("/usr/bin/dash", bin.join("sh")).unwrap();
        assert!(is_32_bit(root.path()));
        // Outside the chroot this link leads to a program of the host.
        symlink("/bin/sh", bin.join("dpkg")).unwrap();
        assert!(is_32_bit(root.path()));
        fs::write(bin.join("dash"), b"\x7fELF\x02\x01\x01").unwrap();
        assert!(!is_32_bit(root.path()));
    }
}
