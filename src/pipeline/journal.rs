//! The journal entry: the files of one build that the daemon and the shim share.
//!
//! | file | written by | content |
//! | --- | --- | --- |
//! | `spec.json` | starter | request and settings, without passwords, which go through a pipe |
//! | `lock` | starter, held by the shim | the pid of the shim; locked while the shim lives |
//! | `bounds` | starter | the limits and control groups of the build |
//! | `stages` | shim | a line for each stage begun: seconds since 1970 and its name |
//! | `log`, `log.*` | shim | the build log, and its segments over the limit |
//! | `shim.err` | shim | its stderr; empty unless the shim itself failed |
//! | `sbuild.conf` | shim | the configuration of sbuild |
//! | `tree` | shim | nothing; its existence shows that the work tree belongs to this build |
//! | `results` | shim | a line for each result, its SHA-1, before it enters the file cache |
//! | `evicted` | shim, unpacking | lines of `filecache` or `chroots`, and the entries evicted |
//! | `abort` | starter | nothing; its existence shows that an abort was requested |
//! | `verdict.json` | shim, as its last act; else the daemon | how the build ended |
//! | `.abort`, `.verdict` | starter | space set aside for the two files above, for a full disk |
//!
//! The starter is the slave daemon or `buildd-slave build`. The folder appears by a rename,
//! complete, with the lock already held. So a free lock without a verdict means that the shim is
//! dead.
//!
//! Both `.json` files state their format ([`FORMAT`]). A daemon reads its own format and all older
//! ones.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Deserializer, Serialize};

use crate::protocol::{BuildStatus, FileName, Sha1Hex};
use crate::session::launch::MARK;
use crate::sys::cgroup::{self, BuildLimits, ResourceControl};
use crate::sys::format::{self, Newer};
use crate::sys::{self, exe, file_lock, procs};

use super::spec::Spec;
use super::stage::Stage;

/// How a build ended, as reported to the master.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) status: BuildStatus,
    /// One sentence, as in the log.
    pub(crate) reason: String,
    /// The missing relations of a dep-wait, else empty.
    pub(crate) dependencies: String,
    pub(crate) files: Vec<(FileName, Sha1Hex)>,
    /// The stages that ran, with their seconds. Unknown stages of a newer version are left out.
    #[serde(deserialize_with = "known_stages")]
    pub(crate) stages: Vec<(Stage, f64)>,
}

/// The format of the journal. Format 1 has no `format` field. A change that an older version would
/// misunderstand gets the next number; CONTRIBUTING.md, "Change the journal", has the steps.
pub(crate) const FORMAT: u64 = 2;

/// The files that state the format.
const WITH_FORMAT: [&str; 2] = ["spec.json", "verdict.json"];
/// Becomes `abort`: a rename needs no disk space.
const ABORT_SPARE: &str = ".abort";
/// Becomes `verdict.json`.
const VERDICT_SPARE: &str = ".verdict";
/// Its size: enough for about five hundred files.
const VERDICT_BYTES: usize = 64 << 10;

/// The journal entry of one build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JournalEntry(PathBuf);

fn known_stages<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<(Stage, f64)>, D::Error> {
    let all = Vec::<(String, f64)>::deserialize(input)?;
    let stage = |name: String| Stage::deserialize(serde_json::Value::String(name)).ok();
    Ok(all
        .into_iter()
        .filter_map(|(name, secs)| Some((stage(name)?, secs)))
        .collect())
}

/// The state of a build, from its journal entry alone.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum EntryState {
    Running,
    Finished(Outcome),
    /// No verdict, and no shim that could still write one.
    Dead,
}

impl JournalEntry {
    /// Opens an entry that exists already.
    pub(crate) fn existing(path: PathBuf) -> Self {
        Self(path)
    }

    /// Makes the entry `folder/BUILD_ID` for `spec` and starts its shim. Its control groups
    /// are created by `resource_control`.
    pub(crate) fn start(
        folder: &Path,
        spec: &Spec,
        resource_control: &ResourceControl,
    ) -> io::Result<(Self, Child)> {
        let name = spec.request.build_id.as_str();
        let (fresh, path) = (folder.join(format!(".new-{name}")), folder.join(name));
        for remnant in [&fresh, &path] {
            sys::fs::remove_tree(remnant).map_err(io::Error::other)?;
        }
        fs::create_dir(&fresh)?;
        let result = Self::fill(&fresh, &path, spec);
        if result.is_err() {
            for unfinished in [&fresh, &path] {
                let _ = fs::remove_dir_all(unfinished);
            }
        }
        let lock = result?;
        let entry = Self(path);
        let limits = create_limits(spec, resource_control);
        match entry.spawn_shim(lock, spec, &limits) {
            Ok(child) => Ok((entry, child)),
            Err(error) => {
                let _ = limits.remove();
                let _ = fs::remove_dir_all(&entry.0);
                Err(error)
            }
        }
    }

