//! Runs a command of the site that outlives the process which started it.
//!
//! `internal runner ENTRY` leads a session of its own, waits for the command and keeps its end. All
//! processes share the entry, a folder:
//!
//! | file | written by | content |
//! | --- | --- | --- |
//! | `order.json` | starter | the command line, its timeout, and a note of the starter |
//! | `lock` | starter; runner and command hold it | nothing; locked while one of them lives |
//! | `begun` | runner | nothing; its existence shows that the command may have started |
//! | `end.json` | runner, as its last act | how the command ended |
//! | `runner.err` | runner | its stderr; empty unless the runner itself failed |
//! | `.begun`, `.end` | starter | space set aside for two of the files above, for a full disk |
//!
//! The entry appears by a rename, complete, with the lock already held. A free lock therefore means
//! that neither the runner nor the command lives. Without `begun`, the command has never started.
//!
//! `order.json` states the format of the entry ([`FORMAT`]). An entry of a newer format is left
//! alone.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::unistd::setsid;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::bounded_command::{self, Error, Input};
use super::fs::{atomic_write, fsync_dir, remove_tree};
use super::{exe, file_lock, format, procs};

/// The environment variable of the runner and all processes of its command; its value is the entry.
const MARK: &str = "BUILDD_SLAVE_RUNNER";
/// The format of an entry. Format 1 has no `format` field.
const FORMAT: u64 = 2;
/// Prefixes of entries that appear and disappear.
const NEW: &str = ".new-";
const OLD: &str = ".old-";
const BEGUN_SPARE: &str = ".begun";
const END_SPARE: &str = ".end";
/// The size of the space set aside for `end.json`, in bytes.
const END_BYTES: usize = 8 << 10;
/// How much later than its timeout a command ends at the latest, if its runner lives.
const GRACE: Duration = Duration::from_secs(60);
/// How long [`Entry::kill`] waits for the end of the processes.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// A command, as its starter orders it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) words: Vec<String>,
    pub(crate) limit: Duration,
    /// Kept for the reader of the end.
    pub(crate) note: Value,
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct End {
    /// The exit code; `None` if the command did not start, timed out or was killed.
    pub(crate) code: Option<i32>,
    /// The sentence about a failure; `None` if the exit code is 0.
    pub(crate) reason: Option<String>,
}

/// The state of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Absent,
    /// The command has never started, and no process is about to start it.
    Ready,
    Running,
    /// Its runner is dead, and the command runs beyond its timeout.
    Overdue,
    Ended(End),
    /// The command may have run. Its end is unknown, since its runner was killed.
    Lost,
}

/// The folder of one command.
#[derive(Clone, Debug)]
pub(crate) struct Entry(PathBuf);

/// An entry on disk whose runner is not started yet.
#[derive(Debug)]
pub(crate) struct Prepared {
    entry: Entry,
    lock: File,
}

/// Returns whether a name is that of an entry which its starter did not finish or remove.
pub(crate) fn is_remnant(name: &str) -> bool {
    name.starts_with(NEW) || name.starts_with(OLD)
}

