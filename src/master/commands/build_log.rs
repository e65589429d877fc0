//! `master log`: prints the log of a build.
//!
//! A finished log comes from the librarian, a followed one from the slave. The database has the
//! last lines of a running build's log.

use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use flate2::write::MultiGzDecoder;
use serde_json::json;

use super::lookup::{find_build, refuse};
use super::open::Site;
use super::screen::{Screen, stderr_line};
use super::{Error, status};
use crate::client::{Client, LogError, SlaveUrl, Timeouts, follow_log};
use crate::librarian::{self, Download};
use crate::master::model::{self, JobStatus};
use crate::master::rows::attempts;
use crate::master::rows::builds::{Build, QueueEntry};
use crate::master::rows::files::File;
use crate::sys::output;

/// Time between two polls while following a log.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Prints the log of a build, or that of one `attempt`.
pub(super) fn run(
    site: &Site,
    screen: Screen,
    id: i64,
    follow: bool,
    attempt: Option<i64>,
) -> Result<bool, Error> {
    let write = |out: &mut dyn Write| match attempt {
        Some(number) => write_attempt(site, id, number, out),
        None => write_log(site, id, follow, out),
    };
    if !screen.json {
        write(&mut output::stdout())?;
        return Ok(true);
    }
    let mut text = Vec::new();
    write(&mut text)?;
    let log = String::from_utf8_lossy(&text);
    let json = match attempt {
        Some(number) => json!({"build": id, "attempt": number, "log": log}),
        None => json!({"build": id, "log": log}),
    };
    screen.done("", &json)?;
    Ok(true)
}

/// Writes the stored log of an attempt.
fn write_attempt(site: &Site, id: i64, number: i64, out: &mut dyn Write) -> Result<(), Error> {
    let attempts = site.db.read(|tx| {
        find_build(tx, id)?;
        attempts::of_build(tx, id)
    })?;
    let Some(attempt) = attempts.iter().find(|one| one.number == number) else {
        let count = attempts.len();
        return Err(refuse(format!(
            "build {id} has no attempt {number}; it has {count}, listed by `master show {id}`"
        ))
        .into());
    };
    match (&attempt.log, attempt.ended_at) {
        (Some(log), _) if log.content.is_some() => write_stored(site, log, out),
        (Some(_), _) => Err(refuse(format!(
            "the log of attempt {number} of build {id} has expired"
        ))
        .into()),
        (None, None) => Err(refuse(format!(
            "attempt {number} of build {id} is running; `master log {id}` prints its log"
        ))
        .into()),
        (None, Some(_)) => {
            let what = attempt.reason.as_deref().unwrap_or("its slave had no log");
            let text = format!("attempt {number} of build {id} has no log: {what}");
            Err(refuse(text).into())
        }
    }
}

