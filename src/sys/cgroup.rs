//! Limits the memory and the number of processes of a build, by control groups where possible.
//!
//! In order of preference: cgroup v2 in a subtree delegated to this user (systemd's
//! `Delegate=yes`), cgroup v1 below the daemon's groups, measurement by the shim. The daemon
//! creates a build's groups. Each process of the build first joins the groups that [`LIMITS_VAR`]
//! names. The shim does not join them: it must survive the OOM killer and a full group.

mod limits;
mod own;

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, Uid, User, eaccess};

pub(crate) use limits::{BuildLimits, Hits, LIMITS_VAR, Side, join_inherited, join_session};
use own::OwnGroups;

use super::host;

/// The group of the daemon and the shims in version 2. There, a group with subgroups may hold no
/// processes.
const LEAF: &str = "daemon";
/// The controllers that limit builds.
const MEMORY: &str = "memory";
const PIDS: &str = "pids";

/// The means that enforces a limit of builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Enforcer {
    CgroupV2,
    CgroupV1,
    /// The shim measures the processes of its build, and kills them over the limit.
    Measurement,
}

impl Enforcer {
    pub(crate) const ALL: [Self; 3] = [Self::CgroupV2, Self::CgroupV1, Self::Measurement];

    /// Returns the word in `/metrics`.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::CgroupV2 => "cgroup_v2",
            Self::CgroupV1 => "cgroup_v1",
            Self::Measurement => "measurement",
        }
    }
}

/// The means that enforce the limits on memory and processes. Log, metrics and `doctor` show this
/// value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Enforcers {
    pub(crate) memory: Enforcer,
    pub(crate) processes: Enforcer,
}

impl Enforcers {
    pub(crate) const fn both(enforcer: Enforcer) -> Self {
        Self {
            memory: enforcer,
            processes: enforcer,
        }
    }

    /// Whether control groups enforce both limits.
    pub(crate) fn are_groups(self) -> bool {
        ![self.memory, self.processes].contains(&Enforcer::Measurement)
    }
}

impl fmt::Display for Enforcers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |enforcer: Enforcer| enforcer.label().replace('_', " ");
        let (memory, processes) = (word(self.memory), word(self.processes));
        write!(f, "memory by {memory}, processes by {processes}")
    }
}

/// The folders below which builds get their control groups. `None` means measurement instead.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ResourceControl {
    memory: Option<PathBuf>,
    pids: Option<PathBuf>,
    is_version_2: bool,
    /// Why a group is missing.
    obstacle: Option<String>,
}

/// Returns the memory that this process may use: the host's, or the lowest limit of its version 2
/// groups. Such a limit covers all slaves in the group.
pub(crate) fn memory_bytes() -> u64 {
    let own = OwnGroups::read().unified;
    own.map_or(u64::MAX, |own| lowest_limit(&own))
        .min(host::memory_bytes())
}

/// Returns the lowest `memory.max` of a version 2 group and those above it.
fn lowest_limit(group: &Path) -> u64 {
    let limits = group.ancestors().filter_map(|group| {
        let text = fs::read_to_string(group.join("memory.max")).ok()?;
        text.trim().parse().ok()
    });
    limits.min().unwrap_or(u64::MAX)
}

/// Delegates groups for builds to `user`. Called by root before it becomes that user. A failure
/// shows later, when [`ResourceControl::find`] finds no group.
pub(crate) fn delegate(user: &User) {
    let own = OwnGroups::read();
    let uid = user.uid.as_raw();
    let give = |path: &Path| {
        let _ = chown(path, Some(uid), Some(user.gid.as_raw()));
    };
    let version_2 = own.unified.as_deref().filter(|own| can_limit(own));
    if let Some(group) = version_2 {
        if let Some(base) = own_subtree(group, own.is_top, uid) {
            give(&base);
            for file in ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
                give(&base.join(file));
            }
        }
        return;
    }
    for group in [own.memory, own.pids].into_iter().flatten() {
        let folder = group.join(name_for(uid));
        let _ = fs::create_dir(&folder);
        give(&folder);
    }
}

