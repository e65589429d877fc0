//! The file cache: files named by their SHA-1, fetched when missing.
//!
//! [`Store`] is the folder; [`Fetcher`] answers `ensurepresent`. An entry gets its name only after
//! its SHA-1 has been verified. Several processes (the daemon, a build's shim) may use one folder
//! at once. A full cache evicts the least recently used entries. It never evicts the files of a
//! running build, results that wait for a master, or files that a master has just asked for.

mod fetch;
mod marks;
mod store;

pub(crate) use fetch::{FetchLimits, Fetcher};
pub(crate) use store::{Rules, Store};

use std::io;
use std::path::PathBuf;

use crate::cache_eviction::Shortage;
use crate::protocol::Sha1Hex;
use crate::sys::fs;

/// Why reading from or writing to the file cache failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The configured folder is absent or no directory. It is never created here: an empty folder
    /// would hide that the cache's file system is not mounted.
    #[error("file cache {} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// The bytes do not have the expected SHA-1; the file is discarded.
    #[error("expected SHA-1 {expected}, got {actual}")]
    Mismatch { expected: Sha1Hex, actual: Sha1Hex },
    /// The file does not fit, even if all unpinned entries are evicted.
    #[error(transparent)]
    NoRoom(#[from] Shortage),
    /// The pinned entries are unknown, so nothing can be evicted or added.
    #[error("cannot access the journal's record of the files in use: {0}")]
    Pins(#[source] io::Error),
    /// The source of the bytes failed, not the cache.
    #[error("cannot read the incoming file: {0}")]
    Source(#[source] io::Error),
    #[error(transparent)]
    Disk(#[from] fs::Error),
}

impl Error {
    /// Returns whether disk or cache had too little space.
    pub(crate) fn is_no_space(&self) -> bool {
        let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
        match self {
            Self::NoRoom(_) => true,
            Self::Disk(error) => full.contains(&error.source.kind()),
            Self::NotADirectory(_) | Self::Mismatch { .. } | Self::Pins(_) | Self::Source(_) => {
                false
            }
        }
    }
}
