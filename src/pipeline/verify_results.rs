//! Verifies the results of a build against its .changes, and passes them to a store.
//!
//! Each file is verified while the store reads it. A wrong size or checksum is a read error at its
//! end, so the store never keeps such a file. The package made the files, so they are not trusted:
//! only regular files are opened, and no links, and each must belong to the build that was
//! dispatched (docs/wire.md §3.6).

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use md5::Md5;
use nix::fcntl::OFlag;
use sha1_smol::Sha1;
use sha2::{Digest, Sha256};

use crate::dpkg::changes::{self, Entry};
use crate::dpkg::deb::Effort;
use crate::dpkg::expected::Expected;
use crate::protocol::{FileName, Sha1Hex};
use crate::sys::digest::hex;

/// A result that is missing, is not a regular file, or differs from the .changes.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {problem}")]
pub(crate) struct Error {
    file: FileName,
    problem: String,
}

/// Stores a file of the given name and size in bytes, read to the end, and returns its SHA-1. A
/// read error means that the file must not be kept.
pub(crate) type Store<'a> = dyn FnMut(&FileName, &mut dyn Read, u64) -> io::Result<Sha1Hex> + 'a;

/// Stores `changes_name` of the folder `dir`, then all files it lists, together at most
/// `max_bytes`.
pub(crate) fn verify(
    dir: &Path,
    changes_name: &FileName,
    expected: &Expected,
    max_bytes: u64,
    store: &mut Store<'_>,
) -> Result<Vec<(FileName, Sha1Hex)>, Error> {
    let wrong = |problem: String| Error {
        file: changes_name.clone(),
        problem,
    };
    let text = load_changes(dir, changes_name)?;
    let entries = changes::parse(&text).map_err(|e| wrong(e.to_string()))?;
    let sizes = entries.iter().map(|entry| entry.size);
    let listed = sizes.fold(0, u64::saturating_add);
    if listed > max_bytes {
        return Err(wrong(format!(
            "lists {} MiB of files, more than {} ([limits] results)",
            listed >> 20,
            max_bytes >> 20
        )));
    }
    expected.check_changes(&text, &entries).map_err(wrong)?;
    let sha1 = store(changes_name, &mut &text[..], text.len() as u64);
    let mut stored = vec![(
        changes_name.clone(),
        sha1.map_err(|e| wrong(e.to_string()))?,
    )];
    let mut effort = Effort::new();
    for entry in &entries {
        let mut belongs =
            |file: &mut File| expected.check_file(entry.name.as_str(), file, &entries, &mut effort);
        let sha1 = store_entry(dir, entry, &mut belongs, store)?;
        stored.push((entry.name.clone(), sha1));
    }
    Ok(stored)
}

fn load_changes(dir: &Path, name: &FileName) -> Result<Vec<u8>, Error> {
    let wrong = |problem: String| Error {
        file: name.clone(),
        problem,
    };
    let (file, _) = open_regular(dir, name)?;
    let mut text = Vec::new();
    let read = file.take(changes::MAX_BYTES + 1).read_to_end(&mut text);
    read.map_err(|e| wrong(e.to_string()))?;
    Ok(text)
}

/// Stores one listed file. `belongs` checks its content first.
fn store_entry(
    dir: &Path,
    entry: &Entry,
    belongs: &mut dyn FnMut(&mut File) -> Result<(), String>,
    store: &mut Store<'_>,
) -> Result<Sha1Hex, Error> {
    let wrong = |problem: String| Error {
        file: entry.name.clone(),
        problem,
    };
    let (mut file, size) = open_regular(dir, &entry.name)?;
    if size != entry.size {
        return Err(wrong(format!(
            "has {size} bytes, but {} in the .changes",
            entry.size
        )));
    }
    belongs(&mut file).map_err(wrong)?;
    let mut reader = Verifying::new(file, entry);
    let sha1 = store(&entry.name, &mut reader, size).map_err(|e| wrong(e.to_string()))?;
    // Verify the rest of a file that the store did not read to the end.
    io::copy(&mut reader, &mut io::sink()).map_err(|e| wrong(e.to_string()))?;
    Ok(sha1)
}

/// Opens a regular file of `dir` and returns it with its size in bytes.
///
/// With `O_NONBLOCK`, opening a FIFO does not wait for its writer.
fn open_regular(dir: &Path, name: &FileName) -> Result<(File, u64), Error> {
    let wrong = |problem: String| Error {
        file: name.clone(),
        problem,
    };
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits())
        .open(dir.join(name.as_str()));
    let file = opened.map_err(|e| {
        wrong(match e.raw_os_error() {
            Some(code) if code == nix::Error::ELOOP as i32 => "is a symbolic link".to_owned(),
            _ if e.kind() == io::ErrorKind::NotFound => "was not built".to_owned(),
            _ => e.to_string(),
        })
    })?;
    let metadata = file.metadata().map_err(|e| wrong(e.to_string()))?;
    if !metadata.is_file() {
        return Err(wrong("is not a regular file".to_owned()));
    }
    Ok((file, metadata.len()))
}

/// Reads a file, and fails at its end if size or checksums differ from the listed ones.
struct Verifying<'a> {
    file: File,
    entry: &'a Entry,
    read: u64,
    md5: Md5,
    sha1: Option<Sha1>,
    sha256: Option<Sha256>,
}

impl<'a> Verifying<'a> {
    fn new(file: File, entry: &'a Entry) -> Self {
        Self {
            file,
            entry,
            read: 0,
            md5: Md5::new(),
            sha1: entry.sha1.as_ref().map(|_| Sha1::new()),
            sha256: entry.sha256.as_ref().map(|_| Sha256::new()),
        }
    }

