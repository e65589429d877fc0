//! The folder of all backups: which are complete, and the one that is being made.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::{process, thread, time::Duration};

use chrono::DateTime;

use super::Error;
use super::manifest::{FORMAT, MANIFEST, Manifest};
use crate::sys::clock::now_ms;
use crate::sys::file_lock;
use crate::sys::fs::{Error as FileError, fsync_dir, make_private, remove_tree};
use crate::sys::user;

/// The start of the name of a backup that is not complete.
const INCOMPLETE: &str = ".incomplete-";
/// The folder of the files of all backups.
pub(super) const FILES: &str = "files";

/// The use that a command makes of the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Write,
    Read,
}

/// The folder, locked.
pub(crate) struct Backups {
    dir: PathBuf,
    _lock: File,
}

/// A backup that is being made.
pub(super) struct Incomplete<'a> {
    backups: &'a Backups,
    pub(super) path: PathBuf,
    /// Another backup was interrupted: its files may not be on disk.
    pub(super) is_after_crash: bool,
    is_complete: bool,
}

impl Backups {
    /// Opens the folder; a writer creates it with mode 0700. Refused while a backup is made there.
    pub(crate) fn open(dir: &Path, how: Use) -> Result<Self, Error> {
        if how == Use::Write {
            prepare(dir).map_err(|error| advise(error, dir))?;
        }
        let lock = File::open(dir).map_err(FileError::at("open", dir))?;
        let locked = match how {
            Use::Write => file_lock::try_lock(&lock),
            Use::Read => file_lock::try_lock_shared(&lock),
        };
        if !locked.map_err(FileError::at("lock", dir))? {
            let dir = dir.display();
            return Err(Error::Refused(format!(
                "another backup or restore uses {dir}: wait for its end"
            )));
        }
        Ok(Self {
            dir: dir.to_owned(),
            _lock: lock,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.dir
    }

    /// Returns the names of the complete backups, the oldest first.
    pub(super) fn complete(&self) -> Result<Vec<String>, Error> {
        let mut names = self.names()?;
        names.retain(|name| is_name(name) && self.dir.join(name).join(MANIFEST).is_file());
        names.sort();
        Ok(names)
    }

    /// Returns the path of the backup of that name, or of the newest one, and its manifest.
    pub(crate) fn choose(&self, name: Option<&str>) -> Result<(PathBuf, Manifest), Error> {
        let complete = self.complete()?;
        let chosen = match name {
            Some(name) => complete.iter().find(|one| *one == name),
            None => complete.last(),
        };
        let Some(chosen) = chosen else {
            return Err(Error::Refused(self.nothing(name, &complete)?));
        };
        let path = self.dir.join(chosen);
        let manifest = read_manifest(&path)?;
        Ok((path, manifest))
    }

    /// Returns why no backup can be chosen.
    fn nothing(&self, name: Option<&str>, complete: &[String]) -> Result<String, Error> {
        let dir = self.dir.display();
        let begun = self
            .names()?
            .into_iter()
            .find(|name| name.starts_with(INCOMPLETE) || is_name(name) && !complete.contains(name));
        Ok(match (name, complete.is_empty(), begun) {
            (Some(name), false, _) => format!(
                "{dir} has no complete backup {name}; it has: {}",
                complete.join(", ")
            ),
            (_, _, Some(begun)) => format!(
                "{dir} has no complete backup, only {begun}, which was interrupted: run `master \
                 backup {dir}` again on the farm's host"
            ),
            _ => format!("{dir} has no backup: `master backup {dir}` makes one"),
        })
    }

    /// Begins a new backup. Remnants of interrupted ones go.
    pub(super) fn begin(&self) -> Result<Incomplete<'_>, Error> {
        let left = self.names()?;
        let left: Vec<String> = left
            .into_iter()
            .filter(|name| name.starts_with(INCOMPLETE))
            .collect();
        let new = (0..).map(|number| format!("{INCOMPLETE}{}-{number}", process::id()));
        let mut new = new.filter(|name| !left.contains(name));
        let path = self.dir.join(new.next().unwrap_or_default());
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(FileError::at("create", &path))?;
        // Until the new folder has a name on disk, the old ones mark files that may be damaged.
        fsync_dir(&self.dir)?;
        for name in &left {
            remove_tree(&self.dir.join(name))?;
        }
        Ok(Incomplete {
            backups: self,
            path,
            is_after_crash: !left.is_empty(),
            is_complete: false,
        })
    }

    fn names(&self) -> Result<Vec<String>, Error> {
        names(&self.dir)
    }
}

impl Incomplete<'_> {
    /// Gives the backup its name; everything in it is on disk. Returns the name.
    pub(super) fn complete(mut self) -> Result<String, Error> {
        loop {
            let name = name_of(now_ms());
            let path = self.backups.dir.join(&name);
            if path.symlink_metadata().is_ok() {
                // Another backup was made in this second.
                thread::sleep(Duration::from_millis(100));
                continue;
            }
            fs::rename(&self.path, &path).map_err(FileError::at("rename into place", &path))?;
            self.is_complete = true;
            fsync_dir(&self.backups.dir)?;
            return Ok(name);
        }
    }
}