/// As root, moves this process into the leaf of a version 2 group that may hold builds, and returns
/// that group. `None` if the own group belongs to others.
fn own_subtree(own: &Path, is_top: bool, uid: u32) -> Option<PathBuf> {
    let base = base_of(own);
    if base != own {
        return Some(base.to_owned());
    }
    let base = if is_root_group(own) {
        // Other processes may stay in the root group, and it must stay root's.
        enable_controllers(own).ok()?;
        own.join(name_for(uid))
    } else {
        own.to_owned()
    };
    let leaf = base.join(LEAF);
    make_group(&base).ok()?;
    if is_alone_in(own) || is_root_group(own) {
        make_group(&leaf).ok()?;
        fs::write(leaf.join("cgroup.procs"), "0").ok()?;
    } else if is_top {
        // The group of a container: all its processes move.
        make_group(&leaf).ok()?;
        let pids = fs::read_to_string(own.join("cgroup.procs")).ok()?;
        for pid in pids.lines() {
            // It may have ended meanwhile.
            let _ = fs::write(leaf.join("cgroup.procs"), pid);
        }
    } else {
        return None;
    }
    Some(base)
}

/// Returns the name of the group that holds one user's builds, where it is not the daemon's.
fn name_for(uid: u32) -> String {
    format!("buildd-slave-{uid}")
}

/// Returns the version 2 group below which builds get their groups. A process in the leaf, where
/// systemd's `DelegateSubgroup=` or an earlier daemon has put it, uses the leaf's parent.
fn base_of(own: &Path) -> &Path {
    match own.parent() {
        Some(parent) if own.file_name() == Some(OsStr::new(LEAF)) => parent,
        _ => own,
    }
}

/// Returns the controllers that a group may enable for its subgroups. The file of the leaf would
/// be empty until its parent enables them.
fn controllers(base: &Path) -> Vec<&'static str> {
    let text = fs::read_to_string(base.join("cgroup.controllers")).unwrap_or_default();
    let has = |name: &&str| text.split_whitespace().any(|word| word == *name);
    [MEMORY, PIDS].into_iter().filter(has).collect()
}

/// Whether version 2 has controllers for builds here. In a hybrid hierarchy, version 1 has them.
fn can_limit(own: &Path) -> bool {
    !controllers(base_of(own)).is_empty()
}

/// The root group of the host has no type.
fn is_root_group(group: &Path) -> bool {
    group.join("cgroup.procs").exists() && !group.join("cgroup.type").exists()
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
        let version_2 = own.unified.as_deref().filter(|own| can_limit(own));
        match version_2.map(|own| (base_of(own), subtree(own))) {
            Some((base, Ok(enabled))) => {
                let folder = |name| enabled.contains(&name).then(|| base.to_owned());
                Self {
                    memory: folder(MEMORY),
                    pids: folder(PIDS),
                    is_version_2: true,
                    obstacle: (enabled.len() < 2).then(|| {
                        format!(
                            "{} lacks a controller (Delegate=memory pids)",
                            base.display()
                        )
                    }),
                }
            }
            Some((_, Err(reason))) => Self {
                obstacle: Some(reason),
                ..Self::default()
            },
            None => Self::version_1(&own),
        }
    }

    fn version_1(own: &OwnGroups) -> Self {
        let uid = Uid::effective().as_raw();
        let below = |group: &Option<PathBuf>| {
            let folder = group.as_ref()?.join(name_for(uid));
            (folder.is_dir() && is_writable(&folder)).then_some(folder)
        };
        let (memory, pids) = (below(&own.memory), below(&own.pids));
        let reason = match (&own.memory, &own.pids) {
            (None, _) | (_, None) => "the host has no memory or pids controller here",
            _ => "cgroup v1: only a daemon that starts as root gets groups",
        };
        let obstacle = memory.is_none() || pids.is_none();
        Self {
            memory,
            pids,
            is_version_2: false,
            obstacle: obstacle.then(|| reason.to_owned()),
        }
    }

    /// Returns what enforces the limits of the builds that start here.
    pub(crate) fn enforcers(&self) -> Enforcers {
        let of = |folder: &Option<PathBuf>| match folder {
            Some(_) if self.is_version_2 => Enforcer::CgroupV2,
            Some(_) => Enforcer::CgroupV1,
            None => Enforcer::Measurement,
        };
        Enforcers {
            memory: of(&self.memory),
            processes: of(&self.pids),
        }
    }

    /// Creates the groups of the build `name`. A group that cannot be created is logged, and
    /// measurement takes its place.
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
            other_threads: limits::threads(),
        };
        limits.apply();
        limits
    }
}

