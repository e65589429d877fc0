//! The verdict from the exit code and the log of the build program, and from the timeouts: the 2008
//! columns of docs/wire.md §3.5 and §3.7.

use std::fs;

use serde_json::{Value as Json, json};

use crate::support::{Daemon, Site};

/// Builds with a program that prints `log` and ends with the command `end`; returns the verdict
/// without its prefix, and the dependencies.
fn verdict(daemon: &Daemon, log: &str, end: &str) -> (String, String) {
    daemon.on("sbuild", &format!("cat << 'END'\n{log}\nEND\n{end}"));
    daemon.build("b1", json!({}));
    let dict = daemon.wait_over();
    let tuple = daemon.ok("status", &[]);
    let word = dict["build_status"].as_str().unwrap();
    assert_eq!(tuple[0], "BuilderStatus.WAITING");
    assert_eq!((&tuple[1], &tuple[2]), (&json!(word), &json!("b1")));
    let word = word.strip_prefix("BuildStatus.").unwrap().to_owned();
    // Masters unpack exactly two items after the third, for these three words only.
    let tells = ["OK", "PACKAGEFAIL", "DEPFAIL"].contains(&word.as_str());
    assert_eq!(tuple.as_array().unwrap().len(), if tells { 5 } else { 3 });
    assert_eq!(dict.get("filemap").is_some(), tells);
    assert_eq!(dict.get("dependencies").is_some(), tells);
    let dependencies = dict
        .get("dependencies")
        .map_or("", |text| text.as_str().unwrap());
    let result = (word, dependencies.to_owned());
    daemon.clean();
    result
}

#[test]
fn each_exit_code_has_its_verdict() {
    let daemon = Daemon::start("");
    for (end, word) in [
        ("exit 1", "PACKAGEFAIL"),
        ("exit 2", "GIVENBACK"),
        ("exit 3", "PACKAGEFAIL"),
        ("exit 4", "BUILDERFAIL"),
        ("exit 5", "BUILDERFAIL"),
        ("exit 137", "BUILDERFAIL"),
        ("exit 255", "BUILDERFAIL"),
        ("kill -TERM $$", "BUILDERFAIL"),
        ("kill -KILL $$", "BUILDERFAIL"),
    ] {
        let found = verdict(&daemon, "", end);
        assert_eq!(found, (word.to_owned(), String::new()), "{end}");
    }
    daemon.check_usable();
}

/// Builds with a program that gives the build back, then with one that fails; returns what the
/// answers to `status` say of each.
fn told(daemon: &Daemon) -> [Json; 2] {
    ["exit 2", "exit 4"].map(|end| {
        daemon.on("sbuild", end);
        daemon.build("b1", json!({}));
        daemon.wait_over();
        let status = daemon.ok("status", &[]);
        let log = daemon.log();
        let verdict = if end == "exit 2" {
            "GIVENBACK: "
        } else {
            "BUILDERFAIL: "
        };
        assert!(log.lines().last().unwrap().contains(verdict), "{log}");
        daemon.clean();
        match status {
            Json::Array(items) => {
                assert_eq!(items.len(), 3, "{items:?}");
                json!([items[1], Json::Null])
            }
            members => {
                assert_eq!(members.get("filemap"), None, "{members}");
                json!([members["build_status"], members["exact_status"]])
            }
        }
    })
}

#[test]
fn launchpad_is_told_no_givenback_by_default_in_the_dict_form() {
    let chroot = "BuildStatus.CHROOTFAIL";
    let given_back = "BuildStatus.GIVENBACK";
    let builder = json!(["BuildStatus.BUILDERFAIL", null]);
    for (settings, expected) in [
        ("", json!([given_back, null])),
        ("verdicts = launchpad", json!([chroot, null])),
        ("statusform = dict", json!([chroot, given_back])),
        (
            "statusform = dict\nverdicts = exact",
            json!([given_back, null]),
        ),
    ] {
        let daemon = Daemon::start(settings);
        assert_eq!(told(&daemon), [expected, builder.clone()], "{settings}");
    }
}

#[test]
fn a_configuration_of_launchpad_buildd_answers_as_its_master_expects() {
    let site = Site::new("");
    let text = fs::read_to_string(site.config()).unwrap();
    fs::write(site.config(), text.replace("[slave]\n", "[builder]\n")).unwrap();
    let daemon = Daemon::start_in(site);
    let status = daemon.ok("status", &[]);
    assert_eq!(status["builder_status"], "BuilderStatus.IDLE");
    let info = daemon.ok("info", &[]);
    assert_eq!(info, json!(["1.0", "i386", ["binarypackage"]]));
    let [given_back, _] = told(&daemon);
    let expected = json!(["BuildStatus.CHROOTFAIL", "BuildStatus.GIVENBACK"]);
    assert_eq!(given_back, expected);
}

