//! Reads a whole backup and compares every file with its sum. Writes nothing.

use std::collections::HashSet;
use std::path::Path;

use serde::de::DeserializeOwned;

use super::Error;
use super::create::Problem;
use super::folder::FILES;
use super::list::Reader;
use super::manifest::{BLOBS, Manifest, PROBLEMS, RESULTS};
use super::progress::Progress;
use super::results::ResultFile;
use super::store::{Store, read};
use super::sums;
use crate::librarian::NamedBlob;

/// The outcome of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Files that were read, and their bytes.
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    /// Files that the farm itself lacked when the backup was made.
    pub(crate) known: u64,
    /// Damaged or missing files.
    pub(crate) wrong: u64,
}

/// Checks a backup; `tell` gets a sentence for each damaged or missing file.
pub(crate) fn verify(
    backup: &Path,
    manifest: &Manifest,
    tell: &mut dyn FnMut(&str) -> Result<(), Error>,
) -> Result<Report, Error> {
    let of_backup = sums::check(backup)?;
    for sentence in &of_backup {
        tell(sentence)?;
    }
    let mut check = Check {
        store: Store::open(backup.parent().unwrap_or(backup).join(FILES)),
        known: known_problems(backup, &of_backup)?,
        report: Report {
            wrong: of_backup.len() as u64,
            ..Report::default()
        },
        progress: Progress::new(),
        all: manifest.blobs + manifest.results,
        tell,
    };
    if manifest.has_files {
        check.list(&backup.join(BLOBS), |blob: NamedBlob| {
            (blob.sha256, blob.size, blob.name)
        })?;
        check.list(&backup.join(RESULTS), |file: ResultFile| {
            let name = format!("results {}/{}", file.leaf, file.path);
            (file.sha256, file.size, name)
        })?;
    }
    Ok(check.report)
}

/// Returns the sums of the files that the farm itself lacked.
pub(super) fn known_problems(backup: &Path, damaged: &[String]) -> Result<HashSet<String>, Error> {
    let path = backup.join(PROBLEMS);
    let is_damaged = damaged.iter().any(|sentence| sentence.contains(PROBLEMS));
    if is_damaged || !path.exists() {
        return Ok(HashSet::new());
    }
    let sums = Reader::<Problem>::open(&path)?.map(|problem| Ok(problem?.sha256));
    sums.collect()
}

struct Check<'a> {
    store: Store,
    known: HashSet<String>,
    report: Report,
    progress: Progress,
    all: u64,
    tell: &'a mut dyn FnMut(&str) -> Result<(), Error>,
}

impl Check<'_> {
    /// Checks the files of a list; `of` returns the sum, the size and the name of an item.
    fn list<T: DeserializeOwned>(
        &mut self,
        path: &Path,
        of: impl Fn(T) -> (String, u64, String),
    ) -> Result<(), Error> {
        let items = match Reader::<T>::open(path) {
            Ok(items) => items,
            Err(error) => return self.wrong(&error.to_string()),
        };
        for item in items {
            let wrong = match item.map(&of) {
                Ok((sha256, size, name)) => self.one(&sha256, size, &name),
                Err(error) => Some(error.to_string()),
            };
            if let Some(wrong) = wrong {
                self.wrong(&wrong)?;
            }
        }
        Ok(())
    }

    fn wrong(&mut self, sentence: &str) -> Result<(), Error> {
        self.report.wrong += 1;
        (self.tell)(sentence)
    }

    /// Reads one file; returns a sentence if it is damaged or missing.
    fn one(&mut self, sha256: &str, size: u64, name: &str) -> Option<String> {
        let done = self.report.files;
        self.progress.show("files checked", done, Some(self.all));
        let path = self.store.path(sha256);
        let shown = path.display();
        let mut file = match self.store.find(sha256) {
            Ok(Some(file)) => file,
            Ok(None) if self.known.contains(sha256) => {
                self.report.known += 1;
                return None;
            }
            Ok(None) => return Some(format!("missing: {shown} ({name})")),
            Err(error) => return Some(format!("unreadable: {error} ({name})")),
        };
        let mut length = 0;
        let sum = read(&mut file, &path, &mut |piece| {
            length += piece.len() as u64;
            Ok(())
        });
        self.report.files += 1;
        self.report.bytes += length;
        match sum {
            Err(error) => Some(format!("unreadable: {error} ({name})")),
            Ok(_) if length != size => Some(format!(
                "damaged: {shown} ({name}): {length} bytes instead of {size}"
            )),
            Ok(sum) if sum != sha256 => {
                Some(format!("damaged: {shown} ({name}): its SHA-256 is another"))
            }
            Ok(_) => None,
        }
    }
}
