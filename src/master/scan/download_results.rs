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
const PAUSE: Duration = Duration::from_millis(500);
/// Age of half-fetched results that nobody can be at any more.
const OLD: Duration = Duration::from_secs(24 * 3600);
/// Below this many bytes a second on average, after the first `GRACE`, a download is given up: it
/// keeps others waiting.
const LOWEST_RATE: u64 = 16 << 10;
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

/// Where a try at a build is gathered, or its log packed: each holder of the builder's lease has a
/// place of its own, so that one that was thought dead is in nobody's way.
pub(crate) fn place(results: &Path, cookie: &str, epoch: i64, what: &str) -> PathBuf {
    results
        .join("grabbing")
        .join(format!("{cookie}@{epoch}.{what}"))
}

/// What is to be gathered, and how.
pub(crate) struct Gathering<'a> {
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
    pub(crate) is_ours: &'a dyn Fn() -> bool,
}

/// What came, and how long that took.
#[derive(Debug)]
pub(crate) struct Gathered {
    pub(crate) bytes: u64,
    /// Until they were handed over; then the disk was waited for.
    pub(crate) fetched_in: Duration,
}

/// Brings the files into `incoming/COOKIE` below the results; on return they are on disk there.
/// Whatever fails before leaves nothing behind.
pub(crate) fn gather(wanted: &Gathering<'_>) -> Result<Gathered, Error> {
    let started = Instant::now();
    let done = wanted.results.join("incoming").join(wanted.cookie);
    let bytes = bring(wanted, &done)?;
    let fetched_in = started.elapsed();
    for (name, _) in wanted.files {
        let path = done.join(name.as_str());
        let file = fs::File::open(&path).map_err(at(&path))?;
        file.sync_all().map_err(at(&path))?;
    }
    fsync_dir(&done)?;
    fsync_dir(parent(&done))?;
    Ok(Gathered { bytes, fetched_in })
}

/// Fetches what is not there yet, and hands it over; returns how many bytes came.
fn bring(wanted: &Gathering<'_>, done: &Path) -> Result<u64, Error> {
    check_names(wanted.files)?;
    remove_earlier(wanted.results, wanted.cookie, wanted.epoch)?;
    if is_complete(done, wanted.files)? {
        return Ok(0);
    }
    let dir = place(wanted.results, wanted.cookie, wanted.epoch, "files");
    let gathered = fetch_all(wanted, &dir).and_then(|bytes| {
        hand_over(wanted, &dir, done)?;
        Ok(bytes)
    });
    if gathered.is_err() {
        // What is left is swept when it is old.
        let _ = remove_tree(&dir);
    }
    gathered
}

fn fetch_all(wanted: &Gathering<'_>, dir: &Path) -> Result<u64, Error> {
    remove_tree(dir)?;
    make(dir)?;
    let mut bytes = 0;
    for (name, sum) in wanted.files {
        bytes += fetch(wanted, name, sum, dir)?;
    }
    check_changes(dir, wanted.files)?;
    Ok(bytes)
}

/// Renames `dir` to `done`; what is there already is looked at only now, for another process may
/// have been faster.
fn hand_over(wanted: &Gathering<'_>, dir: &Path, done: &Path) -> Result<(), Error> {
    let incoming = parent(done);
    make(incoming)?;
    if is_complete(done, wanted.files)? {
        return Ok(remove_tree(dir)?);
    }
    if !(wanted.is_ours)() {
        return Err(Error::Lost);
    }
    remove_tree(done)?;
    fs::rename(dir, done).map_err(at(done))
}

fn parent(path: &Path) -> &Path {
    path.parent().expect("it was joined to its folder")
}