impl Entry {
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        Self(folder.join(name))
    }

    /// Puts the entry on disk, in place of an earlier one.
    pub(crate) fn prepare(&self, order: &Order) -> io::Result<Prepared> {
        let fresh = self.beside(NEW);
        for remnant in [&fresh, &self.0] {
            remove_tree(remnant).map_err(io::Error::other)?;
        }
        fs::create_dir(&fresh)?;
        let text = format::write(FORMAT, order)?;
        atomic_write(&fresh.join("order.json"), &text).map_err(io::Error::other)?;
        File::create(fresh.join(BEGUN_SPARE))?;
        fs::write(fresh.join(END_SPARE), vec![b'\n'; END_BYTES])?;
        let mut options = OpenOptions::new();
        // It is the command's stdin.
        let lock = options.read(true).write(true).create_new(true);
        let lock = lock.open(fresh.join("lock"))?;
        if !file_lock::try_lock(&lock)? {
            return Err(io::Error::other("the lock of a new entry is taken"));
        }
        fs::rename(&fresh, &self.0)?;
        if let Some(folder) = self.0.parent() {
            fsync_dir(folder).map_err(io::Error::other)?;
        }
        let entry = self.clone();
        Ok(Prepared { entry, lock })
    }

    /// Removes the entry; nobody sees a part of it.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let old = self.beside(OLD);
        remove_tree(&old).map_err(io::Error::other)?;
        match fs::rename(&self.0, &old) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        remove_tree(&old).map_err(io::Error::other)
    }

    fn beside(&self, prefix: &str) -> PathBuf {
        let name = self.0.file_name().unwrap_or_default().to_string_lossy();
        self.0.with_file_name(format!("{prefix}{name}"))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn order(&self) -> io::Result<Order> {
        let text = fs::read(self.0.join("order.json"))?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Checks that this program can read the entry. A damaged entry passes.
    pub(crate) fn check_format(&self) -> io::Result<()> {
        let order = fs::read(self.0.join("order.json")).unwrap_or_default();
        format::check(FORMAT, &order).map_err(|newer| {
            let path = self.0.display();
            io::Error::other(format!(
                "{path}: {newer}; left alone: install the newer version again"
            ))
        })
    }

    pub(crate) fn state(&self) -> io::Result<State> {
        self.check_format()?;
        if !self.0.try_exists()? {
            return Ok(State::Absent);
        }
        // In this order: a runner writes the end before it releases the lock.
        let lives = self.is_alive()?;
        let end = match fs::read(self.0.join("end.json")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            // An end that a disk has damaged is unknown.
            text => serde_json::from_slice(&text?).ok(),
        };
        Ok(match (end, self.begun_for()?, lives) {
            (Some(end), ..) => State::Ended(end),
            (None, Some(time), true) if self.is_overdue(time) => State::Overdue,
            (None, _, true) => State::Running,
            (None, None, false) => State::Ready,
            (None, Some(_), false) => State::Lost,
        })
    }

    /// Returns the time since the command began; `None` if it has not.
    fn begun_for(&self) -> io::Result<Option<Duration>> {
        match fs::metadata(self.0.join("begun")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            found => Ok(Some(found?.modified()?.elapsed().unwrap_or_default())),
        }
    }

    /// Returns whether the command runs too long and has no runner that ends it. The clock may have
    /// been set meanwhile; the runner's own timer does not depend on it.
    fn is_overdue(&self, time: Duration) -> bool {
        let over = |order: Order| time > order.limit.saturating_add(GRACE);
        let arguments = [OsStr::new("runner"), self.0.as_os_str()];
        self.order().is_ok_and(over)
            && !procs::all()
                .iter()
                .any(|process| procs::has_arguments(process.pid, &arguments))
    }

    /// The lock is tried in shared mode: two processes that look at once see no runner in each
    /// other.
    fn is_alive(&self) -> io::Result<bool> {
        let lock = match File::open(self.0.join("lock")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            lock => lock?,
        };
        Ok(!file_lock::try_lock_shared(&lock)?)
    }

    /// Kills the runner and all processes of its command.
    pub(crate) fn kill(&self) {
        let path = self.0.as_os_str();
        let left = procs::kill_marked(MARK, |value| value == path, KILL_TIMEOUT);
        for process in left {
            log::warn!("{}: cannot kill process {}", self.0.display(), process.pid);
        }
    }

    /// Records that the command may start from now on.
    fn begin(&self) -> io::Result<()> {
        let spare = self.0.join(BEGUN_SPARE);
        OpenOptions::new()
            .write(true)
            .open(&spare)?
            .set_modified(std::time::SystemTime::now())?;
        fs::rename(spare, self.0.join("begun"))?;
        fsync_dir(&self.0).map_err(io::Error::other)
    }

    /// Writes the end over the space set aside for it, which works on a full disk.
    fn write_end(&self, end: &End) -> io::Result<()> {
        let text = serde_json::to_vec(end)?;
        let spare = self.0.join(END_SPARE);
        let mut file = OpenOptions::new().write(true).open(&spare)?;
        file.write_all(&text)?;
        file.set_len(u64::try_from(text.len()).unwrap_or(u64::MAX))?;
        file.sync_all()?;
        fs::rename(spare, self.0.join("end.json"))?;
        fsync_dir(&self.0).map_err(io::Error::other)
    }
}

impl Prepared {
    /// Starts the runner. It inherits the lock as its stdout.
    pub(crate) fn start(self) -> io::Result<Child> {
        let path = &self.entry.0;
        exe::internal("runner")
            .arg(path)
            .env(MARK, path)
            .stdin(Stdio::null())
            .stdout(Stdio::from(self.lock))
            .stderr(File::create(path.join("runner.err"))?)
            .spawn()
    }
}

/// The entry point `internal runner`: runs the command of the entry that `args` name.
pub(crate) fn run(args: &[OsString]) -> io::Result<()> {
    let entry = Entry(args.first().map(PathBuf::from).unwrap_or_default());
    // This fails only for a process that leads a group already.
    let _ = setsid();
    let lock = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let order = entry.order()?;
    entry.begin()?;
    let result = bounded_command::run(&order.words, Input::File(lock), order.limit);
    if matches!(result, Err(Error::Timeout { .. })) {
        // Also processes that left the group.
        entry.kill();
    }
    entry.write_end(&end(result))
}

fn end(result: Result<(), Error>) -> End {
    match result {
        Ok(()) => End {
            code: Some(0),
            reason: None,
        },
        Err(error) => End {
            code: match &error {
                Error::Failed { status, .. } => status.code(),
                Error::Start { .. } | Error::Timeout { .. } => None,
            },
            reason: Some(error.to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(words: &[&str]) -> Order {
        Order {
            words: words.iter().map(|&word| word.to_owned()).collect(),
            limit: Duration::from_secs(60),
            note: Value::Null,
        }
    }

    #[test]
    fn the_files_of_an_entry_give_its_state() {
        let dir = tempfile::tempdir().unwrap();
        let entry = Entry::new(dir.path(), "one");
        assert_eq!(entry.state().unwrap(), State::Absent);
        let prepared = entry.prepare(&order(&["true"])).unwrap();
        assert_eq!(entry.state().unwrap(), State::Running);
        // The starter dies before it starts the runner.
        drop(prepared);
        assert_eq!(entry.state().unwrap(), State::Ready);
        let again = entry.prepare(&order(&["true"])).unwrap();
        entry.begin().unwrap();
        assert_eq!(entry.state().unwrap(), State::Running);
        let past = std::time::SystemTime::now() - Duration::from_secs(3600);
        let begun = File::open(dir.path().join("one/begun")).unwrap();
        begun.set_modified(past).unwrap();
        assert_eq!(entry.state().unwrap(), State::Overdue);
        drop(again);
        assert_eq!(entry.state().unwrap(), State::Lost);
        let failed = End {
            code: Some(3),
            reason: Some("sh: exit status: 3: no".to_owned()),
        };
        entry.write_end(&failed).unwrap();
        assert_eq!(entry.state().unwrap(), State::Ended(failed));
        entry.remove().unwrap();
        assert_eq!(entry.state().unwrap(), State::Absent);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_entry_of_format_1_is_read_and_a_newer_one_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let entry = Entry::new(dir.path(), "one");
        drop(entry.prepare(&order(&["true"])).unwrap());
        let path = dir.path().join("one/order.json");
        let newer = fs::read_to_string(&path)
            .unwrap()
            .replace("\"format\": 2", "\"format\": 3");
        let old = r#"{"words":["true"],"limit":{"secs":60,"nanos":0},"note":{"binaries":[]}}"#;
        fs::write(&path, old).unwrap();
        assert_eq!(entry.state().unwrap(), State::Ready);
        assert_eq!(entry.order().unwrap().limit, Duration::from_secs(60));
        let end = dir.path().join("one/end.json");
        fs::write(end, r#"{"code":3,"reason":"no"}"#).unwrap();
        assert!(matches!(
            entry.state().unwrap(),
            State::Ended(End { code: Some(3), .. })
        ));
        fs::write(&path, newer).unwrap();
        let error = entry.state().unwrap_err().to_string();
        assert!(error.contains("wrote it in format 3"), "{error}");
        assert!(error.contains("formats up to 2; left alone"), "{error}");
    }

    #[test]
    fn an_end_has_the_exit_code() {
        let run = |script: &str| {
            let words = ["sh", "-c", script].map(str::to_owned);
            end(bounded_command::run(
                &words,
                Input::Text(""),
                Duration::from_secs(60),
            ))
        };
        assert_eq!(run("exit 0").code, Some(0));
        assert_eq!(run("exit 0").reason, None);
        assert_eq!(run("exit 3").code, Some(3));
        assert_eq!(run("kill -9 $$").code, None);
        assert!(run("kill -9 $$").reason.is_some());
    }
}
