//! Files by their SHA-1: kept on disk, served by name, fetched when missing.
//!
//! [`Store`] is the folder; [`Fetcher`] answers `ensurepresent`. An entry gets its sha1 as name only
//! if its bytes hash to it. Several processes (the daemon, a build's shim) may use one folder at
//! once. What was used longest ago goes when room is needed; what a build, results that wait or a
//! master that is about to build need never does. Called by the handler of remote calls, the HTTP file server and the collector of results.

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

/// Why something could not be kept in, or had from, the file cache.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The configured folder is absent or no directory; it is never made here, since an empty
    /// cache in place of an unmounted one would go unnoticed.
    #[error("file cache {} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// The bytes do not hash to the sha1 they were to be kept under; nothing is kept.
    #[error("expected SHA-1 {expected}, got {actual}")]
    Mismatch { expected: Sha1Hex, actual: Sha1Hex },
    /// It does not fit, whatever else goes.
    #[error(transparent)]
    NoRoom(#[from] Shortage),
    /// Without knowing what is in use nothing can go, and nothing come.
    #[error("the journal, which tells what files are in use, fails: {0}")]
    Pins(#[source] io::Error),
    /// The source of the bytes failed, not the cache.
    #[error("cannot read what is to be kept: {0}")]
    Source(#[source] io::Error),
    #[error(transparent)]
    Disk(#[from] fs::Error),
}

impl Error {
    /// Tells whether more room on the disk, or in the cache, would have helped.
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