    fn fill(fresh: &Path, path: &Path, spec: &Spec) -> io::Result<File> {
        let text = format::write(FORMAT, &spec.without_secrets())?;
        sys::fs::atomic_write(&fresh.join("spec.json"), &text).map_err(io::Error::other)?;
        File::create(fresh.join("log"))?;
        File::create(fresh.join(ABORT_SPARE))?;
        fs::write(fresh.join(VERDICT_SPARE), vec![b'\n'; VERDICT_BYTES])?;
        let lock = File::create_new(fresh.join("lock"))?;
        if !file_lock::try_lock(&lock)? {
            return Err(io::Error::other("the lock of a new entry is taken"));
        }
        fs::rename(fresh, path)?;
        if let Some(parent) = path.parent() {
            sys::fs::fsync_dir(parent).map_err(io::Error::other)?;
        }
        Ok(lock)
    }

    /// Starts the shim. It inherits the lock as its stdout, so that the lock is held without a gap
    /// until the shim ends. It reads the whole spec from its stdin.
    fn spawn_shim(&self, lock: File, spec: &Spec, limits: &BuildLimits) -> io::Result<Child> {
        let (mark, value) = self.mark();
        let text = limits.text();
        fs::write(self.0.join("bounds"), &text)?;
        let mut child = exe::internal("shim")
            .arg(&self.0)
            .env(mark, value)
            .env(cgroup::LIMITS_VAR, text)
            .stdin(Stdio::piped())
            .stdout(Stdio::from(lock))
            .stderr(File::create(self.0.join("shim.err"))?)
            .spawn()?;
        let mut stdin = child.stdin.take().expect("stdin is piped");
        // The pid lets a later daemon, which is not the parent, signal the shim.
        let written = fs::write(self.0.join("lock"), child.id().to_string())
            .and_then(|()| stdin.write_all(&serde_json::to_vec(spec)?));
        if written.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        written.map(|()| child)
    }

