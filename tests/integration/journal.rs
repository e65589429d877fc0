//! A damaged or foreign journal (docs/wire.md §5, daemon restart).
//!
//! The daemon starts, reports what it can read, and `clean` makes the builder IDLE.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;

use crate::support::Daemon;

const DICT: &str = "statusform = dict\nverdicts = exact";
/// Every file of an entry.
const FILES: [&str; 9] = [
    "spec.json",
    "lock",
    "stages",
    "results",
    "log",
    "abort",
    "verdict.json",
    ".verdict",
    "shim.err",
];

/// The damage to a file.
#[derive(Debug, Clone)]
enum Damage {
    Cut(usize),
    Garbage(Vec<u8>),
    Missing,
    Folder,
    Unreadable,
}

fn damage(daemon: &Daemon, file: &str, damage: &Damage) {
    let path = daemon.path("home/journal/b1").join(file);
    let text = fs::read(&path).unwrap_or_default();
    let _ = fs::remove_file(&path);
    match damage {
        Damage::Cut(len) => fs::write(&path, &text[..*len.min(&text.len())]).unwrap(),
        Damage::Garbage(bytes) => fs::write(&path, bytes).unwrap(),
        Damage::Missing => return,
        Damage::Folder => fs::create_dir_all(path.join("in it")).unwrap(),
        Damage::Unreadable => fs::write(&path, &text).unwrap(),
    }
    daemon.give(&path);
    if matches!(damage, Damage::Folder) {
        daemon.give(&path.join("in it"));
    }
    if matches!(damage, Damage::Unreadable) {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    }
}

/// The damages to a file of about `len` bytes.
fn damages(len: usize) -> Vec<Damage> {
    let mut damages = vec![
        Damage::Garbage(b"{\"status\":".to_vec()),
        Damage::Garbage((0..=255).cycle().take(5000).collect()),
        Damage::Missing,
        Damage::Folder,
        Damage::Unreadable,
    ];
    damages.extend([0, len / 2, len.saturating_sub(1)].map(Damage::Cut));
    damages
}

/// Checks that the daemon starts, that the build waits, and that `clean` forgets it.
fn check_recovers(daemon: &mut Daemon, what: &str) {
    daemon.restart();
    let status = daemon.ok("status_dict", &[]);
    assert_eq!(status["builder_status"], "BuilderStatus.WAITING", "{what}");
    assert_eq!(status["build_id"], "b1", "{what}");
    assert_eq!(daemon.strays().len(), 0, "{what}: {:?}", daemon.strays());
    let answer = daemon.get("/filecache/buildlog");
    assert!([200, 404].contains(&answer.status), "{what}");
    daemon.clean();
    assert_eq!(daemon.names("home/journal"), [""; 0], "{what}");
    daemon.kill();
}

/// Ends a build, kills the daemon and moves the journal entry away, for [`put_back`].
fn entry_of_a_build(daemon: &mut Daemon) {
    daemon.build_to_end("b1", json!({}));
    daemon.kill();
    fs::rename(daemon.path("home/journal/b1"), daemon.path("entry")).unwrap();
}

fn put_back(daemon: &Daemon) {
    let mut copy = Command::new("cp");
    copy.arg("-a")
        .arg(daemon.path("entry"))
        .arg(daemon.path("home/journal/b1"));
    assert!(copy.status().unwrap().success());
}

#[test]
fn a_damaged_entry_of_an_ended_build_can_be_cleaned() {
    let mut daemon = Daemon::start(DICT);
    entry_of_a_build(&mut daemon);
    for file in FILES {
        let len = match file {
            "spec.json" => 1500,
            "verdict.json" | "log" => 500,
            _ => 4,
        };
        for case in damages(len) {
            put_back(&daemon);
            damage(&daemon, file, &case);
            check_recovers(&mut daemon, &format!("{file} {case:?}"));
        }
    }
    daemon.restart();
    daemon.check_usable();
    daemon.check_cache();
}

