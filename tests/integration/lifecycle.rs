//! A build from `build` to `clean`: its stages and their programs (docs/wire.md §3.1, §3.4).
//!
//! A refused call changes nothing (docs/wire.md §2.4).

use std::fs;
use std::os::unix::fs::symlink;
use std::thread;

use serde_json::{Value as Json, json};

use crate::support::{Daemon, until};

/// Arguments that ask for every stage there is a site program for.
fn all_stages() -> Json {
    json!({"archives": ["deb http://a/ hardy main"], "ogrecomponent": "main"})
}

#[test]
fn site_programs_get_the_arguments_of_2008() {
    let daemon = Daemon::start("");
    let lines = [
        "deb http://a/ hardy main",
        "deb-src http://b/ hardy main universe",
    ];
    let args = json!({
        "archives": lines, "ogrecomponent": "universe", "suite": "hardy", "arch_indep": true,
        "archive_purpose": "PPA",
    });
    let status = daemon.build_to_end("8-1", args);
    assert_eq!(status["build_status"], "BuildStatus.OK");
    let tarball = daemon.path("home/filecache").join(daemon.chroot());
    let tarball = tarball.to_str().unwrap();
    let expect: [&[&str]; 9] = [
        &["unpack", "8-1", tarball],
        &["mount", "8-1"],
        &["ogre", "8-1", "universe"],
        &["sources", "8-1", lines[0], lines[1]],
        &["update", "8-1"],
        &[
            "sbuild",
            "8-1",
            "--nolog",
            "--batch",
            "--archive=ubuntu",
            "-A",
            "--purpose=PPA",
            "--dist=hardy",
            "--comp=universe",
            "hello_1.dsc",
        ],
        &["scan", "8-1"],
        &["umount", "8-1"],
        &["clean", "8-1"],
    ];
    assert_eq!(daemon.calls(), expect);
}

#[test]
fn a_build_without_arguments_skips_ogre_and_sources() {
    let daemon = Daemon::start("");
    daemon.build_to_end("b1", json!({}));
    assert_eq!(
        daemon.called(),
        "unpack mount update sbuild scan umount clean"
    );
    let expect = [
        "sbuild",
        "b1",
        "--nolog",
        "--batch",
        "--archive=ubuntu",
        "--dist=autobuild",
        "hello_1.dsc",
    ];
    assert_eq!(daemon.calls()[3], expect);
}

#[test]
fn both_names_of_the_build_type_are_accepted() {
    for form in ["", "statusform = dict\nverdicts = exact"] {
        let daemon = Daemon::start(form);
        for name in ["debian", "binarypackage"] {
            let mut parameters = daemon.parameters(name, json!({"suite": "sid", "series": "sid"}));
            parameters[1] = json!(name);
            assert_eq!(daemon.ok("build", &parameters)[0], "BuilderStatus.BUILDING");
            assert_eq!(daemon.wait_over()["build_status"], "BuildStatus.OK");
            daemon.clean();
        }
    }
}

#[test]
fn a_site_program_runs_in_home_with_a_fixed_environment() {
    let daemon = Daemon::start("");
    daemon.on(
        "update",
        "pwd -P; readlink $work/hello_1.dsc; cat; echo \"home=$HOME lang=$LANG\"; echo \
         \"options=$DEB_BUILD_OPTIONS\"; echo to stderr >&2",
    );
    daemon.build_to_end("b1", json!({}));
    let log = daemon.log();
    let home = daemon.path("home");
    let source = home.join("filecache").join(daemon.dsc());
    for line in [
        home.display().to_string(),
        source.display().to_string(),
        format!("home={} lang=C", home.display()),
        "options=noautodbgsym parallel=3".to_owned(),
        "to stderr".to_owned(),
    ] {
        assert!(
            log.lines().any(|found| found == line),
            "no {line:?} in {log}"
        );
    }
}

