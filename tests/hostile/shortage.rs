//! A running daemon that gets no more file descriptors or threads, and later gets them again.

use std::os::unix::process::CommandExt;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};
use serde_json::json;

use super::crowd::crowd;
use super::siege::{Siege, attack_time};
use crate::support::{FileServer, run, sha1};

/// Sets a soft limit of the running daemon, by its name for `prlimit`.
fn limit(siege: &Siege, name: &str, most: u64) {
    let mut prlimit = std::process::Command::new("prlimit");
    // Root in a container may not change the limits of another user.
    if let Some(user) = siege.user() {
        prlimit.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    prlimit.args([
        format!("--pid={}", siege.pid()),
        format!("--{name}={most}:"),
    ]);
    let (code, said) = run(prlimit);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn a_daemon_out_of_file_descriptors_recovers() {
    let siege = Siege::start("");
    let from = vec![siege.attacker(); 2000];
    limit(&siege, "nofile", 64);
    let relief = Instant::now() + attack_time();
    let ending = relief + Duration::from_secs(2);
    std::thread::scope(|scope| {
        scope.spawn(|| crowd(siege.port, &from, ending, |caller| caller.hold()));
        siege.watch(relief);
        limit(&siege, "nofile", 4096);
        siege.watch(ending);
    });
    siege.check_service();
    siege.show("64 open files");
}

#[test]
fn a_daemon_out_of_threads_recovers() {
    let siege = Siege::start("");
    let files = FileServer::of(b"Hello World");
    let fetch = || {
        let url = json!(files.url("hello"));
        let params = [json!(sha1(b"Hello World")), url, json!(""), json!("")];
        siege.call("ensurepresent", &params)
    };
    // The first answer has started all threads that answers need.
    siege.check_status(siege.other_client());
    let (usual, _) = getrlimit(Resource::RLIMIT_NPROC).unwrap();
    limit(&siege, "nproc", 1);
    let from = vec![siege.attacker(); 8];
    let ending = Instant::now() + attack_time();
    std::thread::scope(|scope| {
        scope.spawn(|| crowd(siege.port, &from, ending, |caller| caller.hold()));
        // A build needs a process and is refused; other calls work.
        let build = siege.call("build", &siege.parameters("b1", json!({})));
        assert!(build.is_err(), "{build:?}");
        assert_eq!(siege.state(), "IDLE");
        let fetched = fetch();
        assert!(fetched.is_ok(), "{fetched:?}");
        siege.watch(ending);
    });
    limit(&siege, "nproc", usual);
    assert_eq!(fetch().unwrap()[0], true);
    siege.check_service();
    siege.check_usable();
    siege.show("no more threads");
}
