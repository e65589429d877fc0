//! How do a build's results come from its slave to the place where they are handed over?
//!
//! Each file is streamed to a temporary name while a second thread sums it, and kept only if its
//! SHA-1 is the one the slave announced: no other master checks that (docs/farm.md §9). When all
//! are there and the .changes agrees, their folder is renamed from `grabbing/` to `incoming/`, and
//! only then is the disk waited for: nobody is told of them before. Done again for the same try at
//! a build, it finds its work done, or does it over. Decides nothing about the build.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{self, Client, Download};
use crate::dpkg::changes;
use crate::protocol::{FileName, Sha1Hex};
use crate::sys::digest::sha1_of;
use crate::sys::fs::{TempFile, fsync_dir, remove_tree};
use crate::sys::hashing_writer::HashingWriter;

use crate::master::farm::DownloadSlot;

/// Tries at one file (docs/farm.md §3.1).
const TRIES: u32 = 3;
/// Before the second try; twice that before the third.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// Age of half-fetched results that nobody can be at any more.
const STALE_AFTER: Duration = Duration::from_secs(24 * 3600);
/// Below this many bytes a second on average, after the first `GRACE`, a download is given up: it
/// keeps others waiting.
const MIN_RATE: u64 = 16 << 10;
const GRACE: Duration = Duration::from_secs(60);

/// Why results did not arrive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// What the slave sent, or did not send.
    #[error("{name}: {problem}")]
    Slave { name: FileName, problem: String },
    /// The results are not what a package build makes: no other slave will do better.
    #[error("{0}")]
    Refused(String),
    /// This host's disk.
    #[error(transparent)]
    Disk(#[from] crate::sys::fs::Error),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// Another process looks after the builder by now.
    #[error("the builder is another's now")]
    Lost,
}

/// Names and sums, as a slave announces its results.
pub(crate) type Files = [(FileName, Sha1Hex)];

/// Where a try at a build is downloaded, or its log packed: each holder of the builder's lease has a
/// place of its own, so that one that was thought dead is in nobody's way.
pub(crate) fn work_path(results: &Path, cookie: &str, epoch: i64, what: &str) -> PathBuf {
    results
        .join("grabbing")
        .join(format!("{cookie}@{epoch}.{what}"))
}

/// What is to be downloaded, and how.
pub(crate) struct Request<'a> {
    pub(crate) client: &'a Client,
    pub(crate) cookie: &'a str,
    /// Of the builder's lease.
    pub(crate) epoch: i64,
    pub(crate) files: &'a Files,
    pub(crate) results: &'a Path,
    /// Longest file, in bytes.
    pub(crate) limit: u64,
    /// Waits for the right to fetch one file.
    pub(crate) slot: &'a dyn Fn() -> DownloadSlot<'a>,
    /// Tells whether the lease still holds.
    pub(crate) holds_lease: &'a dyn Fn() -> bool,
}

/// What came, and how long that took.
#[derive(Debug)]
pub(crate) struct Downloaded {
    pub(crate) bytes: u64,
    /// Until they were handed over; then the disk was waited for.
    pub(crate) fetched_in: Duration,
}

/// Brings the files into `incoming/COOKIE` below the results; on return they are on disk there.
/// Whatever fails before leaves nothing behind.
pub(crate) fn download(request: &Request<'_>) -> Result<Downloaded, Error> {
    let started = Instant::now();
    let done = request.results.join("incoming").join(request.cookie);
    let bytes = download_and_hand_over(request, &done)?;
    let fetched_in = started.elapsed();
    for (name, _) in request.files {
        let path = done.join(name.as_str());
        let file = fs::File::open(&path).map_err(io_error(&path))?;
        file.sync_all().map_err(io_error(&path))?;
    }
    fsync_dir(&done)?;
    fsync_dir(parent(&done))?;
    Ok(Downloaded { bytes, fetched_in })
}

