//! `master log`: the log of a build, from where it is by now.
//!
//! The librarian has it when the build is over, the slave while it runs; of a running build the
//! database has the end. Bytes go out as they are.

use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use flate2::write::MultiGzDecoder;
use serde_json::json;

use super::lookup::{find_build, refuse};
use super::open::Site;
use super::screen::{Screen, note};
use super::{Error, status};
use crate::client::{Client, LogError, SlaveUrl, Timeouts, follow_log};
use crate::librarian::{self, Download};
use crate::master::model::{self, JobStatus};
use crate::master::rows::builds::{Build, QueueEntry};
use crate::master::rows::files::File;
use crate::master::rows::registry;
use crate::sys::clock::now_ms;

/// Between two looks at what is followed.
const POLL: Duration = Duration::from_secs(1);

pub(super) fn run(site: &Site, screen: Screen, id: i64, follow: bool) -> Result<bool, Error> {
    if !screen.json {
        write(site, id, follow, &mut io::stdout().lock())?;
        return Ok(true);
    }
    let mut text = Vec::new();
    write(site, id, follow, &mut text)?;
    let json = json!({"build": id, "log": String::from_utf8_lossy(&text)});
    screen.done("", &json)?;
    Ok(true)
}

fn write(site: &Site, id: i64, follow: bool, out: &mut dyn Write) -> Result<(), Error> {
    let mut out = Resumed {
        out,
        seen: 0,
        skip: 0,
    };
    let mut followed = None;
    let mut warned = false;
    loop {
        let (build, there) = site.db.read(|tx| {
            let build = find_build(tx, id)?;
            let there = registry::is_anybody_there(tx, now_ms() - status::ALIVE_MS)?;
            Ok((build, there))
        })?;
        match (&build.job, &build.log) {
            (Some(job), _) if is_running(job) => {
                if !follow {
                    return tail(&build, job, &mut out);
                }
                let cookie = model::cookie(build.id, job.id, job.attempt);
                if followed.as_ref() != Some(&cookie) {
                    // Another try has another log.
                    out.begin(0);
                }
                if from_slave(&build, &cookie, &mut out)? {
                    return Ok(());
                }
                followed = Some(cookie);
            }
            (Some(_), _) if follow => {
                if !there && !warned {
                    warned = true;
                    note(status::NOBODY);
                }
            }
            (Some(_), _) => {
                let text =
                    format!("build {id} waits and has no log yet; `queue why {id}` says why");
                return Err(refuse(text).into());
            }
            (None, Some(log)) => {
                out.begin(out.seen);
                return stored(site, log, &mut out);
            }
            (None, None) => {
                let text = format!("build {id} is {}, and no log of it was kept", build.state);
                return Err(refuse(text).into());
            }
        }
        thread::sleep(POLL);
    }
}

/// Where a log goes that is read more than once from its beginning, and shown once.
struct Resumed<'a> {
    out: &'a mut dyn Write,
    /// Bytes of this log that were shown.
    seen: u64,
    /// Bytes to come that were shown already.
    skip: u64,
}

impl Resumed<'_> {
    /// Begins a log, or begins again with one of which `seen` bytes were shown.
    fn begin(&mut self, seen: u64) {
        self.seen = seen;
        self.skip = seen;
    }
}

impl Write for Resumed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let known = usize::try_from(self.skip).map_or(bytes.len(), |skip| skip.min(bytes.len()));
        if known > 0 {
            self.skip -= known as u64;
            return Ok(known);
        }
        let count = self.out.write(bytes)?;
        self.seen += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn is_running(job: &QueueEntry) -> bool {
    matches!(job.status, JobStatus::Running | JobStatus::Cancelling)
}

/// Writes what the last look at the slave has brought.
fn tail(build: &Build, job: &QueueEntry, out: &mut dyn Write) -> Result<(), Error> {
    let tail = job.logtail.as_deref().unwrap_or_default();
    out.write_all(tail.as_bytes()).map_err(Error::Output)?;
    if !tail.is_empty() && !tail.ends_with('\n') {
        out.write_all(b"\n").map_err(Error::Output)?;
    }
    note(format_args!(
        "build {} runs; this is the end of its log as last seen, -f shows all of it",
        build.id
    ));
    Ok(())
}

/// Follows the log where it is written; tells whether that was to its end.
fn from_slave(build: &Build, cookie: &str, out: &mut dyn Write) -> Result<bool, Error> {
    let url = build.builder.as_ref().map_or("", |(_, url)| url.as_str());
    let slave = SlaveUrl::parse(url).map_err(|error| Error::Refused(error.to_string()))?;
    let client = Client::new(&slave, Timeouts::INTERACTIVE);
    match follow_log(&client, Some(cookie), out, POLL) {
        Ok(()) => Ok(true),
        // Not begun there yet, or over and cleaned before all was seen: the librarian has the rest.
        Err(LogError::None | LogError::Gone) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Writes a log that the librarian has.
fn stored(site: &Site, log: &File, out: &mut dyn Write) -> Result<(), Error> {
    let wanted = Download::by_number(&site.db, &site.farm.librarian.url, log.alias)?;
    let put = |to: &mut dyn Write| {
        wanted.fetch(&mut |piece| to.write_all(piece).map_err(librarian::Error::Output))
    };
    let fetched = if log.name.ends_with(".gz") {
        let mut unpacked = MultiGzDecoder::new(out);
        put(&mut unpacked).and_then(|()| {
            let ended = unpacked.try_finish();
            ended.map_err(librarian::Error::Output)
        })
    } else {
        put(out)
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
    fn what_was_shown_is_not_shown_again() {
        let mut shown = Vec::new();
        let mut out = Resumed {
            out: &mut shown,
            seen: 0,
            skip: 0,
        };
        out.write_all(b"one\ntw").unwrap();
        out.begin(out.seen);
        out.write_all(b"one").unwrap();
        out.write_all(b"\ntwo\n").unwrap();
        // Another log.
        out.begin(0);
        out.write_all(b"again").unwrap();
        assert_eq!(out.seen, 5);
        assert_eq!(shown, b"one\ntwo\nagain");
    }
}
