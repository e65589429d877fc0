//! The folders of results that the copied database refers to.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Error;
use super::list::{Reader, Writer};
use super::store::{Put, Store, read};
use crate::db::Tx;
use crate::master::policy::retention::{Folder, HOSTS};
use crate::master::rows::retention;
use crate::sys::fs::Error as FileError;

/// A file of the results of a build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ResultFile {
    /// The folder below `incoming/`.
    pub(super) leaf: String,
    /// The path in it.
    pub(super) path: String,
    pub(super) sha256: String,
    pub(super) size: u64,
    pub(super) mode: u32,
}

impl ResultFile {
    /// Returns the path below `incoming/`. `None` if it leads elsewhere.
    pub(super) fn relative(&self) -> Option<PathBuf> {
        let path = Path::new(&self.leaf).join(&self.path);
        let is_inside = path
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        is_inside.then_some(path)
    }
}

/// Returns the hosts whose masters use this folder of results (docs/farm.md §2.11).
pub(super) fn hosts(results: &Path, own: &str) -> Vec<String> {
    let mut hosts = BTreeSet::from([own.to_owned()]);
    let noted = fs::read_dir(results.join(HOSTS));
    for entry in noted.into_iter().flatten().flatten() {
        hosts.insert(entry.file_name().to_string_lossy().into_owned());
    }
    hosts.into_iter().collect()
}

/// Lists the folders below `incoming/` that the database refers to.
pub(super) fn list(
    tx: &mut Tx<'_>,
    results: &Path,
    hosts: &[String],
    to: &mut Writer,
) -> Result<(), Error> {
    let incoming = results.join(Folder::Incoming.name());
    let entries = match fs::read_dir(&incoming) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(FileError::at("list", &incoming))?,
    };
    for entry in entries {
        let entry = entry.map_err(FileError::at("list", &incoming))?;
        let Ok(leaf) = entry.file_name().into_string() else {
            continue;
        };
        let Some(owner) = Folder::Incoming.owner(&leaf) else {
            continue;
        };
        if retention::is_in_use_on_any(tx, Folder::Incoming, owner, hosts)? {
            to.add(&leaf)?;
        }
    }
    Ok(())
}

/// Copies the listed folders, and writes the list of their files. `store` is absent if only the
/// list is wanted. Returns the number of bytes.
pub(super) fn copy(
    leaves: Reader<String>,
    results: &Path,
    store: Option<&Store>,
    to: &mut Writer,
    mut progress: impl FnMut(u64),
) -> Result<u64, Error> {
    let incoming = results.join(Folder::Incoming.name());
    let mut bytes = 0;
    for leaf in leaves {
        let leaf = leaf?;
        for path in files(&incoming.join(&leaf))? {
            let Some(file) = copy_one(&incoming, &leaf, &path, store)? else {
                continue;
            };
            bytes += file.size;
            to.add(&file)?;
            progress(to.count);
        }
    }
    Ok(bytes)
}

/// Copies one file. `None` if it is gone: an uploader may take results away at any time.
fn copy_one(
    incoming: &Path,
    leaf: &str,
    path: &Path,
    store: Option<&Store>,
) -> Result<Option<ResultFile>, Error> {
    let open = || match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some).map_err(FileError::at("open", path)),
    };
    // An uploader may change the file meanwhile: then its sum is taken again.
    for _ in 0..3 {
        let Some(mut file) = open()? else {
            return Ok(None);
        };
        let about = file.metadata().map_err(FileError::at("examine", path))?;
        let mut size = 0;
        let sha256 = read(&mut file, path, &mut |piece| {
            size += piece.len() as u64;
            Ok(())
        })?;
        let is_stored = store.map_or(Ok(true), |store| store.has(&sha256, size))?;
        if let Some(store) = store.filter(|_| !is_stored) {
            let Some(again) = open()? else {
                return Ok(None);
            };
            if store.put(again, path, &sha256, None)? == Put::Damaged {
                continue;
            }
        }
        let relative = path.strip_prefix(incoming.join(leaf)).unwrap_or(path);
        let Some(relative) = relative.to_str() else {
            return Ok(None);
        };
        return Ok(Some(ResultFile {
            leaf: leaf.to_owned(),
            path: relative.to_owned(),
            sha256,
            size,
            mode: about.mode() & 0o777,
        }));
    }
    let path = path.display();
    Err(Error::Refused(format!(
        "{path} changes while it is copied: run the backup again"
    )))
}

/// Returns the regular files of a folder and those below it, sorted. None if it is gone.
fn files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let (mut found, mut pending) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = pending.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries.map_err(FileError::at("list", &folder))?,
        };
        for entry in entries {
            let entry = entry.map_err(FileError::at("list", &folder))?;
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => pending.push(entry.path()),
                Ok(kind) if kind.is_file() => found.push(entry.path()),
                // Results have no other entries; an absent one is gone.
                Ok(_) | Err(_) => {}
            }
        }
    }
    found.sort();
    Ok(found)
}
