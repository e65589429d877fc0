//! Files by their SHA-1: kept on disk, served by name, fetched when missing.
//!
//! [`Store`] is the folder; [`Fetcher`] answers `ensurepresent`. An entry exists under its sum only
//! if its bytes hash to it. Several processes (the daemon, a build's shim) may use one folder at
//! once. Called by the handler of remote calls, the HTTP file server and the collector of results.

mod fetch;
mod resolver;
mod store;

pub(crate) use fetch::{FetchLimits, Fetcher, plain_agent};
pub(crate) use store::Store;

use std::io;
use std::path::PathBuf;

use crate::protocol::Sha1Hex;
use crate::sys::fs;

/// Why something could not be kept in, or had from, the file cache.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The configured folder is absent or no directory; it is never made here, since an empty
    /// cache in place of an unmounted one would go unnoticed.
    #[error("file cache {} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// The bytes do not hash to the sum they were to be kept under; nothing is kept.
    #[error("expected SHA-1 {expected}, got {actual}")]
    Mismatch { expected: Sha1Hex, actual: Sha1Hex },
    /// Less than this is free, beyond the reserve; both in bytes.
    #[error("no space: {needed} bytes wanted, {free} free beyond the reserve in {}", dir.display())]
    NoSpace {
        needed: u64,
        free: u64,
        dir: PathBuf,
    },
    /// The source of the bytes failed, not the cache.
    #[error("cannot read what is to be kept: {0}")]
    Source(#[source] io::Error),
    #[error(transparent)]
    Disk(#[from] fs::Error),
}
