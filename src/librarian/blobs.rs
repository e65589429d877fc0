//! Stores blobs on disk as `<root>/aa/bb/<sha256>`, read-only.
//!
//! Incomplete blobs are in `<root>/incoming`. An upload always replaces an existing blob, which
//! renews its age, and `gc` removes only old blobs. Both lock the folder `aa`: the upload for the
//! rename, `gc` to check the age and remove.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use md5::Md5;
use nix::fcntl::{Flock, FlockArg};
use nix::libc;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::Error;

use crate::sys::clock;
use crate::sys::digest::hex;
use crate::sys::fs::{self, TempFile, fsync_dir};
use crate::sys::host;

/// Blobs are never modified.
const BLOB_MODE: u32 = 0o444;
const SHA256_DIGITS: usize = 64;

/// Size in bytes, and hashes in lower-case hexadecimal, of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) size: u64,
    pub(super) sha1: String,
    pub(super) sha256: String,
    pub(super) md5: String,
}

/// The folder of all blobs.
#[derive(Debug)]
pub(super) struct Blobs {
    root: PathBuf,
    /// Bytes that uploads keep free on the file system.
    reserve: u64,
}

impl Blobs {
    /// Opens the folder, creates it if absent, and removes incomplete blobs of dead processes.
    pub(super) fn open(root: &Path, reserve: u64) -> Result<Self, Error> {
        let incoming = root.join("incoming");
        fs::make_private(root)?;
        fs::make_private(&incoming)?;
        fs::sweep_temps(&incoming)?;
        Ok(Self {
            root: root.to_path_buf(),
            reserve,
        })
    }

    /// Starts a blob of `len` bytes. Fails before the first byte if the space is not free.
    pub(super) fn receive(&self, len: u64) -> Result<Incoming<'_>, Error> {
        let disk = host::disk_of(&self.root)
            .map_err(fs::Error::at("find the free space of", &self.root))?;
        let free = disk.free_bytes.saturating_sub(self.reserve);
        if len > free {
            return Err(Error::NoSpace {
                needed: len,
                free,
                reserve: self.reserve,
                dir: self.root.clone(),
            });
        }
        Ok(Incoming {
            blobs: self,
            temp: TempFile::create(&self.root.join("incoming"))?,
            size: 0,
            sha1: Sha1::new(),
            sha256: Sha256::new(),
            md5: Md5::new(),
        })
    }

    /// Opens a blob and returns its length; `None` if absent. An open blob stays readable after its
    /// removal.
    pub(super) fn find(&self, sha256: &str) -> Result<Option<(File, u64)>, Error> {
        let path = self.path(sha256);
        let opened = File::options()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(&path);
        let file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(fs::Error::at("open", &path))?,
        };
        let found = file.metadata().map_err(fs::Error::at("examine", &path))?;
        Ok(found.is_file().then_some((file, found.len())))
    }

    /// Calls `visit` once per folder `aa` with the sorted names of its blobs that are at least
    /// `age_ms` old.
    pub(super) fn each_old(
        &self,
        now: i64,
        age_ms: i64,
        mut visit: impl FnMut(&[String]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for outer in folders(&self.root)? {
            let mut old = Vec::new();
            for inner in folders(&outer)? {
                for path in fs::entries(&inner)? {
                    let name = path.file_name().and_then(|name| name.to_str());
                    let Some(name) = name.filter(|name| is_sha256(name)) else {
                        continue;
                    };
                    if age(&path, now)?.is_some_and(|age| age >= age_ms) {
                        old.push(name.to_owned());
                    }
                }
            }
            old.sort_unstable();
            if !old.is_empty() {
                visit(&old)?;
            }
        }
        Ok(())
    }

    /// Removes blobs of one folder `aa` that are at least `age_ms` old and not among those that
    /// `referenced` returns, which is called while uploads to this folder are locked out. Returns
    /// the sizes of the removed blobs, in bytes.
    pub(super) fn remove_old(
        &self,
        hashes: &[String],
        now: i64,
        age_ms: i64,
        referenced: impl FnOnce(&[String]) -> Result<BTreeSet<String>, Error>,
    ) -> Result<Vec<u64>, Error> {
        let Some(first) = hashes.first() else {
            return Ok(Vec::new());
        };
        let _lock = lock(&self.outer(first), FlockArg::LockExclusive)?;
        let mut old = Vec::new();
        for hash in hashes {
            if age(&self.path(hash), now)?.is_some_and(|age| age >= age_ms) {
                old.push(hash.clone());
            }
        }
        let referenced = referenced(&old)?;
        let mut removed = Vec::new();
        for hash in old.iter().filter(|hash| !referenced.contains(*hash)) {
            let path = self.path(hash);
            let size = self.size(hash);
            std::fs::remove_file(&path).map_err(fs::Error::at("remove", &path))?;
            removed.push(size);
        }
        Ok(removed)
    }

    /// Returns the size of a blob in bytes; 0 if absent.
    pub(super) fn size(&self, sha256: &str) -> u64 {
        let found = self.path(sha256).symlink_metadata();
        found.map_or(0, |found| found.len())
    }

    fn outer(&self, sha256: &str) -> PathBuf {
        self.root.join(sha256.get(..2).unwrap_or_default())
    }

    pub(super) fn path(&self, sha256: &str) -> PathBuf {
        let inner = sha256.get(2..4).unwrap_or_default();
        self.outer(sha256).join(inner).join(sha256)
    }
}

