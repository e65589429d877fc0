//! Watches the disk while a build runs, and decides whose fault a full disk is.
//!
//! A build is promised `[limits] disk` and `inodes`; `reserve` and `reserve_inodes` stay free for
//! the builder. The shim checks while a command runs, and ends a build that would use the reserve.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::protocol::BuildStatus;
use crate::sys::fs::DiskUsage;
use crate::sys::host;

use super::command::Exceeded;
use super::spec::{Settings, Spec};
use super::stage::Failure;
use super::verdict::DISK_IS_FULL;

/// A resource of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resource {
    Bytes,
    Inodes,
}

impl Resource {
    fn of(self, amount: DiskUsage) -> u64 {
        match self {
            Self::Bytes => amount.bytes,
            Self::Inodes => amount.inodes,
        }
    }

    /// Returns an amount with its unit.
    fn shown(self, amount: u64) -> String {
        match self {
            Self::Bytes => format!("{} MiB", amount >> 20),
            Self::Inodes => format!("{amount} inodes"),
        }
    }

    /// The key of the promise in `[limits]`.
    const fn key(self) -> &'static str {
        match self {
            Self::Bytes => "disk",
            Self::Inodes => "inodes",
        }
    }
}

/// The file systems that a build writes to, as they were when it started.
#[derive(Debug)]
pub(super) struct Disk {
    reserve: DiskUsage,
    promised: DiskUsage,
    /// The folder that sbuild copies results to.
    results: PathBuf,
    /// The limit on the size of all results.
    result_bytes: u64,
    /// A folder on each file system, and what was free beyond the reserve.
    free_at_start: Vec<(PathBuf, DiskUsage)>,
}

impl Disk {
    /// Measures the file systems of the settings and of the journal entry.
    pub(super) fn at_start(spec: &Spec, entry: &Path) -> Self {
        let Settings {
            home,
            sessions,
            filecache,
            chroots,
            ..
        } = &spec.settings;
        let reserve = DiskUsage {
            bytes: spec.settings.reserve_bytes,
            inodes: spec.settings.reserve_inodes,
        };
        let mut devices = Vec::new();
        let mut free_at_start = Vec::new();
        for folder in [home, sessions, filecache, chroots, entry] {
            let device = fs::metadata(folder).ok().map(|about| about.dev());
            let (Some(device), Some(free)) = (device, free(folder)) else {
                continue;
            };
            if devices.contains(&device) {
                continue;
            }
            devices.push(device);
            let beyond = DiskUsage {
                bytes: free.bytes.saturating_sub(reserve.bytes),
                inodes: free.inodes.saturating_sub(reserve.inodes),
            };
            free_at_start.push((folder.to_owned(), beyond));
        }
        Self {
            reserve,
            promised: DiskUsage {
                bytes: spec.settings.disk_bytes,
                inodes: spec.settings.inodes,
            },
            results: spec.work_tree(),
            result_bytes: spec.settings.result_bytes,
            free_at_start,
        }
    }

    /// Returns the limit on disk space that the build exceeds now.
    pub(super) fn shortage(&self) -> Option<Exceeded> {
        let results = self.results_bytes();
        match self.below_reserve() {
            Some((folder, Resource::Bytes)) => Some(Exceeded::Disk(folder)),
            Some((folder, Resource::Inodes)) => Some(Exceeded::Inodes(folder)),
            None if results > self.result_bytes => Some(Exceeded::Results(results)),
            None => None,
        }
    }

    /// The size of all files in the folder of results. Links to inputs add few bytes.
    fn results_bytes(&self) -> u64 {
        let entries = fs::read_dir(&self.results).into_iter().flatten().flatten();
        let sizes = entries.filter_map(|entry| Some(entry.metadata().ok()?.len()));
        sizes.fold(0, u64::saturating_add)
    }

    /// Returns a folder on a file system that has less than the reserve, and of which resource.
    pub(super) fn below_reserve(&self) -> Option<(PathBuf, Resource)> {
        self.free_at_start.iter().find_map(|(folder, _)| {
            let free = free(folder)?;
            let short = |it: &Resource| it.of(free) < it.of(self.reserve);
            let resource = [Resource::Bytes, Resource::Inodes]
                .into_iter()
                .find(short)?;
            Some((folder.clone(), resource))
        })
    }

