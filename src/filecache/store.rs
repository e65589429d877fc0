//! Stores files named by their SHA-1 in one folder.
//!
//! Incoming bytes go to a `.tmp-` file and are hashed on the way. The file is renamed to its SHA-1
//! only after fsync, so that a crash leaves no wrong entry. An entry that changes later is detected
//! at its next use. The least recently used entries are evicted within the limits of [`Rules`].
//!
//! Processes lock the folder: shared to rename or hold an entry, exclusively to evict. So an entry
//! cannot be held while it is being evicted.

use std::collections::HashSet;
use std::fs::{self as files, File, FileTimes, OpenOptions};
use std::io::{self, Read, Seek as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::libc;

use super::Error;
use super::marks::{Identity, Marks};
use crate::cache_eviction::{Item, Shortage, Space, Usage};
use crate::metrics::metrics;
use crate::protocol::Sha1Hex;
use crate::sys::clock::used_at;
use crate::sys::digest::sha1_from;
use crate::sys::file_lock;
use crate::sys::fs::{self, TEMP_PREFIX, TempFile};
use crate::sys::hashing_writer::{HashingWriter, fill};
use crate::sys::host;

/// Entries are read-only, so that not even their owner changes one by mistake.
const ENTRY_MODE: u32 = 0o444;
/// How long an entry is held for the build of the master that asked for it.
const HOLD_TIME: Duration = Duration::from_secs(3600);
/// The space allocated at a time for a file of unknown length, in bytes.
const STEP_BYTES: u64 = 16 << 20;

type Pinned = dyn Fn() -> io::Result<HashSet<Sha1Hex>> + Send + Sync;
type BeforeNaming = dyn Fn(&Sha1Hex) -> io::Result<()> + Send + Sync;

/// The limits and hooks of a [`Store`].
pub(crate) struct Rules {
    /// The most bytes of all entries together.
    pub(crate) limit: u64,
    /// Bytes that must stay free on the file system.
    pub(crate) reserve: u64,
    /// Returns the entries that must not be evicted. Called before an eviction.
    pub(crate) pinned: Box<Pinned>,
    /// Called for each new entry before it gets its name; an error discards the entry.
    pub(crate) before_naming: Box<BeforeNaming>,
}

impl Rules {
    /// No limits and no hooks.
    pub(crate) fn none() -> Self {
        Self {
            limit: u64::MAX,
            reserve: 0,
            pinned: Box::new(|| Ok(HashSet::new())),
            before_naming: Box::new(|_| Ok(())),
        }
    }
}

/// The folder of the cache.
pub(crate) struct Store {
    dir: PathBuf,
    rules: Rules,
    /// The most bytes of all entries, and the bytes that stay free; in place of those of `rules`.
    limit: AtomicU64,
    reserve: AtomicU64,
    marks: Marks,
}

/// An entry opened for reading; it stays readable after its removal.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) file: File,
    /// Length in bytes.
    pub(crate) len: u64,
    pub(crate) modified: SystemTime,
}

impl Store {
    /// Opens the folder `dir` and removes unfinished files that a crash left.
    pub(crate) fn open(dir: &Path, rules: Rules) -> Result<Self, Error> {
        if !dir.is_dir() {
            return Err(Error::NotADirectory(dir.to_path_buf()));
        }
        fs::sweep_temps(dir)?;
        Ok(Self {
            dir: dir.to_path_buf(),
            limit: rules.limit.into(),
            reserve: rules.reserve.into(),
            rules,
            marks: Marks::default(),
        })
    }

    /// Changes the most bytes of all entries together, and the bytes that must stay free. Applies
    /// to the next entry.
    pub(crate) fn set_space(&self, limit: u64, reserve: u64) {
        self.limit.store(limit, Ordering::Relaxed);
        self.reserve.store(reserve, Ordering::Relaxed);
    }

    /// Returns whether the entry exists and is intact. If so, holds it until [`Store::release`] or
    /// for an hour, because the caller's build is about to need it. Verifies it on first use.
    pub(crate) fn hold(&self, sha1: &Sha1Hex) -> Result<bool, Error> {
        Ok(self.open_verified(sha1, true)?.is_some())
    }

    /// Opens an entry; `None` if there is none. Verifies it on first use.
    pub(crate) fn entry(&self, sha1: &Sha1Hex) -> Result<Option<Entry>, Error> {
        self.open_verified(sha1, false)
    }

    /// Ends all holds of [`Store::hold`].
    pub(crate) fn release(&self) {
        self.marks.release();
    }

    /// Marks an entry as verified without reading it: another process has just verified it.
    pub(crate) fn trust(&self, sha1: &Sha1Hex) {
        let entry_lock = self.marks.lock_entry(sha1);
        if let Ok(found) = self.path(sha1).symlink_metadata() {
            entry_lock.set_verified(Identity::of(&found), false, false);
        }
    }

