//! Removes old backups, and the files that no backup names any more.

use std::collections::BTreeSet;
use std::fs;
use std::iter::Peekable;
use std::path::Path;

use super::Error;
use super::folder::{Backups, FILES};
use super::list::Reader;
use super::manifest::{BLOBS, RESULTS};
use super::results::ResultFile;
use crate::librarian::NamedBlob;
use crate::sys::fs::{Error as FileError, entries, fsync_dir, remove_tree};

/// The numbers of what went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Removed {
    pub(crate) backups: u64,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

/// Keeps the newest backups, at least one.
pub(super) fn prune(backups: &Backups, keep: usize) -> Result<Removed, Error> {
    let mut removed = Removed::default();
    let mut names = backups.complete()?;
    let kept = names.split_off(names.len().saturating_sub(keep.max(1)));
    for name in &names {
        // Under another name at first: half a backup is never taken for a complete one.
        let (path, going) = (
            backups.path().join(name),
            backups.path().join(format!(".incomplete-{name}")),
        );
        fs::rename(&path, &going).map_err(FileError::at("rename", &path))?;
        fsync_dir(backups.path())?;
        remove_tree(&going)?;
        removed.backups += 1;
    }
    if removed.backups > 0 {
        let kept: Vec<_> = kept.iter().map(|name| backups.path().join(name)).collect();
        sweep(&backups.path().join(FILES), &kept, &mut removed)?;
    }
    Ok(removed)
}

/// Removes the files that none of the backups names. It holds the names of one folder at a time.
fn sweep(files: &Path, backups: &[impl AsRef<Path>], removed: &mut Removed) -> Result<(), Error> {
    let mut lists = Vec::new();
    let mut results = BTreeSet::new();
    for backup in backups {
        let backup = backup.as_ref();
        lists.push(Reader::<NamedBlob>::open(&backup.join(BLOBS))?.peekable());
        // This list is in the order of folders.
        for file in Reader::<ResultFile>::open(&backup.join(RESULTS))? {
            results.insert(file?.sha256);
        }
    }
    for folder in folders(files)? {
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let mut named = BTreeSet::new();
        for list in &mut lists {
            take_until(list, &name, &mut named)?;
        }
        for entry in entries(&folder)? {
            let sum = entry.file_name().unwrap_or_default().to_string_lossy();
            if named.contains(&*sum) || results.contains(&*sum) {
                continue;
            }
            let size = entry.metadata().map_or(0, |found| found.len());
            fs::remove_file(&entry).map_err(FileError::at("remove", &entry))?;
            removed.files += 1;
            removed.bytes += size;
        }
    }
    Ok(())
}

/// Takes the blobs of a folder from a sorted list, and skips those before.
fn take_until(
    list: &mut Peekable<Reader<NamedBlob>>,
    folder: &str,
    to: &mut BTreeSet<String>,
) -> Result<(), Error> {
    let is_due = |next: &Result<NamedBlob, Error>| match next {
        Ok(blob) => blob.sha256.get(..2).unwrap_or_default() <= folder,
        Err(_) => true,
    };
    while let Some(blob) = list.next_if(is_due) {
        to.insert(blob?.sha256);
    }
    Ok(())
}

fn folders(files: &Path) -> Result<Vec<std::path::PathBuf>, Error> {
    let mut found = match files.exists() {
        true => entries(files)?,
        false => Vec::new(),
    };
    found.retain(|path| path.is_dir());
    found.sort();
    Ok(found)
}
