//! The file `SHA256SUMS` of a backup, which `sha256sum --check` reads too.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::Error;
use crate::sys::digest::hashes_of;
use crate::sys::fs::Error as FileError;

pub(super) const NAME: &str = "SHA256SUMS";

/// Writes the sums of all files of a new backup.
pub(super) fn write(backup: &Path) -> Result<(), Error> {
    let mut text = String::new();
    for name in names(backup)? {
        let path = backup.join(&name);
        let hashes = hashes_of(&path).map_err(FileError::at("read", &path))?;
        text.push_str(&format!("{}  {name}\n", hashes.sha256));
    }
    let path = backup.join(NAME);
    Ok(fs::write(&path, text).map_err(FileError::at("write", &path))?)
}

/// Compares the files of a backup with their sums; returns a sentence for each that differs.
pub(super) fn check(backup: &Path) -> Result<Vec<String>, Error> {
    let path = backup.join(NAME);
    let text = match fs::read(&path) {
        Ok(text) => String::from_utf8_lossy(&text).into_owned(),
        Err(error) => return Ok(vec![format!("cannot read {}: {error}", path.display())]),
    };
    let mut wrong = Vec::new();
    let mut sums = BTreeMap::new();
    for line in text.lines() {
        match line.split_once("  ") {
            Some((sum, name)) => drop(sums.insert(name, sum)),
            None => wrong.push(format!("damaged: {}: a line is no sum", path.display())),
        }
    }
    let found = names(backup)?;
    for (name, sum) in &sums {
        let path = backup.join(name);
        if !found.iter().any(|one| one == name) {
            wrong.push(format!("missing: {}", path.display()));
            continue;
        }
        match hashes_of(&path) {
            Ok(hashes) if hashes.sha256 == *sum => {}
            Ok(_) => wrong.push(format!(
                "damaged: {}: its SHA-256 is another",
                path.display()
            )),
            Err(error) => wrong.push(format!("unreadable: {}: {error}", path.display())),
        }
    }
    for name in found
        .iter()
        .filter(|name| !sums.contains_key(name.as_str()))
    {
        let path = backup.join(name);
        wrong.push(format!("without a sum: {}", path.display()));
    }
    Ok(wrong)
}

/// Returns the files of a backup, in its folder and one below, sorted.
fn names(backup: &Path) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for folder in ["", "conf", "keys"] {
        let path = backup.join(folder);
        if !folder.is_empty() && !path.exists() {
            continue;
        }
        for entry in fs::read_dir(&path).map_err(FileError::at("list", &path))? {
            let entry = entry.map_err(FileError::at("list", &path))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.path().is_file() && name != NAME {
                names.push(match folder {
                    "" => name,
                    folder => format!("{folder}/{name}"),
                });
            }
        }
    }
    names.sort();
    Ok(names)
}
