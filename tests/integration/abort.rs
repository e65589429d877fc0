//! An abort in any stage ends soon, leaves nothing behind and a usable builder (docs/wire.md §3.9).

use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use crate::support::{Daemon, until};

const DICT: &str = "statusform = dict\nverdicts = exact";
/// The longest that an abort may take.
const SOON: Duration = Duration::from_secs(4);

fn all_stages() -> Json {
    json!({"archives": ["deb http://a/ hardy main"], "ogrecomponent": "main"})
}

fn abort(daemon: &Daemon) {
    assert_eq!(daemon.ok("abort", &[]), json!("BuilderStatus.ABORTING"));
}

/// Starts a build and aborts it in `stage`, which has five processes that ignore signals.
fn abort_in(daemon: &Daemon, stage: &str) {
    daemon.on(
        stage,
        "echo in the middle; stubborn; : > \"$site/at-$name\"; sleep 1000",
    );
    daemon.build("b1", all_stages());
    daemon.wait_at(stage);
    until("five stubborn processes", || {
        let sleepers = daemon.strays();
        let sleepers = sleepers
            .iter()
            .filter(|process| process.command == "sleep 1000 ");
        (sleepers.count() == 5).then_some(())
    });
    abort(daemon);
}

#[test]
fn an_abort_in_any_stage_leaves_no_process_and_a_usable_builder() {
    let daemon = Daemon::start(DICT);
    for (stage, closing) in [
        ("unpack", "clean"),
        ("mount", "umount clean"),
        ("ogre", "scan umount clean"),
        ("sources", "scan umount clean"),
        ("update", "scan umount clean"),
        ("sbuild", "scan umount clean"),
    ] {
        daemon.reset();
        abort_in(&daemon, stage);
        let status = daemon.wait_for("WAITING", SOON);
        assert_eq!(daemon.strays().len(), 0, "{stage}: {:?}", daemon.strays());
        assert_eq!(status["build_status"], "BuildStatus.ABORTED", "{stage}");
        assert_eq!(status["build_id"], "b1");
        assert_eq!(
            (status.get("filemap"), status.get("dependencies")),
            (None, None)
        );
        assert!(
            daemon.called().ends_with(&format!("{stage} {closing}")),
            "{}",
            daemon.called()
        );
        assert!(daemon.log().contains("in the middle\n"), "the log is kept");
        assert!(!daemon.path("home/build-b1").exists());
        daemon.refused("abort", &[]);
        daemon.clean();
    }
    daemon.check_usable();
}

#[test]
fn an_abort_does_not_skip_the_closing_stages() {
    let daemon = Daemon::start(DICT);
    let before = daemon.names("home/filecache");
    for stage in ["scan", "umount", "clean"] {
        daemon.reset();
        daemon.on(stage, "hold; [ $name != clean ] || rm -rf $work");
        daemon.build("b1", json!({}));
        daemon.wait_at(stage);
        abort(&daemon);
        assert_eq!(daemon.state(), "ABORTING");
        daemon.let_go(stage);
        let status = daemon.wait_for("WAITING", SOON);
        assert_eq!(status["build_status"], "BuildStatus.ABORTED", "{stage}");
        assert_eq!(status.get("filemap"), None, "the results are lost");
        assert_eq!(
            daemon.called(),
            "unpack mount update sbuild scan umount clean"
        );
        daemon.clean();
        assert_eq!(
            daemon.names("home/filecache"),
            before,
            "the results are removed, {stage}"
        );
    }
    daemon.check_usable();
}

#[test]
fn a_closing_stage_that_hangs_delays_an_abort_by_seconds_only() {
    let daemon = Daemon::start("statusform = dict\nverdicts = exact\n[limits]\nabort_time = 1");
    daemon.on("umount", ": > \"$site/at-$name\"; sleep 1000");
    daemon.build("b1", json!({}));
    daemon.wait_at("umount");
    abort(&daemon);
    let status = daemon.wait_for("WAITING", Duration::from_secs(15));
    let verdict = status["build_status"].as_str().unwrap();
    assert!(
        ["BuildStatus.ABORTED", "BuildStatus.BUILDERFAIL"].contains(&verdict),
        "{verdict}"
    );
    assert_eq!(daemon.strays().len(), 0, "{:?}", daemon.strays());
    assert!(!daemon.path("home/build-b1").exists());
    daemon.clean();
    daemon.check_usable();
}