    /// Compares size and checksums with the listed ones.
    fn verify(&self) -> io::Result<()> {
        let wrong = |kind: &str| {
            Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("its {kind} differs from the .changes"),
            ))
        };
        let entry = self.entry;
        if self.read != entry.size {
            return wrong("size");
        }
        if hex(&self.md5.clone().finalize()) != entry.md5 {
            return wrong("MD5");
        }
        if self.sha1.as_ref().map(|hash| hash.digest().to_string()) != entry.sha1 {
            return wrong("SHA-1");
        }
        if self
            .sha256
            .as_ref()
            .map(|hash| hex(&hash.clone().finalize()))
            != entry.sha256
        {
            return wrong("SHA-256");
        }
        Ok(())
    }
}

impl Read for Verifying<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        let bytes = &buffer[..count];
        self.read += bytes.len() as u64;
        self.md5.update(bytes);
        if let Some(hash) = &mut self.sha1 {
            hash.update(bytes);
        }
        if let Some(hash) = &mut self.sha256 {
            hash.update(bytes);
        }
        // A file that grows meanwhile must not fill the store.
        if self.read > self.entry.size || (count == 0 && !buffer.is_empty()) {
            self.verify()?;
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    const MAX_BYTES: u64 = 10_000_000_000_000;
    const CHANGES: &str = "h_1_i386.changes";

    /// Writes a .changes that lists `name` with the checksums of `Hello` and the given size.
    fn write_changes(dir: &Path, name: &str, size: u64) {
        let text = format!(
            "Source: h\nVersion: 1\nArchitecture: i386\n\
             Files:\n 8b1a9953c4611296a827abf8c47804d7 {size} devel optional {name}\n\
             Checksums-Sha1:\n f7ff9e8b7bb2e09b70935a5d785e0cc5d9d0abf0 {size} {name}\n\
             Checksums-Sha256:\n \
             185f8db32271fe25f561a6fc938b2e264306ec304eda518007d1764826381969 {size} {name}\n"
        );
        fs::write(dir.join(CHANGES), text).unwrap();
    }

    fn expected() -> Expected {
        Expected::of_dsc(b"Source: h\nVersion: 1\n", "i386", false).unwrap()
    }

    /// Stores into memory; returns names and bytes, or the error.
    fn run(dir: &Path) -> Result<Vec<(String, Vec<u8>)>, String> {
        let mut kept = Vec::new();
        let verified = verify(
            dir,
            &FileName::parse(CHANGES).unwrap(),
            &expected(),
            MAX_BYTES,
            &mut |name, from, size| {
                let mut bytes = Vec::new();
                from.read_to_end(&mut bytes)?;
                assert_eq!(size, bytes.len() as u64);
                let sha1 = Sha1::from(&bytes).digest().to_string();
                kept.push((name.to_string(), bytes));
                Ok(Sha1Hex::parse(&sha1).unwrap())
            },
        );
        let verified = verified.map_err(|e| e.to_string())?;
        assert_eq!(verified.len(), kept.len());
        Ok(kept)
    }

    fn folder(content: &[u8]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        write_changes(dir.path(), "h.bin", 5);
        fs::write(dir.path().join("h.bin"), content).unwrap();
        dir
    }

    #[test]
    fn the_changes_file_comes_first() {
        let dir = folder(b"Hello");
        let kept = run(dir.path()).unwrap();
        assert_eq!(kept[0].0, CHANGES);
        assert_eq!(kept[1], ("h.bin".to_owned(), b"Hello".to_vec()));
    }

    #[test]
    fn a_wrong_file_is_refused_with_the_reason() {
        let dir = folder(b"Hallo");
        assert_eq!(
            run(dir.path()).unwrap_err(),
            "h.bin: its MD5 differs from the .changes"
        );
        write_changes(dir.path(), "h.bin", 5_000_000_000_000);
        let error = run(dir.path()).unwrap_err();
        assert_eq!(
            error,
            "h.bin: has 5 bytes, but 5000000000000 in the .changes"
        );
        write_changes(dir.path(), "h.bin", MAX_BYTES + 1);
        let error = run(dir.path()).unwrap_err();
        assert!(error.ends_with("([limits] results)"), "{error}");
        write_changes(dir.path(), CHANGES, 5);
        assert_eq!(
            run(dir.path()).unwrap_err(),
            format!("{CHANGES}: lists {CHANGES}, another .changes")
        );
        fs::write(dir.path().join(CHANGES), "Files:\n x\n").unwrap();
        let error = run(dir.path()).unwrap_err();
        assert!(
            error.starts_with("h_1_i386.changes: Files, line 2: expected checksum"),
            "{error}"
        );
    }

    #[test]
    fn only_regular_files_are_opened() {
        let dir = folder(b"Hello");
        let path = dir.path().join("h.bin");
        fs::remove_file(&path).unwrap();
        assert_eq!(run(dir.path()).unwrap_err(), "h.bin: was not built");
        symlink("/etc/passwd", &path).unwrap();
        assert_eq!(run(dir.path()).unwrap_err(), "h.bin: is a symbolic link");
        fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(run(dir.path()).unwrap_err(), "h.bin: is not a regular file");
    }

    #[test]
    fn a_store_that_stops_early_does_not_skip_verification() {
        let dir = folder(b"Hallo");
        let name = FileName::parse(CHANGES).unwrap();
        let sha1 = Sha1Hex::parse(&"0".repeat(40)).unwrap();
        let error = verify(dir.path(), &name, &expected(), MAX_BYTES, &mut |_, _, _| {
            Ok(sha1.clone())
        })
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "h.bin: its MD5 differs from the .changes"
        );
    }
}