    fn open_verified(&self, sha1: &Sha1Hex, hold: bool) -> Result<Option<Entry>, Error> {
        let path = self.path(sha1);
        let examine = || fs::Error::at("examine", &path);
        let entry_lock = self.marks.lock_entry(sha1);
        loop {
            let Some(mut file) = self.open_entry(sha1)? else {
                entry_lock.set_absent();
                return Ok(None);
            };
            let found = Identity::of(&file.metadata().map_err(examine())?);
            if !entry_lock.is_verified(&found) {
                let (actual, _) = sha1_from(&mut file).map_err(fs::Error::at("read", &path))?;
                file.rewind().map_err(fs::Error::at("read", &path))?;
                if actual != sha1.as_str() {
                    entry_lock.set_absent();
                    self.remove_damaged(sha1, &found, &actual)?;
                    return Ok(None);
                }
            }
            let _folder = self.lock_shared()?;
            let still_there = path
                .symlink_metadata()
                .is_ok_and(|now| Identity::of(&now) == found);
            if !still_there {
                // Evicted or changed while it was read.
                continue;
            }
            // Fails for a file of another user; then only this process knows the time of use.
            let _ = file.set_times(FileTimes::new().set_accessed(SystemTime::now()));
            let now = file.metadata().map_err(examine())?;
            entry_lock.set_verified(Identity::of(&now), true, hold);
            return Ok(Some(Entry {
                file,
                len: now.len(),
                modified: now.modified().map_err(examine())?,
            }));
        }
    }

    /// Opens the file of a SHA-1. Only a regular file is an entry, not a symbolic link.
    fn open_entry(&self, sha1: &Sha1Hex) -> Result<Option<File>, Error> {
        let path = self.path(sha1);
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
        Ok(found.is_file().then_some(file))
    }

    fn remove_damaged(&self, sha1: &Sha1Hex, found: &Identity, actual: &str) -> Result<(), Error> {
        let path = self.path(sha1);
        log::error!(
            "{} is damaged: its SHA-1 is {actual}; removing it",
            path.display()
        );
        metrics().damaged.with_label_values(&["filecache"]).inc();
        let _folder = self.lock_shared()?;
        let now = path.symlink_metadata();
        if now.is_ok_and(|now| Identity::of(&now).is_same_file(found)) {
            files::remove_file(&path).map_err(fs::Error::at("remove", &path))?;
        }
        Ok(())
    }

    /// Begins an entry of unknown SHA-1. If its length in bytes is `declared`, all space is
    /// allocated before a byte is written, else step by step.
    pub(crate) fn receive(&self, declared: Option<u64>) -> Result<Incoming<'_>, Error> {
        let mut incoming = Incoming {
            store: self,
            writer: HashingWriter::to(TempFile::create(&self.dir)?),
            allocated: 0,
        };
        incoming.allocate(declared.unwrap_or(0))?;
        Ok(incoming)
    }

    /// Stores all bytes of `source`; `expect` and the result are as for [`Incoming::finish`].
    pub(crate) fn put(
        &self,
        source: &mut dyn Read,
        declared: Option<u64>,
        expect: Option<&Sha1Hex>,
    ) -> Result<Sha1Hex, Error> {
        let mut incoming = self.receive(declared)?;
        loop {
            let mut piece = incoming.spare();
            fill(source, &mut piece).map_err(Error::Source)?;
            if piece.is_empty() {
                return incoming.finish(expect);
            }
            incoming.write(piece)?;
        }
    }

    /// Removes an entry; success if absent. Open files of the entry stay readable.
    pub(crate) fn remove(&self, sha1: &Sha1Hex) -> Result<(), Error> {
        let path = self.path(sha1);
        self.marks.forget(sha1);
        match files::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(fs::Error::at("remove", &path)(error).into())
            }
            _ => Ok(()),
        }
    }

    /// Returns number and size of the entries, without unfinished files.
    pub(crate) fn usage(&self) -> Result<Usage, Error> {
        let mut usage = Usage::default();
        for item in self.scan()?.0 {
            usage.bytes += item.bytes;
            usage.entries += 1;
        }
        Ok(usage)
    }

    fn path(&self, sha1: &Sha1Hex) -> PathBuf {
        self.dir.join(sha1.as_str())
    }

    fn open_folder(&self) -> Result<File, Error> {
        Ok(File::open(&self.dir).map_err(fs::Error::at("open", &self.dir))?)
    }

    /// Takes the shared lock of the folder, which prevents evictions until dropped.
    fn lock_shared(&self) -> Result<File, Error> {
        let folder = self.open_folder()?;
        let locked = file_lock::lock_shared(&folder);
        locked.map_err(fs::Error::at("lock", &self.dir))?;
        Ok(folder)
    }

    /// Evicts entries until `bytes` more fit, and allocates these for `temp` from offset `from`.
    fn evict_and_allocate(&self, temp: &TempFile, from: u64, bytes: u64) -> Result<(), Error> {
        let folder = self.open_folder()?;
        file_lock::lock(&folder).map_err(fs::Error::at("lock", &self.dir))?;
        let (mut items, incoming) = self.scan()?;
        let mut space = Space {
            limit: self.limit.load(Ordering::Relaxed),
            key: "cache_size",
            incoming,
            free: self.free_bytes()?,
            reserve: self.reserve.load(Ordering::Relaxed),
        };
        let kept = items.iter().map(|item| item.bytes).sum();
        if space.excess(kept, bytes) > 0 {
            let pinned = (self.rules.pinned)().map_err(Error::Pins)?;
            for item in &mut items {
                item.pinned =
                    pinned.contains(&item.key) || self.marks.is_held(&item.key, HOLD_TIME);
            }
            for sha1 in space.plan(items, bytes)? {
                log::info!("evicting {sha1} from the cache");
                self.remove(&sha1)?;
                metrics().evictions.with_label_values(&["filecache"]).inc();
            }
            // The space of an evicted entry that is still open is not free yet.
            space.free = self.free_bytes()?;
            if space.excess(0, bytes) > 0 {
                return Err(Shortage::Free {
                    needed: bytes,
                    free: space.free,
                    reserve: space.reserve,
                    evictable: 0,
                }
                .into());
            }
        }
        Ok(temp.allocate(from, bytes)?)
    }

    /// Returns the entries, and the bytes of unfinished files.
    fn scan(&self) -> Result<(Vec<Item<Sha1Hex>>, u64), Error> {
        let list = || fs::Error::at("list", &self.dir);
        let (mut items, mut incoming) = (Vec::new(), 0);
        for entry in files::read_dir(&self.dir).map_err(list())? {
            let entry = entry.map_err(list())?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let found = match entry.metadata() {
                Ok(found) if found.is_file() => found,
                // Not a regular file, or removed meanwhile.
                _ => continue,
            };
            if let Ok(sha1) = Sha1Hex::parse(&name) {
                let used = [
                    self.marks.used(&sha1),
                    found.accessed().ok(),
                    found.modified().ok(),
                ];
                let used = used.into_iter().flatten().max().unwrap_or(UNIX_EPOCH);
                items.push(Item {
                    key: sha1,
                    bytes: found.len(),
                    used: used_at(used),
                    pinned: false,
                });
            } else if name.starts_with(TEMP_PREFIX) {
                incoming += found.len().max(found.blocks() * 512);
            }
        }
        Ok((items, incoming))
    }

    /// Returns the bytes an unprivileged process may still write to the file system.
    fn free_bytes(&self) -> Result<u64, Error> {
        let disk = host::disk_of(&self.dir);
        let disk = disk.map_err(fs::Error::at("find the free space of", &self.dir))?;
        Ok(disk.free_bytes)
    }
}

