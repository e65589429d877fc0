//! Pure: parses section `[master]`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::reader::Reader;

const S: &str = "master";

/// `[master]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Master {
    /// Holds downloaded results. Defaults to `results` below `[slave] home`.
    pub(crate) results: PathBuf,
    /// The name of this host in the farm; it marks the results that the host has. Defaults to the
    /// host name.
    pub(crate) host: Option<String>,
    /// Interval between two scans of a builder. Defaults to 15 s.
    pub(crate) scan_interval: Duration,
    /// Timeout for a slave's answer; that of `ensurepresent` is 20 times as long. Defaults to 40 s.
    pub(crate) rpc_timeout: Duration,
    /// Duration of a lease. Without a renewal, another master may then lease the builder. Defaults
    /// to 45 s.
    pub(crate) lease: Duration,
    /// Timeout for a slave to abort a build; then the builder fails. Defaults to 3 m.
    pub(crate) cancel_timeout: Duration,
    /// Delay before a given-back job is dispatched again, doubled each time. Defaults to 5 m.
    pub(crate) give_back_delay: Duration,
    /// Attempts that may be given back; then the build ends. Defaults to 12.
    pub(crate) give_back_limit: u32,
    /// Time that a job waits for busy builders that need no emulation. Defaults to 30 m.
    pub(crate) prefer_native: Duration,
    /// Interval between two writes of log tails to the database. Defaults to 15 s.
    pub(crate) tail_interval: Duration,
    /// Interval between two checks of dep-wait builds. Defaults to 1 h.
    pub(crate) depwait_interval: Duration,
    /// Interval between two rescorings of the queue. Defaults to 5 m.
    pub(crate) rescore_interval: Duration,
    /// Interval between two removals of what the archives no longer keep. Defaults to 6 h.
    pub(crate) retention_interval: Duration,
    /// Concurrent downloads of results. Defaults to 64.
    pub(crate) downloads: u32,
    /// Largest result file, in bytes. Defaults to 20 GiB.
    pub(crate) result_size: u64,
    /// Defaults to [`Scoring::Y2008`].
    pub(crate) scoring: Scoring,
    /// Uploaders that run at a time on this host. Defaults to 4.
    pub(crate) uploads: u32,
    /// Command that uploads results; empty: they stay in `results`.
    pub(crate) uploader: Vec<String>,
    /// Command that gets a JSON document on stdin for each failure to report; may be empty.
    pub(crate) notify: Vec<String>,
    /// Command that resets a virtual builder. `%(vm_host)s` and `%(buildd_name)s` are replaced by
    /// its host and its name.
    pub(crate) reset_command: Vec<String>,
}

/// The rules for the queue score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scoring {
    /// Launchpad's of 2008: the score grows with a job's age.
    Y2008,
    /// Today's Launchpad: age does not count.
    Modern,
}

impl Master {
    pub(super) fn read(reader: &mut Reader<'_>, home: &Path) -> Self {
        let scorings = [("2008", Scoring::Y2008), ("modern", Scoring::Modern)];
        Self {
            results: reader
                .path(S, "results")
                .unwrap_or_else(|| home.join("results")),
            host: reader.name(S, "host", "a host name, such as master1.example.org", "-._"),
            scan_interval: reader.duration(S, "scan_interval", 15),
            rpc_timeout: reader.duration(S, "rpc_timeout", 40),
            lease: reader.duration(S, "lease", 45),
            cancel_timeout: reader.duration(S, "cancel_timeout", 180),
            give_back_delay: reader.duration(S, "give_back_delay", 300),
            give_back_limit: reader.count(S, "give_back_limit", 1, 12),
            prefer_native: reader.duration(S, "prefer_native", 1800),
            tail_interval: reader.duration(S, "tail_interval", 15),
            depwait_interval: reader.duration(S, "depwait_interval", 3600),
            rescore_interval: reader.duration(S, "rescore_interval", 300),
            retention_interval: reader.duration(S, "retention_interval", 6 * 3600),
            downloads: reader.count(S, "downloads", 1, 64),
            result_size: reader.bytes(S, "result_size", 20 << 30),
            scoring: reader
                .choice(S, "scoring", &scorings, "")
                .unwrap_or(Scoring::Y2008),
            uploads: reader.count(S, "uploads", 1, 4),
            uploader: reader.words(S, "uploader"),
            notify: reader.words(S, "notify"),
            reset_command: reset_command(reader),
        }
    }
}

/// The only key whose value may contain `%(…)s`.
fn reset_command(reader: &mut Reader<'_>) -> Vec<String> {
    let text = reader.secret(S, "reset_command").unwrap_or_default();
    let known = text
        .replace("%(vm_host)s", "")
        .replace("%(buildd_name)s", "");
    if known.contains("%(") {
        let fix = "only %(vm_host)s and %(buildd_name)s are replaced";
        reader.error(S, "reset_command", "not understood", Some(&text), fix);
    }
    text.split_whitespace().map(str::to_owned).collect()
}
