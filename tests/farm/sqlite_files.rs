//! The files of a SQLite database while the farm runs and operators read and copy it
//! (docs/farm.md §6.3).

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use super::support::farm::Process;
use super::support::{Engine, Fake, Farm, QUICK, Work};
use crate::support::mounts::not_run;
use crate::support::within;

/// Runs Debian's `sqlite3` on the database as the farm's user; returns its output.
fn sqlite3(farm: &Farm, command: &str) -> String {
    sqlite3_on(farm, &farm.path("home/farm.db"), command)
}

fn sqlite3_on(farm: &Farm, database: &Path, command: &str) -> String {
    let mut program = Command::new("sqlite3");
    // A reader of a locked database waits.
    program.args(["-cmd", ".timeout 20000"]);
    program.arg(database).arg(command);
    if let Some(user) = farm.user() {
        program.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    let output = program.output().unwrap();
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8(printed).unwrap();
    assert!(output.status.success(), "{command}: {printed}");
    printed.trim_end().to_owned()
}

/// Checks that a process holds its locks on the database, and that nobody has deleted its log.
fn check_files(farm: &Farm, process: &Process) {
    let pid = process.child.id().to_string();
    for file in ["farm.db", "farm.db-shm"] {
        let inode = fs::metadata(farm.path("home").join(file)).unwrap().ino();
        // The kernel lists the locks in several reads, and may miss one while others change.
        let is_listed = |locks: &str| {
            locks.lines().any(|line| {
                let words: Vec<&str> = line.split_whitespace().collect();
                let end = format!(":{inode}");
                words.contains(&&*pid) && words.iter().any(|word| word.ends_with(&end))
            })
        };
        let is_held = (0..5).any(|_| is_listed(&fs::read_to_string("/proc/locks").unwrap()));
        assert!(is_held, "{pid} holds no lock on {file}");
    }
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        // A descriptor may close meanwhile.
        let target = fs::read_link(entry.unwrap().path()).unwrap_or_default();
        let target = target.to_string_lossy();
        let lost = target.contains("farm.db") && target.ends_with("(deleted)");
        assert!(!lost, "{target}");
    }
}

#[test]
fn readers_and_backups_of_a_running_farm_lose_nothing() {
    if Command::new("sqlite3").arg("-version").output().is_err() {
        not_run(
            "readers of a running farm's database",
            "the package sqlite3",
        );
        return;
    }
    let farm = Farm::new(Engine::Sqlite, QUICK);
    farm.furnish();
    let librarian = farm.librarian();
    let fakes: Vec<Fake> = (0..8)
        .map(|number: u64| {
            let fake = Fake::start("i386");
            fake.works(Work::ends("OK").takes(Duration::from_millis(50 + number * 20)));
            farm.add_builder(&format!("builder{number}"), &fake);
            fake
        })
        .collect();
    let master = farm.master("master");
    let mut last = 0;
    for round in 1..=200_i64 {
        // The farm is never idle.
        farm.add_builds(round, round, |_| 10);
        let built: i64 = sqlite3(&farm, "SELECT COUNT(*) FROM build WHERE state = 1")
            .parse()
            .unwrap();
        assert!(built >= last, "{built} builds are finished, after {last}");
        last = built;
        if round % 10 == 0 {
            let copy = farm.path("home/copy.db");
            sqlite3(&farm, &format!(".backup {}", copy.display()));
            assert_eq!(sqlite3_on(&farm, &copy, "PRAGMA integrity_check"), "ok");
            assert_eq!(
                sqlite3_on(&farm, &copy, "SELECT COUNT(*) FROM build"),
                round.to_string()
            );
            fs::remove_file(copy).unwrap();
        }
        check_files(&farm, &master);
        check_files(&farm, &librarian);
    }
    within(Duration::from_secs(120), "end of all builds", || {
        let built = sqlite3(&farm, "SELECT COUNT(*) FROM build WHERE state = 1");
        (built == "200").then_some(())
    });
    check_files(&farm, &master);
    master.stop();
    librarian.stop();
    assert_eq!(sqlite3(&farm, "PRAGMA integrity_check"), "ok");
    // Each build has one attempt, which a slave made, and its log.
    let rows = farm.db.row(
        "SELECT COUNT(*), COUNT(DISTINCT build_id), COUNT(DISTINCT log_alias_id) FROM attempt
         WHERE verdict = 0 AND number = 1 AND ended_at IS NOT NULL",
    );
    assert_eq!(rows, json!([200, 200, 200]));
    let accepted: usize = fakes.iter().map(|fake| fake.accepted().len()).sum();
    assert_eq!(accepted, 200);
    assert_eq!(farm.db.number("SELECT COUNT(*) FROM build_queue"), 0);
}