/// A blob being written; removed if dropped before [`Incoming::place`].
pub(super) struct Incoming<'a> {
    blobs: &'a Blobs,
    temp: TempFile,
    size: u64,
    sha1: Sha1,
    sha256: Sha256,
    md5: Md5,
}

impl Incoming<'_> {
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.size += bytes.len() as u64;
        self.sha1.update(bytes);
        self.sha256.update(bytes);
        self.md5.update(bytes);
        Ok(self.temp.write_all(bytes)?)
    }

    /// Returns size and hashes of the bytes written so far.
    pub(super) fn content(&self) -> Content {
        Content {
            size: self.size,
            sha1: hex(&self.sha1.clone().finalize()),
            sha256: hex(&self.sha256.clone().finalize()),
            md5: hex(&self.md5.clone().finalize()),
        }
    }

    /// Renames the blob to its hash. On return it is fsynced, and its age is zero.
    pub(super) fn place(self, content: &Content) -> Result<(), Error> {
        let (path, _lock) = self.prepare(content, true)?;
        Ok(self.temp.persist(&path, BLOB_MODE)?)
    }

    /// Like [`Incoming::place`], but without fsync: for many blobs, which one sync follows.
    pub(super) fn place_unsynced(self, content: &Content) -> Result<(), Error> {
        let (path, _lock) = self.prepare(content, false)?;
        Ok(self.temp.place(&path, BLOB_MODE)?)
    }

    /// Returns the path of the blob, and the lock under which the blob gets it.
    /// `sync` puts new folders on disk.
    fn prepare(&self, content: &Content, sync: bool) -> Result<(PathBuf, Flock<File>), Error> {
        let path = self.blobs.path(&content.sha256);
        let outer = self.blobs.outer(&content.sha256);
        let inner = path.parent().unwrap_or(&outer);
        if !inner.is_dir() {
            std::fs::create_dir_all(inner).map_err(fs::Error::at("create", inner))?;
            if sync {
                fsync_dir(&outer)?;
                fsync_dir(&self.blobs.root)?;
            }
        }
        let lock = lock(&outer, FlockArg::LockShared)?;
        Ok((path, lock))
    }
}

/// Locks a folder against other threads and processes.
fn lock(folder: &Path, how: FlockArg) -> Result<Flock<File>, Error> {
    let opened = File::open(folder).map_err(fs::Error::at("open", folder))?;
    let locked = Flock::lock(opened, how).map_err(|(_, errno)| errno);
    Ok(locked.map_err(fs::Error::at("lock", folder))?)
}

/// Returns the folders in `dir` named by two hexadecimal digits, sorted.
fn folders(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = fs::entries(dir)?;
    found.retain(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.len() == 2 && is_hex(name)) && path.is_dir()
    });
    found.sort();
    Ok(found)
}

