//! Downloads a build's results from its slave into `incoming/`.
//!
//! Each file is streamed to a temporary file while a second thread hashes it. Its SHA-1 must be the
//! one that the slave announced (docs/farm.md §2.11). When all files are there, match the .changes
//! and belong to the build that was dispatched, their folder is renamed from `grabbing/` to
//! `incoming/` and synced to disk. Only then does the caller record them. A repeated download of
//! the same attempt finds the results complete, or replaces them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{self, Client, Download};
use crate::dpkg::changes::{self, Entry};
use crate::dpkg::deb::Effort;
use crate::dpkg::expected::{Expected, is_result_name};
use crate::protocol::{FileName, Sha1Hex};
use crate::sys::digest::sha1_of;
use crate::sys::fs::{TempFile, fsync_dir, remove_tree};
use crate::sys::hashing_writer::HashingWriter;

use crate::master::farm::DownloadSlot;

/// Attempts per file (docs/farm.md §3.1).
const TRIES: u32 = 3;
/// Delay before the second attempt; the third waits twice as long.
const RETRY_DELAY: Duration = Duration::from_millis(500);
/// Lowest average rate, in bytes a second, after the first [`GRACE`]. A slower download is aborted,
/// since it occupies a download slot.
const MIN_RATE: u64 = 16 << 10;
const GRACE: Duration = Duration::from_secs(60);

/// An error in the download of results.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The slave sent a wrong file, or none.
    #[error("{name}: {problem}")]
    Slave { name: FileName, problem: String },
    /// The results are not those of a package build. Another attempt would not help.
    #[error("{0}")]
    Refused(String),
    /// This host's disk.
    #[error(transparent)]
    Disk(#[from] crate::sys::fs::Error),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// Another process has the builder's lease now.
    #[error("another master has the builder's lease now")]
    Lost,
}

/// Names and SHA-1s, as a slave announces its results.
pub(crate) type Files = [(FileName, Sha1Hex)];

/// The path below `grabbing/` for an attempt's results or compressed log. It contains the lease's
/// epoch, so that a former holder of the lease does not interfere.
pub(crate) fn work_path(results: &Path, cookie: &str, epoch: i64, what: &str) -> PathBuf {
    results
        .join("grabbing")
        .join(format!("{cookie}@{epoch}.{what}"))
}

/// A set of results to download.
pub(crate) struct Request<'a> {
    pub(crate) client: &'a Client,
    pub(crate) cookie: &'a str,
    /// The epoch of the builder's lease.
    pub(crate) epoch: i64,
    pub(crate) files: &'a Files,
    /// The build that was dispatched.
    pub(crate) expected: &'a Expected,
    pub(crate) results: &'a Path,
    /// Largest file accepted, in bytes.
    pub(crate) limit: u64,
    /// Waits for a slot to download one file.
    pub(crate) slot: &'a dyn Fn() -> DownloadSlot<'a>,
    /// Returns whether this process still holds the lease.
    pub(crate) holds_lease: &'a dyn Fn() -> bool,
}

/// The size and the duration of a download.
#[derive(Debug)]
pub(crate) struct Downloaded {
    pub(crate) bytes: u64,
    /// Until the rename to `incoming/`, without the fsync that follows.
    pub(crate) fetched_in: Duration,
}

/// Downloads the files into `incoming/COOKIE` and syncs them to disk. An error before the rename
/// leaves nothing there.
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

/// Returns the number of bytes downloaded: 0 if the results were complete already.
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
        // The pass for orphans removes the rest (docs/farm.md §3.12).
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
    check_changes(dir, request.files, request.expected)?;
    Ok(bytes)
}

/// Renames `dir` to `done`, unless another process has completed `done` in the meantime.
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

/// Removes the files that earlier holders of the lease left of this attempt.
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

fn create_dir(dir: &Path) -> Result<(), Error> {
    fs::create_dir_all(dir).map_err(io_error(dir))
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    move |source| Error::Io {
        path: path.to_owned(),
        source,
    }
}

