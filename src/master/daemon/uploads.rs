//! Runs the site's uploader on finished results, several at a time.
//!
//! Each upload has an entry in `uploading/`, and a runner that outlives the master
//! (`sys::detached`). Each round starts uploaders while fewer than `[master] uploads` run on this
//! host, and records the outcome of those that have ended (docs/farm.md §2.11). Masters that share
//! a folder of results take turns by a lock.

mod outcome;
mod stale_copies;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use self::outcome::{Binaries, LOG_NAME, Results};
use super::built_packages::BuiltPackage;
use super::workers::Workers;
use crate::db::Tx;
use crate::master::farm::Farm;
use crate::master::policy::retention::Folder;
use crate::master::policy::upload_step::{Facts, Outcome, Step, Uploader, step};
use crate::master::rows::uploads::{self, Upload};
use crate::sys::clock::now_ms as now;
use crate::sys::detached::{self, Entry, Order, State};
use crate::sys::file_lock;
use crate::sys::fs::remove_tree;

/// Interval of the search for results to upload.
const ROUND: Duration = Duration::from_secs(1);
/// Interval of the search for copies of results that another host uploads.
const STALE_COPIES_EVERY: Duration = Duration::from_secs(3600);
/// Timeout of one upload.
const TIMEOUT: Duration = Duration::from_secs(3600);

/// Uploads results until the process stops.
pub(crate) fn run(workers: &Workers) {
    let farm = &workers.farm;
    let mut uploads = Uploads::new(farm);
    let mut searched: Option<Instant> = None;
    while !workers.is_stopping() {
        // The panic hook has logged it.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            uploads.try_round();
            if searched.is_none_or(|at| at.elapsed() >= STALE_COPIES_EVERY) {
                searched = Some(Instant::now());
                stale_copies::remove(farm);
            }
        }));
        uploads.wait();
    }
}

/// Uploads all waiting results of this host, unless another process is doing so.
pub(crate) fn run_to_end(farm: &Farm) {
    let mut uploads = Uploads::new(farm);
    while uploads.try_round() > 0 {
        uploads.wait();
    }
}

/// The uploads of this host.
struct Uploads<'a> {
    farm: &'a Farm,
    /// The folder of the entries.
    folder: PathBuf,
    /// Reports the end of each runner that this process has started.
    ended: (Sender<()>, Receiver<()>),
}

impl<'a> Uploads<'a> {
    fn new(farm: &'a Farm) -> Self {
        Self {
            farm,
            folder: farm.results_dir().join("uploading"),
            ended: mpsc::channel(),
        }
    }

    /// Waits until a runner ends, but no longer than [`ROUND`].
    fn wait(&self) {
        match self.ended.1.recv_timeout(ROUND) {
            Ok(()) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
        }
    }

    /// Does one round; returns how many uploads wait or run.
    fn try_round(&mut self) -> usize {
        self.round().unwrap_or_else(|error| {
            log::warn!("cannot upload results: {error}; retrying in the next round");
            0
        })
    }

    fn round(&mut self) -> Result<usize, String> {
        let waiting = |tx: &mut Tx<'_>| uploads::waiting(tx, &self.farm.host);
        if self.farm.db.read(waiting).map_err(text)?.is_empty() && !self.folder.exists() {
            return Ok(0);
        }
        fs::create_dir_all(&self.folder).map_err(text)?;
        let lock = File::create(self.folder.join(".lock")).map_err(text)?;
        if !file_lock::try_lock(&lock).map_err(text)? {
            return Ok(0);
        }
        let waiting = self.farm.db.read(waiting).map_err(text)?;
        let mut names = self.entries().map_err(text)?;
        let mut running = self.running(&names);
        let limit = usize::try_from(self.farm.config().uploads).unwrap_or(usize::MAX);
        let (mut open, mut due) = (0, Vec::new());
        for upload in &waiting {
            if !names.remove(&upload.leaf) && running >= limit {
                open += 1;
                continue;
            }
            let mut task = Task::new(self.farm, &self.folder, upload);
            match task.next(running < limit, &self.ended.0) {
                Ok(Progress::Runs) => open += 1,
                Ok(Progress::Started) => {
                    open += 1;
                    running += 1;
                }
                Ok(Progress::Ended(outcome)) => due.push((task, outcome)),
                Ok(Progress::Elsewhere) => {}
                Err(error) => task.warn(&error),
            }
        }
        // New uploads are running by now: a slow librarian delays none.
        for (task, outcome) in due {
            if let Err(error) = task.record(&outcome) {
                task.warn(&error);
            }
        }
        self.remove_entries(&names);
        Ok(open)
    }