#[test]
fn each_failed_stage_has_its_verdict_and_closing_stages() {
    let daemon = Daemon::start("");
    let all = "unpack mount ogre sources update sbuild scan umount clean";
    for (stage, verdict, called) in [
        ("unpack", "CHROOTFAIL", "unpack clean"),
        ("mount", "CHROOTFAIL", "unpack mount umount clean"),
        ("ogre", "CHROOTFAIL", "unpack mount ogre scan umount clean"),
        (
            "sources",
            "CHROOTFAIL",
            "unpack mount ogre sources scan umount clean",
        ),
        (
            "update",
            "CHROOTFAIL",
            "unpack mount ogre sources update scan umount clean",
        ),
        ("sbuild", "BUILDERFAIL", all),
        ("scan", "OK", all),
        ("umount", "BUILDERFAIL", all),
        ("clean", "BUILDERFAIL", all),
    ] {
        for failure in ["exit 9", "kill -9 $$"] {
            daemon.reset();
            daemon.on(stage, failure);
            let status = daemon.build_to_end("b1", all_stages());
            let word = format!("BuildStatus.{verdict}");
            assert_eq!(status["build_status"], word, "{stage}: {}", daemon.log());
            assert_eq!(daemon.called(), called, "{stage}");
            daemon.clean();
        }
    }
    daemon.check_usable();
}

#[test]
fn a_program_that_cannot_be_started_fails_its_stage() {
    let daemon = Daemon::start("");
    fs::remove_file(daemon.path("bin/mount")).unwrap();
    let status = daemon.build_to_end("b1", json!({}));
    let verdict = status["build_status"].as_str().unwrap();
    assert!(["BuildStatus.CHROOTFAIL", "BuildStatus.BUILDERFAIL"].contains(&verdict));
    assert_eq!(daemon.called(), "unpack umount clean");
    let log = daemon.log();
    assert!(log.contains("mount: No such file or directory"), "{log}");
}

#[test]
fn trusted_keys_with_a_site_program_for_unpack_are_chrootfail() {
    let daemon = Daemon::start("");
    let status = daemon.build_to_end("b1", json!({"trusted_keys": ["a2V5"]}));
    assert_eq!(status["build_status"], "BuildStatus.CHROOTFAIL");
    assert_eq!(daemon.called(), "unpack mount scan umount clean");
}

#[test]
fn the_first_failure_decides_the_verdict() {
    let daemon = Daemon::start("");
    for stage in ["update", "umount", "clean"] {
        daemon.on(stage, "exit 1");
    }
    let status = daemon.build_to_end("b1", json!({}));
    assert_eq!(status["build_status"], "BuildStatus.CHROOTFAIL");
}

#[test]
fn a_read_only_home_is_builderfail_in_init() {
    let daemon = Daemon::start("");
    if !daemon.heeds_modes() {
        return;
    }
    let (home, modes) = (daemon.path("home"), [0o555, 0o755]);
    let set = |mode| {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(&home, fs::Permissions::from_mode(mode)).unwrap();
    };
    set(modes[0]);
    let status = daemon.build_to_end("b1", json!({}));
    set(modes[1]);
    assert_eq!(status["build_status"], "BuildStatus.BUILDERFAIL");
    assert_eq!(daemon.called(), "clean");
    daemon.clean();
    daemon.check_usable();
}

#[test]
fn fast_cleanup_skips_the_closing_stages() {
    let daemon = Daemon::start("");
    let status = daemon.build_to_end("b1", json!({"fast_cleanup": true}));
    assert_eq!(status["build_status"], "BuildStatus.OK");
    assert_eq!(daemon.called(), "unpack mount update sbuild scan");
    assert!(daemon.path("home/build-b1").exists());
    daemon.clean();
    daemon.check_usable();
}

