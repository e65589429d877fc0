//! What a build has on disk: the journal entry that a daemon and a shim share.
//!
//! | file | written by | says |
//! | --- | --- | --- |
//! | `spec.json` | starter | what to build, and how; without passwords, which go by a pipe |
//! | `lock` | starter, held by the shim | that the shim lives; its text is the shim's pid |
//! | `bounds` | starter | the control groups of the build |
//! | `stages` | shim | a line per stage begun: seconds since 1970 and its name |
//! | `log` | shim | the build log |
//! | `abort` | starter | that somebody asked for an abort |
//! | `verdict.json` | shim, at its very end; else the daemon | how the build ended |
//!
//! The folder appears by a rename, whole, and the lock is taken before that: whoever finds the
//! folder with the lock free and no verdict knows that the shim is dead.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::protocol::{BuildStatus, FileName, Sha1Hex};
use crate::session::launch::MARK;
use crate::sys::cgroup::{self, Bounds, Place};
use crate::sys::{self, exe, host};

use super::plan::Stage;
use super::spec::Spec;

/// How a build ended, as the master is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ending {
    pub(crate) status: BuildStatus,
    /// One plain sentence, as in the log.
    pub(crate) reason: String,
    /// The missing relations of a dep-wait, else empty.
    pub(crate) dependencies: String,
    pub(crate) files: Vec<(FileName, Sha1Hex)>,
    /// The stages that ran and their seconds.
    pub(crate) stages: Vec<(Stage, f64)>,
}

/// The journal entry of one build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunDir(PathBuf);

/// How a build stands, by its journal entry alone.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Standing {
    Running,
    Ended(Ending),
    /// No verdict, and nobody who could still give one.
    Dead,
}

impl RunDir {
    /// Names an entry that exists.
    pub(crate) fn existing(path: PathBuf) -> Self {
        Self(path)
    }

    /// Makes the entry `folder/NAME` for `spec` and starts its shim; the groups that bound the build
    /// are made at `place`.
    pub(crate) fn start(folder: &Path, spec: &Spec, place: &Place) -> io::Result<(Self, Child)> {
        let name = spec.request.build_id.as_str();
        let (fresh, dir) = (folder.join(format!(".new-{name}")), folder.join(name));
        sys::fs::remove_tree(&fresh).map_err(io::Error::other)?;
        fs::create_dir(&fresh)?;
        let result = Self::fill(&fresh, &dir, spec);
        if result.is_err() {
            for half_made in [&fresh, &dir] {
                let _ = fs::remove_dir_all(half_made);
            }
        }
        let lock = result?;
        let run = Self(dir);
        let bounds = bounds(spec, place);
        match run.spawn_shim(lock, spec, &bounds) {
            Ok(child) => Ok((run, child)),
            Err(error) => {
                let _ = bounds.remove();
                let _ = fs::remove_dir_all(&run.0);
                Err(error)
            }
        }
    }

    fn fill(fresh: &Path, dir: &Path, spec: &Spec) -> io::Result<File> {
        let text = serde_json::to_vec_pretty(&spec.without_secrets())?;
        sys::fs::atomic_write(&fresh.join("spec.json"), &text).map_err(io::Error::other)?;
        File::create(fresh.join("log"))?;
        let lock = open_lock(&fresh.join("lock"))?;
        lock.try_lock()?;
        fs::rename(fresh, dir)?;
        if let Some(parent) = dir.parent() {
            sys::fs::fsync_dir(parent).map_err(io::Error::other)?;
        }
        Ok(lock)
    }

    /// Starts the shim. It inherits the lock as its stdout, so that this is held until the shim
    /// has ended, with no moment in between; the whole spec comes by its stdin.
    fn spawn_shim(&self, lock: File, spec: &Spec, bounds: &Bounds) -> io::Result<Child> {
        let (mark, value) = self.mark();
        let text = bounds.text();
        fs::write(self.0.join("bounds"), &text)?;
        let mut child = exe::internal("shim")
            .arg(&self.0)
            .env(mark, value)
            .env(cgroup::BOUNDS, text)
            .stdin(Stdio::piped())
            .stdout(Stdio::from(lock))
            .stderr(File::create(self.0.join("shim.err"))?)
            .spawn()?;
        let mut stdin = child.stdin.take().expect("stdin is piped");
        // The pid is for whoever has to signal the shim without being its parent.
        let told = fs::write(self.0.join("lock"), child.id().to_string())
            .and_then(|()| stdin.write_all(&serde_json::to_vec(spec)?));
        if told.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        told.map(|()| child)
    }

