//! Limits the memory and the number of processes of a build, by control groups where possible.
//!
//! In order of preference: cgroup v2 in a subtree delegated to this user (systemd's
//! `Delegate=yes`), cgroup v1 below the daemon's groups, `setrlimit`. The daemon creates a
//! build's groups. Each process of the build first joins the groups that [`LIMITS_VAR`] names.
//! The shim does not join them: it must survive the OOM killer and a full group.

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{AccessFlags, Pid, User, eaccess};
use serde::{Deserialize, Serialize};

/// The environment variable that holds the [`BuildLimits`] a process must join, as JSON.
pub(crate) const LIMITS_VAR: &str = "BUILDD_SLAVE_BOUNDS";
/// The group of the daemon and the shims in version 2. There, a group with subgroups may hold no
/// processes.
const LEAF: &str = "daemon";
/// How long the kernel may refuse to remove a group whose processes have just been killed.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(1);

/// The folders below which builds get their control groups. `None` means rlimits are used instead.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ResourceControl {
    memory: Option<PathBuf>,
    pids: Option<PathBuf>,
}

/// The limits of one build, and the control groups that enforce them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BuildLimits {
    pub(crate) memory_bytes: u64,
    /// Threads included.
    pub(crate) processes: u64,
    memory: Option<PathBuf>,
    pids: Option<PathBuf>,
    /// The threads on the host before the build. RLIMIT_NPROC counts all threads of the user, other
    /// builds included, so this number is added to it.
    #[serde(rename = "others")]
    other_threads: u64,
}

/// How often a build has hit its limits so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Hits {
    /// Processes that the OOM killer killed.
    pub(crate) oom_kills: u64,
    /// Forks that were refused.
    pub(crate) forks: u64,
}

/// The groups of this process: in version 2, and in version 1 for memory and pids.
#[derive(Debug, PartialEq, Eq)]
struct OwnGroups {
    unified: Option<PathBuf>,
    memory: Option<PathBuf>,
    pids: Option<PathBuf>,
}

impl OwnGroups {
    fn read() -> Self {
        let text = |name| fs::read_to_string(Path::new("/proc/self").join(name));
        Self::parse(
            &text("mountinfo").unwrap_or_default(),
            &text("cgroup").unwrap_or_default(),
        )
    }

    /// Parses the texts of `/proc/self/mountinfo` and `/proc/self/cgroup`.
    fn parse(mountinfo: &str, cgroup: &str) -> Self {
        // `ID:CONTROLLERS:PATH`; in version 2, CONTROLLERS is empty.
        let path_of = |controller: &str| {
            cgroup.lines().find_map(|line| {
                let (_, rest) = line.split_once(':')?;
                let (controllers, path) = rest.split_once(':')?;
                controllers
                    .split(',')
                    .any(|name| name == controller)
                    .then_some(path)
            })
        };
        // `ID PARENT DEVICE ROOT MOUNTPOINT OPTIONS … - TYPE SOURCE OPTIONS`
        let folder = |kind: &str, controller: &str| {
            let path = path_of(controller)?;
            mountinfo.lines().find_map(|line| {
                let (left, right) = line.split_once(" - ")?;
                let (left, right): (Vec<_>, Vec<_>) =
                    (left.split(' ').collect(), right.split([' ', ',']).collect());
                let found = right.first() == Some(&kind)
                    && (controller.is_empty() || right.contains(&controller));
                let below = Path::new(path).strip_prefix(left.get(3)?).ok()?;
                let folder = Path::new(left.get(4)?).join(below);
                // Joining an empty path leaves a trailing slash; collecting removes it.
                found.then(|| folder.components().collect())
            })
        };
        Self {
            unified: folder("cgroup2", ""),
            memory: folder("cgroup", "memory"),
            pids: folder("cgroup", "pids"),
        }
    }

    /// The group in version 2, if version 2 controls memory and pids on this host.
    fn unified(&self) -> Option<&Path> {
        let controllers = |own: &&PathBuf| {
            let text = fs::read_to_string(own.join("cgroup.controllers")).unwrap_or_default();
            ["memory", "pids"]
                .iter()
                .all(|name| text.split_whitespace().any(|word| word == *name))
        };
        self.unified.as_ref().filter(controllers).map(AsRef::as_ref)
    }
}

/// Returns the cgroup version this host has, whether or not this user may use it.
pub(crate) fn offered() -> Option<&'static str> {
    let own = OwnGroups::read();
    if own.unified().is_some() {
        Some("cgroup v2")
    } else if own.memory.is_some() && own.pids.is_some() {
        Some("cgroup v1")
    } else {
        None
    }
}