/// An unfinished entry. Dropping it removes its file.
pub(crate) struct Incoming<'a> {
    store: &'a Store,
    writer: HashingWriter,
    /// Bytes allocated so far.
    allocated: u64,
}

impl Incoming<'_> {
    /// Returns a buffer to fill and pass to [`Incoming::write`].
    pub(crate) fn spare(&self) -> Vec<u8> {
        self.writer.spare()
    }

    /// Appends all of `piece`.
    pub(crate) fn write(&mut self, piece: Vec<u8>) -> Result<(), Error> {
        let wanted = self.writer.len() + piece.len() as u64;
        if wanted > self.allocated {
            let missing = wanted - self.allocated;
            if missing >= STEP_BYTES || self.allocate(STEP_BYTES).is_err() {
                self.allocate(missing)?;
            }
        }
        Ok(self.writer.write(piece)?)
    }

    fn allocate(&mut self, bytes: u64) -> Result<(), Error> {
        if bytes > 0 {
            self.store
                .evict_and_allocate(self.writer.temp(), self.allocated, bytes)?;
            self.allocated += bytes;
        }
        Ok(())
    }

    /// Makes the written bytes an entry and returns its SHA-1. Fails with [`Error::Mismatch`] if
    /// another one is expected. On return, the entry is on disk, and held as by [`Store::hold`].
    pub(crate) fn finish(self, expect: Option<&Sha1Hex>) -> Result<Sha1Hex, Error> {
        let store = self.store;
        let (mut temp, digest) = self.writer.finish();
        let actual = Sha1Hex::parse(&digest)
            .expect("a digest is formatted as forty lower-case hexadecimal digits");
        if let Some(expected) = expect.filter(|expected| **expected != actual) {
            return Err(Error::Mismatch {
                expected: expected.clone(),
                actual,
            });
        }
        temp.sync()?;
        let path = store.path(&actual);
        {
            let entry_lock = store.marks.lock_entry(&actual);
            let _folder = store.lock_shared()?;
            (store.rules.before_naming)(&actual).map_err(Error::Pins)?;
            temp.place(&path, ENTRY_MODE)?;
            let found = path.symlink_metadata();
            let found = found.map_err(fs::Error::at("examine", &path))?;
            entry_lock.set_verified(Identity::of(&found), true, true);
        }
        fs::fsync_dir(&store.dir)?;
        Ok(actual)
    }
}

#[cfg(test)]
mod tests;
