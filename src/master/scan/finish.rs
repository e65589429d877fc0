//! Finishes a build whose slave is WAITING: downloads its results, stores its log, records the
//! verdict, and cleans the slave, in that order.
//!
//! A process killed in between leaves the slave WAITING. The next process starts again and skips
//! the completed steps. `policy::outcome` maps a verdict to an outcome.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::time::Instant;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::client;
use crate::db::Tx;
use crate::dpkg::expected::Expected;
use crate::librarian::alias_url;
use crate::protocol::{BuildStatus, FileName, Sha1Hex};
use crate::sys::fs::remove_tree;

use super::download_results;
use super::failure::notification;
use super::look::{LookError, Next, Scanner, View, add_event, check_fence, holds_lease};
use super::return_job::{self, Returned};
use crate::master::model::{AttemptVerdict, BuildState};
use crate::master::policy::blame::Kind;
use crate::master::policy::log_end::{self, LogEnd, TAIL_BYTES};
use crate::master::policy::outcome::{Outcome, outcome};
use crate::master::rows::attempts::AttemptEnd;
use crate::master::rows::builders::{self, Job};
use crate::master::rows::candidate::{self, Candidate};
use crate::master::rows::outbox;
use crate::master::rows::queue::{self, End};
use crate::sys::clock::now_ms as now;

/// Largest log stored, in bytes. A slave's own limit is far lower.
const LOG_BYTES: u64 = 4 << 30;

/// A log in the librarian.
struct LogAlias {
    id: i64,
    url: String,
}

/// A slave's log: the librarian's file, if there is one, and the last lines.
#[derive(Default)]
struct StoredLog {
    alias: Option<LogAlias>,
    end: LogEnd,
}

/// A build's final state, and the values recorded with it.
struct Completion<'a> {
    state: BuildState,
    verdict: AttemptVerdict,
    log: StoredLog,
    dependencies: Option<&'a str>,
    /// The folder of its results in `incoming/`.
    leaf: Option<&'a str>,
    notify: bool,
    reason: Option<&'a str>,
}

/// Records a finished build as its verdict requires, then cleans the slave.
pub(super) fn finish(
    scanner: &mut Scanner<'_>,
    view: &View,
    status: BuildStatus,
    files: &[(FileName, Sha1Hex)],
    dependencies: &str,
) -> Result<Next, LookError> {
    let Some(job) = &view.job else {
        return Ok(Next::Turn);
    };
    let about = scanner
        .farm
        .db
        .read(|tx| candidate::candidate(tx, job.build))?;
    let private = about.archive.archive.private;
    match outcome(status, job.is_cancelling()) {
        Outcome::Built => built(scanner, view, job, files, &about)?,
        Outcome::Ended {
            state,
            keeps_dependencies,
            notify,
        } => {
            let dependencies = keeps_dependencies.then_some(dependencies);
            let log = store_log(scanner, view, job, status, state, private)?;
            let verdict = match state {
                BuildState::Cancelled => AttemptVerdict::Cancelled,
                _ => status.into(),
            };
            let sentence = log.end.reason.clone();
            let completion = Completion {
                state,
                verdict,
                log,
                dependencies,
                leaf: None,
                notify,
                reason: dependencies.or(sentence.as_deref()),
            };
            complete_job(scanner, view, job, &completion)?;
        }
        Outcome::GiveBack | Outcome::BuilderAtFault => {
            let log = store_log(scanner, view, job, status, job.state, private)?;
            let returned = Returned {
                verdict: status.into(),
                why: log.end.reason.as_deref(),
                stages: log.end.stages.as_deref(),
                log_alias: log.alias.as_ref().map(|log| log.id),
                log_url: log.alias.as_ref().map(|log| &*log.url),
            };
            return_job::return_job(scanner, view, job, &returned)?;
        }
        Outcome::Unexpected => {
            return Err(LookError::Failure {
                kind: Kind::Dispatch,
                why: format!("unexpected verdict {status}: the master did not abort the build"),
            });
        }
    }
    // If the slave is not cleaned here, the next look rescues it.
    if holds_lease(scanner.farm, scanner.fence) {
        scanner.slave(view)?.clean()?;
    }
    Ok(Next::Now)
}