/// Accepts only file names that a package build makes, without special characters.
fn check_names(files: &Files) -> Result<(), Error> {
    for (name, _) in files {
        let text = name.as_str();
        if !is_result_name(text) {
            return Err(Error::Refused(format!(
                "{text:?} is not a valid file name for a result"
            )));
        }
    }
    Ok(())
}

/// Returns whether `dir` holds all of `files`, each with its hash.
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

/// Downloads one file, with up to [`TRIES`] attempts.
fn fetch(request: &Request<'_>, name: &FileName, sha1: &Sha1Hex, dir: &Path) -> Result<u64, Error> {
    let mut tried = 0;
    loop {
        tried += 1;
        let slot = (request.slot)();
        let fetched = try_fetch(request, name, sha1, dir);
        drop(slot);
        match fetched {
            Err(Error::Slave { name, problem }) if tried < TRIES => {
                let delay = RETRY_DELAY * tried;
                log::info!(
                    "{name}: {problem}; attempt {tried} of {TRIES}, retrying in {} ms",
                    delay.as_millis()
                );
                thread::sleep(delay);
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
            "{name} exceeds the limit of {limit} bytes ([master] result_size)"
        )),
        SaveError::Disk(error) => Error::Disk(error),
    })?;
    if actual != sha1.as_str() {
        return Err(wrong(format!("its SHA-1 is {actual} instead of {sha1}")));
    }
    temp.place(&dir.join(name.as_str()), 0o644)?;
    Ok(bytes)
}

/// An error in saving a download.
pub(crate) enum SaveError {
    Client(client::Error),
    TooLong,
    TooSlow,
    Disk(crate::sys::fs::Error),
}

/// Writes a download to `temp`; returns the file, its SHA-1 and its length. Uses constant memory.
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

/// Checks that there is exactly one .changes, that it lists exactly the other files downloaded, and
/// that all belong to the build.
fn check_changes(dir: &Path, files: &Files, expected: &Expected) -> Result<(), Error> {
    let mut found = files
        .iter()
        .filter(|(name, _)| name.as_str().ends_with(".changes"));
    let (Some((name, _)), None) = (found.next(), found.next()) else {
        return Err(Error::Refused(
            "the results must contain exactly one .changes".into(),
        ));
    };
    let path = dir.join(name.as_str());
    let size = |path: &Path| {
        fs::metadata(path)
            .map(|data| data.len())
            .map_err(io_error(path))
    };
    let wrong = |problem: String| Error::Refused(format!("{name}: {problem}"));
    if size(&path)? > changes::MAX_BYTES {
        return Err(wrong(format!("larger than {} bytes", changes::MAX_BYTES)));
    }
    let bytes = fs::read(&path).map_err(io_error(&path))?;
    let entries = changes::parse(&bytes).map_err(|error| wrong(error.to_string()))?;
    expected.check_changes(&bytes, &entries).map_err(wrong)?;
    for entry in &entries {
        let Some((_, sha1)) = files.iter().find(|(name, _)| *name == entry.name) else {
            return Err(wrong(format!("{} is not among the results", entry.name)));
        };
        let same_hash = entry
            .sha1
            .as_ref()
            .is_none_or(|listed| listed == sha1.as_str());
        if !same_hash || size(&dir.join(entry.name.as_str()))? != entry.size {
            return Err(wrong(format!(
                "size or SHA-1 of {} does not match",
                entry.name
            )));
        }
    }
    let is_listed = |file: &FileName| file == name || entries.iter().any(|one| one.name == *file);
    if let Some((file, _)) = files.iter().find(|(file, _)| !is_listed(file)) {
        return Err(wrong(format!(
            "does not list {file}, which the slave announced"
        )));
    }
    check_contents(dir, &entries, expected)
}

/// Checks that each listed file belongs to the build.
fn check_contents(dir: &Path, entries: &[Entry], expected: &Expected) -> Result<(), Error> {
    let mut effort = Effort::new();
    for Entry { name, .. } in entries {
        let path = dir.join(name.as_str());
        let mut file = fs::File::open(&path).map_err(io_error(&path))?;
        let checked = expected.check_file(name.as_str(), &mut file, entries, &mut effort);
        checked.map_err(|problem| Error::Refused(format!("{name}: {problem}")))?;
    }
    Ok(())
}
