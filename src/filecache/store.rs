//! Where are the bytes of a SHA-1 on disk, and how do new ones get there?
//!
//! One folder, one read-only file per sum, named by the sum. Bytes are hashed while they are
//! written to a `.tmp-` file, which is synced and takes its name only when the sum is right, so
//! that a crash leaves no wrong entry. Does not fetch, does not evict, does not make the folder.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::libc;
use nix::sys::statvfs::statvfs;
use sha1_smol::Sha1;

use super::Error;
use crate::protocol::Sha1Hex;
use crate::sys::fs::{self, TempFile};

/// Bytes copied at a time: large enough that system calls do not show.
pub(super) const CHUNK_BYTES: usize = 256 * 1024;

/// Entries are never written again; their owner too must mean it to change one.
const ENTRY_MODE: u32 = 0o444;

/// The folder of entries.
#[derive(Debug)]
pub(crate) struct Store {
    dir: PathBuf,
    reserve_bytes: u64,
}

/// An entry opened for reading; stays readable when it is removed meanwhile.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) file: File,
    /// Length in bytes.
    pub(crate) len: u64,
    pub(crate) modified: SystemTime,
}

impl Store {
    /// Opens the folder `dir` and removes the unfinished files no living process is writing.
    ///
    /// `reserve_bytes` is what [`Store::receive`] leaves free on the file system.
    pub(crate) fn open(dir: &Path, reserve_bytes: u64) -> Result<Self, Error> {
        if !dir.is_dir() {
            return Err(Error::NotADirectory(dir.to_path_buf()));
        }
        fs::sweep_temps(dir)?;
        Ok(Self {
            dir: dir.to_path_buf(),
            reserve_bytes,
        })
    }

    /// Tells whether the entry exists; its content is not read again.
    pub(crate) fn contains(&self, sum: &Sha1Hex) -> bool {
        self.path(sum)
            .symlink_metadata()
            .is_ok_and(|found| found.is_file())
    }

    /// Opens an entry; `None` when there is none. Only a regular file is an entry, no link.
    pub(crate) fn entry(&self, sum: &Sha1Hex) -> Result<Option<Entry>, Error> {
        let path = self.path(sum);
        // Without O_NONBLOCK a pipe of that name would block the open.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = match OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(&path)
        {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Ok(None),
            Err(error) => return Err(fs::Error::at("open", &path)(error).into()),
        };
        let found = file.metadata().map_err(fs::Error::at("examine", &path))?;
        let modified = found.modified().map_err(fs::Error::at("examine", &path))?;
        Ok(found.is_file().then_some(Entry {
            file,
            len: found.len(),
            modified,
        }))
    }

    /// Begins an entry whose sum is not known yet. `declared` is its length in bytes, if known:
    /// more than is free, less the reserve, is refused before a byte is written.
    pub(crate) fn receive(&self, declared: Option<u64>) -> Result<Incoming<'_>, Error> {
        let needed = declared.unwrap_or(0);
        let free = self.free_bytes()?.saturating_sub(self.reserve_bytes);
        if needed > free {
            return Err(Error::NoSpace {
                needed,
                free,
                dir: self.dir.clone(),
            });
        }
        let temp = TempFile::create(&self.dir)?;
        Ok(Incoming {
            store: self,
            temp,
            hash: Sha1::new(),
        })
    }

    /// Keeps all that `source` yields; `expect` and the result are as for [`Incoming::finish`].
    pub(crate) fn put(
        &self,
        source: &mut dyn Read,
        declared: Option<u64>,
        expect: Option<&Sha1Hex>,
    ) -> Result<Sha1Hex, Error> {
        let mut incoming = self.receive(declared)?;
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => return incoming.finish(expect),
                Ok(read) => incoming.write(&buffer[..read])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Source(error)),
            }
        }
    }

    /// Removes an entry; an absent one is fine. Whoever has it open may read on.
    pub(crate) fn remove(&self, sum: &Sha1Hex) -> Result<(), Error> {
        let path = self.path(sum);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(fs::Error::at("remove", &path)(error).into())
            }
            _ => Ok(()),
        }
    }

    fn path(&self, sum: &Sha1Hex) -> PathBuf {
        self.dir.join(sum.as_str())
    }

    /// Bytes an unprivileged process may still write to the file system.
    fn free_bytes(&self) -> Result<u64, Error> {
        let found = statvfs(&self.dir)
            .map_err(fs::Error::at::<Errno>("find the free space of", &self.dir))?;
        Ok(found
            .blocks_available()
            .saturating_mul(found.fragment_size()))
    }
}

/// An entry on its way in; dropped unfinished, it leaves nothing.
pub(crate) struct Incoming<'a> {
    store: &'a Store,
    temp: TempFile,
    hash: Sha1,
}

