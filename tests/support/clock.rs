//! Clocks of processes that a test sets, by `libfaketime` (package faketime).

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use super::mounts::not_run;

/// The environment of a process that reads the time of day from the file `clock`; `None`, with a
/// message that `what` is not run, if the library is not installed.
pub(crate) fn environment(clock: &Path, what: &str) -> Option<Vec<(&'static str, OsString)>> {
    let Some(library) = library() else {
        not_run(what, "the package faketime");
        return None;
    };
    set_clock(clock, "+0");
    Some(vec![
        ("LD_PRELOAD", library.into()),
        ("FAKETIME_TIMESTAMP_FILE", clock.into()),
        ("FAKETIME_NO_CACHE", "1".into()),
        // As on a real host, the monotonic clock and the times of files do not jump.
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ("DONT_FAKE_MONOTONIC", "1".into()),
        ("NO_FAKE_STAT", "1".into()),
    ])
}

fn library() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").ok()?.flatten();
    let mut paths = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    paths.find(|path| path.exists())
}

/// Sets a clock, in the notation of the library: `+1h`, `-3000d`.
pub(crate) fn set_clock(clock: &Path, to: &str) {
    let fresh = clock.with_extension("new");
    fs::write(&fresh, to).unwrap();
    fs::rename(fresh, clock).unwrap();
}

/// Removes the shared memory that the library leaves when its processes are killed.
pub(crate) struct Shared;

impl Drop for Shared {
    fn drop(&mut self) {
        for entry in fs::read_dir("/dev/shm").into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            let pid = name.rsplit('_').next().unwrap_or_default();
            let dead = !PathBuf::from("/proc").join(pid).exists();
            if name.contains("faketime_") && dead {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}