/// Fetches what is not there yet, and hands it over; returns how many bytes came.
fn download_and_hand_over(request: &Request<'_>, done: &Path) -> Result<u64, Error> {
    check_names(request.files)?;
    remove_superseded(request.results, request.cookie, request.epoch)?;
    if is_complete(done, request.files)? {
        return Ok(0);
    }
    let dir = work_path(request.results, request.cookie, request.epoch, "files");
    let downloaded = download_all(request, &dir).and_then(|bytes| {
        hand_over(request, &dir, done)?;
        Ok(bytes)
    });
    if downloaded.is_err() {
        // What is left is swept when it is old.
        let _ = remove_tree(&dir);
    }
    downloaded
}

fn download_all(request: &Request<'_>, dir: &Path) -> Result<u64, Error> {
    remove_tree(dir)?;
    create_dir(dir)?;
    let mut bytes = 0;
    for (name, sha1) in request.files {
        bytes += fetch(request, name, sha1, dir)?;
    }
    check_changes(dir, request.files)?;
    Ok(bytes)
}

/// Renames `dir` to `done`; what is there already is looked at only now, for another process may
/// have been faster.
fn hand_over(request: &Request<'_>, dir: &Path, done: &Path) -> Result<(), Error> {
    let incoming = parent(done);
    create_dir(incoming)?;
    if is_complete(done, request.files)? {
        return Ok(remove_tree(dir)?);
    }
    if !(request.holds_lease)() {
        return Err(Error::Lost);
    }
    remove_tree(done)?;
    fs::rename(dir, done).map_err(io_error(done))
}

fn parent(path: &Path) -> &Path {
    path.parent().expect("it was joined to its folder")
}