impl fmt::Display for ResourceControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.enforcers())?;
        if let Some(folder) = self.memory.as_ref().or(self.pids.as_ref()) {
            write!(f, ", below {}", folder.display())?;
        }
        match &self.obstacle {
            Some(reason) => write!(f, " ({reason})"),
            None => Ok(()),
        }
    }
}

/// Prepares the version 2 group below which builds get their groups; returns the controllers that
/// it enables. The error is a reason.
fn subtree(own: &Path) -> Result<Vec<&'static str>, String> {
    let base = base_of(own);
    let control = base.join("cgroup.subtree_control");
    if !is_writable(&control) {
        return Err(format!("{} is not writable", control.display()));
    }
    if base == own {
        if !is_alone_in(own) {
            return Err(format!("{} holds other processes", own.display()));
        }
        let leaf = own.join(LEAF);
        let moved = make_group(&leaf).and_then(|()| fs::write(leaf.join("cgroup.procs"), "0"));
        moved.map_err(|error| format!("{}: {error}", leaf.display()))?;
    }
    enable_controllers(base).map_err(|error| format!("{}: {error}", control.display()))
}

/// Enables the controllers of builds for the subgroups of `base`, and returns them.
fn enable_controllers(base: &Path) -> io::Result<Vec<&'static str>> {
    let names = controllers(base);
    let words: Vec<String> = names.iter().map(|name| format!("+{name}")).collect();
    fs::write(base.join("cgroup.subtree_control"), words.join(" "))?;
    Ok(names)
}

/// Creates a group, or reuses an existing one.
fn make_group(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// The means that would enforce the limits of builds if a daemon started now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forecast {
    /// Started by the shipped unit; `None` without systemd.
    pub(crate) unit: Option<Enforcers>,
    /// Started by root in the place of this process.
    pub(crate) by_root: Enforcers,
}

impl Forecast {
    /// Reads the hierarchies of this host. Changes nothing.
    pub(crate) fn read() -> Self {
        let own = OwnGroups::read();
        let top = own.unified.as_deref().and_then(|own| {
            let is_group = |folder: &&Path| folder.join("cgroup.controllers").exists();
            own.ancestors().take_while(is_group).last()
        });
        let version_2 = top.is_some_and(|top| controllers(top).len() == 2);
        let systemd = Path::new("/run/systemd/system").is_dir();
        let alone = own.unified.as_deref().is_some_and(|group| {
            base_of(group) != group || own.is_top || is_alone_in(group) || is_root_group(group)
        });
        Self::of(
            version_2,
            own.memory.is_some() && own.pids.is_some(),
            systemd,
            alone,
        )
    }