    /// What every process of the build on this host has in its environment: by this they are
    /// found when the shim is dead, whatever they did to leave it.
    pub(crate) fn mark(&self) -> (&'static str, &OsStr) {
        (MARK, self.0.as_os_str())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    /// Returns what a shim said outside the log, which is nothing unless it went wrong.
    pub(crate) fn last_words(&self) -> Option<String> {
        let text = fs::read_to_string(self.0.join("shim.err")).ok()?;
        (!text.trim().is_empty()).then(|| text.trim().to_owned())
    }

    /// Reads what to build, as far as it may stand on disk.
    pub(crate) fn spec(&self) -> io::Result<Spec> {
        Ok(serde_json::from_slice(&fs::read(
            self.0.join("spec.json"),
        )?)?)
    }

    /// Reads the build's bounds; none if it was never started.
    pub(crate) fn bounds(&self) -> Option<Bounds> {
        serde_json::from_slice(&fs::read(self.0.join("bounds")).ok()?).ok()
    }

    /// Reads the verdict; none means the build has not ended.
    pub(crate) fn verdict(&self) -> io::Result<Option<Ending>> {
        match fs::read(self.0.join("verdict.json")) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Leaves the verdict, whole or not at all.
    pub(crate) fn give_verdict(&self, verdict: &Ending) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(verdict)?;
        sys::fs::atomic_write(&self.0.join("verdict.json"), &text).map_err(io::Error::other)
    }

    /// Notes that a stage begins.
    pub(crate) fn begin_stage(&self, stage: Stage) -> io::Result<()> {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.0.join("stages"))?;
        writeln!(file, "{:.3} {}", now.as_secs_f64(), stage.name())
    }

    /// Returns the stages begun so far: seconds since 1970 and the name.
    pub(crate) fn stages(&self) -> Vec<(f64, String)> {
        let text = fs::read_to_string(self.0.join("stages")).unwrap_or_default();
        text.lines()
            .filter_map(|line| line.split_once(' '))
            .filter_map(|(time, name)| Some((time.parse().ok()?, name.to_owned())))
            .collect()
    }

    /// Asks the shim to abort; a build that has ended meanwhile is left alone.
    pub(crate) fn abort(&self) -> io::Result<()> {
        File::create(self.0.join("abort"))?;
        self.signal(Signal::SIGTERM)
    }

    /// Tells whether an abort was asked for.
    pub(crate) fn abort_asked(&self) -> bool {
        self.0.join("abort").exists()
    }

    /// Sends a signal to a living shim.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        // Only while the lock is held is the pid still the shim's.
        match (self.lives()?, self.shim_pid()) {
            (true, Some(pid)) => Ok(kill(Pid::from_raw(pid), signal)?),
            _ => Ok(()),
        }
    }

    /// The pid of the shim, living or dead.
    fn shim_pid(&self) -> Option<i32> {
        fs::read_to_string(self.0.join("lock"))
            .ok()?
            .trim()
            .parse()
            .ok()
    }

    /// Tells whether the shim is alive. The lock is only tried shared, so that two who ask at
    /// once do not take each other for the shim.
    fn lives(&self) -> io::Result<bool> {
        match open_lock(&self.0.join("lock"))?.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// Waits until the shim has ended, however it did.
    pub(crate) fn wait(&self) -> io::Result<()> {
        open_lock(&self.0.join("lock"))?.lock_shared()
    }

    /// Tells how the build stands.
    pub(crate) fn standing(&self) -> io::Result<Standing> {
        // In this order: a shim gives its verdict before it lets go of the lock.
        let lives = self.lives()?;
        Ok(match (self.verdict()?, lives) {
            (Some(ending), _) => Standing::Ended(ending),
            (None, true) => Standing::Running,
            (None, false) => Standing::Dead,
        })
    }
}

/// Makes the groups of a build, called by its name.
fn bounds(spec: &Spec, place: &Place) -> Bounds {
    let settings = &spec.settings;
    let memory = settings
        .memory_bytes
        .unwrap_or_else(|| host::memory_bytes() / 8 * 7);
    let name = spec.request.build_id.as_str();
    place.make(name, memory, settings.processes)
}

fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}
