//! `master backup` and `master restore`: a copy of the whole farm while it runs
//! (docs/farm.md §6.5).
//!
//! ```text
//! DIR/2026-11-28T094107Z/   one backup: manifest.json, SHA256SUMS, database, lists, conf/, keys/
//! DIR/.incomplete-PID/      a backup that is being made, or was interrupted
//! DIR/files/aa/SHA256       the files of all backups
//! ```
//!
//! `create` makes a backup in this order: lease, database, lists, files, sync, rename. The lease
//! holds off garbage collection, so that the files of the copied database stay. `verify` and
//! `restore` read one backup.

mod configuration;
mod create;
mod database;
mod folder;
mod lease;
mod list;
mod manifest;
mod progress;
mod prune;
mod restore;
mod results;
mod store;
mod sums;
mod verify;

pub(crate) use create::{Made, Plan, create};
pub(crate) use folder::{Backups, Use};
pub(crate) use restore::{Restored, Target, restore};
pub(crate) use verify::verify;

use crate::db;
use crate::librarian;
use crate::sys::fs;

/// Why a backup or a restore ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Db(#[from] db::Error),
    #[error(transparent)]
    Disk(#[from] fs::Error),
    #[error(transparent)]
    Librarian(#[from] librarian::Error),
    #[error("{0}")]
    Refused(String),
}