#[test]
fn a_damaged_entry_of_a_running_build_can_be_aborted_and_cleaned() {
    let mut daemon = Daemon::start(DICT);
    for file in ["spec.json", "lock", "stages", "abort", "verdict.json"] {
        let mut cases = damages(100);
        if !["spec.json", "lock"].contains(&file) {
            cases.retain(|case| matches!(case, Damage::Garbage(_) | Damage::Folder));
        }
        for case in cases {
            let what = format!("{file} {case:?}");
            daemon.reset();
            daemon.on("sbuild", "stubborn; hold");
            daemon.build("b1", json!({}));
            daemon.wait_at("sbuild");
            daemon.kill();
            damage(&daemon, file, &case);
            daemon.restart();
            // The builder may be in any state but IDLE.
            match daemon.state().as_str() {
                "BUILDING" => {
                    daemon.ok("abort", &[]);
                }
                "ABORTING" | "WAITING" => {}
                state => panic!("{what}: {state}"),
            }
            let status = daemon.wait_for("WAITING", Duration::from_secs(20));
            let verdict = &status["build_status"];
            let expect = ["BuildStatus.ABORTED", "BuildStatus.BUILDERFAIL"];
            assert!(
                expect.iter().any(|word| verdict == word),
                "{what}: {verdict}"
            );
            assert_eq!(daemon.strays().len(), 0, "{what}: {:?}", daemon.strays());
            daemon.kill();
            check_recovers(&mut daemon, &what);
            daemon.restart();
        }
    }
    daemon.check_usable();
}