    /// The environment variable of every process of the build on this host. It identifies these
    /// processes after the shim's death, even if they changed parent, session and group.
    pub(crate) fn mark(&self) -> (&'static str, &OsStr) {
        (MARK, self.0.as_os_str())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The folder of all entries.
    pub(crate) fn journal(&self) -> &Path {
        self.0.parent().unwrap_or(&self.0)
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    /// Returns what the shim wrote to stderr: nothing unless the shim itself failed.
    pub(crate) fn shim_stderr(&self) -> Option<String> {
        let text = fs::read_to_string(self.0.join("shim.err")).ok()?;
        (!text.trim().is_empty()).then(|| text.trim().to_owned())
    }

    /// Checks that this program can read the entry. A damaged entry passes: the builder reports it
    /// and it can be cleaned.
    pub(crate) fn check_format(&self) -> Result<(), Newer> {
        let texts = WITH_FORMAT.map(|name| fs::read(self.0.join(name)));
        let mut texts = texts.iter().flatten();
        texts.try_for_each(|text| format::check(FORMAT, text))
    }

    /// Reads the spec, which has no passwords on disk.
    pub(crate) fn spec(&self) -> io::Result<Spec> {
        Ok(serde_json::from_slice(&fs::read(
            self.0.join("spec.json"),
        )?)?)
    }

    /// Reads the build's limits; `None` if it was never started.
    pub(crate) fn limits(&self) -> Option<BuildLimits> {
        serde_json::from_slice(&fs::read(self.0.join("bounds")).ok()?).ok()
    }

    /// Reads the verdict; `None` if the build has not ended.
    pub(crate) fn verdict(&self) -> io::Result<Option<Outcome>> {
        match fs::read(self.0.join("verdict.json")) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the verdict atomically.
    pub(crate) fn write_verdict(&self, verdict: &Outcome) -> io::Result<()> {
        let text = format::write(FORMAT, verdict)?;
        let target = self.0.join("verdict.json");
        self.write_over_spare(&text, &target)
            .or_else(|_| sys::fs::atomic_write(&target, &text).map_err(io::Error::other))
    }

    /// Writes the verdict over the space set aside for it, which works on a full disk.
    fn write_over_spare(&self, text: &[u8], target: &Path) -> io::Result<()> {
        let spare = self.0.join(VERDICT_SPARE);
        let mut file = OpenOptions::new().write(true).open(&spare)?;
        file.write_all(text).or_else(|_| {
            // A copy-on-write file system (btrfs) needs the old blocks freed first.
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(text)
        })?;
        file.set_len(text.len() as u64)?;
        file.sync_all()?;
        fs::rename(spare, target)?;
        sys::fs::fsync_dir(&self.0).map_err(io::Error::other)
    }

    /// Records that a stage begins.
    pub(crate) fn begin_stage(&self, stage: Stage) -> io::Result<()> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let line = format!("{:.3} {}", now.as_secs_f64(), stage.name());
        self.append("stages", &line)
    }

    /// Returns the stages begun so far: seconds since 1970 and name.
    pub(crate) fn stages(&self) -> Vec<(f64, String)> {
        let text = fs::read_to_string(self.0.join("stages")).unwrap_or_default();
        text.lines()
            .filter_map(|line| line.split_once(' '))
            .filter_map(|(time, name)| Some((time.parse().ok()?, name.to_owned())))
            .collect()
    }

    /// Records that the work tree belongs to this build. Without this, it is never removed.
    pub(crate) fn record_work_tree(&self) -> io::Result<()> {
        File::create(self.0.join("tree")).map(drop)
    }

    /// True if the build has, or may have, a work tree of its own.
    pub(crate) fn has_work_tree(&self) -> bool {
        self.0.join("tree").exists()
    }

    /// Records that a result is about to enter the file cache.
    pub(crate) fn record_result(&self, sha1: &Sha1Hex) -> io::Result<()> {
        self.append("results", &format!("{sha1}"))
    }

    /// Returns the results that may be in the file cache, however the build ended.
    pub(crate) fn recorded_results(&self) -> io::Result<Vec<Sha1Hex>> {
        let text = or_nothing(fs::read_to_string(self.0.join("results")))?;
        Ok(text
            .lines()
            .filter_map(|sha1| Sha1Hex::parse(sha1).ok())
            .collect())
    }

    /// The file that counts the cache entries evicted for this build.
    pub(crate) fn evictions_file(&self) -> PathBuf {
        self.0.join("evicted")
    }

    /// Records the number of files that the file cache evicted for the results.
    pub(crate) fn record_evictions(&self, files: u64) -> io::Result<()> {
        self.append("evicted", &format!("filecache {files}"))
    }

    /// Returns how many entries each store evicted.
    pub(crate) fn evictions(&self) -> Vec<(&'static str, u64)> {
        let text = fs::read_to_string(self.evictions_file()).unwrap_or_default();
        text.lines()
            .filter_map(|line| {
                let (store, count) = line.split_once(' ')?;
                let store = ["filecache", "chroots"].into_iter().find(|s| *s == store)?;
                Some((store, count.parse().ok()?))
            })
            .collect()
    }

    fn append(&self, name: &str, line: &str) -> io::Result<()> {
        let path = self.0.join(name);
        let mut file = OpenOptions::new().append(true).create(true).open(path)?;
        writeln!(file, "{line}")
    }

    /// Asks the shim to abort; does nothing if the build has ended meanwhile.
    pub(crate) fn abort(&self) -> io::Result<()> {
        let path = self.0.join("abort");
        let written =
            fs::rename(self.0.join(ABORT_SPARE), &path).or_else(|_| File::create(&path).map(drop));
        if let Err(error) = written {
            log::warn!("cannot write {}: {error}", path.display());
        }
        self.signal(Signal::SIGTERM)
    }

    pub(crate) fn abort_requested(&self) -> bool {
        self.0.join("abort").exists()
    }

    /// Sends a signal to the shim, if it is alive.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        if !self.is_alive()? {
            return Ok(());
        }
        let pid = self
            .shim_pid()
            .ok_or_else(|| io::Error::other("cannot find the process of its shim"))?;
        Ok(kill(Pid::from_raw(pid), signal)?)
    }

    /// Returns the pid of the shim, from the lock file or else from /proc.
    fn shim_pid(&self) -> Option<i32> {
        let arguments = [OsStr::new("shim"), self.0.as_os_str()];
        let is_shim = |pid: &i32| procs::has_arguments(*pid, &arguments);
        let pid = fs::read_to_string(self.0.join("lock")).unwrap_or_default();
        let pid = pid.trim().parse().ok().filter(is_shim);
        pid.or_else(|| {
            let mut pids = procs::all().into_iter().map(|process| process.pid);
            pids.find(is_shim)
        })
    }