    /// `alone`: in version 2, the group of this process may hold builds.
    fn of(version_2: bool, version_1: bool, systemd: bool, alone: bool) -> Self {
        let by_root = match (version_2, version_1) {
            (true, _) if alone => Enforcer::CgroupV2,
            (false, true) => Enforcer::CgroupV1,
            _ => Enforcer::Measurement,
        };
        // systemd delegates no groups of version 1 to a user.
        let unit = match version_2 {
            true => Enforcer::CgroupV2,
            false => Enforcer::Measurement,
        };
        Self {
            unit: systemd.then_some(Enforcers::both(unit)),
            by_root: Enforcers::both(by_root),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_version_2_the_daemon_moves_into_a_leaf_group() {
        let dir = tempfile::tempdir().unwrap();
        let me = std::process::id().to_string();
        let write = |file: &str, text: &str| fs::write(dir.path().join(file), text).unwrap();
        write("cgroup.controllers", "cpu memory pids\n");
        write("cgroup.subtree_control", "");
        write("cgroup.procs", "1\n2\n");
        let refused = subtree(dir.path()).unwrap_err();
        assert!(refused.contains("holds other processes"), "{refused}");
        write("cgroup.procs", &format!("{me}\n"));
        assert_eq!(subtree(dir.path()), Ok(vec![MEMORY, PIDS]));
        let joined = fs::read_to_string(dir.path().join("daemon/cgroup.procs"));
        assert_eq!(joined.unwrap(), "0");
        let enabled = || fs::read_to_string(dir.path().join("cgroup.subtree_control")).unwrap();
        assert_eq!(enabled(), "+memory +pids");

        // The next daemon starts in the leaf group, whose controllers its parent enables.
        write("cgroup.subtree_control", "");
        let leaf = dir.path().join("daemon");
        fs::write(leaf.join("cgroup.controllers"), "").unwrap();
        assert!(can_limit(&leaf));
        assert_eq!(subtree(&leaf), Ok(vec![MEMORY, PIDS]));
        assert_eq!(enabled(), "+memory +pids");
        write("cgroup.controllers", "cpu memory\n");
        assert_eq!(subtree(&leaf), Ok(vec![MEMORY]));
        assert_eq!(enabled(), "+memory");
        write("cgroup.controllers", "");
        assert!(!can_limit(&leaf), "version 1 has the controllers");
    }

    #[test]
    fn the_lowest_limit_of_a_group_and_those_above_counts() {
        let dir = tempfile::tempdir().unwrap();
        let daemon = dir.path().join("buildd.slice/one.service/daemon");
        fs::create_dir_all(&daemon).unwrap();
        let write = |folder: &Path, text: &str| fs::write(folder.join("memory.max"), text).unwrap();
        assert_eq!(lowest_limit(&daemon), u64::MAX);
        let service = daemon.parent().unwrap();
        write(&daemon, "max\n");
        write(service, "4096\n");
        write(service.parent().unwrap(), "1024\n");
        assert_eq!(lowest_limit(&daemon), 1024);
    }

    #[test]
    fn the_forecast_names_what_a_daemon_gets() {
        use Enforcer::{CgroupV1, CgroupV2, Measurement};
        for (version_2, version_1, systemd, alone, unit, by_root) in [
            (true, false, true, false, Some(CgroupV2), Measurement),
            (true, false, false, true, None, CgroupV2),
            (false, true, true, false, Some(Measurement), CgroupV1),
            (false, false, false, true, None, Measurement),
        ] {
            let expected = Forecast {
                unit: unit.map(Enforcers::both),
                by_root: Enforcers::both(by_root),
            };
            assert_eq!(Forecast::of(version_2, version_1, systemd, alone), expected);
        }
    }

    #[test]
    fn the_enforcers_are_shown_in_words() {
        let mut found = ResourceControl {
            memory: Some("/g".into()),
            pids: Some("/g".into()),
            is_version_2: true,
            obstacle: None,
        };
        assert_eq!(
            found.to_string(),
            "memory by cgroup v2, processes by cgroup v2, below /g"
        );
        assert!(found.enforcers().are_groups());
        found.pids = None;
        found.obstacle = Some("no pids".into());
        assert_eq!(
            found.to_string(),
            "memory by cgroup v2, processes by measurement, below /g (no pids)"
        );
        assert!(!found.enforcers().are_groups());
    }
}
