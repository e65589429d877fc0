//! The cache of archive files on this host, named by SHA-256 and shared by all builds.
//!
//! A file gets its name only after its hash has been checked, and is hashed again before it is
//! served. So a torn or changed file is found, removed and downloaded again. Renames make entries
//! appear; a lock file orders evictions of several processes.

use std::fs::{self as std_fs, File, FileTimes, OpenOptions};
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::fcntl::{Flock, FlockArg};
use nix::libc;
use sha2::{Digest as _, Sha256};

use super::known::{Expected, Sha256Hash};
use super::settings::CacheSettings;
use super::wire::PIECE_BYTES;
use crate::cache_eviction::{Item, Space};
use crate::sys::fs::{self, Error, TEMP_PREFIX, TempFile};
use crate::sys::host::disk_of;

/// The lock file in the folder.
const LOCK: &str = ".lock";

pub(super) struct Cache {
    settings: CacheSettings,
}

/// A file that is being stored; removed if it is dropped before [`Incoming::finish`].
pub(super) struct Incoming<'a> {
    cache: &'a Cache,
    temp: TempFile,
    /// Bytes that were reserved and not written yet.
    left: u64,
    expected: Vec<Expected>,
}

impl Cache {
    /// Creates the folder if it is missing, and removes unfinished files that a crash left.
    pub(super) fn open(settings: CacheSettings) -> Result<Self, Error> {
        fs::make_private(&settings.dir)?;
        fs::sweep_temps(&settings.dir)?;
        Ok(Self { settings })
    }

    fn path(&self, sha256: Sha256Hash) -> PathBuf {
        self.settings.dir.join(sha256.hex())
    }

    /// Returns whether there is an entry; it may be damaged.
    pub(super) fn has(&self, sha256: Sha256Hash) -> bool {
        self.path(sha256).symlink_metadata().is_ok()
    }

    /// Opens an entry and its length after checking both. Removes a damaged one.
    pub(super) fn open_checked(&self, expected: &Expected) -> Option<(File, u64)> {
        let path = self.path(expected.sha256);
        match self.check(&path, expected) {
            Ok(Some(found)) => Some(found),
            Ok(None) => {
                log::error!(
                    "{} does not have the SHA-256 of its name; removing it and downloading the \
                     file again",
                    path.display()
                );
                let _lock = self.lock();
                // Another process may have removed it.
                let _ = std_fs::remove_file(&path);
                None
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                log::warn!("cannot read {}: {error}; downloading it", path.display());
                None
            }
        }
    }

    fn check(&self, path: &Path, expected: &Expected) -> io::Result<Option<(File, u64)>> {
        // Without O_NONBLOCK a pipe of that name would block the open.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
        let mut file = match opened {
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Ok(None),
            other => other?,
        };
        let found = file.metadata()?;
        let size_differs = expected.bytes.is_some_and(|bytes| bytes != found.len());
        if !found.is_file() || size_differs || hash(&mut file)? != expected.sha256 {
            return Ok(None);
        }
        file.rewind()?;
        // Fails for a file of another user, which is then evicted sooner.
        let _ = file.set_times(FileTimes::new().set_accessed(SystemTime::now()));
        Ok(Some((file, found.len())))
    }