/// Vector 23, in both forms of `status`.
#[test]
fn v23_calls_during_an_abort_are_answered_by_its_rules() {
    for form in ["", DICT] {
        let daemon = Daemon::start(form);
        daemon.on("sbuild", "hold");
        daemon.on("umount", "hold");
        daemon.build("b1", json!({}));
        daemon.wait_at("sbuild");
        abort(&daemon);
        daemon.wait_at("umount");
        let status = daemon.ok("status", &[]);
        let expect = if form.is_empty() {
            json!(["BuilderStatus.ABORTING", "b1"])
        } else {
            let version = &status["builder_version"];
            json!({
                "builder_status": "BuilderStatus.ABORTING", "build_id": "b1",
                "builder_version": version,
            })
        };
        assert_eq!(status, expect);
        abort(&daemon);
        for method in ["clean", "proxy_info"] {
            let reason = daemon.refused(method, &[]);
            assert!(reason.contains("ABORTING"), "{reason}");
        }
        daemon.refused("build", &daemon.parameters("b2", json!({})));
        let present = [json!(daemon.dsc()), Json::Null, json!(""), json!("")];
        assert_eq!(
            daemon.ok("ensurepresent", &present),
            json!([true, "No URL"])
        );
        assert_eq!(daemon.ok("status", &[]), expect);
        assert!(
            daemon.log().contains("Aborted in SBUILD"),
            "the log can be read"
        );
        daemon.let_go("umount");
        daemon.wait_for("WAITING", SOON);
        daemon.clean();
        daemon.check_usable();
    }
}

#[test]
fn an_aborted_build_waits_as_aborted_in_the_tuple_form() {
    let daemon = Daemon::start("");
    daemon.on("sbuild", "hold");
    daemon.build("b1", json!({}));
    daemon.wait_at("sbuild");
    abort(&daemon);
    daemon.wait_for("WAITING", SOON);
    assert_eq!(
        daemon.ok("status", &[]),
        json!(["BuilderStatus.ABORTED", "b1"])
    );
    daemon.refused("abort", &[]);
    daemon.refused("build", &daemon.parameters("b2", json!({})));
    assert!(daemon.log().contains("Aborted in SBUILD"));
    daemon.clean();
    assert_eq!(daemon.ok("status", &[]), json!(["BuilderStatus.IDLE", ""]));
}

#[test]
fn an_abort_right_after_the_build_call_succeeds() {
    let daemon = Daemon::start(DICT);
    daemon.on("sbuild", "sleep 1000");
    for round in 0..20 {
        daemon.build("b1", json!({}));
        abort(&daemon);
        let status = daemon.wait_for("WAITING", SOON);
        let log = daemon.log();
        assert_eq!(
            status["build_status"], "BuildStatus.ABORTED",
            "round {round}: {log}"
        );
        assert_eq!(
            daemon.names("home"),
            ["filecache", "journal"],
            "round {round}"
        );
        daemon.clean();
    }
}

#[test]
fn an_abort_ends_processes_that_keep_forking() {
    let daemon = Daemon::start(DICT);
    daemon.on(
        "sbuild",
        "trap '' TERM; for i in $(seq 100); do setsid sleep 1000 & done; : > \"$site/at-$name\"; \
         for i in $(seq 1000); do (setsid sleep 1000 &); sleep 0.01; done",
    );
    daemon.build("b1", json!({}));
    daemon.wait_at("sbuild");
    abort(&daemon);
    let status = daemon.wait_for("WAITING", SOON);
    assert_eq!(status["build_status"], "BuildStatus.ABORTED");
    assert_eq!(daemon.strays().len(), 0);
}

#[test]
fn an_abort_replaces_the_verdict_of_a_failed_build() {
    let daemon = Daemon::start(DICT);
    daemon.on("sbuild", "exit 3");
    daemon.on("umount", "hold");
    daemon.build("b1", json!({}));
    daemon.wait_at("umount");
    abort(&daemon);
    daemon.let_go("umount");
    let status = daemon.wait_for("WAITING", SOON);
    assert_eq!(status["build_status"], "BuildStatus.ABORTED");
}

#[test]
fn an_abort_is_answered_at_once() {
    let daemon = Daemon::start(DICT);
    daemon.on("sbuild", "hold");
    daemon.on("umount", "hold");
    daemon.build("b1", json!({}));
    daemon.wait_at("sbuild");
    let begun = Instant::now();
    abort(&daemon);
    abort(&daemon);
    assert!(begun.elapsed() < Duration::from_secs(1));
    daemon.let_go("umount");
    daemon.wait_for("WAITING", SOON);
}