/// Removes what earlier holders of the lease left of this try.
fn remove_earlier(results: &Path, cookie: &str, epoch: i64) -> Result<(), Error> {
    let folder = results.join("grabbing");
    let entries = match fs::read_dir(&folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(at(&folder))?,
    };
    for entry in entries {
        let entry = entry.map_err(at(&folder))?;
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
pub(crate) fn sweep(results: &Path) {
    let Ok(entries) = fs::read_dir(results.join("grabbing")) else {
        return;
    };
    for entry in entries.flatten() {
        let modified = entry.metadata().and_then(|data| data.modified());
        let age = modified.ok().and_then(|time| time.elapsed().ok());
        if age.is_some_and(|age| age > OLD)
            && let Err(error) = remove_tree(&entry.path())
        {
            log::warn!("{error}");
        }
    }
}

fn make(dir: &Path) -> Result<(), Error> {
    fs::create_dir_all(dir).map_err(at(dir))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
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
    for (name, sum) in files {
        let path = dir.join(name.as_str());
        if fs::File::open(&path).is_err() {
            return Ok(false);
        }
        let (actual, _) = sha1_of(&path).map_err(at(&path))?;
        if actual != sum.as_str() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Fetches one file, in a few tries.
fn fetch(wanted: &Gathering<'_>, name: &FileName, sum: &Sha1Hex, dir: &Path) -> Result<u64, Error> {
    let mut tried = 0;
    loop {
        tried += 1;
        let place = (wanted.slot)();
        let fetched = try_fetch(wanted, name, sum, dir);
        drop(place);
        match fetched {
            Err(Error::Slave { name, problem }) if tried < TRIES => {
                log::info!("{name}: {problem}; try {tried} of {TRIES}");
                thread::sleep(PAUSE * tried);
            }
            other => return other,
        }
    }
}

fn try_fetch(
    wanted: &Gathering<'_>,
    name: &FileName,
    sum: &Sha1Hex,
    dir: &Path,
) -> Result<u64, Error> {
    let wrong = |problem: String| Error::Slave {
        name: name.clone(),
        problem,
    };
    let limit = wanted.limit;
    let download = wanted.client.get(&format!("/filecache/{sum}"), 0);
    let download = download.map_err(|error| wrong(error.to_string()))?;
    let saved = save(download, TempFile::create(dir)?, limit);
    let (temp, actual, bytes) = saved.map_err(|failed| match failed {
        Failed::Client(error) => wrong(error.to_string()),
        Failed::TooSlow => wrong(format!("slower than {LOWEST_RATE} bytes a second")),
        Failed::TooLong => Error::Refused(format!(
            "{name} is longer than {limit} bytes ([master] result_size)"
        )),
        Failed::Disk(error) => Error::Disk(error),
    })?;
    if actual != sum.as_str() {
        return Err(wrong(format!("sent with SHA-1 {actual} instead of {sum}")));
    }
    temp.place(&dir.join(name.as_str()), 0o644)?;
    Ok(bytes)
}

/// Why a download was not saved.
pub(crate) enum Failed {
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
) -> Result<(TempFile, String, u64), Failed> {
    let started = Instant::now();
    let mut writer = HashingWriter::to(temp);
    loop {
        let mut piece = writer.spare();
        download.fill(&mut piece).map_err(Failed::Client)?;
        if piece.is_empty() {
            break;
        }
        let received = writer.len() + piece.len() as u64;
        if received > limit {
            return Err(Failed::TooLong);
        }
        let due = Duration::from_secs(received / LOWEST_RATE);
        if started.elapsed() > GRACE + due {
            return Err(Failed::TooSlow);
        }
        writer.write(piece).map_err(Failed::Disk)?;
    }
    let bytes = writer.len();
    let (temp, sum) = writer.finish();
    Ok((temp, sum, bytes))
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
    let size = |path: &Path| fs::metadata(path).map(|data| data.len()).map_err(at(path));
    let wrong = |problem: String| Error::Refused(format!("{name}: {problem}"));
    if size(&path)? > changes::MAX_BYTES {
        return Err(wrong("larger than any real one".into()));
    }
    let bytes = fs::read(&path).map_err(at(&path))?;
    let entries = changes::parse(&bytes).map_err(|error| wrong(error.to_string()))?;
    for entry in entries {
        let Some((_, sum)) = files.iter().find(|(name, _)| *name == entry.name) else {
            return Err(wrong(format!("{} is not among the results", entry.name)));
        };
        let same_sum = entry.sha1.is_none_or(|listed| listed == sum.as_str());
        if !same_sum || size(&dir.join(entry.name.as_str()))? != entry.size {
            return Err(wrong(format!("{} is another file", entry.name)));
        }
    }
    Ok(())
}