#[test]
fn missing_dependencies_in_the_log_are_depfail_after_exit_code_1() {
    let daemon = Daemon::start("");
    for (log, dependencies) in [
        (
            "libfoo-dev(inst 1.0 ! >> wanted 1.2)",
            "libfoo-dev (>> 1.2)",
        ),
        (
            "libfoo-dev(inst 1.0 ! >= wanted 1.2)",
            "libfoo-dev (>= 1.2)",
        ),
        ("libfoo-dev(inst 1.0 ! = wanted 1.2)", "libfoo-dev (>= 1.2)"),
        ("E: Couldn't find package libfoo-dev", "libfoo-dev"),
        (
            "E: Package libfoo-dev has no installation candidate",
            "libfoo-dev",
        ),
        (
            "E: Package 'libfoo-dev' has no installation candidate",
            "libfoo-dev",
        ),
        ("E: Unable to locate package libfoo-dev", "libfoo-dev"),
        (
            "E: Couldn't find package a\nE: Couldn't find package b",
            "b",
        ),
        (
            "E: Couldn't find package a\nb(inst 1 ! >= wanted 2)",
            "b (>= 2)",
        ),
    ] {
        let expect = ("DEPFAIL".to_owned(), dependencies.to_owned());
        assert_eq!(verdict(&daemon, log, "exit 1"), expect, "{log}");
    }
    let log = "E: Couldn't find package libfoo-dev";
    for (end, word) in [
        ("exit 2", "GIVENBACK"),
        ("exit 3", "PACKAGEFAIL"),
        ("exit 4", "BUILDERFAIL"),
    ] {
        assert_eq!(verdict(&daemon, log, end).0, word, "{end}");
    }
}

#[test]
fn transient_errors_in_the_log_are_givenback() {
    let daemon = Daemon::start("");
    for log in [
        "E: There are problems and -y was used without --force-yes",
        "Command 'gcc' terminated by signal 4",
        "make: *** [all] Illegal instruction",
    ] {
        for end in ["exit 1", "exit 3"] {
            assert_eq!(verdict(&daemon, log, end).0, "GIVENBACK", "{log}, {end}");
        }
    }
}

#[test]
fn a_build_without_output_runs_into_the_silence_timeout() {
    let daemon = Daemon::start("[limits]\nsilence = 1");
    let (word, _) = verdict(&daemon, "and now nothing", "stubborn; sleep 1000");
    assert_eq!(word, "PACKAGEFAIL");
    assert_eq!(daemon.strays().len(), 0);
    assert!(daemon.called().ends_with("sbuild scan umount clean"));
}

#[test]
fn a_build_that_takes_too_long_is_packagefail() {
    let daemon = Daemon::start("[limits]\nbuild_time = 2");
    let (word, _) = verdict(&daemon, "", "while sleep 0.1; do echo busy; done");
    assert_eq!(word, "PACKAGEFAIL");
    assert_eq!(daemon.strays().len(), 0);
}

#[test]
fn a_stage_that_takes_too_long_is_chrootfail() {
    let daemon = Daemon::start("[limits]\nstage_time = 1");
    daemon.on("update", "stubborn; sleep 1000");
    let status = daemon.build_to_end("b1", json!({}));
    assert_eq!(status["build_status"], "BuildStatus.CHROOTFAIL");
    assert!(
        daemon.log().contains("UPDATE took longer"),
        "{}",
        daemon.log()
    );
    assert_eq!(daemon.strays().len(), 0);
}

#[test]
fn a_long_log_keeps_its_head_and_its_tail() {
    let daemon = Daemon::start("[limits]\nlog_size = 64K");
    daemon.on(
        "sbuild",
        "echo the head; yes | head -c 300000; echo the tail; exit 3",
    );
    let status = daemon.build_to_end("b1", json!({}));
    assert_eq!(status["build_status"], "BuildStatus.PACKAGEFAIL");
    let log = daemon.log();
    assert!(log.contains("the head") && log.contains("the tail"));
    assert!(log.len() < 80_000, "{} bytes", log.len());
}