#[test]
fn a_repeated_build_id_starts_with_an_empty_tree() {
    let daemon = Daemon::start("");
    fs::create_dir_all(daemon.path("home/build-b1/old")).unwrap();
    daemon.give(&daemon.path("home/build-b1"));
    daemon.give(&daemon.path("home/build-b1/old"));
    // A tree without a link to a build's file may belong to a person.
    let status = daemon.build_to_end("b1", json!({}));
    assert_eq!(status["build_status"], "BuildStatus.BUILDERFAIL");
    assert!(daemon.log().contains("is not the tree of a build"));
    daemon.clean();
    assert!(daemon.path("home/build-b1/old").exists());
    let file = daemon.path("home/filecache").join(daemon.dsc());
    symlink(file, daemon.path("home/build-b1/old.dsc")).unwrap();
    daemon.on("unpack", "ls $work");
    for _ in 0..2 {
        assert_eq!(
            daemon.build_to_end("b1", json!({}))["build_status"],
            "BuildStatus.OK"
        );
        assert!(!daemon.log().contains("old\n"), "{}", daemon.log());
        daemon.clean();
        assert_eq!(daemon.names("home"), ["filecache", "journal"]);
    }
}

#[test]
fn unknown_arguments_are_logged_by_name_without_values() {
    let daemon = Daemon::start("");
    let args = json!({"secrets": {"token": "hidden"}, "launchpad_instance": "shown-not"});
    assert_eq!(
        daemon.build_to_end("b1", args)["build_status"],
        "BuildStatus.OK"
    );
    let log = daemon.log();
    assert!(
        log.contains("secrets") && log.contains("launchpad_instance"),
        "{log}"
    );
    assert_eq!(daemon.files_holding("hidden"), [""; 0]);
    assert_eq!(daemon.files_holding("shown-not"), [""; 0]);
}

#[test]
fn the_build_url_is_the_first_line_of_the_log() {
    let daemon = Daemon::start("");
    daemon.build_to_end("b1", json!({"build_url": "https://launchpad.net/1"}));
    assert!(daemon.log().starts_with("https://launchpad.net/1\n"));
}

#[test]
fn invalid_build_arguments_are_refused_before_any_stage() {
    let daemon = Daemon::start("");
    let good = daemon.parameters("b1", json!({}));
    let dsc = good[3]["hello_1.dsc"].clone();
    let mut calls = Vec::new();
    for id in [
        "a/b",
        "../b1",
        "/b1",
        "-b1",
        ".b1",
        "b 1",
        "b\n1",
        "\u{e9}",
        &"x".repeat(129),
    ] {
        calls.push((0, json!(id)));
    }
    for files in [
        json!({}),
        json!({"hello_1.tar.gz": dsc}),
        json!({"a.dsc": dsc, "b.dsc": dsc}),
        json!({"a.dsc": dsc, "../../evil": dsc}),
        json!({"a.dsc": dsc, "/tmp/evil": dsc}),
        json!({"a.dsc": dsc, "": dsc}),
        json!({"a.dsc": dsc, "..": dsc}),
        json!({"a.dsc": dsc, "chroot-autobuild": dsc}),
        json!({"a.dsc": dsc, "-x": dsc}),
        json!([dsc]),
        Json::Null,
    ] {
        calls.push((3, files));
    }
    for args in [
        json!({"arch_indep": "yes"}),
        json!({"archives": "deb http://a/ b c"}),
        json!({"archives": [1]}),
        json!({"archives": ["deb http://a/ b c\ndeb http://evil/ b c"]}),
        json!({"trusted_keys": ["%"]}),
        json!({"suite": "--evil"}),
        json!({"suite": 1}),
        json!({"ogrecomponent": "a b"}),
        json!({"archive_purpose": "a\nb"}),
        json!({"build_url": ["x"]}),
        json!({"image_type": "lxd"}),
        json!({"fast_cleanup": "no"}),
        json!([]),
        Json::Null,
    ] {
        calls.push((4, args));
    }
    for (number, value) in calls {
        let mut parameters = good.clone();
        parameters[number] = value.clone();
        daemon.refused("build", &parameters);
        assert_eq!(daemon.state(), "IDLE", "{value}");
    }
    assert_eq!(daemon.called(), "");
    assert_eq!(daemon.names("home"), ["filecache", "journal"]);
    assert_eq!(daemon.get("/filecache/buildlog").status, 404);
    daemon.check_usable();
}