    /// Returns the names of the entries, and removes remnants of killed processes. The caller holds
    /// the lock, so that no process is making an entry.
    fn entries(&self) -> io::Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if detached::is_remnant(&name) {
                remove_tree(&entry.path()).map_err(io::Error::other)?;
            } else if !name.starts_with('.') {
                names.insert(name);
            }
        }
        Ok(names)
    }

    fn running(&self, names: &BTreeSet<String>) -> usize {
        let runs = |name: &&String| {
            let state = Entry::new(&self.folder, name).state();
            matches!(state, Ok(State::Running | State::Overdue))
        };
        names.iter().filter(runs).count()
    }

    /// Removes the entries of builds that are not UPLOADING: their outcome is recorded, or an
    /// operator has cancelled them. Entries that this database does not know stay.
    fn remove_entries(&self, names: &BTreeSet<String>) {
        for name in names {
            let place = Folder::Uploading.owner(name).map(|(build, cookie)| {
                let place = |tx: &mut Tx<'_>| uploads::place(tx, build, cookie);
                self.farm.db.read(place)
            });
            let Some(Ok(Some(place))) = place else {
                continue;
            };
            let entry = Entry::new(&self.folder, name);
            if let Err(error) = entry.check_format() {
                log::warn!("{error}");
                continue;
            }
            let state = entry.state();
            // The entry of a host that this one was before: only its name has changed.
            if place.is_uploading && !matches!(state, Ok(State::Ready)) {
                continue;
            }
            if let Ok(State::Running | State::Overdue) = state {
                log::warn!("killing the uploader of {name}: the build is no longer UPLOADING");
                entry.kill();
            }
            if let Err(error) = entry.remove() {
                log::warn!("{error}");
            }
        }
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// The record of an upload by an older version, which waited for its uploader itself.
#[derive(Default, Deserialize)]
struct OldRecord {
    binaries: Binaries,
    end: Option<OldEnd>,
}

#[derive(Deserialize)]
struct OldEnd {
    reason: Option<String>,
}

/// The note in the order of an uploader.
#[derive(Default, Serialize, Deserialize)]
struct Note {
    /// Names and versions of the binary packages, read before the uploader moves them.
    binaries: Binaries,
}

/// The state of an upload after a step.
enum Progress {
    /// Its uploader runs, or waits for its turn.
    Runs,
    Started,
    Ended(Outcome),
    Elsewhere,
}

/// The upload of one build.
struct Task<'a> {
    farm: &'a Farm,
    upload: &'a Upload,
    /// The folder of the results. The uploader may have moved it.
    dir: PathBuf,
    entry: Entry,
    note: Note,
}

impl<'a> Task<'a> {
    fn new(farm: &'a Farm, folder: &Path, upload: &'a Upload) -> Self {
        Self {
            farm,
            upload,
            dir: farm.results_dir().join("incoming").join(&upload.leaf),
            entry: Entry::new(folder, &upload.leaf),
            note: Note::default(),
        }
    }

    fn warn(&self, error: &str) {
        let name = &self.upload.name;
        log::warn!("cannot upload {name}: {error}; retrying in the next round");
    }

    /// Does the next step; starts the uploader only if `may_start`.
    fn next(&mut self, may_start: bool, ended: &Sender<()>) -> Result<Progress, String> {
        let facts = Facts {
            build: self.upload.build,
            folder: &self.upload.leaf,
            uploader: self.uploader().map_err(text)?,
            is_claimed: self.upload.upload_started_at.is_some(),
            is_ours: self.upload.host.is_some(),
            has_folder: self.dir.is_dir(),
            is_configured: !self.farm.config().uploader.is_empty(),
        };
        Ok(match step(&facts) {
            Step::Start if may_start => match self.start(ended)? {
                true => Progress::Started,
                false => Progress::Elsewhere,
            },
            Step::Wait | Step::Start => Progress::Runs,
            Step::Record(outcome) => Progress::Ended(outcome),
            Step::Kill(outcome) => {
                self.entry.kill();
                Progress::Ended(outcome)
            }
            Step::Leave => Progress::Elsewhere,
        })
    }

