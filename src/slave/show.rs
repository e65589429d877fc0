//! What does the slave show to those who watch it, besides the protocol: its numbers, its health,
//! and a log as it grows.
//!
//! Nothing here changes anything, and nothing waits for a lock that is held across a disk.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::cache_eviction::Usage;
use crate::filecache::Store;
use crate::metrics::{self, metrics};
use crate::pipeline::buildlog::{Follow, Snapshot};
use crate::protocol::BuilderStatus;
use crate::server::{Body, BodyStream, Request, Response, serve_file};
use crate::session::store;
use crate::sys::host::{self, Disk};

use super::shared_state::SharedState;

/// What a log is, to a browser.
const PLAIN_TEXT: &str = "text/plain; charset=utf-8";
/// Between two looks at a log that does not grow.
const LOOK: Duration = Duration::from_millis(200);

/// Answers with all numbers of this process. `chroots` is the folder of the unpacked ones, if this
/// daemon has any.
pub(super) fn metrics_page(now: BuilderStatus, cache: &Store, chroots: Option<&Path>) -> Response {
    let enter = |store: &str, usage: Result<Usage, String>| match usage {
        Ok(usage) => {
            let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
            let (bytes, entries) = (&metrics().stored_bytes, &metrics().stored_entries);
            bytes.with_label_values(&[store]).set(number(usage.bytes));
            entries
                .with_label_values(&[store])
                .set(number(usage.entries));
        }
        Err(error) => log::warn!("{error}"),
    };
    enter(
        "filecache",
        cache.usage().map_err(|error| error.to_string()),
    );
    if let Some(dir) = chroots {
        enter(
            "chroots",
            store::usage(dir).map_err(|error| error.to_string()),
        );
    }
    for state in BuilderStatus::ALL {
        let word = state.to_string().to_lowercase();
        let gauge = metrics().state.with_label_values(&[&word]);
        gauge.set(i64::from(state == now));
    }
    Response::bytes(200, metrics::CONTENT_TYPE, metrics::render())
}

/// Answers 200 if a build could be begun and kept by what the folders are on, else 503 and why.
/// `folders` come with the keys that name them, `reserve` is in bytes.
pub(super) fn health(folders: &[(&'static str, PathBuf)], reserve: u64) -> Response {
    let problems: Vec<String> = folders
        .iter()
        .filter_map(|(key, dir)| problem(key, dir, host::disk_of(dir), reserve))
        .collect();
    if problems.is_empty() {
        Response::text(200, "ok")
    } else {
        Response::text(503, &problems.join("\n"))
    }
}

/// Says what is wrong with the disk below a folder, if anything.
fn problem(key: &str, dir: &Path, disk: io::Result<Disk>, reserve: u64) -> Option<String> {
    let wrong = match disk {
        Err(error) => error.to_string(),
        Ok(disk) if disk.read_only => "is on a file system that is read-only".to_owned(),
        Ok(disk) if disk.free_bytes < reserve => format!(
            "has {} bytes free, less than [limits] reserve ({reserve})",
            disk.free_bytes
        ),
        Ok(_) => return None,
    };
    Some(format!("[slave] {key}: {} {wrong}", dir.display()))
}

/// Answers with the log at `path` until the build of that number is over.
pub(super) fn follow(path: &Path, shared: Arc<SharedState>, number: u64) -> Response {
    let stream = LogStream {
        log: Follow::open(path),
        shared,
        number,
    };
    plain_text(Body::Stream(Box::new(stream)))
}

/// Answers with the log at `path` as it is now.
///
/// Of a log that is over its bound, beginning and end are there now, and a part that is asked for
/// comes from the beginning alone: that stays as it is.
pub(super) fn log(request: &Request, path: &Path) -> io::Result<Response> {
    let snapshot = Snapshot::open(path)?;
    if snapshot.is_in_parts() && request.header("Range").is_none() {
        let len = snapshot.len();
        let reader = Box::new(snapshot);
        return Ok(plain_text(Body::Reader { reader, len }));
    }
    let (file, len, modified) = snapshot.into_beginning();
    Ok(serve_file(request, file, len, PLAIN_TEXT, modified))
}

fn plain_text(body: Body) -> Response {
    let response = Response {
        status: 200,
        headers: Vec::new(),
        body,
    };
    response.with_header("Content-Type", PLAIN_TEXT)
}

/// A log as it grows.
struct LogStream {
    log: Follow,
    shared: Arc<SharedState>,
    number: u64,
}

impl BodyStream for LogStream {
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        // In this order: what is written before the end is seen after it.
        let runs = self.shared.runs(self.number);
        let bytes = self.log.read_more()?;
        if bytes.is_empty() {
            if !runs {
                return Ok(None);
            }
            thread::sleep(LOOK);
        }
        Ok(Some(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_disk_is_said_with_its_key() {
        let dir = Path::new("/var/lib/x");
        let disk = |read_only, free_bytes| {
            Ok(Disk {
                read_only,
                free_bytes,
            })
        };
        assert_eq!(problem("home", dir, disk(false, 100), 100), None);
        for (disk, said) in [
            (
                disk(false, 99),
                "has 99 bytes free, less than [limits] reserve (100)",
            ),
            (disk(true, 1000), "is on a file system that is read-only"),
            (Err(io::Error::other("not there")), "not there"),
        ] {
            let expect = format!("[slave] home: /var/lib/x {said}");
            assert_eq!(problem("home", dir, disk, 100), Some(expect));
        }
    }
}
