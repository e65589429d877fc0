//! The limits of one build: its control groups, and the rlimits of its processes.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::own::OwnGroups;

/// The environment variable that holds the [`BuildLimits`] a process must join, as JSON.
pub(crate) const LIMITS_VAR: &str = "BUILDD_SLAVE_BOUNDS";
/// How long the kernel may refuse to remove a group whose processes have just been killed.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(1);
/// The `oom_score_adj` of a build without a memory group: when the host runs out of memory, the
/// kernel kills a process of a build, not the daemon.
const OOM_SCORE: &str = "500";

/// The limits of one build, and the control groups that enforce them. Without a group, the shim
/// measures the build and kills it over the limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BuildLimits {
    pub(crate) memory_bytes: u64,
    /// Threads included.
    pub(crate) processes: u64,
    pub(super) memory: Option<PathBuf>,
    pub(super) pids: Option<PathBuf>,
    /// The threads on the host before the build. Outside the session, RLIMIT_NPROC counts all
    /// threads of the user, other builds included, so this number is added to it.
    #[serde(rename = "others")]
    pub(super) other_threads: u64,
}

/// Where a process of a build runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// On the host: sbuild, and the programs that start or describe the session.
    Host,
    /// In the session: its first processes, whose limits [`join_session`] copies.
    Session,
}

/// How often a build has hit its limits so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Hits {
    /// Processes that the OOM killer killed: of the build, or without a memory group, of the host.
    pub(crate) oom_kills: u64,
    /// Forks that were refused. Not counted without a group.
    pub(crate) forks: u64,
}

/// Joins the groups that the environment names, if any. A process of a build calls this before
/// anything else.
pub(crate) fn join_inherited(side: Side) -> io::Result<()> {
    match BuildLimits::inherited() {
        Some(limits) => limits.join(side),
        None => Ok(()),
    }
}

/// Lowers RLIMIT_NPROC to that of the session's process `init`. sbuild clears the environment of
/// the commands that enter the session, so the limits are not in it.
pub(crate) fn join_session(init: &OsStr) -> io::Result<()> {
    let text = fs::read_to_string(Path::new("/proc").join(init).join("limits"));
    // `unlimited`, or a session that has ended.
    let threads = text.ok().and_then(|text| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("Max processes"))?;
        line.split_whitespace().next()?.parse().ok()
    });
    threads.map_or(Ok(()), |threads| {
        lower_rlimit(Resource::RLIMIT_NPROC, threads)
    })
}

impl BuildLimits {
    /// Returns the limits that the environment names.
    pub(crate) fn inherited() -> Option<Self> {
        serde_json::from_str(&std::env::var(LIMITS_VAR).ok()?).ok()
    }

    /// Returns the text for the environment.
    pub(crate) fn text(&self) -> String {
        serde_json::to_string(self).expect("limits are plain data")
    }

    /// Whether no group limits the memory, so that it must be measured.
    pub(crate) fn must_measure_memory(&self) -> bool {
        self.memory.is_none()
    }

    /// Whether no group limits the processes, so that they must be counted.
    pub(crate) fn must_count_processes(&self) -> bool {
        self.pids.is_none()
    }

    /// Writes the limits to the groups. Repeated for a build that outlived a daemon's restart,
    /// because systemd may have reset its groups.
    pub(crate) fn apply(&self) {
        // Version 2's name or version 1's; only one of them exists.
        for (folder, file, value) in [
            (&self.memory, "memory.max", self.memory_bytes),
            (&self.memory, "memory.limit_in_bytes", self.memory_bytes),
            (&self.pids, "pids.max", self.processes),
        ] {
            let Some(file) = folder.as_ref().map(|folder| folder.join(file)) else {
                continue;
            };
            if !file.exists() {
                continue;
            }
            if let Err(error) = fs::write(&file, value.to_string()) {
                log::warn!("{}: {error}", file.display());
            }
        }
    }