    /// True if the shim holds the lock. The lock is tried in shared mode, so that two processes
    /// that check at once do not mistake each other for the shim.
    fn is_alive(&self) -> io::Result<bool> {
        match self.open_lock()? {
            Some(lock) => Ok(!file_lock::try_lock_shared(&lock)?),
            None => Ok(false),
        }
    }

    /// Waits until the shim has ended.
    pub(crate) fn wait(&self) -> io::Result<()> {
        let lock = self.open_lock()?;
        lock.map_or(Ok(()), |lock| file_lock::lock_shared(&lock))
    }

    /// Opens the lock file. `None` if there is none, so that no shim can hold it.
    fn open_lock(&self) -> io::Result<Option<File>> {
        match File::open(self.0.join("lock")) {
            Ok(lock) => Ok(Some(lock)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) fn state(&self) -> io::Result<EntryState> {
        // In this order: a shim writes its verdict before it releases the lock.
        let lives = self.is_alive()?;
        Ok(match (self.verdict()?, lives) {
            (Some(outcome), _) => EntryState::Finished(outcome),
            (None, true) => EntryState::Running,
            (None, false) => EntryState::Dead,
        })
    }
}

/// Checks that this program can read all entries of a journal; the error has the entry's path.
pub(crate) fn check_formats(journal: &Path) -> Result<(), (PathBuf, Newer)> {
    for file in fs::read_dir(journal).into_iter().flatten().flatten() {
        let entry = JournalEntry(file.path());
        let found = entry.check_format();
        found.map_err(|newer| (file.path(), newer))?;
    }
    Ok(())
}

/// Returns the cached files that the builds of a journal need: their inputs and results.
pub(crate) fn pinned(journal: &Path) -> io::Result<HashSet<Sha1Hex>> {
    let mut pins = HashSet::new();
    for file in fs::read_dir(journal)? {
        let path = file?.path();
        if !path.is_dir() {
            continue;
        }
        let entry = JournalEntry(path);
        let text = or_nothing(fs::read_to_string(entry.0.join("spec.json")))?;
        // An unreadable spec names no files to pin.
        if let Ok(Spec { request, .. }) = serde_json::from_str(&text) {
            pins.insert(request.chroot);
            pins.extend(request.files.iter().map(|(_, sha1)| sha1.clone()));
        }
        pins.extend(entry.recorded_results()?);
    }
    Ok(pins)
}

/// Treats a missing file, and one that is not UTF-8, as empty.
fn or_nothing(read: io::Result<String>) -> io::Result<String> {
    read.or_else(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::InvalidData => Ok(String::new()),
        _ => Err(error),
    })
}

/// Creates the limits and control groups of a build, named by its id.
fn create_limits(spec: &Spec, resource_control: &ResourceControl) -> BuildLimits {
    let settings = &spec.settings;
    let memory = settings
        .memory_bytes
        .unwrap_or_else(|| cgroup::memory_bytes() / 8 * 7 / settings.slaves.max(1));
    let name = spec.request.build_id.as_str();
    resource_control.create(name, memory, settings.processes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(format: u64) -> PathBuf {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        root.join(format!("tests/fixtures/journal/{format:04}"))
    }

    #[test]
    fn entries_of_every_older_format_are_read() {
        for format in 1..FORMAT {
            let folder = fixture(format);
            let states = fs::read_dir(&folder).unwrap_or_else(|error| {
                let path = folder.display();
                panic!("{path}: {error}; CONTRIBUTING.md, \"Change the journal\", has the steps")
            });
            let mut count = 0;
            for state in states {
                let path = state.unwrap().path();
                let entry = JournalEntry::existing(path.clone());
                assert_eq!(entry.check_format(), Ok(()), "{}", path.display());
                assert_eq!(entry.spec().unwrap().request.build_id.as_str(), "b1");
                assert!(entry.limits().is_some(), "{}", path.display());
                match entry.state().unwrap() {
                    EntryState::Finished(outcome) => assert!(outcome.stages.len() > 5),
                    state => {
                        assert_eq!(state, EntryState::Dead, "{}", path.display());
                        assert!(!path.join("verdict.json").exists());
                    }
                }
                count += 1;
            }
            assert!(count >= 6, "{}: {count} entries", folder.display());
        }
    }
}