impl Incoming<'_> {
    /// Appends all of `bytes`.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.hash.update(bytes);
        Ok(self.temp.write_all(bytes)?)
    }

    /// Makes what was written an entry and returns its sum; [`Error::Mismatch`] if that is not the
    /// one expected. On return the entry is on disk.
    pub(crate) fn finish(self, expect: Option<&Sha1Hex>) -> Result<Sha1Hex, Error> {
        let actual = Sha1Hex::parse(&self.hash.digest().to_string())
            .expect("a digest is shown as forty lower-case hexadecimal digits");
        if let Some(expected) = expect.filter(|expected| **expected != actual) {
            return Err(Error::Mismatch {
                expected: expected.clone(),
                actual,
            });
        }
        self.temp.persist(&self.store.path(&actual), ENTRY_MODE)?;
        Ok(actual)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    const HELLO: &str = "aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d";
    const OTHER: &str = "0000000000000000000000000000000000000000";

    fn sum(text: &str) -> Sha1Hex {
        Sha1Hex::parse(text).unwrap()
    }

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), 0).unwrap();
        (dir, store)
    }

    fn count(dir: &tempfile::TempDir) -> usize {
        dir.path().read_dir().unwrap().count()
    }

    /// Yields some bytes, then fails.
    struct Truncated(bool);

    impl Read for Truncated {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if std::mem::replace(&mut self.0, true) {
                return Err(io::Error::from(io::ErrorKind::ConnectionReset));
            }
            buffer[..5].copy_from_slice(b"hello");
            Ok(5)
        }
    }

    #[test]
    fn what_is_put_can_be_had_and_removed() {
        let (dir, store) = store();
        let kept = store
            .put(&mut &b"hello"[..], Some(5), Some(&sum(HELLO)))
            .unwrap();
        assert_eq!(kept.as_str(), HELLO);
        assert!(store.contains(&kept));
        let mut entry = store.entry(&kept).unwrap().unwrap();
        store.remove(&kept).unwrap();
        store.remove(&kept).unwrap();
        let mut text = String::new();
        entry.file.read_to_string(&mut text).unwrap();
        assert_eq!((entry.len, text.as_str()), (5, "hello"));
        assert_eq!(
            entry.file.metadata().unwrap().permissions().mode() & 0o777,
            0o444
        );
        assert!(!store.contains(&kept) && store.entry(&kept).unwrap().is_none());
        assert_eq!(count(&dir), 0);
    }

    #[test]
    fn the_same_content_twice_is_one_entry() {
        let (dir, store) = store();
        for _ in 0..2 {
            store.put(&mut &b"hello"[..], None, None).unwrap();
        }
        assert_eq!(count(&dir), 1);
    }

    #[test]
    fn failures_leave_nothing() {
        let (dir, store) = store();
        let mismatch = store
            .put(&mut &b"hello"[..], None, Some(&sum(OTHER)))
            .unwrap_err();
        assert!(matches!(mismatch, Error::Mismatch { .. }));
        let cut = store
            .put(&mut Truncated(false), None, Some(&sum(HELLO)))
            .unwrap_err();
        assert!(matches!(cut, Error::Source(_)));
        let full = store
            .put(&mut &b"hello"[..], Some(u64::MAX), None)
            .unwrap_err();
        assert!(full.to_string().starts_with("no space: "), "{full}");
        assert_eq!(count(&dir), 0);
    }

    #[test]
    fn the_reserve_is_kept_free() {
        let (dir, _) = store();
        let store = Store::open(dir.path(), u64::MAX).unwrap();
        assert!(matches!(
            store.receive(Some(1)),
            Err(Error::NoSpace { free: 0, .. })
        ));
    }

    #[test]
    fn only_regular_files_are_entries() {
        let (dir, store) = store();
        std::fs::write(dir.path().join("target"), "secret").unwrap();
        symlink(dir.path().join("target"), dir.path().join(HELLO)).unwrap();
        std::fs::create_dir(dir.path().join(OTHER)).unwrap();
        for name in [HELLO, OTHER] {
            assert!(!store.contains(&sum(name)), "{name}");
            assert!(store.entry(&sum(name)).unwrap().is_none(), "{name}");
        }
    }

    #[test]
    fn opening_sweeps_what_a_crash_left_but_not_what_another_writes() {
        let (dir, store) = store();
        std::fs::write(dir.path().join(".tmp-1-1"), "half").unwrap();
        let mut incoming = store.receive(None).unwrap();
        let second = Store::open(dir.path(), 0).unwrap();
        assert_eq!(count(&dir), 1);
        incoming.write(b"hello").unwrap();
        incoming.finish(None).unwrap();
        assert!(second.contains(&sum(HELLO)));
    }

    #[test]
    fn an_absent_folder_is_refused_and_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let absent = dir.path().join("absent");
        let error = Store::open(&absent, 0).unwrap_err();
        assert!(matches!(error, Error::NotADirectory(_)));
        assert!(!absent.exists());
    }
}
