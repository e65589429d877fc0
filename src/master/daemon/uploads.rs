//! Who takes results on, and what does the build come to by that?
//!
//! The site's uploader is run on one folder of `incoming/` at a time, by whichever process of this
//! host has the lock. Its exit code decides (docs/farm.md §2.11 let it decide by other means). It may
//! move the folder away. What it was given and what it said are kept beside until the database
//! knows, so that it is not run twice on what it took.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::db::{self, Tx};
use crate::sys::bounded_command::{self, Input};
use crate::sys::clock::now_ms as now;
use crate::sys::fs::{atomic_write, remove_tree};

use crate::master::farm::Farm;
use crate::master::model::BuildState;
use crate::master::policy::notification::Notification;
use crate::master::rows::archives::{self, Binary, Existing};
use crate::master::rows::events::NewEvent;
use crate::master::rows::uploads::{self, Upload};
use crate::master::rows::{events, outbox};

/// For one upload.
const TIMEOUT: Duration = Duration::from_secs(3600);
const LOG_NAME: &str = "uploader.log";
/// Longest log of an uploader that is kept, in bytes.
const LOG_BYTES: u64 = 16 << 20;

/// How far an upload is, on disk.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    /// Names and versions of the binary packages in it.
    binaries: Vec<(String, String)>,
    /// Set when the uploader has ended.
    end: Option<UploaderResult>,
}

#[derive(Debug, Serialize, Deserialize)]
struct UploaderResult {
    /// Why it was not taken; none: it was.
    reason: Option<String>,
}

/// Uploads what waits here, if nobody else does.
pub(crate) fn run_once(farm: &Farm) {
    if farm.config.uploader.is_empty() {
        return;
    }
    if let Err(error) = try_run(farm) {
        log::warn!("uploads: {error}; trying again");
    }
}

fn try_run(farm: &Farm) -> Result<(), String> {
    let waiting = farm.db.read(uploads::waiting).map_err(text)?;
    if waiting.is_empty() {
        return Ok(());
    }
    let folder = farm.results_dir().join("uploading");
    fs::create_dir_all(&folder).map_err(text)?;
    let lock = File::create(folder.join(".lock")).map_err(text)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(()),
        Err(TryLockError::Error(error)) => return Err(text(error)),
    }
    for upload in waiting {
        let task = Task {
            farm,
            record: folder.join(&upload.leaf),
            dir: farm.results_dir().join("incoming").join(&upload.leaf),
            upload: &upload,
        };
        // One that fails does not keep the others.
        if let Err(error) = task.run(&lock) {
            log::warn!("{}: {error}; trying again", upload.name);
        }
    }
    Ok(())
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

struct Task<'a> {
    farm: &'a Farm,
    upload: &'a Upload,
    /// Where its results are, or were.
    dir: PathBuf,
    /// Where is noted how far it is.
    record: PathBuf,
}

impl Task<'_> {
    fn run(&self, lock: &File) -> Result<(), String> {
        let mut record = self.read_record()?;
        match (&record.end, self.dir.is_dir()) {
            (Some(_), _) => {}
            (None, true) => {
                record.binaries = binaries(&self.dir).map_err(text)?;
                self.write_record(&record)?;
                let reason = self.run_uploader(lock)?;
                record.end = Some(UploaderResult { reason });
                self.write_record(&record)?;
            }
            (None, false) if self.record.exists() => {
                let reason = "the uploader took the results, and was not heard to the end";
                record.end = Some(UploaderResult {
                    reason: Some(reason.to_owned()),
                });
            }
            // They are on another host.
            (None, false) => return Ok(()),
        }
        let reason = record.end.and_then(|end| end.reason);
        self.write_outcome(reason.as_deref(), &record.binaries)?;
        remove_tree(&self.record).map_err(text)
    }

    fn read_record(&self) -> Result<Record, String> {
        match fs::read(&self.record) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Record::default()),
            Err(error) => Err(text(error)),
        }
    }

    fn write_record(&self, record: &Record) -> Result<(), String> {
        let bytes = serde_json::to_vec(record).map_err(text)?;
        atomic_write(&self.record, &bytes).map_err(text)
    }

    /// Runs the uploader to its end; returns why it did not take the results, if so. While anything
    /// of it runs, the lock is held.
    fn run_uploader(&self, lock: &File) -> Result<Option<String>, String> {
        let log = self.dir.join(LOG_NAME).display().to_string();
        let root = self.farm.results_dir().display().to_string();
        let (name, build) = (&self.upload.name, self.upload.build.to_string());
        let suite = name.suite();
        let arguments = [
            "--log-file",
            &log,
            "-d",
            &name.distribution,
            "-s",
            &suite,
            "-b",
            &build,
            "-J",
            &self.upload.leaf,
            &root,
        ];
        let mut words = self.farm.config.uploader.clone();
        words.extend(arguments.map(str::to_owned));
        let lock = lock.try_clone().map_err(text)?;
        Ok(bounded_command::run(&words, Input::File(lock), TIMEOUT)
            .err()
            .map(text))
    }

    /// Tells the database what became of it.
    fn write_outcome(
        &self,
        reason: Option<&str>,
        binaries: &[(String, String)],
    ) -> Result<(), String> {
        let state = match reason {
            None => BuildState::FullyBuilt,
            Some(_) => BuildState::FailedToUpload,
        };
        let log_alias = reason.map(|reason| self.store_log(reason)).transpose()?;
        let write =
            |tx: &mut Tx<'_>| write_rows(tx, self.upload, state, reason, log_alias, binaries);
        if self.farm.db.write(write).map_err(text)? {
            match reason {
                None => log::info!("{}: {state}", self.upload.name),
                Some(reason) => log::warn!("{}: {state}: {reason}", self.upload.name),
            }
        }
        Ok(())
    }

    /// Keeps the uploader's log, or failing that what it said.
    fn store_log(&self, reason: &str) -> Result<i64, String> {
        let mut bytes = Vec::new();
        let read = File::open(self.dir.join(LOG_NAME)).and_then(|file| {
            io::Read::read_to_end(&mut io::Read::take(file, LOG_BYTES), &mut bytes)
        });
        if read.is_err() || bytes.is_empty() {
            bytes = format!("{reason}\n").into_bytes();
        }
        let name = format!("upload_{}_log.txt", self.upload.build);
        let length = bytes.len() as u64;
        let private = self.upload.private;
        let added = self.farm.librarian.add(
            &name,
            Some("text/plain"),
            None,
            private,
            &mut &bytes[..],
            length,
        );
        added.map(|added| added.id).map_err(text)
    }
}

