//! Makes the fixture of the current journal format: entries as this version of the program leaves
//! them.
//!
//! `cargo test --test suites integration::journal_fixture -- --ignored` writes it to
//! `tests/fixtures/journal/`. `tests/integration/upgrade.rs` takes the entries of each format over.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value as Json, json};

use crate::support::{Daemon, until};

/// The path that stands for the site's folder.
pub(super) const PLACE: &str = "/srv/slave";
pub(super) const DICT: &str = "statusform = dict\nverdicts = exact";
/// The content of the result of an ended build.
pub(super) const RESULT: &str = "Hello";
/// The spec of an entry; the format of its journal is in it.
pub(super) const SPEC: &str = "home/journal/b1/spec.json";

/// The folder of the fixture of a format.
pub(super) fn fixture(format: u64) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join(format!("tests/fixtures/journal/{format:04}"))
}

/// Returns the format that a spec states; format 1 states none.
pub(super) fn format_of(daemon: &Daemon) -> u64 {
    let spec: Json = serde_json::from_str(&daemon.read(SPEC)).unwrap();
    spec["format"].as_u64().unwrap_or(1)
}

/// Returns the limits of a build with control groups that no host has.
fn without_groups(limits: &str) -> String {
    let mut limits: Json = serde_json::from_str(limits).unwrap();
    for name in ["memory", "pids"] {
        if limits[name].is_string() {
            limits[name] = json!(format!("/sys/fs/cgroup/{name}/buildd-slave.service/b1"));
        }
    }
    limits.to_string()
}

/// Returns a log without this host's kernel.
fn without_kernel(log: &str) -> String {
    let line = |line: &str| match line.starts_with("Kernel: ") {
        true => "Kernel: Linux host.example.org 6.12.0 x86_64\n".to_owned(),
        false => line.to_owned() + "\n",
    };
    log.lines().map(line).collect()
}

/// Copies the entry to the fixture.
fn keep(daemon: &Daemon, state: &str) {
    let folder = fixture(format_of(daemon)).join(state);
    assert!(!folder.exists(), "{} exists", folder.display());
    fs::create_dir_all(&folder).unwrap();
    let place = daemon.path("").display().to_string();
    let place = place.trim_end_matches('/');
    for name in daemon.names("home/journal/b1") {
        let mut text = daemon.read(&format!("home/journal/b1/{name}"));
        match name.as_str() {
            "bounds" => text = without_groups(&text),
            "log" => text = without_kernel(&text),
            // 64 KiB of newlines.
            ".verdict" => text.truncate(1),
            _ => {}
        }
        fs::write(folder.join(name), text.replace(place, PLACE)).unwrap();
    }
}

fn build_to(daemon: &Daemon, stage: &str, args: Json) {
    daemon.reset();
    daemon.on(
        "sbuild",
        "echo sbuild is here; hold; printf Hello > $work/h.bin; changes h.bin",
    );
    daemon.build("b1", args);
    daemon.wait_at(stage);
    until("output in the log", || {
        daemon.log().contains("is here\n").then_some(())
    });
}

fn wait_shim(daemon: &Daemon) {
    until("the end of the build", || {
        daemon.strays().is_empty().then_some(())
    });
}

fn shim_pid(daemon: &Daemon) -> Pid {
    Pid::from_raw(daemon.read("home/journal/b1/lock").parse().unwrap())
}

#[test]
#[ignore = "writes tests/fixtures/journal"]
fn written() {
    let mut daemon = Daemon::start(DICT);
    let archives = json!({"archives": ["deb http://user:secret@a/ hardy main"], "suite": "hardy"});

    build_to(&daemon, "sbuild", archives.clone());
    daemon.kill();
    keep(&daemon, "running");
    daemon.let_go("sbuild");
    wait_shim(&daemon);
    keep(&daemon, "ended");
    daemon.restart();
    daemon.clean();

    daemon.reset();
    let script = "echo \"E: Couldn't find package libfoo\"; exit 1";
    daemon.on("sbuild", script);
    daemon.build_to_end("b1", json!({"archive_private": true}));
    keep(&daemon, "dep_wait");
    daemon.clean();

    build_to(&daemon, "sbuild", json!({}));
    daemon.on("umount", "hold");
    daemon.ok("abort", &[]);
    daemon.wait_at("umount");
    daemon.kill();
    keep(&daemon, "aborting");
    daemon.let_go("umount");
    wait_shim(&daemon);
    keep(&daemon, "aborted");
    daemon.restart();
    daemon.clean();

    build_to(&daemon, "sbuild", archives);
    daemon.kill();
    kill(shim_pid(&daemon), Signal::SIGKILL).unwrap();
    keep(&daemon, "dead");
}
