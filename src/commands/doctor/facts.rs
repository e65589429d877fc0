//! Pure: the facts that `doctor` collects about a host, before anything is graded.
//!
//! Root collects [`Host`] itself. [`Seen`] comes from a process of the user that builds, which sees
//! what a build sees. Root does not trust it: no path, name or number of [`Seen`] gets into a
//! command.

use serde::{Deserialize, Serialize};

use crate::config_file::PathProblem;
use crate::session::binfmt::Way;

/// The user that builds, and the user that runs `doctor`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Builder {
    /// This process is root or that user. Holds the user's id.
    Known(u32),
    /// This process is neither; the reason.
    NotMe(String),
    Missing(String),
    /// The configuration names root, or another problem.
    Wrong(String),
}

/// Facts about this host that every user can read.
#[derive(Debug, Clone)]
pub(super) struct Host {
    pub(super) builder: Builder,
    /// The texts of `/etc/subuid` and `/etc/subgid`.
    pub(super) sub_ids: [String; 2],
    /// `newuidmap` and `newgidmap`: the path, and whether root owns it with the setuid bit.
    pub(super) mappers: [Option<(String, bool)>; 2],
    pub(super) no_new_privileges: bool,
    /// Values of `checks::SYSCTLS`. `None`: this kernel lacks the setting.
    pub(super) sysctls: Vec<Option<String>>,
    pub(super) overlay: OverlayModule,
    pub(super) apparmor: AppArmor,
    /// Version of the package.
    pub(super) sbuild: Option<String>,
    /// Paths of `checks::PROGRAMS`.
    pub(super) programs: Vec<Option<String>>,
    pub(super) forecast: Forecast,
    /// systemd runs the unit `buildd-slave`.
    pub(super) unit_runs: bool,
    pub(super) knows_system_calls: bool,
    pub(super) processor: &'static str,
}

/// Whether the kernel has overlay file systems.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum OverlayModule {
    Known,
    /// The kernel has a module that can be loaded.
    Loadable,
    /// `/lib/modules` has no such module for this release of the kernel.
    Absent(String),
}

/// The means to give this program a profile of AppArmor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AppArmor {
    /// The text of the installed profile.
    pub(super) profile: Option<String>,
    /// Path of this program; a profile attaches to it.
    pub(super) program: String,
    /// The package apparmor is installed.
    pub(super) has_parser: bool,
}

/// Facts that only the user that builds sees.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) paths: Vec<PathProblem>,
    pub(super) disks: Vec<DiskOf>,
    pub(super) trial: Trial,
    pub(super) chroots: Chroots,
    /// The connection of builds to the outside; `None` if the configuration needs none.
    pub(super) outside: Option<Result<(), NoOutside>>,
    /// For each architecture of `[slave] emulate`.
    pub(super) emulation: Result<Vec<(String, Way)>, String>,
    pub(super) ports: Vec<(String, Port)>,
    pub(super) running: Running,
    /// Whether the running daemon's `/healthz` answers 200; `None` without such an answer.
    pub(super) healthy: Option<bool>,
    /// The label that AppArmor gives this program.
    pub(super) label: Option<String>,
}

/// The file system of a folder.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct DiskOf {
    pub(super) path: String,
    /// `None` if the file system cannot be examined.
    pub(super) free: Option<Free>,
    pub(super) read_only: bool,
}

/// The free space of a file system, or the space to keep free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Free {
    pub(super) bytes: u64,
    /// `u64::MAX` if the file system has no limit.
    pub(super) inodes: u64,
}

/// The result of trying to start sessions; an error is the reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Trial {
    NotTried(String),
    /// A user namespace with all its ids could not be created.
    NoNamespace(String),
    /// Sessions were tried, with either writable layer.
    Sessions {
        in_memory: Result<(), String>,
        on_disk: Result<(), String>,
    },
}

/// The store of unpacked chroots.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Chroots {
    pub(super) count: usize,
    /// Sentences about chroots that no session can use.
    pub(super) unusable: Vec<String>,
    /// SHA-1 of chroots that lack a program of the package passwd.
    pub(super) without_passwd: Vec<String>,
}

/// Why builds cannot be connected to the outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum NoOutside {
    Pasta(String),
    Tun(String),
    Other(String),
}

/// An address that the daemon listens on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Port {
    Free,
    /// The daemon of this configuration listens there.
    Own,
    InUse,
    Failed(String),
}

/// The means that enforce the limits of builds on memory and processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Limits {
    /// Words such as `memory by cgroup v2, processes by cgroup v2`.
    pub(super) shown: String,
    /// Whether control groups enforce both.
    pub(super) by_groups: bool,
}

/// The limits of the running daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Running {
    NoDaemon,
    Limits(Limits),
    /// The daemon does not tell; the reason.
    Unknown(String),
}

/// The limits of a daemon that would start now.
#[derive(Debug, Clone)]
pub(super) struct Forecast {
    /// Started by the shipped unit; `None` without systemd.
    pub(super) unit: Option<Limits>,
    /// Started by root from the same shell.
    pub(super) by_root: Limits,
}
