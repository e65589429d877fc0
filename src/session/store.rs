//! The chroot store: each chroot tarball unpacked once, named by the tarball's SHA-1.
//!
//! `STORE/SHA1/root` is the tree, owned by subordinate ids and never written to again. An
//! unfinished tree is named `.tmp-SHA1-…` and gets its name by a rename.
//!
//! `STORE/SHA1.use` is a file beside each tree. Its content is the size of the tree in bytes, its
//! mtime the time of last use. Each process that unpacks or uses the tree holds a shared lock on
//! this file. Removing the tree needs the exclusive lock.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use super::idmap::{Map, SubIds};
use super::launch::{self, own_sub_ids};
use super::{Error, at};
use crate::cache_eviction::{Item, Space, Usage};
use crate::metrics::metrics;
use crate::sys::clock::used_at;
use crate::sys::file_lock;
use crate::sys::fs::DiskUsage;
use crate::sys::host;
use crate::sys::stderr;

/// The age from which an unfinished tree without a lock file counts as abandoned.
const OLD: Duration = Duration::from_secs(3600);
/// The assumed upper limit for the ratio of an unpacked chroot to its tarball.
const EXPANSION: u64 = 4;

/// Limits of the store, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoreLimits {
    pub(crate) size: u64,
    /// Space that must stay free on the file system.
    pub(crate) reserve: u64,
}

impl StoreLimits {
    pub(crate) const NONE: Self = Self {
        size: u64::MAX,
        reserve: 0,
    };
}

/// Keeps a chroot in the store until dropped. The chroot need not be unpacked yet.
#[derive(Debug)]
pub(crate) struct Held {
    _lock: File,
}

/// A tree of the store, and its exclusive lock; `None` if the tree is in use.
type Tree = (Item<String>, Option<File>);

/// Returns the path of a tarball's tree, unpacked or not.
pub(crate) fn tree(store: &Path, sha1: &str) -> PathBuf {
    store.join(sha1).join("root")
}

/// Returns the path of an unfinished tree; `owner` is a build id or another unique word.
pub(crate) fn temp_tree(store: &Path, sha1: &str, owner: &str) -> PathBuf {
    store.join(format!(".tmp-{sha1}-{owner}"))
}

pub(super) fn use_file(store: &Path, sha1: &str) -> PathBuf {
    store.join(format!("{sha1}.use"))
}

/// Keeps a chroot in the store and records the time as its last use.
pub(crate) fn hold(store: &Path, sha1: &str) -> Result<Held, Error> {
    let path = use_file(store, sha1);
    let lock = || {
        let file = open_use_file(&path)?;
        file_lock::lock_shared(&file)?;
        file.set_modified(SystemTime::now())?;
        // Another process may have removed the file between creation and lock.
        Ok((file.metadata()?.nlink() > 0).then_some(Held { _lock: file }))
    };
    loop {
        if let Some(held) = lock().map_err(at(&path))? {
            return Ok(held);
        }
    }
}

fn open_use_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}