/// Removes what earlier holders of the lease left of this try.
fn remove_superseded(results: &Path, cookie: &str, epoch: i64) -> Result<(), Error> {
    let folder = results.join("grabbing");
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(io_error(&folder))?,
    };
    for entry in entries {
        let entry = entry.map_err(io_error(&folder))?;
        let name = entry.file_name();
        let holder = name
            .to_str()
            .and_then(|name| name.strip_prefix(cookie)?.strip_prefix('@'))
            .and_then(|rest| rest.split('.').next()?.parse::<i64>().ok());
        if holder.is_some_and(|holder| holder < epoch) {
            remove_tree(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes what processes that are no more left half-fetched: it is of no use (docs/farm.md §3.1).
/// What nobody has touched for a day is nobody's.
pub(crate) fn remove_stale(results: &Path) {
    let Ok(entries) = fs::read_dir(results.join("grabbing")) else {
        return;
    };
    for entry in entries.flatten() {
        let modified = entry.metadata().and_then(|data| data.modified());
        let age = modified.ok().and_then(|time| time.elapsed().ok());
        if age.is_some_and(|age| age > STALE_AFTER)
            && let Err(error) = remove_tree(&entry.path())
        {
            log::warn!("{error}");
        }
    }
}

fn create_dir(dir: &Path) -> Result<(), Error> {
    fs::create_dir_all(dir).map_err(io_error(dir))
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    move |source| Error::Io {
        path: path.to_owned(),
        source,
    }
}

/// Lets through what a package build makes, and no file name that means something to anybody.
fn check_names(files: &Files) -> Result<(), Error> {
    for (name, _) in files {
        let text = name.as_str();
        let good = text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b".+~_:-".contains(&b));
        if !good {
            return Err(Error::Refused(format!("{text:?} is no name for a result")));
        }
    }
    Ok(())
}

/// Tells whether `dir` holds `files` and nothing else that could be one.
fn is_complete(dir: &Path, files: &Files) -> Result<bool, Error> {
    if !dir.is_dir() {
        return Ok(false);
    }
    for (name, sha1) in files {
        let path = dir.join(name.as_str());
        if fs::File::open(&path).is_err() {
            return Ok(false);
        }
        let (actual, _) = sha1_of(&path).map_err(io_error(&path))?;
        if actual != sha1.as_str() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Fetches one file, in a few tries.
fn fetch(request: &Request<'_>, name: &FileName, sha1: &Sha1Hex, dir: &Path) -> Result<u64, Error> {
    let mut tried = 0;
    loop {
        tried += 1;
        let slot = (request.slot)();
        let fetched = try_fetch(request, name, sha1, dir);
        drop(slot);
        match fetched {
            Err(Error::Slave { name, problem }) if tried < TRIES => {
                log::info!("{name}: {problem}; try {tried} of {TRIES}");
                thread::sleep(RETRY_DELAY * tried);
            }
            other => return other,
        }
    }
}

fn try_fetch(
    request: &Request<'_>,
    name: &FileName,
    sha1: &Sha1Hex,
    dir: &Path,
) -> Result<u64, Error> {
    let wrong = |problem: String| Error::Slave {
        name: name.clone(),
        problem,
    };
    let limit = request.limit;
    let download = request.client.get(&format!("/filecache/{sha1}"), 0);
    let download = download.map_err(|error| wrong(error.to_string()))?;
    let saved = save(download, TempFile::create(dir)?, limit);
    let (temp, actual, bytes) = saved.map_err(|failed| match failed {
        SaveError::Client(error) => wrong(error.to_string()),
        SaveError::TooSlow => wrong(format!("slower than {MIN_RATE} bytes a second")),
        SaveError::TooLong => Error::Refused(format!(
            "{name} is longer than {limit} bytes ([master] result_size)"
        )),
        SaveError::Disk(error) => Error::Disk(error),
    })?;
    if actual != sha1.as_str() {
        return Err(wrong(format!("sent with SHA-1 {actual} instead of {sha1}")));
    }
    temp.place(&dir.join(name.as_str()), 0o644)?;
    Ok(bytes)
}

/// Why a download was not saved.
pub(crate) enum SaveError {
    Client(client::Error),
    TooLong,
    TooSlow,
    Disk(crate::sys::fs::Error),
}

/// Writes all of a download to `temp` and returns that, its SHA-1 and its length. Memory is
/// constant, whatever comes.
pub(crate) fn save(
    mut download: Download,
    temp: TempFile,
    limit: u64,
) -> Result<(TempFile, String, u64), SaveError> {
    let started = Instant::now();
    let mut writer = HashingWriter::to(temp);
    loop {
        let mut piece = writer.spare();
        download.fill(&mut piece).map_err(SaveError::Client)?;
        if piece.is_empty() {
            break;
        }
        let received = writer.len() + piece.len() as u64;
        if received > limit {
            return Err(SaveError::TooLong);
        }
        let due = Duration::from_secs(received / MIN_RATE);
        if started.elapsed() > GRACE + due {
            return Err(SaveError::TooSlow);
        }
        writer.write(piece).map_err(SaveError::Disk)?;
    }
    let bytes = writer.len();
    let (temp, sha1) = writer.finish();
    Ok((temp, sha1, bytes))
}

/// Makes sure that there is one .changes, and that it lists what came.
fn check_changes(dir: &Path, files: &Files) -> Result<(), Error> {
    let mut found = files
        .iter()
        .filter(|(name, _)| name.as_str().ends_with(".changes"));
    let (Some((name, _)), None) = (found.next(), found.next()) else {
        return Err(Error::Refused("not one .changes among the results".into()));
    };
    let path = dir.join(name.as_str());
    let size = |path: &Path| {
        fs::metadata(path)
            .map(|data| data.len())
            .map_err(io_error(path))
    };
    let wrong = |problem: String| Error::Refused(format!("{name}: {problem}"));
    if size(&path)? > changes::MAX_BYTES {
        return Err(wrong("larger than any real one".into()));
    }
    let bytes = fs::read(&path).map_err(io_error(&path))?;
    let entries = changes::parse(&bytes).map_err(|error| wrong(error.to_string()))?;
    for entry in entries {
        let Some((_, sha1)) = files.iter().find(|(name, _)| *name == entry.name) else {
            return Err(wrong(format!("{} is not among the results", entry.name)));
        };
        let same_hash = entry.sha1.is_none_or(|listed| listed == sha1.as_str());
        if !same_hash || size(&dir.join(entry.name.as_str()))? != entry.size {
            return Err(wrong(format!("{} is another file", entry.name)));
        }
    }
    Ok(())
}