#[test]
fn any_bytes_in_any_file_can_be_cleaned() {
    let mut daemon = Daemon::start(DICT);
    entry_of_a_build(&mut daemon);
    let mut runner = TestRunner::new(Config::with_cases(32));
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300),
        // Bytes like those of a real file.
        "[{}\",:0-9a-z \\[\\]]{0,80}".prop_map(String::into_bytes),
        "\\{\"status\":\"[A-Z]{0,9}\",\"reason\":\"\",\"dependencies\":\"\",\"files\":\\[\\],\"stages\":\\[\\]\\}"
            .prop_map(String::into_bytes),
    ];
    let damaged = prop::collection::vec((prop::sample::select(&FILES[..]), bytes), 1..4);
    let daemon = std::cell::RefCell::new(&mut daemon);
    let outcome = runner.run(&damaged, |damaged| {
        let mut daemon = daemon.borrow_mut();
        put_back(&daemon);
        for (file, bytes) in &damaged {
            damage(&daemon, file, &Damage::Garbage(bytes.clone()));
        }
        check_recovers(&mut daemon, &format!("{damaged:?}"));
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn an_entry_of_a_newer_version_is_read_and_an_unknown_verdict_is_builderfail() {
    let mut daemon = Daemon::start(DICT);
    let change = |daemon: &Daemon, file: &str, from: &str, to: &str| {
        let path = daemon.path("home/journal/b1").join(file);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
    };
    // An unknown field is ignored.
    daemon.build_to_end("b1", json!({}));
    let before = daemon.ok("status", &[]);
    daemon.kill();
    change(&daemon, "verdict.json", "{", "{\"colour\": [1, {}],");
    change(&daemon, "spec.json", "{", "{\"colour\": \"blue\",");
    daemon.restart();
    assert_eq!(daemon.ok("status", &[]), before);
    daemon.clean();
    // So is an unknown stage.
    daemon.build_to_end("b1", json!({}));
    let before = daemon.ok("status", &[]);
    daemon.kill();
    change(&daemon, "verdict.json", "\"SBUILD\"", "\"POLISH\"");
    fs::write(daemon.path("home/journal/b1/stages"), "1.0 POLISH\n").unwrap();
    daemon.restart();
    assert_eq!(daemon.ok("status", &[]), before);
    daemon.clean();
    // An unknown verdict is BUILDERFAIL, and `clean` still removes the results.
    let before = daemon.names("home/filecache");
    daemon.build_to_end("b1", json!({}));
    assert!(daemon.names("home/filecache").len() > before.len());
    daemon.kill();
    change(&daemon, "verdict.json", "\"OK\"", "\"SUPERSEDED\"");
    daemon.restart();
    let status = daemon.ok("status", &[]);
    assert_eq!(status["build_status"], "BuildStatus.BUILDERFAIL");
    let log = daemon.log();
    assert!(log.contains("the journal cannot be read"), "{log}");
    daemon.clean();
    assert_eq!(daemon.names("home/filecache"), before);
    daemon.check_usable();
}

#[test]
fn a_running_build_wins_over_another_entry() {
    let mut daemon = Daemon::start(DICT);
    daemon.build_to_end("b2", json!({}));
    let (entry, kept) = (daemon.path("home/journal/b2"), daemon.path("kept"));
    fs::rename(&entry, &kept).unwrap();
    daemon.clean();
    daemon.on("sbuild", "hold; exit 2");
    daemon.build("b1", json!({}));
    daemon.wait_at("sbuild");
    daemon.kill();
    fs::rename(&kept, &entry).unwrap();
    // The time of the other entry is later, as after a jump of the clock.
    let later = SystemTime::now() + Duration::from_secs(1_000_000);
    fs::File::open(&entry).unwrap().set_modified(later).unwrap();
    daemon.restart();
    let status = daemon.ok("status", &[]);
    assert_eq!(status["builder_status"], "BuilderStatus.BUILDING");
    assert_eq!(status["build_id"], "b1");
    assert_eq!(daemon.names("home/journal"), ["b1"]);
    assert!(
        daemon.said().contains("also has build b2"),
        "{}",
        daemon.said()
    );
    daemon.let_go("sbuild");
    assert_eq!(daemon.wait_over()["build_status"], "BuildStatus.GIVENBACK");
    daemon.clean();
    daemon.check_usable();
}

#[test]
fn files_that_are_no_builds_are_left_alone() {
    let mut daemon = Daemon::start(DICT);
    daemon.kill();
    let journal = daemon.path("home/journal");
    fs::write(journal.join("notes"), "mine").unwrap();
    fs::write(journal.join("b 1"), "mine").unwrap();
    fs::create_dir(journal.join("no build!")).unwrap();
    fs::create_dir(journal.join(".hidden")).unwrap();
    symlink("/etc", journal.join("etc")).unwrap();
    if daemon.heeds_modes() {
        // This folder belongs to root, as on every ext4 disk.
        fs::create_dir(journal.join("lost+found")).unwrap();
    }
    let there = daemon.names("home/journal");
    daemon.restart();
    assert_eq!(daemon.state(), "IDLE");
    assert!(
        daemon
            .said()
            .contains("notes belongs to no build; left alone"),
        "{}",
        daemon.said()
    );
    daemon.check_usable();
    daemon.kill();
    daemon.restart();
    assert_eq!(daemon.state(), "IDLE");
    assert_eq!(daemon.names("home/journal"), there);
    // A build of that name replaces the file.
    daemon.build_to_end("notes", json!({}));
    daemon.clean();
    daemon.check_usable();
}

/// Clocks of hosts jump while builds run.
#[test]
fn wrong_file_times_do_not_matter() {
    let mut daemon = Daemon::start(DICT);
    let day = Duration::from_secs(86_400);
    for time in [SystemTime::UNIX_EPOCH, SystemTime::now() + 10_000 * day] {
        daemon.reset();
        daemon.on("sbuild", "hold; exit 2");
        daemon.build("b1", json!({}));
        daemon.wait_at("sbuild");
        daemon.kill();
        for name in daemon.names("home/journal/b1") {
            let path = daemon.path("home/journal/b1").join(name);
            fs::File::open(path).unwrap().set_modified(time).unwrap();
        }
        let entry = fs::File::open(daemon.path("home/journal/b1")).unwrap();
        entry.set_modified(time).unwrap();
        fs::write(
            daemon.path("home/journal/b1/stages"),
            "99999999999999.0 INIT\n-5 SBUILD\n",
        )
        .unwrap();
        daemon.restart();
        assert_eq!(daemon.state(), "BUILDING");
        daemon.let_go("sbuild");
        assert_eq!(daemon.wait_over()["build_status"], "BuildStatus.GIVENBACK");
        assert_eq!(daemon.get("/filecache/buildlog").status, 200);
        daemon.clean();
    }
    daemon.check_usable();
}

/// The journal has a wrong process id.
#[test]
fn an_abort_finds_its_build_despite_a_wrong_pid() {
    let daemon = Daemon::start(DICT);
    // A process of the same user that must not be killed.
    let owner = fs::metadata(daemon.path("home")).unwrap();
    let mut bystander = Command::new("sleep");
    bystander.arg("600").uid(owner.uid()).gid(owner.gid());
    let mut bystander = bystander.spawn().unwrap();
    for text in [
        "",
        "x",
        &bystander.id().to_string(),
        "1",
        "-1",
        "99999999999",
    ] {
        daemon.reset();
        daemon.on("sbuild", "hold");
        daemon.build("b1", json!({}));
        daemon.wait_at("sbuild");
        fs::write(daemon.path("home/journal/b1/lock"), text).unwrap();
        daemon.ok("abort", &[]);
        let status = daemon.wait_for("WAITING", Duration::from_secs(5));
        assert_eq!(status["build_status"], "BuildStatus.ABORTED", "{text}");
        daemon.clean();
    }
    assert_eq!(
        bystander.try_wait().unwrap(),
        None,
        "the other process lives"
    );
    bystander.kill().unwrap();
    bystander.wait().unwrap();
    daemon.check_usable();
}