/// Reads the recorded size of a tree in bytes; `None` if there is none.
fn read_bytes(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Records the size of a tree and keeps the time of last use. Not atomic: a lost record is measured
/// again.
fn record_bytes(path: &Path, bytes: u64) -> io::Result<()> {
    let mut file = open_use_file(path)?;
    let times = file.metadata()?.modified()?;
    file.set_len(0)?;
    write!(file, "{bytes}")?;
    file.set_modified(times)
}

/// Unpacks `tarball` into the store unless it is there already, and returns the tree. Evicts the
/// least recently used chroots first if the store is full.
pub(crate) fn unpack(
    store: &Path,
    sha1: &str,
    tarball: &Path,
    owner: &str,
    ids: SubIds,
    limits: StoreLimits,
) -> Result<PathBuf, Error> {
    let _held = hold(store, sha1)?;
    let tree = tree(store, sha1);
    if tree.is_dir() {
        return Ok(tree);
    }
    let temporary = temp_tree(store, sha1, owner);
    remove(&temporary, ids)?;
    let size = fs::metadata(tarball).map_err(at(tarball))?.len();
    evict_for_tarball(store, sha1, size, ids, limits)?;
    let result = unpack_into(&temporary, tarball, ids).and_then(|()| {
        let bytes = measure(&temporary, ids)?.bytes;
        let path = use_file(store, sha1);
        record_bytes(&path, bytes).map_err(at(&path))?;
        evict(store, sha1, bytes, bytes, ids, limits)?;
        let home = store.join(sha1);
        match fs::rename(&temporary, &home) {
            // Another process has unpacked the same tarball meanwhile.
            Err(_) if tree.is_dir() => Ok(()),
            other => other.map_err(at(&home)),
        }
    });
    let removed = remove(&temporary, ids);
    // If both fail, the first error is the cause.
    result.and(removed).map(|()| tree)
}

fn unpack_into(dir: &Path, tarball: &Path, ids: SubIds) -> Result<(), Error> {
    fs::create_dir(dir).map_err(at(dir))?;
    launch::run(ids, Map::Wide, &["chown".into(), dir.into()])?;
    let task = ["unpack".into(), tarball.into(), dir.into()];
    launch::run(ids, Map::Session, &task).map_err(|error| match error {
        Error::Child(reason) => Error::Tarball {
            path: tarball.to_owned(),
            reason,
        },
        other => other,
    })
}

/// Evicts chroots before unpacking a tarball of `size` bytes, whose unpacked size is unknown. Frees
/// [`EXPANSION`] times that size or, if that is impossible, the highest possible multiple.
fn evict_for_tarball(
    store: &Path,
    sha1: &str,
    size: u64,
    ids: SubIds,
    limits: StoreLimits,
) -> Result<(), Error> {
    let mut factor = EXPANSION;
    loop {
        let bytes = size.saturating_mul(factor);
        match evict(store, sha1, bytes, 0, ids, limits) {
            Err(Error::NoRoom(_)) if factor > 1 => factor -= 1,
            Err(error) => return Err(error),
            Ok(()) => {
                let path = use_file(store, sha1);
                return record_bytes(&path, bytes).map_err(at(&path));
            }
        }
    }
}

/// Evicts the least recently used chroots until the tree of `sha1` fits. The tree takes `needed`
/// bytes, and `written` of these are on disk already.
fn evict(
    store: &Path,
    sha1: &str,
    needed: u64,
    written: u64,
    ids: SubIds,
    limits: StoreLimits,
) -> Result<(), Error> {
    let folder = File::open(store).map_err(at(store))?;
    file_lock::lock(&folder).map_err(at(store))?;
    let (mut found, incoming) = scan(store, Some(sha1), ids)?;
    let free = host::disk_of(store).map_err(at(store))?.free_bytes;
    let space = Space {
        limit: limits.size,
        key: "chroots_size",
        incoming,
        free: free.saturating_add(written),
        reserve: limits.reserve,
    };
    let items = found.iter().map(|(item, _)| item.clone()).collect();
    let evicted = space.plan(items, needed)?;
    found.retain(|(item, _)| evicted.contains(&item.key));
    // Each tree stays locked until it is removed.
    for (item, _lock) in found {
        stderr::line(format_args!(
            "Evicting the unpacked chroot {} ({} bytes).",
            item.key, item.bytes
        ));
        let doomed = temp_tree(store, &item.key, "evicted");
        let home = store.join(&item.key);
        remove(&doomed, ids)?;
        fs::rename(&home, &doomed).map_err(at(&home))?;
        remove(&doomed, ids)?;
        let path = use_file(store, &item.key);
        fs::remove_file(&path).map_err(at(&path))?;
        metrics().evictions.with_label_values(&["chroots"]).inc();
    }
    Ok(())
}

/// Returns the trees of the store except `own`, and the bytes of trees that other processes are
/// unpacking. Removes trees that a crash left unfinished. The caller must hold the store's lock.
fn scan(store: &Path, own: Option<&str>, ids: SubIds) -> Result<(Vec<Tree>, u64), Error> {
    let (mut items, mut incoming) = (Vec::new(), 0_u64);
    let listed: io::Result<Vec<_>> = fs::read_dir(store).and_then(Iterator::collect);
    let mut listed = listed.map_err(at(store))?;
    // Sorting puts unfinished trees before the lock files that protect them.
    listed.sort_by_key(fs::DirEntry::file_name);
    for entry in listed {
        let (name, path) = (entry.file_name(), entry.path());
        let name = name.to_string_lossy();
        if let Some(temp) = name.strip_prefix(".tmp-") {
            remove_if_abandoned(store, temp, &path, ids);
        } else if let Some(sha1) = name.strip_suffix(".use") {
            if tree(store, sha1).is_dir() || own == Some(sha1) {
                continue;
            }
            match try_lock(&path).map_err(at(&path))? {
                // The tree of this file has been removed manually.
                Some(_lock) => fs::remove_file(&path).map_err(at(&path))?,
                None => incoming = incoming.saturating_add(read_bytes(&path).unwrap_or(0)),
            }
        } else if tree(store, &name).is_dir() && own != Some(&*name) {
            let path = use_file(store, &name);
            let lock = try_lock(&path).map_err(at(&path))?;
            let bytes = match read_bytes(&path) {
                Some(bytes) => bytes,
                None => measure_and_record(&entry.path(), &path, ids),
            };
            let used = fs::metadata(&path).and_then(|found| found.modified());
            let used = used.map_err(at(&path))?;
            let item = Item {
                key: name.into_owned(),
                bytes,
                used: used_at(used),
                pinned: lock.is_none(),
            };
            items.push((item, lock));
        }
    }
    Ok((items, incoming))
}

/// Takes the exclusive lock of a tree; `None` if another process unpacks or uses the tree.
pub(super) fn try_lock(path: &Path) -> io::Result<Option<File>> {
    let file = open_use_file(path)?;
    Ok(file_lock::try_lock(&file)?.then_some(file))
}

/// Removes an unfinished tree if no process is unpacking it. Errors are logged.
fn remove_if_abandoned(store: &Path, name: &str, path: &Path, ids: SubIds) {
    let sha1 = name.get(..40).unwrap_or_default();
    let is_sha1 = sha1.len() == 40 && sha1.bytes().all(|byte| byte.is_ascii_hexdigit());
    let in_use = use_file(store, sha1);
    let abandoned = if is_sha1 && in_use.exists() {
        try_lock(&in_use).is_ok_and(|lock| lock.is_some())
    } else {
        let modified = fs::symlink_metadata(path).and_then(|found| found.modified());
        modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > OLD))
    };
    if abandoned {
        log::info!(
            "removing the unfinished chroot {}, left by a crash",
            path.display()
        );
        if let Err(error) = remove(path, ids) {
            log::warn!("{error}");
        }
    }
}

