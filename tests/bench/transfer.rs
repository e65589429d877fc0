//! The throughput of large files.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::json;

use super::Plan;
use super::client::download;
use super::content::{BIG_BYTES, place};
use super::measure::{Sample, Usage, Watch, by_turns, time};
use super::reference::Server;
use super::table::{Line, Target, Unit};
use crate::support::{Daemon, Site};

/// A file system in memory, where fsync costs nothing.
const MEMORY: &str = "/dev/shm";

/// Measures `ensurepresent` of 1 GiB, and the same download by curl, which does not hash.
pub(crate) fn fetch(plan: &Plan) -> Vec<Line> {
    let (big, sum) = plan.content.big();
    let nginx = Server::nginx();
    place(&big, &nginx.root().join("big"));
    let url = format!("http://127.0.0.1:{}/big", nginx.port);
    let on_disk = || {
        let site = Site::new("");
        fetch_in(site, &url, sum)
    };
    let to = plan.content.path("fetched");
    let line = |what: &str, reference, (ours, theirs), target| Line {
        what: what.into(),
        unit: Unit::MegabytesPerSecond,
        ours,
        theirs,
        reference,
        target,
        worst: false,
    };
    let synced = by_turns(plan.runs, on_disk, || curl(&url, &to, true));
    let unsynced = by_turns(plan.runs, on_disk, || curl(&url, &to, false));
    let mut lines = vec![
        line(
            "ensurepresent 1 GiB, disk",
            "curl, sync",
            synced,
            Target::RatioAtLeast(0.9),
        ),
        line("  the same", "curl alone", unsynced, Target::None),
    ];
    let memory = tempfile::Builder::new()
        .prefix("buildd-bench-")
        .tempdir_in(MEMORY);
    if let Ok(memory) = memory {
        let to = memory.path().join("fetched");
        let in_memory = by_turns(
            plan.runs,
            || {
                let cache = memory.path().join("filecache");
                fs::create_dir(&cache).unwrap();
                let site = Site::new(&format!("filecache = {}", cache.display()));
                site.give(memory.path());
                site.give(&cache);
                let sample = fetch_in(site, &url, sum);
                fs::remove_dir_all(&cache).unwrap();
                sample
            },
            || curl(&url, &to, false),
        );
        let what = "ensurepresent 1 GiB, memory";
        lines.push(line(what, "curl", in_memory, Target::RatioAtLeast(0.9)));
    }
    lines
}

fn fetch_in(site: Site, url: &str, sum: &str) -> Sample {
    let daemon = Daemon::start_in(site);
    let watch = Watch::new(&[daemon.pid()]);
    let began = Instant::now();
    let answer = daemon.ok(
        "ensurepresent",
        &[json!(sum), json!(url), json!(""), json!("")],
    );
    assert_eq!(answer, json!([true, "Download"]));
    watch.sample(BIG_BYTES as f64 / 1e6 / began.elapsed().as_secs_f64())
}

fn curl(url: &str, to: &Path, sync: bool) -> Sample {
    let (mut secs, mut usage) = time(Command::new("curl").args(["-sSf", "-o"]).arg(to).arg(url));
    if sync {
        let (more_secs, more) = time(Command::new("sync").arg(to));
        secs += more_secs;
        usage = Usage {
            cpu_secs: usage.cpu_secs + more.cpu_secs,
            peak_bytes: usage.peak_bytes.max(more.peak_bytes),
        };
    }
    assert_eq!(fs::metadata(to).unwrap().len(), BIG_BYTES);
    fs::remove_file(to).unwrap();
    let figure = BIG_BYTES as f64 / 1e6 / secs;
    Sample { figure, usage }
}

/// Measures GET of 1 GiB from the cache, and from nginx with sendfile.
pub(crate) fn send(plan: &Plan) -> Vec<Line> {
    let (big, sum) = plan.content.big();
    let daemon = Daemon::start("");
    place(&big, &daemon.path("home/filecache").join(sum));
    let nginx = Server::nginx();
    place(&big, &nginx.root().join("big"));
    // The first read may have to wait until the file is hashed.
    let path = format!("/filecache/{sum}");
    download(daemon.port, &path, 1, BIG_BYTES);
    let runs = [1, 4].map(|readers| {
        let (ours, theirs) = by_turns(
            plan.runs,
            || {
                let watch = Watch::new(&[daemon.pid()]);
                watch.sample(download(daemon.port, &path, readers, BIG_BYTES) / 1e6)
            },
            || {
                let watch = nginx.watch();
                watch.sample(download(nginx.port, "/big", readers, BIG_BYTES) / 1e6)
            },
        );
        Line {
            what: format!("GET 1 GiB, {readers} reader(s)"),
            unit: Unit::MegabytesPerSecond,
            ours,
            theirs,
            reference: "nginx, sendfile",
            target: Target::RatioAtLeast(0.8),
            worst: false,
        }
    });
    runs.into()
}