fn write_log(site: &Site, id: i64, follow: bool, out: &mut dyn Write) -> Result<(), Error> {
    let mut out = Resumable {
        out,
        written: 0,
        skip: 0,
    };
    let mut followed = None;
    let mut warned = false;
    loop {
        let (build, is_master_alive) = site
            .db
            .read(|tx| Ok((find_build(tx, id)?, status::is_master_alive(tx)?)))?;
        match (&build.job, &build.log) {
            (Some(job), _) if is_running(job) => {
                if !follow {
                    return write_tail(&build, job, &mut out);
                }
                let cookie = model::cookie(build.id, job.id, job.attempt, job.nonce.as_deref());
                if followed.as_ref() != Some(&cookie) {
                    // A new attempt has a new log.
                    out.restart(0);
                }
                if follow_on_slave(&build, &cookie, &mut out)? {
                    return Ok(());
                }
                followed = Some(cookie);
            }
            (Some(_), _) if follow => {
                if !is_master_alive && !warned {
                    warned = true;
                    stderr_line(status::NO_MASTER);
                }
            }
            (Some(_), _) => {
                let text = format!(
                    "build {id} is waiting and has no log yet; `master queue why {id}` says why"
                );
                return Err(refuse(text).into());
            }
            (None, Some(log)) => {
                out.restart(out.written);
                return write_stored(site, log, &mut out);
            }
            (None, None) => {
                let text = format!("build {id} is {}, and has no log", build.state);
                return Err(refuse(text).into());
            }
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// A writer for a log that is read from its beginning more than once. It skips the bytes that it
/// has already written.
struct Resumable<'a> {
    out: &'a mut dyn Write,
    /// Bytes of this log already written.
    written: u64,
    /// Bytes of the input still to skip.
    skip: u64,
}

impl Resumable<'_> {
    /// Prepares for reading from the beginning of a log of which `written` bytes are written; 0 for
    /// a new log.
    fn restart(&mut self, written: u64) {
        self.written = written;
        self.skip = written;
    }
}

impl Write for Resumable<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let skipped = usize::try_from(self.skip).map_or(bytes.len(), |skip| skip.min(bytes.len()));
        if skipped > 0 {
            self.skip -= skipped as u64;
            return Ok(skipped);
        }
        let count = self.out.write(bytes)?;
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn is_running(job: &QueueEntry) -> bool {
    matches!(job.status, JobStatus::Running | JobStatus::Cancelling)
}

/// Writes the end of the log that the last scan stored in the database.
fn write_tail(build: &Build, job: &QueueEntry, out: &mut dyn Write) -> Result<(), Error> {
    let tail = job.logtail.as_deref().unwrap_or_default();
    out.write_all(tail.as_bytes()).map_err(Error::Output)?;
    if !tail.is_empty() && !tail.ends_with('\n') {
        out.write_all(b"\n").map_err(Error::Output)?;
    }
    stderr_line(format_args!(
        "build {} is running; this is the end of its log at the last scan (-f prints all of it)",
        build.id
    ));
    Ok(())
}

/// Follows the log on the slave. Returns false if the slave does not have the log.
fn follow_on_slave(build: &Build, cookie: &str, out: &mut dyn Write) -> Result<bool, Error> {
    let url = build.builder.as_ref().map_or("", |(_, url)| url.as_str());
    let slave = SlaveUrl::parse(url).map_err(|error| Error::Refused(error.to_string()))?;
    let client = Client::new(&slave, Timeouts::INTERACTIVE);
    match follow_log(&client, Some(cookie), out, POLL_INTERVAL) {
        Ok(()) => Ok(true),
        // The build has not started there, or was cleaned before the log's end: try the librarian.
        Err(LogError::None | LogError::Gone) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Writes a log from the librarian, uncompressed.
fn write_stored(site: &Site, log: &File, out: &mut dyn Write) -> Result<(), Error> {
    let wanted = Download::by_number(&site.db, &site.farm.librarian.url, log.alias)?;
    let copy = |to: &mut dyn Write| {
        wanted.fetch(&mut |piece| to.write_all(piece).map_err(librarian::Error::Output))
    };
    let fetched = if log.name.ends_with(".gz") {
        let mut unpacked = MultiGzDecoder::new(out);
        copy(&mut unpacked).and_then(|()| {
            let ended = unpacked.try_finish();
            ended.map_err(librarian::Error::Output)
        })
    } else {
        copy(out)
    };
    fetched.map_err(|error| match error {
        librarian::Error::Output(error) => Error::Output(error),
        other => other.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_writes_no_byte_twice() {
        let mut shown = Vec::new();
        let mut out = Resumable {
            out: &mut shown,
            written: 0,
            skip: 0,
        };
        out.write_all(b"one\ntw").unwrap();
        out.restart(out.written);
        out.write_all(b"one").unwrap();
        out.write_all(b"\ntwo\n").unwrap();
        // A new log.
        out.restart(0);
        out.write_all(b"again").unwrap();
        assert_eq!(out.written, 5);
        assert_eq!(shown, b"one\ntwo\nagain");
    }
}