/// Returns the milliseconds since the file was written; `None` if it is absent.
fn age(path: &Path, now: i64) -> Result<Option<i64>, Error> {
    match path.symlink_metadata().and_then(|found| found.modified()) {
        Ok(modified) => Ok(Some(now - clock::ms_of(modified))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(fs::Error::at("examine", path)(error).into()),
    }
}

fn is_sha256(name: &str) -> bool {
    name.len() == SHA256_DIGITS && is_hex(name)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::{Duration, SystemTime};

    use super::*;

    const DAY: i64 = 24 * 3600 * 1000;
    const HELLO_SHA256: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    fn put(blobs: &Blobs, bytes: &[u8]) -> Content {
        let mut incoming = blobs.receive(bytes.len() as u64).unwrap();
        for byte in bytes {
            incoming.write(&[*byte]).unwrap();
        }
        let content = incoming.content();
        incoming.place(&content).unwrap();
        content
    }

    fn scratch() -> (tempfile::TempDir, Blobs) {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path(), 0).unwrap();
        (dir, blobs)
    }

    fn unfinished(dir: &Path) -> usize {
        dir.join("incoming").read_dir().unwrap().count()
    }

    #[test]
    fn a_blob_is_named_by_its_sha256_and_all_hashes_are_right() {
        let (dir, blobs) = scratch();
        let content = put(&blobs, b"hello");
        assert_eq!(content.size, 5);
        assert_eq!(content.sha1, "aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d");
        assert_eq!(content.md5, "5d41402abc4b2a76b9719d911017c592");
        assert_eq!(content.sha256, HELLO_SHA256);
        let path = dir.path().join("2c/f2").join(HELLO_SHA256);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o444);
        let (mut file, len) = blobs.find(HELLO_SHA256).unwrap().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), len), ("hello", 5));
        assert!(
            blobs
                .find(&HELLO_SHA256.replace('2', "3"))
                .unwrap()
                .is_none()
        );
        assert_eq!(unfinished(dir.path()), 0);
        assert_eq!(put(&blobs, b"").size, 0);
    }

    #[test]
    fn an_incomplete_blob_is_removed_when_dropped_and_after_a_crash() {
        let (dir, blobs) = scratch();
        let mut incoming = blobs.receive(5).unwrap();
        incoming.write(b"hel").unwrap();
        assert_eq!(unfinished(dir.path()), 1);
        // Another process that starts keeps the blobs of a live one.
        Blobs::open(dir.path(), 0).unwrap();
        assert_eq!(unfinished(dir.path()), 1);
        drop(incoming);
        assert_eq!(unfinished(dir.path()), 0);

        std::fs::write(dir.path().join("incoming/.tmp-1-1"), b"x").unwrap();
        Blobs::open(dir.path(), 0).unwrap();
        assert_eq!(unfinished(dir.path()), 0);
    }

    #[test]
    fn a_blob_larger_than_the_free_space_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path(), u64::MAX).unwrap();
        let error = blobs.receive(1).err().unwrap().to_string();
        assert!(
            error.starts_with("no space: 1 bytes needed, 0 free"),
            "{error}"
        );
        assert_eq!(unfinished(dir.path()), 0);
    }

    #[test]
    fn only_old_blobs_are_removed_and_an_upload_renews_the_age() {
        let (dir, blobs) = scratch();
        put(&blobs, b"hello");
        let path = dir.path().join("2c/f2").join(HELLO_SHA256);
        let now = clock::now_ms();
        let grow_old = || {
            let file = File::open(&path).unwrap();
            let then = SystemTime::now() - Duration::from_secs(25 * 3600);
            file.set_modified(then).unwrap();
        };
        let old = || {
            let mut seen = Vec::new();
            let visit = |names: &[String]| {
                seen.extend(names.to_vec());
                Ok(())
            };
            blobs.each_old(now, DAY, visit).unwrap();
            seen
        };
        let hello = || vec![HELLO_SHA256.to_owned()];
        let remove = |unreferenced: bool| {
            let referenced = |old: &[String]| match unreferenced {
                true => Ok(BTreeSet::new()),
                false => Ok(old.iter().cloned().collect()),
            };
            blobs.remove_old(&hello(), now, DAY, referenced)
        };
        assert!(old().is_empty());
        assert_eq!(remove(true).unwrap(), [0_u64; 0], "young");
        grow_old();
        assert_eq!(old(), [HELLO_SHA256]);
        assert_eq!(remove(false).unwrap(), [0_u64; 0], "referenced");
        put(&blobs, b"hello");
        assert_eq!(remove(true).unwrap(), [0_u64; 0], "uploaded again");
        grow_old();
        assert_eq!(remove(true).unwrap(), [5]);
        assert_eq!(remove(true).unwrap(), [0_u64; 0], "gone");
        assert!(old().is_empty());
    }

    #[test]
    fn an_upload_waits_while_its_blob_is_removed() {
        let (dir, blobs) = scratch();
        put(&blobs, b"hello");
        let path = dir.path().join("2c/f2").join(HELLO_SHA256);
        let old = SystemTime::now() - Duration::from_secs(25 * 3600);
        File::open(&path).unwrap().set_modified(old).unwrap();
        let (done, wait) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let blobs = &blobs;
            let hello = [HELLO_SHA256.to_owned()];
            let removed = blobs.remove_old(&hello, clock::now_ms(), DAY, move |_| {
                // The upload starts between the check of the age and the removal.
                scope.spawn(move || {
                    put(blobs, b"hello");
                    let _ = done.send(());
                });
                let early = wait.recv_timeout(Duration::from_millis(200));
                assert!(early.is_err(), "the upload did not wait");
                drop(wait);
                Ok(BTreeSet::new())
            });
            assert_eq!(removed.unwrap(), [5]);
        });
        assert!(blobs.find(HELLO_SHA256).unwrap().is_some());
    }
}