    /// Begins to store a file of `bytes` that is one of `expected`. `None` if it does not fit or
    /// cannot be stored; the download goes on without the cache.
    pub(super) fn receive(&self, bytes: u64, expected: &[Expected]) -> Option<Incoming<'_>> {
        let temp = self.make_room(bytes).unwrap_or_else(|error| {
            log::warn!("the cache of archive files does not work: {error}");
            None
        });
        Some(Incoming {
            cache: self,
            temp: temp?,
            left: bytes,
            expected: expected.to_vec(),
        })
    }

    fn make_room(&self, bytes: u64) -> Result<Option<TempFile>, Error> {
        let dir = &self.settings.dir;
        let _lock = self.lock()?;
        let (items, incoming) = self.list()?;
        let space = Space {
            limit: self.settings.limit,
            key: "cache_size",
            incoming,
            free: disk_of(dir).map_or(u64::MAX, |disk| disk.free_bytes),
            reserve: self.settings.reserve,
        };
        let Ok(evicted) = space.plan(items, bytes) else {
            return Ok(None);
        };
        for path in evicted {
            std_fs::remove_file(&path).map_err(Error::at("remove", &path))?;
        }
        let temp = TempFile::create(dir)?;
        // Others see the reserved space as that of an unfinished file.
        temp.allocate(0, bytes)?;
        Ok(Some(temp))
    }

    /// Returns the entries, and the bytes of unfinished files.
    fn list(&self) -> Result<(Vec<Item<PathBuf>>, u64), Error> {
        let dir = &self.settings.dir;
        let (mut items, mut incoming) = (Vec::new(), 0_u64);
        for entry in std_fs::read_dir(dir).map_err(Error::at("list", dir))? {
            let entry = entry.map_err(Error::at("list", dir))?;
            // Removed since it was listed.
            let Ok(found) = entry.metadata() else {
                continue;
            };
            let name = entry.file_name();
            let bytes = found.blocks().saturating_mul(512).max(found.len());
            if name.as_encoded_bytes().starts_with(TEMP_PREFIX.as_bytes()) {
                incoming = incoming.saturating_add(bytes);
            } else if name.to_str().and_then(Sha256Hash::parse).is_some() {
                let accessed = found.accessed().ok();
                let used = accessed.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
                items.push(Item {
                    key: entry.path(),
                    bytes,
                    used: used.unwrap_or(Duration::ZERO),
                    pinned: false,
                });
            }
        }
        Ok((items, incoming))
    }

    /// Waits until no other process evicts.
    fn lock(&self) -> Result<Flock<File>, Error> {
        let path = self.settings.dir.join(LOCK);
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(Error::at("open", &path))?;
        Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| Error::at("lock", &path)(errno))
    }
}

impl Incoming<'_> {
    /// Appends bytes; false if the file must not be stored after all.
    pub(super) fn write(&mut self, bytes: &[u8]) -> bool {
        let Some(left) = self.left.checked_sub(bytes.len() as u64) else {
            return false;
        };
        self.left = left;
        self.temp
            .write_all(bytes)
            .inspect_err(|error| log::warn!("{error}; not caching this file"))
            .is_ok()
    }

    /// Stores the file if it is complete and has an expected hash.
    pub(super) fn finish(self, actual: Sha256Hash) {
        let is_expected = self.expected.iter().any(|one| one.sha256 == actual);
        if self.left > 0 || !is_expected {
            return;
        }
        // A power cut may tear the file; the check before its use finds that.
        if let Err(error) = self.temp.place(&self.cache.path(actual), 0o600) {
            log::warn!("{error}; not caching this file");
        }
    }
}

