//! A build is never forgotten when the daemon or its shim dies (docs/wire.md §5, daemon restart).

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value as Json, json};

use crate::support::{Daemon, Site, run, until};

const STAGES: [&str; 9] = [
    "unpack", "mount", "ogre", "sources", "update", "sbuild", "scan", "umount", "clean",
];

fn all_stages() -> Json {
    json!({"archives": ["deb http://a/ hardy main"], "ogrecomponent": "main"})
}

/// Makes every stage wait at its `hold` before it does its work.
fn hold_everywhere(daemon: &Daemon) {
    for stage in STAGES {
        let work = match stage {
            "sbuild" => "printf Hello > $work/h.bin; changes h.bin",
            "clean" => "rm -rf $work",
            _ => "",
        };
        daemon.on(stage, &format!("echo $name is here; hold; {work}"));
    }
}

fn a_build_survives(mut end: impl FnMut(&mut Daemon)) {
    let mut daemon = Daemon::start("");
    hold_everywhere(&daemon);
    daemon.build("b1", all_stages());
    for stage in STAGES {
        daemon.wait_at(stage);
        end(&mut daemon);
        daemon.restart();
        let status = daemon.ok("status", &[]);
        let expect = [json!("BuilderStatus.BUILDING"), json!("b1")];
        assert_eq!(status.as_array().unwrap()[..2], expect, "{stage}");
        assert!(
            daemon.log_tail().contains(&format!("{stage} is here")),
            "{stage}"
        );
        daemon.refused("build", &daemon.parameters("b2", json!({})));
        daemon.refused("clean", &[]);
        daemon.let_go(stage);
    }
    let status = daemon.wait_over();
    assert_eq!(status["build_status"], "BuildStatus.OK");
    let sum = status["filemap"]["h.bin"].as_str().unwrap();
    assert_eq!(daemon.get(&format!("/filecache/{sum}")).text(), "Hello");
    assert_eq!(daemon.called(), STAGES.join(" "), "each stage ran once");
    daemon.clean();
    daemon.check_usable();
}

#[test]
fn a_build_survives_a_kill_of_the_daemon_in_every_stage() {
    a_build_survives(Daemon::kill);
}

#[test]
fn a_build_survives_a_stop_of_the_daemon_in_every_stage() {
    a_build_survives(Daemon::stop);
}

#[test]
fn a_build_that_ends_without_a_daemon_keeps_its_verdict() {
    let mut daemon = Daemon::start("");
    daemon.on("sbuild", "hold; printf Hello > $work/h.bin; changes h.bin");
    daemon.build("b1", json!({}));
    daemon.wait_at("sbuild");
    daemon.kill();
    daemon.let_go("sbuild");
    until("end of the build", || {
        daemon.strays().is_empty().then_some(())
    });
    daemon.restart();
    let status = daemon.ok("status", &[]);
    assert_eq!(
        (&status[1], &status[2]),
        (&json!("BuildStatus.OK"), &json!("b1"))
    );
    assert_eq!(
        daemon
            .get(&format!(
                "/filecache/{}",
                status[3]["h.bin"].as_str().unwrap()
            ))
            .text(),
        "Hello"
    );
    daemon.clean();
    daemon.check_usable();
}

#[test]
fn a_waiting_build_is_the_same_after_a_restart() {
    for form in ["", "statusform = dict\nverdicts = exact"] {
        let mut daemon = Daemon::start(form);
        let cached = daemon.names("home/filecache");
        for (script, verdict) in [
            ("printf Hello > $work/h.bin; changes h.bin", "OK"),
            (
                "echo \"E: Couldn't find package libfoo\"; exit 1",
                "DEPFAIL",
            ),
            ("exit 2", "GIVENBACK"),
            ("exit 3", "PACKAGEFAIL"),
            ("exit 4", "BUILDERFAIL"),
            ("hold", "ABORTED"),
        ] {
            daemon.reset();
            daemon.on("sbuild", script);
            daemon.build("b1", json!({}));
            if verdict == "ABORTED" {
                daemon.wait_at("sbuild");
                daemon.ok("abort", &[]);
            }
            let waiting = daemon.wait_over();
            assert_eq!(waiting["build_status"], format!("BuildStatus.{verdict}"));
            let before = (daemon.ok("status", &[]), daemon.log());
            daemon.stop();
            daemon.restart();
            assert_eq!((daemon.ok("status", &[]), daemon.log()), before);
            daemon.kill();
            daemon.restart();
            assert_eq!((daemon.ok("status", &[]), daemon.log()), before);
            if verdict == "OK" {
                let sum = waiting["filemap"]["h.bin"].as_str().unwrap();
                assert_eq!(daemon.get(&format!("/filecache/{sum}")).text(), "Hello");
            }
            daemon.clean();
            assert_eq!(daemon.names("home/filecache"), cached);
            daemon.kill();
            daemon.restart();
            assert_eq!(daemon.state(), "IDLE");
        }
    }
}

#[test]
fn an_abort_continues_after_a_restart() {
    let mut daemon = Daemon::start("statusform = dict\nverdicts = exact");
    daemon.on("sbuild", "hold");
    daemon.on("umount", "hold");
    daemon.build("b1", json!({}));
    daemon.wait_at("sbuild");
    daemon.ok("abort", &[]);
    daemon.wait_at("umount");
    daemon.kill();
    daemon.restart();
    assert_eq!(daemon.state(), "ABORTING");
    assert_eq!(daemon.ok("abort", &[]), json!("BuilderStatus.ABORTING"));
    daemon.let_go("umount");
    assert_eq!(daemon.wait_over()["build_status"], "BuildStatus.ABORTED");
    daemon.clean();
    daemon.check_usable();
}

