//! Watches the disk while a build runs, and decides whose fault a full disk is.
//!
//! A build is promised `[limits] disk`; `[limits] reserve` stays free for the builder. The shim
//! checks every second, and ends a build that would use the reserve.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::protocol::BuildStatus;
use crate::sys::host;

use super::command::OutOfSpace;
use super::spec::{Settings, Spec};
use super::stage::Failure;

/// The file systems that a build writes to, as they were when it started.
#[derive(Debug)]
pub(super) struct Disk {
    reserve_bytes: u64,
    promised_bytes: u64,
    /// The folder that sbuild copies results to.
    results: PathBuf,
    /// The limit on the size of all results.
    result_bytes: u64,
    /// A folder on each file system, and the bytes that were free beyond the reserve.
    free_at_start: Vec<(PathBuf, u64)>,
}

impl Disk {
    /// Measures the file systems of the settings and of the journal entry.
    pub(super) fn at_start(spec: &Spec, entry: &Path) -> Self {
        let Settings {
            home,
            sessions,
            filecache,
            chroots,
            reserve_bytes,
            ..
        } = &spec.settings;
        let mut devices = Vec::new();
        let mut free_at_start = Vec::new();
        for folder in [home, sessions, filecache, chroots, entry] {
            let device = fs::metadata(folder).ok().map(|about| about.dev());
            if let (Some(device), Some(free)) = (device, host::free_bytes(folder))
                && !devices.contains(&device)
            {
                devices.push(device);
                free_at_start.push((folder.to_owned(), free.saturating_sub(*reserve_bytes)));
            }
        }
        Self {
            reserve_bytes: *reserve_bytes,
            promised_bytes: spec.settings.disk_bytes,
            results: spec.work_tree(),
            result_bytes: spec.settings.result_bytes,
            free_at_start,
        }
    }

    /// Returns the limit on disk space that the build exceeds now.
    pub(super) fn shortage(&self) -> Option<OutOfSpace> {
        let results = self.results_bytes();
        match self.below_reserve() {
            Some(folder) => Some(OutOfSpace::Disk(folder)),
            None if results > self.result_bytes => Some(OutOfSpace::Results(results)),
            None => None,
        }
    }

    /// The size of all files in the folder of results. Links to inputs add few bytes.
    fn results_bytes(&self) -> u64 {
        let entries = fs::read_dir(&self.results).into_iter().flatten().flatten();
        let sizes = entries.filter_map(|entry| Some(entry.metadata().ok()?.len()));
        sizes.fold(0, u64::saturating_add)
    }

    /// Returns a folder on a file system whose free space is below the reserve.
    pub(super) fn below_reserve(&self) -> Option<PathBuf> {
        let short =
            |folder: &Path| host::free_bytes(folder).is_some_and(|free| free < self.reserve_bytes);
        self.free_at_start
            .iter()
            .find(|(folder, _)| short(folder))
            .map(|(folder, _)| folder.clone())
    }

    /// Decides whose fault a full disk is, from the bytes that the build uses.
    pub(super) fn blame(&self, used_bytes: u64) -> Failure {
        let least = self.free_at_start.iter().min_by_key(|(_, free)| free);
        blame(least, self.promised_bytes, used_bytes)
    }

    /// True if the promised space was free when the build started.
    pub(super) fn had_promised_space(&self) -> bool {
        self.free_at_start
            .iter()
            .all(|(_, free)| *free >= self.promised_bytes)
    }
}

fn blame(least: Option<&(PathBuf, u64)>, promised: u64, used: u64) -> Failure {
    let mib = |bytes: u64| bytes >> 20;
    let promise = format!(
        "{} MiB that a build is promised ([limits] disk)",
        mib(promised)
    );
    if used > promised {
        let reason = format!(
            "The package filled the disk: it used {} MiB, more than the {promise}.",
            mib(used)
        );
        return Failure::new(BuildStatus::PackageFail, reason);
    }
    let reason = match least {
        Some((folder, free)) if *free < promised => format!(
            "The builder's disk is full: when the build started, {} had {} MiB free beyond the \
             reserve, of the {promise}.",
            folder.display(),
            mib(*free)
        ),
        _ => format!(
            "The builder's disk is full, but not because of this build: it used {} of the \
             {promise}.",
            mib(used)
        ),
    };
    Failure::new(BuildStatus::BuilderFail, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_the_packages_fault_if_it_used_more_than_promised() {
        use BuildStatus::{BuilderFail, PackageFail};
        let at = |free: u64| ("/home".into(), free << 20);
        for (free, used, status, text) in [
            (900, 901, PackageFail, "it used 901 MiB, more than the 500"),
            (
                900,
                400,
                BuilderFail,
                "not because of this build: it used 400",
            ),
            (400, 400, BuilderFail, "/home had 400 MiB free"),
            (400, 501, PackageFail, "it used 501 MiB"),
        ] {
            let failure = blame(Some(&at(free)), 500 << 20, used << 20);
            assert_eq!(failure.status, status, "{free} {used}");
            assert!(failure.reason.contains(text), "{}", failure.reason);
        }
    }
}