/// Vector 21 and the first defect of docs/wire.md §2.4. The reference took over the id of a refused
/// build and emptied the log.
#[test]
fn v21_a_refused_build_changes_nothing() {
    for form in ["", "statusform = dict\nverdicts = exact"] {
        let daemon = Daemon::start(form);
        daemon.on(
            "sbuild",
            "echo the log goes on; hold; printf x > $work/h.bin; changes h.bin",
        );
        daemon.build("b1", json!({}));
        daemon.wait_at("sbuild");
        let log = until("output", || {
            Some(daemon.log()).filter(|log| log.contains("goes on"))
        });
        let refuse = |state: &str| {
            let reason = daemon.refused("build", &daemon.parameters("b2", json!({})));
            assert!(reason.contains(state), "{reason}");
            // An invalid id changes nothing either.
            daemon.refused("build", &daemon.parameters("b/2", json!({})));
            let unknown = [
                json!("b2"),
                json!("nosuch"),
                json!(""),
                json!({}),
                json!({}),
            ];
            assert_eq!(
                daemon.ok("build", &unknown)[0],
                "BuilderStatus.UNKNOWNBUILDER"
            );
            assert_eq!(daemon.ok("status_dict", &[])["build_id"], "b1");
        };
        refuse("BUILDING");
        daemon.refused("clean", &[]);
        daemon.refused("proxy_info", &[]);
        assert_eq!(daemon.log(), log);
        daemon.let_go("sbuild");
        let status = daemon.wait_over();
        assert_eq!(status["build_status"], "BuildStatus.OK");
        let log = daemon.log();
        refuse("WAITING");
        daemon.refused("abort", &[]);
        assert_eq!(daemon.log(), log);
        assert_eq!(daemon.ok("status_dict", &[]), status);
        let journal = daemon.names("home/journal");
        assert!(journal.contains(&"b1".to_owned()) && !journal.contains(&"b2".to_owned()));
        assert!(!daemon.path("home/build-b2").exists());
        assert!(daemon.calls().iter().all(|call| call[1] == "b1"));
        daemon.clean();
    }
}

#[test]
fn one_of_several_simultaneous_builds_is_accepted() {
    let daemon = Daemon::start("");
    daemon.on("sbuild", "hold");
    let taken = thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|number| {
                let daemon = &daemon;
                scope.spawn(move || {
                    let parameters = daemon.parameters(&format!("b{number}"), json!({}));
                    daemon.call("build", &parameters).ok()
                })
            })
            .collect();
        let answers = threads
            .into_iter()
            .filter_map(|thread| thread.join().unwrap());
        answers.collect::<Vec<_>>()
    });
    assert_eq!(taken.len(), 1, "{taken:?}");
    assert_eq!(daemon.ok("status_dict", &[])["build_id"], taken[0][1]);
    daemon.let_go("sbuild");
    daemon.wait_over();
    assert_eq!(
        daemon.called(),
        "unpack mount update sbuild scan umount clean"
    );
}

#[test]
fn the_builder_waits_only_after_cleanup() {
    let daemon = Daemon::start("");
    daemon.on("clean", "hold; rm -rf $work");
    daemon.build("b1", json!({}));
    daemon.wait_at("clean");
    assert_eq!(daemon.state(), "BUILDING");
    daemon.let_go("clean");
    daemon.wait_over();
    assert_eq!(daemon.strays().len(), 0);
    assert!(!daemon.path("home/build-b1").exists());
}
