//! What becomes of a build when the daemon, or the process that does the build, goes away
//! (slave spec §5, daemon restart): it is never forgotten.

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

/// Has every stage hold, and then do its work.
fn hold_everywhere(daemon: &Daemon) {
    for stage in STAGES {
        let work = match stage {
            "sbuild" => "printf Hello > $work/h.deb; changes h.deb",
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
    let sum = status["filemap"]["h.deb"].as_str().unwrap();
    assert_eq!(daemon.get(&format!("/filecache/{sum}")).text(), "Hello");
    assert_eq!(
        daemon.called(),
        STAGES.join(" "),
        "each stage was done once"
    );
    daemon.clean();
    daemon.check_usable();
}

#[test]
fn a_build_survives_the_death_of_the_daemon_in_every_stage() {
    a_build_survives(Daemon::kill);
}

#[test]
fn a_build_survives_a_stop_of_the_daemon_in_every_stage() {
    a_build_survives(Daemon::stop);
}

#[test]
fn a_build_ends_while_no_daemon_is_there() {
    let mut daemon = Daemon::start("");
    daemon.on("sbuild", "hold; printf Hello > $work/h.deb; changes h.deb");
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
                status[3]["h.deb"].as_str().unwrap()
            ))
            .text(),
        "Hello"
    );
    daemon.clean();
    daemon.check_usable();
}

#[test]
fn what_waits_is_the_same_after_a_restart() {
    for form in ["", "statusform = dict"] {
        let mut daemon = Daemon::start(form);
        let cached = daemon.names("home/filecache");
        for (script, verdict) in [
            ("printf Hello > $work/h.deb; changes h.deb", "OK"),
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
                let sum = waiting["filemap"]["h.deb"].as_str().unwrap();
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
fn an_abort_goes_on_after_a_restart() {
    let mut daemon = Daemon::start("statusform = dict");
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

/// The build may be done when an abort comes: what was answered then holds after a restart too.
#[test]
fn an_abort_that_came_too_late_for_the_build_is_still_one_after_a_restart() {
    let mut daemon = Daemon::start("statusform = dict");
    let before = daemon.names("home/filecache");
    daemon.build_to_end("b1", json!({}));
    daemon.kill();
    // What an abort leaves in the journal between the verdict and the daemon's look at it.
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

/// The end of every build whose shim has died: the builder's failure, and a clean slate.
fn check_buried(daemon: &Daemon, stage: &str) {
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
fn a_build_whose_process_is_killed_failed_on_the_builder() {
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
        check_buried(&daemon, stage);
    }
}

#[test]
fn the_daemon_and_the_process_of_the_build_are_killed() {
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
        check_buried(&daemon, stage);
    }
}

#[test]
fn the_process_of_an_adopted_build_is_killed() {
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
    check_buried(&daemon, "sbuild");
}

#[test]
fn processes_that_left_the_session_do_not_outlive_a_killed_build() {
    let daemon = Daemon::start("");
    daemon.on("sbuild", "echo $name is here; stubborn; hold");
    daemon.build("b1", json!({}));
    daemon.wait_at("sbuild");
    until("output in the log", || {
        daemon.log().contains("is here\n").then_some(())
    });
    kill_shim(&daemon);
    check_buried(&daemon, "sbuild");
}

#[test]
fn a_second_daemon_does_not_start() {
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
    assert_eq!(daemon.state(), "BUILDING", "the first goes on");
    daemon.let_go("sbuild");
    assert_eq!(daemon.wait_over()["build_status"], "BuildStatus.GIVENBACK");
}

#[test]
fn what_a_crash_left_half_done_is_swept() {
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