fn write_rows(
    tx: &mut Tx<'_>,
    upload: &Upload,
    state: BuildState,
    reason: Option<&str>,
    log_alias: Option<i64>,
    binaries: &[(String, String)],
) -> Result<bool, db::Error> {
    if !uploads::done(tx, upload, state, log_alias)? {
        return Ok(false);
    }
    let binary = |(name, version): &(String, String)| Binary {
        name: name.clone(),
        version: version.clone(),
        component: upload.component.clone(),
        source: upload.name.source.clone(),
    };
    let binaries: Vec<Binary> = binaries.iter().map(binary).collect();
    let (arch, archive) = (upload.arch_series, upload.archive);
    archives::publish(tx, arch, archive, &binaries, Existing::Keep, now())?;
    let message = reason.map_or_else(|| state.to_string(), |why| format!("{state}: {why}"));
    let level = if reason.is_some() {
        log::Level::Warn
    } else {
        log::Level::Info
    };
    events::add(
        tx,
        &NewEvent {
            level,
            build: Some(upload.build),
            ..NewEvent::info(now(), "uploaded", &message)
        },
    )?;
    if reason.is_some() {
        let document = Notification {
            build: upload.build,
            name: &upload.name,
            state,
            builder: &upload.builder,
            took_ms: now() - upload.started_at,
            log_url: None,
            reason,
        }
        .document();
        outbox::put(tx, upload.build, now(), &document)?;
    }
    Ok(true)
}

/// Returns names and versions of the binary packages in a folder.
fn binaries(dir: &Path) -> io::Result<Vec<(String, String)>> {
    let names: Vec<String> = fs::read_dir(dir)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    let changes = names.iter().find(|name| name.ends_with(".changes"));
    let changes = changes.map_or(Ok(String::new()), |name| fs::read_to_string(dir.join(name)))?;
    let version = changes
        .lines()
        .find_map(|line| line.strip_prefix("Version: "));
    Ok(names
        .iter()
        .filter_map(|name| binary(name, version.unwrap_or_default()))
        .collect())
}

/// Returns the package in a file, and its version. File names have no epoch: that of the .changes
/// is taken where the rest is the same.
fn binary(file: &str, changes_version: &str) -> Option<(String, String)> {
    let mut parts = file.strip_suffix(".deb")?.split('_');
    let (name, version) = (parts.next()?, parts.next()?);
    let without_epoch = changes_version
        .split_once(':')
        .map_or(changes_version, |(_, rest)| rest);
    let whole = if version == without_epoch {
        changes_version
    } else {
        version
    };
    Some((name.to_owned(), whole.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_by_their_file_names() {
        let pair = |name: &str, version: &str| Some((name.to_owned(), version.to_owned()));
        assert_eq!(binary("a_1.0-1_amd64.deb", "2:1.0-1"), pair("a", "2:1.0-1"));
        assert_eq!(binary("b_3_all.deb", "2:1.0-1"), pair("b", "3"));
        assert_eq!(binary("a_1.0-1_amd64.changes", "1.0-1"), None);
        assert_eq!(binary("odd.deb", ""), None);
    }
}