/// A failed backup leaves an empty folder, the mark that files may not be on disk.
impl Drop for Incomplete<'_> {
    fn drop(&mut self) {
        if !self.is_complete && remove_tree(&self.path).is_ok() {
            let _ = DirBuilder::new().mode(0o700).create(&self.path);
        }
    }
}

/// Creates the folder. An existing one must be empty or have backups: its mode changes.
fn prepare(dir: &Path) -> Result<(), Error> {
    if dir.exists() {
        let is_ours =
            |name: &String| name == FILES || name.starts_with(INCOMPLETE) || is_name(name);
        let found = names(dir)?;
        if !found.is_empty() && !found.iter().any(is_ours) {
            let dir = dir.display();
            return Err(Error::Refused(format!(
                "{dir} has other files: name a folder for the backups alone, such as {dir}/farm"
            )));
        }
    }
    Ok(make_private(dir)?)
}

/// Adds what to do if the folder belongs to another user.
fn advise(error: Error, dir: &Path) -> Error {
    let is_permission = |error: &FileError| {
        let kind = error.source.kind();
        kind == io::ErrorKind::PermissionDenied
    };
    match (error, user::effective()) {
        (Error::Disk(error), Some(user)) if is_permission(&error) => {
            let (name, dir) = (user.name, dir.display());
            Error::Refused(format!(
                "{error}; try: install -d -o {name} -g {name} -m 700 {dir}"
            ))
        }
        (error, _) => error,
    }
}

fn names(dir: &Path) -> Result<Vec<String>, Error> {
    let list = || -> io::Result<Vec<String>> {
        fs::read_dir(dir)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    };
    Ok(list().map_err(FileError::at("list", dir))?)
}

/// Returns the name of a backup that is complete at this time.
fn name_of(ms: i64) -> String {
    let time = DateTime::from_timestamp_millis(ms).unwrap_or_default();
    time.format("%Y-%m-%dT%H%M%SZ").to_string()
}

fn is_name(name: &str) -> bool {
    let shape = |c: char| if c.is_ascii_digit() { '0' } else { c };
    name.chars().map(shape).collect::<String>() == "0000-00-00T000000Z"
}

fn read_manifest(backup: &Path) -> Result<Manifest, Error> {
    let path = backup.join(MANIFEST);
    let text = fs::read(&path).map_err(FileError::at("read", &path))?;
    let damaged = |error: serde_json::Error| {
        let path = path.display();
        Error::Refused(format!(
            "damaged: {path}: {error}; choose another backup with --backup NAME"
        ))
    };
    // The format first: the fields of a newer one are unknown.
    let value: serde_json::Value = serde_json::from_slice(&text).map_err(damaged)?;
    let format = value.get("format").and_then(serde_json::Value::as_u64);
    if format.is_some_and(|format| format > u64::from(FORMAT)) {
        let path = path.display();
        return Err(Error::Refused(format!(
            "{path} is of a newer buildd-slave: upgrade this program"
        )));
    }
    serde_json::from_value(value).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_is_named_by_its_time() {
        let name = name_of(1_795_858_867_123);
        assert!(is_name(&name) && name.starts_with("2026-"), "{name}");
        for other in ["2026-11-28", ".incomplete-17", "files", ""] {
            assert!(!is_name(other), "{other}");
        }
    }
}