    fn join(&self, side: Side) -> io::Result<()> {
        // The host's handler of core dumps must not read memory of a build.
        lower_rlimit(Resource::RLIMIT_CORE, 0)?;
        // Most processes inherit the groups. Writing to cgroup.procs, even without effect, delays
        // every fork and exit on the host for milliseconds.
        let own = OwnGroups::read();
        let join = |folder: &PathBuf| {
            // The session's first processes have the groups of the process that made it. Their
            // names and files in `/sys` are not the host's any more.
            if side == Side::Session
                || [&own.unified, &own.memory, &own.pids].contains(&&Some(folder.clone()))
            {
                return Ok(());
            }
            let file = folder.join("cgroup.procs");
            fs::write(&file, "0").map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", file.display()))
            })
        };
        match &self.memory {
            Some(folder) => join(folder)?,
            // Raising the score needs no privilege. It fails where /proc is read-only.
            None => drop(fs::write("/proc/self/oom_score_adj", OOM_SCORE)),
        }
        match &self.pids {
            Some(folder) if Some(folder) == self.memory.as_ref() => Ok(()),
            Some(folder) => join(folder),
            None => lower_rlimit(Resource::RLIMIT_NPROC, self.threads_allowed(side)),
        }
    }

    /// Returns RLIMIT_NPROC for a build without a group.
    ///
    /// The kernel counts twice: threads of one user in the session, and all threads of the
    /// session's owner on the host, against the limit that the session's first process has. Each
    /// user in the session gets the limit of a build. The session gets a multiple of that and the
    /// threads of others: some builds at their own limits do not stop the forks of another build.
    fn threads_allowed(&self, side: Side) -> u64 {
        match side {
            Side::Session => self.processes,
            Side::Host => (self.processes.saturating_mul(16)).saturating_add(self.other_threads),
        }
    }

    /// Returns how often the build hit its limits. Without groups, only the kills of the host's OOM
    /// killer are counted.
    pub(crate) fn hits(&self) -> Hits {
        let count = |folder: &Option<PathBuf>, files: &[&str], key: &str| {
            let text = files
                .iter()
                .find_map(|file| fs::read_to_string(folder.as_ref()?.join(file)).ok());
            number_after(key, &text.unwrap_or_default())
        };
        let oom_kills = match &self.memory {
            Some(_) => count(
                &self.memory,
                &["memory.events", "memory.oom_control"],
                "oom_kill ",
            ),
            None => number_after(
                "oom_kill ",
                &fs::read_to_string("/proc/vmstat").unwrap_or_default(),
            ),
        };
        Hits {
            oom_kills,
            forks: count(&self.pids, &["pids.events"], "max "),
        }
    }

    /// Kills the processes left in the groups and removes the groups.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let deadline = Instant::now() + REMOVAL_TIMEOUT;
        for folder in [&self.memory, &self.pids].into_iter().flatten() {
            loop {
                let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
                // 0 stands for a process of a pid namespace that is invisible from here.
                let pids = text.lines().filter_map(|line| line.parse().ok());
                for pid in pids.filter(|pid| *pid > 0) {
                    // It may have ended by itself in between.
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
                match fs::remove_dir(folder) {
                    Ok(()) => break,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                    Err(error)
                        if error.raw_os_error() == Some(Errno::EBUSY as i32)
                            && Instant::now() < deadline =>
                    {
                        std::thread::sleep(Duration::from_millis(10));
                    }
                    Err(error) => {
                        let message = format!("{}: {error}", folder.display());
                        return Err(io::Error::new(error.kind(), message));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Returns the number after `key` at the start of a line; 0 if there is none.
fn number_after(key: &str, text: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
        .unwrap_or_default()
}

/// Returns the number of threads on this host, from the fourth field of `/proc/loadavg`.
pub(super) fn threads() -> u64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let field = text.split_whitespace().nth(3).unwrap_or_default();
    let all = field.split_once('/').map(|(_, all)| all.parse());
    all.and_then(Result::ok).unwrap_or_default()
}

/// Sets soft and hard limit to `value`, or to the present hard limit if that is lower.
fn lower_rlimit(resource: Resource, value: u64) -> io::Result<()> {
    let (_, hard) = nix::sys::resource::getrlimit(resource)?;
    let value = value.min(hard);
    Ok(setrlimit(resource, value, value)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(memory: Option<PathBuf>, pids: Option<PathBuf>) -> BuildLimits {
        BuildLimits {
            memory_bytes: 1,
            processes: 100,
            memory,
            pids,
            other_threads: threads(),
        }
    }

    #[test]
    fn hits_are_read_in_both_versions() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Some(dir.path().to_owned());
        let limits = limits(folder.clone(), folder);
        assert!(limits.other_threads > 0);
        assert_eq!(limits.hits(), Hits::default());
        let write = |file: &str, text: &str| fs::write(dir.path().join(file), text).unwrap();
        write(
            "memory.oom_control",
            "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
        );
        write("pids.events", "max 7\n");
        let hits = |oom_kills, forks| Hits { oom_kills, forks };
        assert_eq!(limits.hits(), hits(3, 7));
        write(
            "memory.events",
            "low 0\nmax 9\noom 2\noom_kill 2\noom_group_kill 0\n",
        );
        assert_eq!(limits.hits(), hits(2, 7));
        let same: BuildLimits = serde_json::from_str(&limits.text()).unwrap();
        assert_eq!(same, limits);
    }

    #[test]
    fn a_session_at_its_limit_leaves_threads_for_another() {
        let limits = limits(None, None);
        let session = limits.threads_allowed(Side::Session);
        assert_eq!(session, 100);
        let host = limits.threads_allowed(Side::Host);
        assert_eq!(host, 16 * session + limits.other_threads);
        assert!(limits.must_measure_memory() && limits.must_count_processes());
    }
}
