//! Pure: the manifest of a backup.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The version of the layout that this program reads and writes.
pub(super) const FORMAT: u32 = 1;
/// The names of the files of a backup.
pub(super) const MANIFEST: &str = "manifest.json";
pub(super) const BLOBS: &str = "blobs.jsonl";
pub(super) const RESULTS: &str = "results.jsonl";
pub(super) const PROBLEMS: &str = "problems.jsonl";
pub(super) const KEYS: &str = "keys/database.json";

/// The engine of a backup; a backup is restored to the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Engine {
    Sqlite,
    Postgresql,
}

impl Engine {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgresql => "PostgreSQL",
        }
    }
}

/// The description of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) format: u32,
    /// The version of the program.
    pub(crate) program: String,
    /// The version of the database's schema.
    pub(crate) schema: i64,
    pub(crate) engine: Engine,
    /// The time of the database, in UTC.
    pub(crate) time: String,
    /// The name of the host in the farm, `[master] host`. The results are those of this host.
    pub(crate) host: String,
    /// False after `--no-files`: the lists are there, and not the files.
    pub(crate) has_files: bool,
    pub(crate) blobs: u64,
    pub(crate) blob_bytes: u64,
    pub(crate) results: u64,
    pub(crate) result_bytes: u64,
    /// Files that were missing or damaged in the farm; `problems.jsonl` names them.
    pub(crate) problems: u64,
    pub(crate) counts: BTreeMap<String, i64>,
    /// Passwords of the database and the configuration are in `keys/`.
    pub(crate) has_keys: bool,
    /// The passwords that are left out, and how to set each.
    pub(crate) without_keys: Vec<String>,
    /// Things that no backup has.
    pub(crate) never: Vec<String>,
}