/// Runs `internal unpack STORE SHA1 TARBALL OWNER SIZE RESERVE EVICTIONS`, the process of UNPACK.
/// Appends the number of evicted chroots to the file EVICTIONS. Exits with 1 if the tarball is at
/// fault; returns an error if the host is.
pub(crate) fn run(args: &[OsString]) -> io::Result<ExitCode> {
    let [store, sha1, tarball, owner, size, reserve, evictions] = args else {
        let usage = "unpack: STORE SHA1 TARBALL OWNER SIZE RESERVE EVICTIONS";
        return Err(io::Error::other(usage));
    };
    let (sha1, owner) = (sha1.to_string_lossy(), owner.to_string_lossy());
    let (store, tarball) = (Path::new(store), Path::new(tarball));
    let number = |text: &OsString| text.to_string_lossy().parse().map_err(io::Error::other);
    let limits = StoreLimits {
        size: number(size)?,
        reserve: number(reserve)?,
    };
    let result = own_sub_ids().and_then(|ids| unpack(store, &sha1, tarball, &owner, ids, limits));
    let evicted = metrics().evictions.with_label_values(&["chroots"]).get();
    if evicted > 0 {
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(evictions)?;
        writeln!(file, "chroots {evicted}")?;
    }
    match result {
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(error @ Error::Tarball { .. }) => {
            stderr::line(error);
            Ok(ExitCode::FAILURE)
        }
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Removes a tree owned by subordinate ids below a folder that the caller owns; success if absent.
pub(crate) fn remove(path: &Path, ids: SubIds) -> Result<(), Error> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    launch::run(ids, Map::Wide, &["remove".into(), path.into()])
}

/// Returns the disk space of a tree owned by subordinate ids.
pub(crate) fn measure(path: &Path, ids: SubIds) -> Result<DiskUsage, Error> {
    let output = launch::run_for_output(ids, Map::Wide, &["measure".into(), path.into()])?;
    let mut numbers = output.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(bytes)), Some(Ok(inodes))) => Ok(DiskUsage { bytes, inodes }),
        _ => Err(Error::Child(format!(
            "measuring {}: not two numbers: {output:?}",
            path.display()
        ))),
    }
}

/// Measures a tree that has no recorded size, and records it. If that fails, logs the error and
/// returns 0, so that builds can continue.
fn measure_and_record(tree: &Path, record: &Path, ids: SubIds) -> u64 {
    let measured = measure(tree, ids).and_then(|DiskUsage { bytes, .. }| {
        record_bytes(record, bytes).map_err(at(record))?;
        Ok(bytes)
    });
    measured.unwrap_or_else(|error| {
        log::warn!("{error}");
        0
    })
}

/// Removes trees that a crash left unfinished, and measures trees that have no recorded size.
pub(crate) fn sweep(store: &Path, ids: SubIds) -> Result<(), Error> {
    let folder = File::open(store).map_err(at(store))?;
    file_lock::lock(&folder).map_err(at(store))?;
    scan(store, None, ids).map(drop)
}

/// Returns the SHA-1s of the unpacked chroots; none if the store cannot be read.
pub(crate) fn trees(store: &Path) -> Vec<String> {
    let entries = fs::read_dir(store).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !name.starts_with('.') && tree(store, name).is_dir())
        .collect()
}

/// Returns the number of unpacked chroots and their recorded size; measures none.
pub(crate) fn usage(store: &Path) -> Result<Usage, Error> {
    let mut usage = Usage::default();
    for entry in fs::read_dir(store).map_err(at(store))? {
        let entry = entry.map_err(at(store))?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let sha1 = name.strip_suffix(".use");
        if sha1.is_some_and(|sha1| tree(store, sha1).is_dir()) {
            let bytes = read_bytes(&entry.path()).unwrap_or(0);
            usage.bytes = usage.bytes.saturating_add(bytes);
            usage.entries += 1;
        }
    }
    Ok(usage)
}