    /// Decides whose fault a shortage is, from what the build uses.
    pub(super) fn blame(&self, resource: Resource, used: DiskUsage) -> Failure {
        let free = self.free_at_start.iter();
        let least = free.min_by_key(|(_, free)| resource.of(*free));
        let least = least.map(|(folder, free)| (folder.as_path(), resource.of(*free)));
        blame(
            resource,
            least,
            resource.of(self.promised),
            resource.of(used),
        )
    }

    /// Returns the resource of which less than the promise was free when the build started.
    pub(super) fn broken_promise(&self) -> Option<Resource> {
        [Resource::Bytes, Resource::Inodes].into_iter().find(|it| {
            let mut free = self.free_at_start.iter();
            free.any(|(_, free)| it.of(*free) < it.of(self.promised))
        })
    }
}

/// Returns what is free on the file system of `folder`.
fn free(folder: &Path) -> Option<DiskUsage> {
    let disk = host::disk_of(folder).ok()?;
    Some(DiskUsage {
        bytes: disk.free_bytes,
        inodes: disk.free_inodes,
    })
}

/// Adds the failure that a shortage of disk caused to the sentence about the shortage. A failure
/// that says the same adds only the line of the log that it quotes.
pub(super) fn with_cause(shortage: &str, cause: &str) -> String {
    let quoted = cause.strip_prefix(DISK_IS_FULL);
    let quoted = quoted.map(|rest| rest.trim_start_matches([':', '.', ' ']));
    match quoted {
        _ if cause == shortage => shortage.to_owned(),
        Some("") => shortage.to_owned(),
        Some(line) => format!("{shortage} The log says: {line}"),
        None => format!("{shortage} {cause}"),
    }
}

fn blame(resource: Resource, least: Option<(&Path, u64)>, promised: u64, used: u64) -> Failure {
    let promise = format!(
        "{} that a build is promised ([limits] {})",
        resource.shown(promised),
        resource.key()
    );
    if used > promised {
        let reason = format!(
            "The package filled the disk: it used {}, more than the {promise}.",
            resource.shown(used)
        );
        return Failure::new(BuildStatus::PackageFail, reason);
    }
    let reason = match least {
        Some((folder, free)) if free < promised => format!(
            "{DISK_IS_FULL}: when the build started, {} had {} free beyond the \
             reserve, of the {promise}.",
            folder.display(),
            resource.shown(free)
        ),
        _ => format!(
            "{DISK_IS_FULL}, but not because of this build: it used {} of the \
             {promise}.",
            resource.shown(used)
        ),
    };
    Failure::new(BuildStatus::BuilderFail, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_says_once_that_the_disk_is_full() {
        let shortage = "The builder's disk is full: when the build started, /x had 1 MiB free.";
        assert_eq!(with_cause(shortage, shortage), shortage);
        assert_eq!(
            with_cause(shortage, "The builder's disk is full."),
            shortage
        );
        assert_eq!(
            with_cause(
                shortage,
                "The builder's disk is full: E: No space left on device"
            ),
            format!("{shortage} The log says: E: No space left on device")
        );
        let other = "The package failed to build (stage build).";
        assert_eq!(with_cause(shortage, other), format!("{shortage} {other}"));
    }

    #[test]
    fn a_full_disk_is_the_packages_fault_if_it_used_more_than_promised() {
        use BuildStatus::{BuilderFail, PackageFail};
        use Resource::{Bytes, Inodes};
        let home = Path::new("/home");
        for (resource, free, used, status, text) in [
            (
                Bytes,
                900,
                901,
                PackageFail,
                "it used 901 MiB, more than the 500 MiB",
            ),
            (
                Bytes,
                900,
                400,
                BuilderFail,
                "not because of this build: it used 400 MiB",
            ),
            (Bytes, 400, 400, BuilderFail, "/home had 400 MiB free"),
            (Bytes, 400, 501, PackageFail, "it used 501 MiB"),
            (
                Inodes,
                900,
                901,
                PackageFail,
                "901 inodes, more than the 500 inodes",
            ),
            (Inodes, 400, 400, BuilderFail, "/home had 400 inodes free"),
            (Inodes, 900, 400, BuilderFail, "promised ([limits] inodes)"),
        ] {
            let unit = if resource == Bytes { 1 << 20 } else { 1 };
            let failure = blame(resource, Some((home, free * unit)), 500 * unit, used * unit);
            assert_eq!(failure.status, status, "{free} {used}");
            assert!(failure.reason.contains(text), "{}", failure.reason);
        }
    }
}
