//! Pure: decides which keys of a changed configuration a running daemon applies.
//!
//! A reload replaces the values of some keys, and keeps those of the others until a restart. A new
//! key of `[slave]`, `[limits]` or `[master]` needs a place in one of the tables here.

use std::collections::BTreeSet;
use std::fmt;

use super::raw::{self, Sections};
use super::{Config, Limits, Master, Slave};

/// A daemon that reads its configuration again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Daemon {
    Slave,
    /// `master run`, with or without a librarian.
    Master,
}

/// Keys of one section. An empty list means all keys.
type Keys = (&'static str, &'static [&'static str]);

const SLAVE_APPLIES: &[Keys] = &[
    (
        "slave",
        &[
            "allow",
            "fetch_from",
            "network",
            "overlay",
            "parallel",
            "password",
            "statusform",
            "username",
            "verdicts",
        ],
    ),
    (
        "limits",
        &[
            "abort_time",
            "build_time",
            "cache_size",
            "chroots_size",
            "disk",
            "fetch_connect_timeout",
            "fetch_idle_timeout",
            "fetch_lowest_rate",
            "fetch_retries",
            "fetch_size",
            "inodes",
            "log_size",
            "memory",
            "memory_layer",
            "processes",
            "reserve",
            "reserve_inodes",
            "results",
            "silence",
            "slaves",
            "stage_time",
        ],
    ),
    ("proxy", &[]),
    ("gate", &[]),
];
const SLAVE_RESTARTS: &[Keys] = &[
    (
        "slave",
        &[
            "architecturetag",
            "bindhost",
            "bindport",
            "chroots",
            "emulate",
            "filecache",
            "home",
            "isolation",
            "journal",
            "sessions",
            "user",
        ],
    ),
    ("limits", SERVER),
    ("allmanagers", &[]),
    ("debianmanager", &[]),
];
/// The limits of HTTP servers.
const SERVER: &[&str] = &[
    "body",
    "connections",
    "connections_per_peer",
    "downloads",
    "followers",
    "head",
    "idle_timeout",
    "request_timeout",
    "wait_timeout",
    "waiting",
    "write_timeout",
];
const MASTER_APPLIES: &[Keys] = &[(
    "master",
    &[
        "cancel_timeout",
        "depwait_interval",
        "give_back_delay",
        "give_back_limit",
        "notify",
        "prefer_native",
        "rescore_interval",
        "reset_command",
        "result_size",
        "retention_interval",
        "scan_interval",
        "scoring",
        "tail_interval",
        "uploader",
        "uploads",
    ],
)];
const MASTER_RESTARTS: &[Keys] = &[
    (
        "master",
        &["downloads", "host", "lease", "results", "rpc_timeout"],
    ),
    ("database", &[]),
    ("librarian", &[]),
    ("slave", &["home", "user"]),
    ("limits", SERVER),
    ("limits", &["reserve"]),
];

impl Daemon {
    fn applies(self, section: &str, key: &str) -> bool {
        holds(
            match self {
                Self::Slave => SLAVE_APPLIES,
                Self::Master => MASTER_APPLIES,
            },
            section,
            key,
        )
    }

    fn restarts_for(self, section: &str, key: &str) -> bool {
        holds(
            match self {
                Self::Slave => SLAVE_RESTARTS,
                Self::Master => MASTER_RESTARTS,
            },
            section,
            key,
        )
    }
}

fn holds(table: &[Keys], section: &str, key: &str) -> bool {
    let of_section = table.iter().filter(|(name, _)| *name == section);
    let mut lists = of_section.map(|(_, keys)| keys);
    lists.any(|keys| keys.is_empty() || keys.contains(&key))
}

/// The changed keys that concern a daemon, as `[section] key`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) applied: Vec<String>,
    pub(crate) need_restart: Vec<String>,
}

impl Changes {
    /// Compares the text of a valid configuration with that of the start and the last reload.
    pub(crate) fn of(daemon: Daemon, started: &str, current: &str, now: &str) -> Self {
        let select = |before: &str, of: fn(Daemon, &str, &str) -> bool| {
            let changed = changed(before, now).into_iter();
            let mine = changed.filter(|(section, key)| of(daemon, section, key));
            mine.map(|(section, key)| format!("[{section}] {key}"))
                .collect()
        };
        Self {
            applied: select(current, Daemon::applies),
            need_restart: select(started, Daemon::restarts_for),
        }
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.applied.as_slice() {
            [] => write!(f, "no changed key is applied"),
            keys => write!(f, "applied {}", keys.join(", ")),
        }
    }
}

/// Returns the keys whose texts differ. An empty value equals a missing one.
fn changed(before: &str, after: &str) -> BTreeSet<(String, String)> {
    let parse = |text| raw::read(text, &mut Vec::new(), &mut Vec::new());
    let (before, after) = (values(parse(before)), values(parse(after)));
    let differing = before.symmetric_difference(&after);
    differing
        .map(|(section, key, _)| (section.clone(), key.clone()))
        .collect()
}

fn values(sections: Sections) -> BTreeSet<(String, String, String)> {
    let sections = sections.keys.into_iter();
    let all = sections.flat_map(|(section, keys)| {
        let keys = keys.into_iter();
        keys.map(move |(key, value)| (section.clone(), key, value))
    });
    all.filter(|(_, _, value)| !value.is_empty()).collect()
}

impl Config {
    /// Returns this configuration with the values of `new` for the keys that a slave applies.
    pub(crate) fn reloaded(&self, new: &Self) -> Self {
        let (slave, limits) = (&self.slave, &self.limits);
        let given = new.slave.clone();
        Self {
            slave: Slave {
                allow: given.allow,
                fetch_from: given.fetch_from,
                credentials: given.credentials,
                statusform: given.statusform,
                verdicts: given.verdicts,
                parallel: given.parallel,
                network: given.network,
                overlay: given.overlay,
                ..slave.clone()
            },
            limits: Limits {
                head: limits.head,
                body: limits.body,
                connections: limits.connections,
                connections_per_peer: limits.connections_per_peer,
                downloads: limits.downloads,
                followers: limits.followers,
                waiting: limits.waiting,
                wait_timeout: limits.wait_timeout,
                request_timeout: limits.request_timeout,
                idle_timeout: limits.idle_timeout,
                write_timeout: limits.write_timeout,
                ..new.limits.clone()
            },
            programs: self.programs.clone(),
            apt_proxy: new.apt_proxy.clone(),
            gate: new.gate.clone(),
        }
    }
}

impl Master {
    /// Returns this section with the values of `new` for the keys that a master applies.
    pub(crate) fn reloaded(&self, new: &Self) -> Self {
        Self {
            results: self.results.clone(),
            host: self.host.clone(),
            lease: self.lease,
            rpc_timeout: self.rpc_timeout,
            downloads: self.downloads,
            ..new.clone()
        }
    }
}

#[cfg(test)]
#[path = "reload/tests.rs"]
mod tests;
