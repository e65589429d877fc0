//! Serves the slave's metrics, its health, and build logs as they grow.
//!
//! These answers change nothing, and wait for no lock that is held during disk access.

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
use crate::sys::cgroup::{Enforcer, Enforcers};
use crate::sys::fs::DiskUsage;
use crate::sys::host::{self, Disk};

use super::shared_state::SharedState;

/// The content type of a log.
const PLAIN_TEXT: &str = "text/plain; charset=utf-8";
/// The time between two reads of a log that does not grow.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Answers with all metrics of this process. `chroots` is the cache of unpacked chroots, if this
/// daemon has one.
pub(super) fn metrics_page(now: BuilderStatus, cache: &Store, chroots: Option<&Path>) -> Response {
    let set = |store: &str, usage: Result<Usage, String>| match usage {
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
    set(
        "filecache",
        cache.usage().map_err(|error| error.to_string()),
    );
    if let Some(dir) = chroots {
        set(
            "chroots",
            store::usage(dir).map_err(|error| error.to_string()),
        );
    }
    for state in BuilderStatus::ALL {
        let label = state.to_string().to_lowercase();
        let gauge = metrics().state.with_label_values(&[&label]);
        gauge.set(i64::from(state == now));
    }
    Response::bytes(200, metrics::CONTENT_TYPE, metrics::render())
}

/// Sets the metric of what enforces the limits of builds. It stays for the life of the daemon.
pub(super) fn count_enforcers(found: Enforcers) {
    for enforcer in Enforcer::ALL {
        for (resource, by) in [("memory", found.memory), ("processes", found.processes)] {
            let labels = [resource, enforcer.label()];
            let gauge = metrics().build_limits.with_label_values(&labels);
            gauge.set(i64::from(by == enforcer));
        }
    }
}

/// Answers 200 if the disks of all folders are writable and have the reserve free, else 503 with
/// the reasons. `folders` come with their configuration keys.
pub(super) fn health(folders: &[(&'static str, PathBuf)], reserve: DiskUsage) -> Response {
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

/// Returns the problem of the disk below a folder, if any.
fn problem(key: &str, dir: &Path, disk: io::Result<Disk>, reserve: DiskUsage) -> Option<String> {
    let problem = match disk {
        Err(error) => error.to_string(),
        Ok(disk) if disk.read_only => "is on a file system that is read-only".to_owned(),
        Ok(disk) if disk.free_bytes < reserve.bytes => format!(
            "has {} bytes free, less than [limits] reserve ({})",
            disk.free_bytes, reserve.bytes
        ),
        Ok(disk) if disk.free_inodes < reserve.inodes => format!(
            "has {} inodes free, less than [limits] reserve_inodes ({})",
            disk.free_inodes, reserve.inodes
        ),
        Ok(_) => return None,
    };
    Some(format!("[slave] {key}: {} {problem}", dir.display()))
}

/// Answers with the log at `path` until the run of that number has ended.
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
/// A log over its limit has a beginning and an end. A range request is answered from the beginning
/// alone, which no longer changes.
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

/// The body of a growing log.
struct LogStream {
    log: Follow,
    shared: Arc<SharedState>,
    number: u64,
}

impl BodyStream for LogStream {
    fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        // Checked before the read, so that the last bytes of an ended build are read.
        let is_running = self.shared.is_running(self.number);
        let bytes = self.log.read_more()?;
        if bytes.is_empty() {
            if !is_running {
                return Ok(None);
            }
            thread::sleep(POLL_INTERVAL);
        }
        Ok(Some(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_problem_of_a_disk_is_reported_with_its_key() {
        let dir = Path::new("/var/lib/x");
        let disk = |read_only, free_bytes, free_inodes| {
            Ok(Disk {
                read_only,
                free_bytes,
                free_inodes,
            })
        };
        let reserve = DiskUsage {
            bytes: 100,
            inodes: 10,
        };
        assert_eq!(problem("home", dir, disk(false, 100, 10), reserve), None);
        for (disk, problem_text) in [
            (
                disk(false, 99, 10),
                "has 99 bytes free, less than [limits] reserve (100)",
            ),
            (
                disk(false, 100, 9),
                "has 9 inodes free, less than [limits] reserve_inodes (10)",
            ),
            (
                disk(true, 1000, 1000),
                "is on a file system that is read-only",
            ),
            (Err(io::Error::other("not there")), "not there"),
        ] {
            let expect = format!("[slave] home: /var/lib/x {problem_text}");
            assert_eq!(problem("home", dir, disk, reserve), Some(expect));
        }
    }
}