/// Delegates groups for builds to `user`. Called by root before it becomes that user. A failure
/// shows later, when [`ResourceControl::find`] finds no group.
pub(crate) fn delegate(user: &User) {
    let own = OwnGroups::read();
    let give = |path: &Path| {
        let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
        let _ = chown(path, Some(uid), Some(gid));
    };
    match own.unified() {
        Some(group) if is_alone_in(group) => {
            give(group);
            for file in ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
                give(&group.join(file));
            }
        }
        Some(_) => {}
        None => {
            for group in [own.memory, own.pids].into_iter().flatten() {
                let folder = group.join(name_for(user.uid.as_raw()));
                let _ = fs::create_dir(&folder);
                give(&folder);
            }
        }
    }
}

/// Returns the name of the version 1 group that holds one user's builds.
fn name_for(uid: u32) -> String {
    format!("buildd-slave-{uid}")
}

fn is_alone_in(group: &Path) -> bool {
    let me = std::process::id().to_string();
    fs::read_to_string(group.join("cgroup.procs"))
        .is_ok_and(|text| text.lines().all(|pid| pid == me))
}

fn is_writable(path: &Path) -> bool {
    eaccess(path, AccessFlags::W_OK).is_ok()
}

impl ResourceControl {
    /// Finds the groups below which this process may create more. In version 2, the process first
    /// moves into the leaf group [`LEAF`], which needs it to be alone in its group.
    pub(crate) fn find() -> Self {
        let own = OwnGroups::read();
        if let Some(group) = own.unified() {
            let folder = subtree(group);
            return Self {
                memory: folder.clone(),
                pids: folder,
            };
        }
        let below = |group: Option<PathBuf>| {
            let folder = group?.join(name_for(nix::unistd::Uid::effective().as_raw()));
            (folder.is_dir() && is_writable(&folder)).then_some(folder)
        };
        Self {
            memory: below(own.memory),
            pids: below(own.pids),
        }
    }

    /// Creates the groups of the build `name`. A group that cannot be created is logged, and an
    /// rlimit takes its place.
    pub(crate) fn create(&self, name: &str, memory_bytes: u64, processes: u64) -> BuildLimits {
        let name = format!("{name}.{}", std::process::id());
        let make = |base: &Option<PathBuf>| {
            let folder = base.as_ref()?.join(&name);
            match make_group(&folder) {
                Ok(()) => Some(folder),
                Err(error) => {
                    log::warn!("{}: {error}", folder.display());
                    None
                }
            }
        };
        let limits = BuildLimits {
            memory_bytes,
            processes,
            memory: make(&self.memory),
            pids: make(&self.pids),
            other_threads: threads(),
        };
        limits.apply();
        limits
    }
}

impl fmt::Display for ResourceControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.memory, &self.pids) {
            (Some(memory), Some(pids)) if memory == pids => {
                write!(f, "cgroup v2, below {}", memory.display())
            }
            (Some(memory), Some(_)) => write!(f, "cgroup v1, below {}", memory.display()),
            (Some(_), None) => f.write_str("cgroup v1 for memory, rlimits for processes"),
            (None, Some(_)) => f.write_str("cgroup v1 for processes, rlimits for memory"),
            (None, None) => f.write_str(
                "rlimits, with the memory limit per process (this user has no control group: start \
                 the daemon as root, or by systemd with Delegate=yes)",
            ),
        }
    }
}

/// Prepares and returns the version 2 group below which builds get their groups.
fn subtree(own: &Path) -> Option<PathBuf> {
    let base = match own.parent() {
        // An earlier daemon, or systemd, has put this process into the leaf already.
        Some(parent) if own.file_name() == Some(OsStr::new(LEAF)) => parent,
        _ => own,
    };
    let control = base.join("cgroup.subtree_control");
    if !is_writable(&control) {
        return None;
    }
    if base == own {
        if !is_alone_in(own) {
            return None;
        }
        let leaf = own.join(LEAF);
        make_group(&leaf).ok()?;
        fs::write(leaf.join("cgroup.procs"), "0").ok()?;
    }
    fs::write(control, "+memory +pids").ok()?;
    Some(base.to_owned())
}