fn hash(file: &mut File) -> io::Result<Sha256Hash> {
    let mut hasher = Sha256::new();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(Sha256Hash::new(hasher.finalize().into())),
            Ok(count) => hasher.update(&piece[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(dir: &Path, limit: u64) -> Cache {
        let settings = CacheSettings {
            dir: dir.to_path_buf(),
            limit,
            reserve: 0,
        };
        Cache::open(settings).unwrap()
    }

    fn expected(content: &[u8]) -> Expected {
        Expected {
            sha256: Sha256Hash::new(Sha256::digest(content).into()),
            bytes: Some(content.len() as u64),
        }
    }

    fn store(cache: &Cache, content: &[u8], expected: &Expected) {
        let bytes = content.len() as u64;
        if let Some(mut incoming) = cache.receive(bytes, &[*expected]) {
            assert!(incoming.write(content));
            incoming.finish(Sha256Hash::new(Sha256::digest(content).into()));
        }
    }

    fn read(cache: &Cache, expected: &Expected) -> Option<Vec<u8>> {
        let (mut file, bytes) = cache.open_checked(expected)?;
        let mut content = Vec::new();
        file.read_to_end(&mut content).unwrap();
        assert_eq!(content.len() as u64, bytes);
        Some(content)
    }

    fn temps(dir: &Path) -> usize {
        let names = std_fs::read_dir(dir).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name());
        names
            .filter(|name| name.to_str().unwrap().starts_with(TEMP_PREFIX))
            .count()
    }

    #[test]
    fn only_a_file_with_its_expected_hash_is_stored() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path(), 1 << 20);
        let good = expected(b"good");
        store(&cache, b"evil", &good);
        assert_eq!(read(&cache, &good), None);
        store(&cache, b"good", &good);
        assert_eq!(read(&cache, &good).unwrap(), b"good");
        // Shorter than announced, and longer.
        let mut short = cache.receive(10, &[good]).unwrap();
        assert!(short.write(b"good"));
        short.finish(good.sha256);
        assert!(!cache.receive(3, &[good]).unwrap().write(b"good"));
        assert_eq!(temps(dir.path()), 0);
    }

    #[test]
    fn a_damaged_entry_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path(), 1 << 20);
        let good = expected(b"good");
        let path = cache.path(good.sha256);
        for damage in [&b"gooD"[..], b"goo", b"good!", b""] {
            store(&cache, b"good", &good);
            std_fs::write(&path, damage).unwrap();
            assert_eq!(read(&cache, &good), None);
            assert!(!path.exists());
        }
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert_eq!(read(&cache, &good), None);
        assert!(path.symlink_metadata().is_err());
        assert!(Path::new("/etc/passwd").exists());
    }

    #[test]
    fn the_least_recently_used_is_evicted_and_too_large_is_not_stored() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(dir.path(), 20 << 10);
        let files: Vec<Vec<u8>> = (0..4_u8).map(|n| vec![n; 8 << 10]).collect();
        let hashes: Vec<Expected> = files.iter().map(|file| expected(file)).collect();
        store(&cache, &files[0], &hashes[0]);
        store(&cache, &files[1], &hashes[1]);
        std::thread::sleep(Duration::from_millis(20));
        assert!(read(&cache, &hashes[0]).is_some());
        store(&cache, &files[2], &hashes[2]);
        assert!(cache.has(hashes[0].sha256) && cache.has(hashes[2].sha256));
        assert!(!cache.has(hashes[1].sha256));
        assert!(cache.receive(21 << 10, &[hashes[3]]).is_none());
        assert!(cache.has(hashes[0].sha256) && cache.has(hashes[2].sha256));
    }

    #[test]
    fn unfinished_files_count_and_are_swept_after_a_crash() {
        let dir = tempfile::tempdir().unwrap();
        let first = cache(dir.path(), 100 << 10);
        let held = first.receive(64 << 10, &[expected(b"x")]).unwrap();
        // Another process, at the same time.
        let second = cache(dir.path(), 100 << 10);
        assert_eq!(temps(dir.path()), 1);
        assert!(second.receive(64 << 10, &[expected(b"y")]).is_none());
        drop(held);
        assert!(second.receive(64 << 10, &[expected(b"y")]).is_some());
        std_fs::write(dir.path().join(".tmp-1-1"), b"torn").unwrap();
        cache(dir.path(), 1);
        assert_eq!(temps(dir.path()), 0);
    }

    #[test]
    fn a_read_only_or_missing_folder_stops_no_download() {
        let dir = tempfile::tempdir().unwrap();
        let cache = cache(&dir.path().join("cache"), 1 << 20);
        std_fs::remove_dir_all(dir.path().join("cache")).unwrap();
        assert!(cache.receive(4, &[expected(b"good")]).is_none());
        assert_eq!(read(&cache, &expected(b"good")), None);
    }
}