    /// Reads the state of the uploader, and the note that its starter left.
    fn uploader(&mut self) -> io::Result<Uploader> {
        if self.entry.path().is_file() {
            // The caller holds the lock that the uploader of an older version held as well.
            let text = fs::read(self.entry.path())?;
            let record: OldRecord = serde_json::from_slice(&text).unwrap_or_default();
            self.note.binaries = record.binaries;
            return Ok(record
                .end
                .map_or(Uploader::Lost, |end| Uploader::Ended(end.reason)));
        }
        let state = self.entry.state()?;
        if matches!(state, State::Ended(_)) {
            let order = self.entry.order();
            let note = order.and_then(|order| Ok(serde_json::from_value(order.note)?));
            // The outcome counts more than the list.
            self.note = note.unwrap_or_else(|error| {
                let path = self.entry.path().display();
                log::warn!("{path}: {error}: cannot tell which binaries were uploaded");
                Note::default()
            });
        }
        Ok(match state {
            State::Absent => Uploader::Absent,
            State::Ready => Uploader::Ready,
            State::Running => Uploader::Running,
            State::Overdue => Uploader::Overdue,
            State::Ended(end) => Uploader::Ended(end.reason),
            State::Lost => Uploader::Lost,
        })
    }

    /// Starts the uploader. False if the build is no longer UPLOADING, or if another host has its
    /// results.
    ///
    /// The entry is on disk before the claim, and the claim is committed before the runner starts.
    /// So a process killed at any line leaves either an entry that has not begun, or a runner.
    fn start(&self, ended: &Sender<()>) -> Result<bool, String> {
        let note = Note {
            binaries: BuiltPackage::read_all(&self.dir).map_err(text)?,
        };
        let order = Order {
            words: self.command_line(),
            limit: TIMEOUT,
            note: serde_json::to_value(note).map_err(text)?,
        };
        let prepared = self.entry.prepare(&order).map_err(text)?;
        let claim = |tx: &mut Tx<'_>| uploads::claim(tx, self.upload, &self.farm.host, now());
        if !self.farm.db.write(claim).map_err(text)? {
            drop(prepared);
            self.entry.remove().map_err(text)?;
            return Ok(false);
        }
        let child = prepared.start().map_err(text)?;
        reap(child, ended.clone());
        Ok(true)
    }

    fn command_line(&self) -> Vec<String> {
        let log = self.dir.join(LOG_NAME).display().to_string();
        let root = self.farm.results_dir().display().to_string();
        let (name, build) = (&self.upload.name, self.upload.build.to_string());
        let suite = name.suite();
        let arguments = [
            "--log-file",
            &log,
            "-d",
            &name.distribution,
            "-s",
            &suite,
            "-b",
            &build,
            "-J",
            &self.upload.leaf,
            &root,
        ];
        let mut words = self.farm.config().uploader.clone();
        words.extend(arguments.map(str::to_owned));
        words
    }

    /// Records the outcome, then removes the entry.
    fn record(&self, outcome: &Outcome) -> Result<(), String> {
        let results = Results {
            farm: self.farm,
            upload: self.upload,
            dir: &self.dir,
            binaries: &self.note.binaries,
        };
        results.record(outcome)?;
        if self.entry.path().is_file() {
            return remove_tree(self.entry.path()).map_err(text);
        }
        self.entry.remove().map_err(text)
    }
}

/// Waits for a runner in a thread of its own, and reports its end.
fn reap(mut child: Child, ended: Sender<()>) {
    let wait = move || {
        let _ = child.wait();
        let _ = ended.send(());
    };
    // Without the thread, a zombie stays until this process ends.
    if let Err(error) = thread::Builder::new().name("runner".into()).spawn(wait) {
        log::warn!("cannot start a thread: {error}");
    }
}
