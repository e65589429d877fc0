//! The librarian: the farm's file store, over HTTP and the STORE protocol (docs/farm.md §4).
//!
//! ```text
//! PUT, GET ─▶ http ──────────┐          ┌─▶ blobs   <root>/aa/bb/<sha256>
//! STORE ────▶ upload_port ───┴─ intake ─┤
//! remote: the HTTP client               └─▶ rows    library_content, library_alias, …_token
//! ```
//!
//! A content is the size and hashes of a blob; an alias is a file name for a content. A blob is on
//! disk before its rows are committed, and garbage collection (`gc`) deletes it after its rows. A
//! blob without rows is not readable. Equal bytes share one blob and one content.

mod backup;
mod blobs;
mod commands;
mod files;
mod gc;
mod http;
mod intake;
mod media;
mod name;
mod remote;
mod route;
mod rows;
mod serve;
mod store_protocol;
mod upload_port;

pub(crate) use backup::{BACKUP_LEASE, BlobFolder, NamedBlob, backup_is_running, blobs_after};
pub(crate) use commands::{Args, run};
pub(crate) use files::{Download, upload};
pub(crate) use name::alias_url;
pub(crate) use remote::{Uploader, check};
pub(crate) use rows::issue_token;
pub(crate) use serve::bind;

use std::io;
use std::path::PathBuf;

use crate::config_file;
use crate::db;
use crate::privileges;
use crate::protocol::Sha1Hex;
use crate::server;
use crate::sys;

/// An error of the librarian or of a client of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Config(#[from] config_file::Error),
    #[error(transparent)]
    Privileges(#[from] privileges::Error),
    #[error(transparent)]
    Disk(#[from] sys::fs::Error),
    #[error(transparent)]
    Database(#[from] db::Error),
    /// Sizes in bytes; `free` excludes the reserve.
    #[error("no space: {needed} bytes needed, {free} free beyond the reserve of {reserve} ([limits] reserve) in {}", dir.display())]
    NoSpace {
        needed: u64,
        free: u64,
        reserve: u64,
        dir: PathBuf,
    },
    #[error("file too large: {size} bytes; the limit is {limit} ([librarian] max_size)")]
    TooLarge { size: u64, limit: u64 },
    #[error("expected SHA-1 {expected}, got {actual}")]
    Mismatch { expected: Sha1Hex, actual: String },
    #[error("content {0} exists already")]
    ContentExists(i64),
    /// The client stopped sending, or exceeded a timeout.
    #[error("upload ended early: {0}")]
    Incomplete(#[source] io::Error),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{url}: {problem}: is `buildd-slave librarian serve` running there?")]
    Remote { url: String, problem: String },
    /// `reason` is the first line of the librarian's answer.
    #[error("{url}: {status}: {reason}")]
    Refused {
        url: String,
        status: u16,
        reason: String,
    },
    #[error("{url}: received {received} of {expected} bytes")]
    Length {
        url: String,
        expected: u64,
        received: u64,
    },
    #[error("{0}: no such file in the library; `librarian add` prints the numbers")]
    NoFile(i64),
    #[error("not the number or the URL of a file: {0:?}; write 17 or http://HOST:8000/17/NAME")]
    BadFile(String),
    #[error(
        "only {found} columns in the database refer to files, but at least {least} are expected; \
         nothing is removed"
    )]
    References { found: usize, least: usize },
    #[error("cannot print: {0}")]
    Output(io::Error),
    #[error(transparent)]
    Server(#[from] server::Error),
}
