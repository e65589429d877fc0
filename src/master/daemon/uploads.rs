//! Runs the site's uploader on finished results and records the outcome.
//!
//! The process of this host that holds the lock runs the uploader on one folder of `incoming/` at
//! a time. The exit code decides (docs/farm.md §2.11). The uploader may move the folder away. A
//! record in `uploading/` keeps the outcome until it is in the database, so that no upload runs
//! twice.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::db::{self, Tx};
use crate::sys::bounded_command::{self, Input};
use crate::sys::clock::now_ms as now;
use crate::sys::fs::{atomic_write, remove_tree};

use super::built_packages::BuiltPackage;
use crate::master::farm::Farm;
use crate::master::model::BuildState;
use crate::master::policy::notification::Notification;
use crate::master::rows::events::NewEvent;
use crate::master::rows::published::{self, Binary, Existing, List};
use crate::master::rows::uploads::{self, Upload};
use crate::master::rows::{events, outbox};

/// Timeout of one upload.
const TIMEOUT: Duration = Duration::from_secs(3600);
const LOG_NAME: &str = "uploader.log";
/// Largest part of an uploader's log that is stored, in bytes.
const LOG_BYTES: u64 = 16 << 20;

/// The state of one upload, as stored on disk.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    binaries: Vec<BuiltPackage>,
    /// Set when the uploader has exited.
    end: Option<UploaderResult>,
}

#[derive(Debug, Serialize, Deserialize)]
struct UploaderResult {
    /// The reason of the failure; `None` if the upload succeeded.
    reason: Option<String>,
}

/// Uploads all waiting results of this host, unless another process is uploading.
pub(crate) fn run_once(farm: &Farm) {
    if farm.config.uploader.is_empty() {
        return;
    }
    if let Err(error) = try_run(farm) {
        log::warn!("cannot upload results: {error}; retrying in the next round");
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
        // A failed upload does not stop the others.
        if let Err(error) = task.run(&lock) {
            let name = &upload.name;
            log::warn!("cannot upload {name}: {error}; retrying in the next round");
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
    /// The folder of the results. The uploader may have moved it.
    dir: PathBuf,
    /// The file of its [`Record`].
    record: PathBuf,
}

impl Task<'_> {
    fn run(&self, lock: &File) -> Result<(), String> {
        let mut record = self.read_record()?;
        match (&record.end, self.dir.is_dir()) {
            (Some(_), _) => {}
            (None, true) => {
                record.binaries = BuiltPackage::read_all(&self.dir).map_err(text)?;
                self.write_record(&record)?;
                let reason = self.run_uploader(lock)?;
                record.end = Some(UploaderResult { reason });
                self.write_record(&record)?;
            }
            (None, false) if self.record.exists() => {
                let reason = "the results are gone, and the uploader's exit code is unknown";
                record.end = Some(UploaderResult {
                    reason: Some(reason.to_owned()),
                });
            }
            // The results are on another host.
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

    /// Runs the uploader; returns why it failed, or `None`. Its processes inherit the lock, which
    /// is held as long as one of them runs.
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

    /// Records the outcome in the database.
    fn write_outcome(&self, reason: Option<&str>, binaries: &[BuiltPackage]) -> Result<(), String> {
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

    /// Stores the uploader's log in the librarian; without a log, the reason of the failure.
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
    binaries: &[BuiltPackage],
) -> Result<bool, db::Error> {
    if !uploads::done(tx, upload, state, log_alias, reason)? {
        return Ok(false);
    }
    let binary = |built: &BuiltPackage| Binary {
        package: built.package(),
        component: upload.component.clone(),
        source: upload.name.source.clone(),
    };
    let binaries: Vec<Binary> = binaries.iter().map(binary).collect();
    let list = List {
        arch_series: upload.arch_series,
        archive: upload.archive,
    };
    published::publish(tx, list, &binaries, Existing::Keep, now())?;
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
