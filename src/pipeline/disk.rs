//! How does the disk stand while a build runs, and who has filled it?
//!
//! A build is promised `[limits] disk`, and the builder keeps `[limits] reserve` for itself: the
//! shim looks every second, and ends a build that would take from the reserve.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::protocol::BuildStatus;
use crate::sys::host;

use super::command::OutOfSpace;
use super::spec::{Settings, Spec};
use super::stage::Failure;

/// The file systems that a build writes to, as they were when it began.
#[derive(Debug)]
pub(super) struct Disk {
    reserve_bytes: u64,
    guaranteed_bytes: u64,
    /// Where sbuild puts what it brings out of the session, and how much that may be.
    results: PathBuf,
    result_bytes: u64,
    /// A folder on each file system, and the bytes free beyond the reserve.
    free_at_start: Vec<(PathBuf, u64)>,
}

impl Disk {
    /// Looks at the file systems of `settings` and of the journal entry.
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
            guaranteed_bytes: spec.settings.disk_bytes,
            results: spec.work_tree(),
            result_bytes: spec.settings.result_bytes,
            free_at_start,
        }
    }

    /// Returns why a build has no room to go on.
    pub(super) fn shortage(&self) -> Option<OutOfSpace> {
        let results = self.results_bytes();
        match self.below_reserve() {
            Some(folder) => Some(OutOfSpace::Disk(folder)),
            None if results > self.result_bytes => Some(OutOfSpace::Results(results)),
            None => None,
        }
    }

    /// The bytes of the files that lie where results do, links to inputs hardly counting.
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

    /// Says whose fault it is that the disk is full, given what the build has used of it.
    pub(super) fn blame(&self, used_bytes: u64) -> Failure {
        let least = self.free_at_start.iter().min_by_key(|(_, free)| free);
        blame(least, self.guaranteed_bytes, used_bytes)
    }

    /// Tells whether what a build is promised was there when it began.
    pub(super) fn had_guaranteed_space(&self) -> bool {
        self.free_at_start
            .iter()
            .all(|(_, free)| *free >= self.guaranteed_bytes)
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
            "The builder's disk is full: when the build began, {} had {} MiB free beyond the \
             reserve, of the {promise}.",
            folder.display(),
            mib(*free)
        ),
        _ => format!(
            "The builder's disk is full, and not by this build: it used {} of the {promise}.",
            mib(used)
        ),
    };
    Failure::new(BuildStatus::BuilderFail, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_that_was_kept_makes_it_the_packages_fault() {
        use BuildStatus::{BuilderFail, PackageFail};
        let at = |free: u64| ("/home".into(), free << 20);
        for (free, used, status, said) in [
            (900, 901, PackageFail, "it used 901 MiB, more than the 500"),
            (900, 400, BuilderFail, "not by this build: it used 400"),
            (400, 400, BuilderFail, "/home had 400 MiB free"),
            (400, 501, PackageFail, "it used 501 MiB"),
        ] {
            let failure = blame(Some(&at(free)), 500 << 20, used << 20);
            assert_eq!(failure.status, status, "{free} {used}");
            assert!(failure.reason.contains(said), "{}", failure.reason);
        }
    }
}