/// The answer to an abort holds after a restart, even if the build had ended.
#[test]
fn an_abort_after_the_verdict_still_counts_after_a_restart() {
    let mut daemon = Daemon::start("statusform = dict\nverdicts = exact");
    let before = daemon.names("home/filecache");
    daemon.build_to_end("b1", json!({}));
    daemon.kill();
    // An abort leaves this file if it comes after the verdict, before the daemon has read it.
    std::fs::write(daemon.path("home/journal/b1/abort"), "").unwrap();
    daemon.restart();
    let status = daemon.ok("status", &[]);
    assert_eq!(status["build_status"], "BuildStatus.ABORTED");
    assert_eq!(status.get("filemap"), None);
    daemon.clean();
    assert_eq!(daemon.names("home/filecache"), before);
}

fn shim_pid(daemon: &Daemon) -> i32 {
    daemon.read("home/journal/b1/lock").parse().unwrap()
}

fn kill_shim(daemon: &Daemon) {
    kill(Pid::from_raw(shim_pid(daemon)), Signal::SIGKILL).unwrap();
}

/// Checks that a build whose shim has died is BUILDERFAIL and leaves nothing behind.
fn check_builderfail(daemon: &Daemon, stage: &str) {
    let status = daemon.wait_over();
    assert_eq!(status["build_status"], "BuildStatus.BUILDERFAIL", "{stage}");
    assert_eq!(status["build_id"], "b1");
    assert_eq!(daemon.strays().len(), 0, "{stage}: {:?}", daemon.strays());
    assert!(!daemon.path("home/build-b1").exists(), "{stage}");
    let log = daemon.log();
    assert!(
        log.contains(&format!("{stage} is here\n")),
        "{stage}: {log}"
    );
    daemon.clean();
    daemon.check_usable();
}

#[test]
fn a_killed_shim_is_builderfail() {
    let daemon = Daemon::start("");
    for stage in ["unpack", "update", "sbuild", "umount", "clean"] {
        daemon.reset();
        daemon.on(stage, "echo $name is here; sleep 1000 & hold");
        daemon.build("b1", json!({}));
        daemon.wait_at(stage);
        until("output in the log", || {
            daemon.log().contains("is here\n").then_some(())
        });
        kill_shim(&daemon);
        check_builderfail(&daemon, stage);
    }
}

#[test]
fn a_killed_shim_and_daemon_are_builderfail_after_a_restart() {
    let mut daemon = Daemon::start("");
    for stage in ["unpack", "sbuild", "clean"] {
        daemon.reset();
        daemon.on(stage, "echo $name is here; sleep 1000 & hold");
        daemon.build("b1", json!({}));
        daemon.wait_at(stage);
        until("output in the log", || {
            daemon.log().contains("is here\n").then_some(())
        });
        daemon.kill();
        kill_shim(&daemon);
        daemon.restart();
        check_builderfail(&daemon, stage);
    }
}

#[test]
fn a_shim_killed_after_a_restart_is_builderfail() {
    let mut daemon = Daemon::start("");
    daemon.on("sbuild", "echo $name is here; sleep 1000 & hold");
    daemon.build("b1", json!({}));
    daemon.wait_at("sbuild");
    until("output in the log", || {
        daemon.log().contains("is here\n").then_some(())
    });
    daemon.kill();
    daemon.restart();
    assert_eq!(daemon.state(), "BUILDING");
    kill_shim(&daemon);
    check_builderfail(&daemon, "sbuild");
}

#[test]
fn processes_in_other_sessions_die_with_a_killed_shim() {
    let daemon = Daemon::start("");
    daemon.on("sbuild", "echo $name is here; stubborn; hold");
    daemon.build("b1", json!({}));
    daemon.wait_at("sbuild");
    until("output in the log", || {
        daemon.log().contains("is here\n").then_some(())
    });
    kill_shim(&daemon);
    check_builderfail(&daemon, "sbuild");
}

#[test]
fn a_second_daemon_on_one_journal_does_not_start() {
    let daemon = Daemon::start("");
    daemon.on("sbuild", "hold; exit 2");
    daemon.build("b1", json!({}));
    daemon.wait_at("sbuild");
    let config = daemon.config();
    let (code, said) = run(daemon.command(&["serve", "--config", config.to_str().unwrap()]));
    assert_eq!(code, Some(1), "{said}");
    let journal = daemon.path("home/journal").display().to_string();
    assert!(said.contains(&journal), "{said}");
    assert!(!said.contains("ready"), "{said}");
    assert_eq!(daemon.state(), "BUILDING", "the first daemon runs");
    daemon.let_go("sbuild");
    assert_eq!(daemon.wait_over()["build_status"], "BuildStatus.GIVENBACK");
}

#[test]
fn half_written_files_of_a_crash_are_removed_at_start() {
    let site = Site::new("");
    let cached = site.names("home/filecache");
    for folder in [
        "home/journal",
        "home/journal/.new-b1",
        "home/journal/.old-7",
    ] {
        std::fs::create_dir(site.path(folder)).unwrap();
        site.give(&site.path(folder));
    }
    let temporary = site.path("home/filecache/.tmp-1-2");
    std::fs::write(&temporary, "half a file").unwrap();
    site.give(&temporary);
    let daemon = Daemon::start_in(site);
    assert_eq!(daemon.state(), "IDLE");
    assert_eq!(daemon.names("home/filecache"), cached);
    let journal = daemon.names("home/journal");
    assert!(
        !journal
            .iter()
            .any(|name| name.starts_with(".new") || name.starts_with(".old"))
    );
    daemon.check_usable();
}

#[test]
fn the_port_is_free_after_a_stop() {
    let mut daemon = Daemon::start("");
    let port = daemon.port;
    daemon.stop();
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
}