/// Downloads the results of a successful build and completes it. The log is stored last: a failed
/// download is retried, and each retry would store the log again.
fn built(
    scanner: &mut Scanner<'_>,
    view: &View,
    job: &Job,
    files: &[(FileName, Sha1Hex)],
    about: &Candidate,
) -> Result<(), LookError> {
    if job.state != BuildState::Gathering {
        let write =
            |tx: &mut Tx<'_>| queue::set_state(tx, scanner.fence, job.queue, BuildState::Gathering);
        check_fence(scanner.farm.db.write(write)?)?;
    }
    let is_published = about.component.is_some();
    let downloaded = match (is_published, scanner.memory.invalid_results.clone()) {
        (false, _) => Ok(()),
        (true, Some(why)) => Err(download_results::Error::Refused(why)),
        (true, None) => download(scanner, view, job, files, &expected(about)),
    };
    let (state, reason) = match downloaded {
        Ok(()) if !is_published => {
            let why = "the source is no longer published".to_owned();
            (BuildState::Superseded, Some(why))
        }
        Ok(()) if scanner.farm.config().uploader.is_empty() => (BuildState::FullyBuilt, None),
        Ok(()) => (BuildState::Uploading, None),
        Err(download_results::Error::Refused(why)) => (BuildState::FailedToUpload, Some(why)),
        Err(download_results::Error::Lost) => return Err(LookError::Changed),
        // A slave that is restarting has the results at the next look.
        Err(error @ download_results::Error::Slave { .. }) => {
            return Err(LookError::Failure {
                kind: Kind::Passing,
                why: error.to_string(),
            });
        }
        Err(error) => return Err(LookError::Internal(error.to_string())),
    };
    let private = about.archive.archive.private;
    let log = store_log(
        scanner,
        view,
        job,
        BuildStatus::Ok,
        BuildState::Building,
        private,
    )?;
    let cookie = job.cookie();
    let handed_over = matches!(state, BuildState::FullyBuilt | BuildState::Uploading);
    let completion = Completion {
        state,
        verdict: AttemptVerdict::Ok,
        log,
        dependencies: None,
        leaf: handed_over.then_some(&*cookie),
        notify: state == BuildState::FailedToUpload,
        reason: reason.as_deref(),
    };
    complete_job(scanner, view, job, &completion)
}

/// Returns what the results of the build must say that they are.
fn expected(about: &Candidate) -> Expected {
    let name = &about.name;
    Expected {
        source: name.source.clone(),
        version: name.version.clone(),
        arch: name.arch_tag.clone(),
        arch_indep: about.arch_indep,
        inputs: about.files.iter().map(|file| file.name.clone()).collect(),
    }
}

fn download(
    scanner: &mut Scanner<'_>,
    view: &View,
    job: &Job,
    files: &[(FileName, Sha1Hex)],
    expected: &Expected,
) -> Result<(), download_results::Error> {
    let (farm, fence) = (scanner.farm, scanner.fence);
    let slave = scanner
        .slave(view)
        .map_err(|_| download_results::Error::Lost)?;
    let started = Instant::now();
    let downloaded = download_results::download(&download_results::Request {
        client: &slave.client,
        cookie: &job.cookie(),
        epoch: fence.epoch,
        files,
        expected,
        results: farm.results_dir(),
        limit: farm.config().result_size,
        slot: &|| farm.download_slot(),
        holds_lease: &|| holds_lease(farm, fence),
    })?;
    let what = format!(
        "downloaded {} files, {} bytes, in {:.1} s; on disk after {:.1} s",
        files.len(),
        downloaded.bytes,
        downloaded.fetched_in.as_secs_f64(),
        started.elapsed().as_secs_f64()
    );
    scanner.log(view, log::Level::Info, &what);
    Ok(())
}