/// Creates a group, or reuses an existing one.
fn make_group(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Joins the groups that the environment names, if any. A process of a build calls this before
/// anything else.
pub(crate) fn join_inherited() -> io::Result<()> {
    match BuildLimits::inherited() {
        Some(limits) => limits.join(),
        None => Ok(()),
    }
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
            if file.exists()
                && let Err(error) = fs::write(&file, value.to_string())
            {
                log::warn!("{}: {error}", file.display());
            }
        }
    }

    fn join(&self) -> io::Result<()> {
        // Most processes inherit the groups. Writing to cgroup.procs, even without effect, delays
        // every fork and exit on the host for milliseconds.
        let own = OwnGroups::read();
        let join = |folder: &PathBuf| {
            if [&own.unified, &own.memory, &own.pids].contains(&&Some(folder.clone())) {
                return Ok(());
            }
            let file = folder.join("cgroup.procs");
            fs::write(&file, "0").map_err(|error| {
                io::Error::new(error.kind(), format!("{}: {error}", file.display()))
            })
        };
        match &self.memory {
            Some(folder) => join(folder)?,
            // RLIMIT_DATA counts private writable memory; RLIMIT_AS would count reservations too.
            None => lower_rlimit(Resource::RLIMIT_DATA, self.memory_bytes)?,
        }
        match &self.pids {
            Some(folder) if Some(folder) == self.memory.as_ref() => Ok(()),
            Some(folder) => join(folder),
            None => lower_rlimit(Resource::RLIMIT_NPROC, self.processes + self.other_threads),
        }
    }

    /// Returns how often the build hit its limits; zero without control groups, which count it.
    pub(crate) fn hits(&self) -> Hits {
        let count = |folder: &Option<PathBuf>, files: &[&str], key: &str| {
            let text = files
                .iter()
                .find_map(|file| fs::read_to_string(folder.as_ref()?.join(file)).ok());
            text.unwrap_or_default()
                .lines()
                .find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
                .unwrap_or_default()
        };
        Hits {
            oom_kills: count(
                &self.memory,
                &["memory.events", "memory.oom_control"],
                "oom_kill ",
            ),
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

/// Returns the number of threads on this host, from the fourth field of `/proc/loadavg`.
fn threads() -> u64 {
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

    #[test]
    fn own_groups_are_found_in_both_versions() {
        let hybrid = "30 25 0:26 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
                      31 25 0:27 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                      32 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let own = OwnGroups::parse(hybrid, "8:pids:/\n4:cpu,memory:/a/b\n0::/x\n");
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(own.memory, path("/sys/fs/cgroup/memory/a/b"));
        assert_eq!(own.pids, path("/sys/fs/cgroup/pids"));
        assert_eq!(own.unified, path("/sys/fs/cgroup/unified/x"));

        let unit = "26 24 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";
        let own = OwnGroups::parse(unit, "0::/system.slice/buildd-slave.service\n");
        let expected = "/sys/fs/cgroup/system.slice/buildd-slave.service";
        assert_eq!(own.unified, path(expected));
        assert_eq!((own.memory, own.pids), (None, None));

        // A container that sees only its own part of the hierarchy.
        let part = "26 24 0:22 /docker/1 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory";
        let own = OwnGroups::parse(part, "4:memory:/docker/1/in\n");
        assert_eq!(own.memory, path("/sys/fs/cgroup/memory/in"));
        assert_eq!(OwnGroups::parse("", "0::/\n").unified, None);
    }

    #[test]
    fn in_version_2_the_daemon_moves_into_a_leaf_group() {
        let dir = tempfile::tempdir().unwrap();
        let me = std::process::id().to_string();
        let write = |file: &str, text: &str| fs::write(dir.path().join(file), text).unwrap();
        write("cgroup.subtree_control", "");
        write("cgroup.procs", "1\n2\n");
        assert_eq!(subtree(dir.path()), None, "other processes are in it");
        write("cgroup.procs", &format!("{me}\n"));
        let base = subtree(dir.path());
        assert_eq!(base.as_deref(), Some(dir.path()));
        let joined = fs::read_to_string(dir.path().join("daemon/cgroup.procs"));
        assert_eq!(joined.unwrap(), "0");
        let enabled = fs::read_to_string(dir.path().join("cgroup.subtree_control"));
        assert_eq!(enabled.unwrap(), "+memory +pids");
        // The next daemon starts in the leaf group.
        assert_eq!(subtree(&dir.path().join("daemon")), base);
    }

    #[test]
    fn hits_are_read_in_both_versions() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Some(dir.path().to_owned());
        let limits = BuildLimits {
            memory_bytes: 1,
            processes: 1,
            memory: folder.clone(),
            pids: folder,
            other_threads: threads(),
        };
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
}
