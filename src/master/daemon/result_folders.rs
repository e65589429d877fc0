//! Removes the entries of `grabbing/`, `incoming/` and `uploading/` that no row names.
//!
//! An entry goes if it is a day old: a younger one may belong to a process that has not recorded it
//! yet. Only names that a master makes are looked at. An entry gets another name before it is
//! removed, by which the next pass finds what a killed one has left.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::db;
use crate::librarian;
use crate::sys::file_lock;
use crate::sys::fs::remove_tree;

use super::result_hosts;
use crate::master::farm::Farm;
use crate::master::policy::retention::Folder;
use crate::master::rows::retention;

/// The start of the names of entries that are being removed.
const REMOVING: &str = ".removing-";
/// A younger entry stays.
const MIN_AGE: Duration = Duration::from_secs(24 * 3600);

/// Removes the orphans of this host, unless another process is doing so.
pub(super) fn remove_orphans(farm: &Farm) {
    let results = farm.results_dir();
    let lock = match File::open(results) {
        Ok(lock) => lock,
        Err(error) => {
            return log::warn!("{}: {error}; its orphans stay for now", results.display());
        }
    };
    match file_lock::try_lock(&lock) {
        Ok(true) => {}
        Ok(false) => return,
        Err(error) => {
            return log::warn!("cannot lock {}: {error}", results.display());
        }
    }
    let hosts = match result_hosts::note(farm) {
        Ok(hosts) => hosts,
        Err(error) => {
            return log::warn!("{}: {error}; its orphans stay for now", results.display());
        }
    };
    let mut count = 0;
    for folder in Folder::ALL {
        match remove_from(farm, folder, &hosts) {
            Ok(removed) => count += removed,
            Err(error) => log::warn!("cannot remove orphans of {}/: {error}", folder.name()),
        }
    }
    if count > 0 {
        log::info!("removed {count} folders of results that no build needs");
    }
}

/// An error on the way; the next pass tries again.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Db(#[from] db::Error),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

fn remove_from(farm: &Farm, folder: Folder, hosts: &BTreeSet<String>) -> Result<u64, Error> {
    let path = farm.results_dir().join(folder.name());
    let mut count = 0;
    for (name, is_old) in entries(&path)? {
        let removing = match name.starts_with(REMOVING) {
            true => path.join(&name),
            false => path.join(format!("{REMOVING}{name}")),
        };
        if !name.starts_with(REMOVING) {
            let Some(owner) = folder.owner(&name).filter(|_| is_old) else {
                continue;
            };
            let is_in_use = |tx: &mut db::Tx<'_>| {
                // The copy of the database in a backup may name the folder.
                Ok(librarian::backup_is_running(tx)?
                    || retention::is_in_use_on_any(tx, folder, owner, hosts)?)
            };
            if farm.db.read(is_in_use)? {
                continue;
            }
            let entry = path.join(&name);
            fs::rename(&entry, &removing).map_err(|source| Error::Io {
                path: entry,
                source,
            })?;
        }
        match remove_tree(&removing) {
            Ok(()) => count += 1,
            Err(error) => log::warn!("{error}; the next pass tries again"),
        }
    }
    Ok(count)
}

/// Returns the names of the entries of a folder, and whether each is old enough to go.
fn entries(folder: &Path) -> Result<Vec<(String, bool)>, Error> {
    let fail = |source| Error::Io {
        path: folder.to_owned(),
        source,
    };
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(fail)?,
    };
    let now = SystemTime::now();
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(fail)?;
        // Another process may have removed it.
        let Ok(modified) = entry.metadata().and_then(|data| data.modified()) else {
            continue;
        };
        let age = now.duration_since(modified).unwrap_or_default();
        if let Ok(name) = entry.file_name().into_string() {
            found.push((name, age >= MIN_AGE));
        }
    }
    Ok(found)
}