/// Ends the build and removes its job.
fn complete_job(
    scanner: &Scanner<'_>,
    view: &View,
    job: &Job,
    completion: &Completion<'_>,
) -> Result<(), LookError> {
    let state = completion.state;
    let what = match completion.reason.filter(|reason| !reason.is_empty()) {
        Some(reason) => format!("{state}: {reason}"),
        None => state.to_string(),
    };
    let level = match state {
        BuildState::FullyBuilt | BuildState::Uploading | BuildState::Cancelled => log::Level::Info,
        _ => log::Level::Warn,
    };
    let log = completion.log.alias.as_ref();
    let host = &scanner.farm.host;
    let write = |tx: &mut Tx<'_>| {
        let end = End {
            state,
            attempt: AttemptEnd {
                verdict: completion.verdict,
                reason: completion.reason,
                stages: completion.log.end.stages.as_deref(),
                dependencies: completion.dependencies,
                log_alias: log.map(|log| log.id),
                leaf: completion.leaf,
                host: completion.leaf.map(|_| &**host),
                at: now(),
            },
        };
        if !queue::finish(tx, scanner.fence, job.queue, &end)? {
            return Ok(false);
        }
        // The builder works: a failed build is the package's fault.
        builders::set_failure_count(tx, scanner.fence, 0)?;
        add_event(tx, level, "ended", view, &what)?;
        if completion.notify {
            let url = log.map(|log| &*log.url);
            let document = notification(view, job, state, url, completion.reason);
            outbox::put(tx, job.build, now(), &document)?;
        }
        Ok(true)
    };
    check_fence(scanner.farm.db.write(write)?)?;
    scanner.log(view, level, &what);
    Ok(())
}

/// Copies the build's log from the slave to the librarian, and reads its last lines. A failure of
/// the librarian is [`LookError::Internal`].
fn store_log(
    scanner: &mut Scanner<'_>,
    view: &View,
    job: &Job,
    status: BuildStatus,
    state: BuildState,
    private: bool,
) -> Result<StoredLog, LookError> {
    let farm = scanner.farm;
    let download = match scanner.slave(view)?.client.get("/filecache/buildlog", 0) {
        Ok(download) => download,
        Err(error) if error.is_absence() => {
            scanner.log(view, log::Level::Warn, "the slave has no log of the build");
            return Ok(StoredLog::default());
        }
        Err(error) => return Err(error.into()),
    };
    let internal = |error: &dyn std::fmt::Display| LookError::Internal(format!("log: {error}"));
    let path = download_results::work_path(
        farm.results_dir(),
        &job.cookie(),
        scanner.fence.epoch,
        "log.gz",
    );
    std::fs::create_dir_all(farm.results_dir().join("grabbing"))
        .map_err(|error| internal(&error))?;
    let stored = pack_log(download, &path, view);
    let stored = stored.and_then(|(mut file, tail)| {
        let len = file.metadata().map_err(|error| internal(&error))?.len();
        let name = format!("{}.gz", job.name.log_name(state));
        let added = farm
            .librarian
            .add(&name, Some("text/plain"), None, private, &mut file, len);
        let alias = added.map_err(|error| internal(&error))?.id;
        let url = alias_url(&farm.library_url, alias, &name);
        Ok(StoredLog {
            alias: Some(LogAlias { id: alias, url }),
            end: log_end::read(&tail, &status.to_string()),
        })
    });
    // The log is in the librarian, or the next look downloads it again.
    let _ = remove_tree(&path);
    stored
}

/// Compresses a log into the file `path`; returns the file opened at its start, and the last bytes
/// of the log.
fn pack_log(
    mut download: client::Download,
    path: &std::path::Path,
    view: &View,
) -> Result<(File, Vec<u8>), LookError> {
    let internal =
        |error: std::io::Error| LookError::Internal(format!("{}: {error}", path.display()));
    let file = File::create(path).map_err(internal)?;
    let mut packer = GzEncoder::new(BufWriter::new(file), Compression::default());
    let mut received = 0;
    let mut tail = Vec::new();
    loop {
        let Some(piece) = download.chunk()? else {
            break;
        };
        received += piece.len() as u64;
        if received > LOG_BYTES {
            let url = view.url();
            log::warn!("{url}: the build's log is truncated to {LOG_BYTES} bytes");
            break;
        }
        packer.write_all(piece).map_err(internal)?;
        tail.extend_from_slice(piece);
        tail.drain(..tail.len().saturating_sub(TAIL_BYTES));
    }
    let done = packer.finish().and_then(|mut buffer| buffer.flush());
    done.map_err(internal)?;
    Ok((File::open(path).map_err(internal)?, tail))
}
