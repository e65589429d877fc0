//! Pure: what does `[master]` say? Where results go, how often builders are looked at, how long
//! anything may take, and the site's own commands.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::reader::Reader;

const S: &str = "master";

/// `[master]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Master {
    /// Where results are collected and handed over. Defaults to `results` below `[slave] home`.
    pub(crate) results: PathBuf,
    /// Between two looks at a builder. Defaults to 15 s.
    pub(crate) scan_interval: Duration,
    /// For a slave's answer; twenty times that for it to fetch a file. Defaults to 40 s.
    pub(crate) rpc_timeout: Duration,
    /// How long a builder stays with a process that says nothing. Defaults to 45 s.
    pub(crate) lease: Duration,
    /// How long an abort may take before the builder is at fault. Defaults to 3 m.
    pub(crate) cancel_timeout: Duration,
    /// How long a given-back job waits. Defaults to 5 m.
    pub(crate) give_back_delay: Duration,
    /// Between two flushes of log tails. Defaults to 15 s.
    pub(crate) tail_interval: Duration,
    /// Between two looks at waiting dependencies. Defaults to 1 h.
    pub(crate) depwait_interval: Duration,
    /// Between two scorings of the queue. Defaults to 5 m.
    pub(crate) rescore_interval: Duration,
    /// Results that are fetched at once. Defaults to 64.
    pub(crate) downloads: u32,
    /// Longest file a slave may have for us, in bytes. Defaults to 20 GiB.
    pub(crate) result_size: u64,
    /// Defaults to [`Scoring::Y2008`].
    pub(crate) scoring: Scoring,
    /// What takes results on; none: they stay in `results`.
    pub(crate) uploader: Vec<String>,
    /// What gets a JSON document on stdin for each failure people are to hear of.
    pub(crate) notify: Vec<String>,
    /// What resets a virtual builder; `%(vm_host)s` and `%(buildd_name)s` stand for its host and
    /// its name.
    pub(crate) reset_command: Vec<String>,
}

/// By which rules jobs are ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scoring {
    /// Of 2008: a job's age counts.
    Y2008,
    /// Of today's Launchpad: it does not.
    Modern,
}

impl Master {
    pub(super) fn read(reader: &mut Reader<'_>, home: &Path) -> Self {
        let scorings = [("2008", Scoring::Y2008), ("modern", Scoring::Modern)];
        Self {
            results: reader
                .path(S, "results")
                .unwrap_or_else(|| home.join("results")),
            scan_interval: reader.duration(S, "scan_interval", 15),
            rpc_timeout: reader.duration(S, "rpc_timeout", 40),
            lease: reader.duration(S, "lease", 45),
            cancel_timeout: reader.duration(S, "cancel_timeout", 180),
            give_back_delay: reader.duration(S, "give_back_delay", 300),
            tail_interval: reader.duration(S, "tail_interval", 15),
            depwait_interval: reader.duration(S, "depwait_interval", 3600),
            rescore_interval: reader.duration(S, "rescore_interval", 300),
            downloads: reader.count(S, "downloads", 1, 64),
            result_size: reader.bytes(S, "result_size", 20 << 30),
            scoring: reader
                .choice(S, "scoring", &scorings, "")
                .unwrap_or(Scoring::Y2008),
            uploader: reader.words(S, "uploader"),
            notify: reader.words(S, "notify"),
            reset_command: reset_command(reader),
        }
    }
}

/// The one value whose `%(…)s` are ours to replace.
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
