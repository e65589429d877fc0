//! Records the outcome of an upload: state, log, published binaries, event and notification.

use std::fs::File;
use std::io;
use std::path::Path;

use super::super::built_packages::BuiltPackage;
use super::text;
use crate::db::{self, Tx};
use crate::master::farm::Farm;
use crate::master::model::BuildState;
use crate::master::policy::notification::Notification;
use crate::master::policy::upload_step::Outcome;
use crate::master::rows::events::NewEvent;
use crate::master::rows::published::{self, Binary, Existing, List};
use crate::master::rows::uploads::{self, Upload};
use crate::master::rows::{events, outbox};
use crate::sys::clock::now_ms as now;

/// The log that the uploader writes, in the folder of the results.
pub(super) const LOG_NAME: &str = "uploader.log";
/// Largest part of an uploader's log that is stored, in bytes.
const LOG_BYTES: u64 = 16 << 20;

/// The binary packages of a folder.
pub(super) type Binaries = Vec<BuiltPackage>;

/// The results of a build, whose upload has ended.
pub(super) struct Results<'a> {
    pub(super) farm: &'a Farm,
    pub(super) upload: &'a Upload,
    /// Their folder. The uploader may have moved it.
    pub(super) dir: &'a Path,
    pub(super) binaries: &'a Binaries,
}

impl Results<'_> {
    /// Records the outcome in the database.
    pub(super) fn record(&self, outcome: &Outcome) -> Result<(), String> {
        let log_alias = match outcome {
            Outcome::Failed(reason) => Some(self.store_log(reason)?),
            Outcome::Uploaded | Outcome::Kept => None,
        };
        let write = |tx: &mut Tx<'_>| write_rows(tx, self, outcome, log_alias);
        if self.farm.db.write(write).map_err(text)? {
            let (level, what) = (level(outcome), sentence(outcome));
            log::log!(level, "{}: {what}", self.upload.name);
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

fn level(outcome: &Outcome) -> log::Level {
    match outcome {
        Outcome::Uploaded | Outcome::Kept => log::Level::Info,
        Outcome::Failed(_) => log::Level::Warn,
    }
}

fn sentence(outcome: &Outcome) -> String {
    let state = state(outcome);
    match outcome {
        Outcome::Uploaded => state.to_string(),
        Outcome::Kept => format!("{state}: no uploader is set; the results stay in their folder"),
        Outcome::Failed(reason) => format!("{state}: {reason}"),
    }
}

fn state(outcome: &Outcome) -> BuildState {
    match outcome {
        Outcome::Uploaded | Outcome::Kept => BuildState::FullyBuilt,
        Outcome::Failed(_) => BuildState::FailedToUpload,
    }
}

fn write_rows(
    tx: &mut Tx<'_>,
    results: &Results<'_>,
    outcome: &Outcome,
    log_alias: Option<i64>,
) -> Result<bool, db::Error> {
    let upload = results.upload;
    let state = state(outcome);
    let reason = match outcome {
        Outcome::Failed(reason) => Some(reason.as_str()),
        Outcome::Uploaded | Outcome::Kept => None,
    };
    if !uploads::done(tx, upload, state, log_alias, reason)? {
        return Ok(false);
    }
    // Only the archive of a successful upload has them.
    if *outcome == Outcome::Uploaded {
        publish(tx, upload, results.binaries)?;
    }
    events::add(
        tx,
        &NewEvent {
            level: level(outcome),
            build: Some(upload.build),
            ..NewEvent::info(now(), "uploaded", &sentence(outcome))
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

fn publish(tx: &mut Tx<'_>, upload: &Upload, binaries: &Binaries) -> Result<(), db::Error> {
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
    published::publish(tx, list, &binaries, Existing::Keep, now())
}
