//! Builds that an abort must end, and builds that must survive.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::machine::machine;
use crate::support::package::Package;
use crate::support::real_slave::Slave;

/// Returns whether a process of this machine has `marker` in its command line.
fn lives(marker: &str) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .any(|line| String::from_utf8_lossy(&line).contains(marker))
}

#[test]
fn an_abort_ends_processes_that_ignore_signals() {
    let Some(machine) = machine() else { return };
    let slave = Slave::start(machine, "abort", "");
    let marker = "stubborn-marker-7341";
    // The processes are orphans in sessions of their own and ignore every signal they can.
    let script = format!(
        "stubborn() {{ setsid sh -c 'trap \"\" TERM HUP INT QUIT PIPE; : >up-$$; (while :; do sleep 1; done) & \
         while :; do sleep 1; done' {marker} & }}
         for n in 1 2 3 4 5; do (stubborn &); done
         trap '' TERM HUP INT
         until [ \"$(ls | grep -c ^up-)\" = 5 ]; do sleep 0.1; done
         echo all are up
         while :; do sleep 1; done"
    );
    slave.begin(&slave.pack(&Package::new("toy", script)), json!({}));
    slave.await_log("all are up");
    assert!(lives(marker));

    let asked = Instant::now();
    assert_eq!(slave.call("abort", &[]), json!("BuilderStatus.ABORTING"));
    let aborted = json!(["BuilderStatus.ABORTED", slave.id()]);
    let aborting = json!(["BuilderStatus.ABORTING", slave.id()]);
    loop {
        let status = slave.status();
        if status == aborted {
            break;
        }
        assert_eq!(status, aborting);
        assert!(
            asked.elapsed() < Duration::from_secs(3),
            "the abort takes too long"
        );
    }
    assert!(!lives(marker));
    slave.assert_gone();
    assert!(slave.log().contains("Aborted in SBUILD."));
    assert_eq!(slave.call("clean", &[]), json!("BuilderStatus.IDLE"));
}

#[test]
fn a_build_outlives_the_daemon_that_is_killed() {
    let Some(machine) = machine() else { return };
    let mut slave = Slave::start(machine, "killed", "");
    let package = Package::new("toy", "echo half way\nsleep 8\necho all the way");
    slave.begin(&slave.pack(&package), json!({}));
    slave.await_log("half way");
    slave.kill();
    slave.start_again();
    let status = slave.status();
    assert_eq!(status[0], "BuilderStatus.BUILDING");
    assert_eq!(status[1], json!(slave.id()));
    let ended = slave.end();
    ended.assert("OK");
    ended.assert_said("all the way");

    // The waiting results survive the next kill.
    slave.kill();
    slave.start_again();
    assert_eq!(slave.end().files, ended.files);
    slave.clean(&ended);
}

#[test]
fn a_build_too_large_for_the_memory_overlay_restarts_on_disk() {
    let Some(machine) = machine() else { return };
    let slave = Slave::start(
        machine,
        "layer",
        "overlay = tmpfs\n[limits]\nmemory_layer = 200M",
    );
    // The package removes the partial file before it fails, as compilers do.
    let script = "head -c 300M /dev/zero >big || { rm big; exit 1; }";
    let ended = slave.build(&Package::new("toy", script), json!({}));
    ended.assert("OK");
    ended.assert_said("layer in memory is full: once more, on disk");
    assert_eq!(ended.log.matches("] MOUNT").count(), 2);
    slave.clean(&ended);
}
