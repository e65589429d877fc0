//! The operator's commands on a running farm: they wait, follow logs and show builds.

use std::fs::File;
use std::io::Read as _;
use std::process::Stdio;

use nix::pty::{Winsize, openpty};
use serde_json::{Value as Json, json};

use super::support::farm::on_both_engines;
use super::support::{Engine, Fake, Farm, QUICK, Work};
use crate::support::{DEADLINE, until};

on_both_engines! {
    submit_waits_for_the_build_and_its_log_is_shown
    a_log_is_followed_to_its_end
    drain_waits_for_a_running_build_that_is_cancelled
}

/// A farm with one builder for i386.
fn farm(engine: Engine, fake: &Fake) -> Farm {
    let farm = Farm::new(engine, QUICK);
    let chroot = farm.path("chroot.tar.gz");
    std::fs::write(&chroot, "a chroot").unwrap();
    farm.ok(&["master", "series", "add", "ubuntu", "hoary"]);
    farm.ok(&["master", "arch", "add", "hoary", "i386"]);
    farm.ok(&["master", "builder", "add", "bob", &fake.url()]);
    farm
}

fn set_chroot(farm: &Farm) {
    let chroot = farm.path("chroot.tar.gz").display().to_string();
    farm.ok(&["master", "chroot", "set", "hoary", "i386", &chroot]);
}

fn submit_waits_for_the_build_and_its_log_is_shown(engine: Engine) {
    let fake = Fake::start("i386");
    let farm = farm(engine, &fake);
    let _librarian = farm.librarian();
    set_chroot(&farm);
    let master = farm.master("master");
    fake.works(Work::ends("OK").log("a good log\n"));
    let good = farm.dsc("good", "1", "any", "");
    let said = farm.ok(&["master", "submit", &good, "--series", "hoary", "--wait"]);
    assert!(said.contains("good 1 for ubuntu/hoary RELEASE"), "{said}");
    assert!(said.ends_with("i386 FULLYBUILT on bob\n"), "{said}");

    fake.works(Work::ends("PACKAGEFAIL").log("a bad log\n"));
    let bad = farm.dsc("bad", "1", "any", "");
    let submit = [
        "master", "submit", &bad, "--series", "hoary", "--wait", "--json",
    ];
    let (code, said) = farm.run(&submit);
    assert_eq!(code, Some(1), "{said}");
    let done: Json = serde_json::from_str(&said).unwrap();
    assert_eq!(done["builds"][0]["state"], "FAILEDTOBUILD");
    let bad = done["builds"][0]["id"].to_string();
    assert_eq!(farm.ok(&["master", "log", &bad]), "a bad log\n");
    let log = farm.json(&["master", "log", &bad]);
    assert_eq!(log["log"], "a bad log\n");
    let shown = farm.json(&["master", "show", &bad]);
    assert_eq!(
        (&shown["builder"], &shown["attempt"]),
        (&json!("bob"), &Json::Null)
    );
    let url = shown["log_url"].as_str().unwrap();
    assert!(url.starts_with(&farm.library_url()), "{url}");
    let said = farm.ok(&["master", "builds", "--state", "FULLYBUILT"]);
    assert!(
        said.contains("good") && said.contains("on bob, took "),
        "{said}"
    );
    let builder = farm.json(&["master", "builder", "show", "bob"]);
    assert_eq!(builder["builds"].as_array().unwrap().len(), 2);
    assert!(builder["scanned_by"].is_string());
    let said = farm.refused(&["master", "retry", "1"]);
    assert!(
        said.contains("it is FULLYBUILT; submit a new version"),
        "{said}"
    );
    master.stop();
}

fn a_log_is_followed_to_its_end(engine: Engine) {
    let fake = Fake::start("i386");
    let farm = farm(engine, &fake);
    let _librarian = farm.librarian();
    set_chroot(&farm);
    let master = farm.master("master");
    fake.works(Work::goes_on().log("one\n"));
    let dsc = farm.dsc("hello", "1", "any", "");
    let done = farm.json(&["master", "submit", &dsc, "--series", "hoary"]);
    let id = done["builds"][0]["id"].to_string();
    // The follower may start before the build does.
    let follow = ["master", "log", &id, "--follow"];
    let mut follower = farm.farm_command(&follow);
    let out = File::create(farm.path("followed")).unwrap();
    let mut follower = follower.stdout(out).stderr(Stdio::null()).spawn().unwrap();
    until("the first line", || {
        (farm.read("followed") == "one\n").then_some(())
    });
    let shown = farm.json(&["master", "show", &id]);
    assert_eq!(
        (&shown["state"], &shown["builder"]),
        (&json!("BUILDING"), &json!("bob"))
    );
    let queue = farm.json(&["master", "queue"]);
    assert_eq!(
        (&queue[0]["status"], &queue[0]["builder"]),
        (&json!("RUNNING"), &json!("bob"))
    );
    let why = farm.json(&["master", "queue", "why", &id]);
    assert_eq!(why["why"], "It is running on bob.");
    fake.slave(|slave| {
        slave.work.log = b"one\ntwo\n".to_vec();
        slave.finish();
    });
    // The log comes from the slave, later from the librarian, and no line comes twice.
    let ended = until("the end of the follower", || follower.try_wait().unwrap());
    assert!(ended.success());
    assert_eq!(farm.read("followed"), "one\ntwo\n");
    farm.wait_state(id.parse().unwrap(), 1);
    master.stop();
}

fn drain_waits_for_a_running_build_that_is_cancelled(engine: Engine) {
    let fake = Fake::start("i386");
    let farm = farm(engine, &fake);
    let _librarian = farm.librarian();
    set_chroot(&farm);
    let master = farm.master("master");
    fake.works(Work::goes_on());
    let submit = |name: &str| {
        let dsc = farm.dsc(name, "1", "any", "");
        let done = farm.json(&["master", "submit", &dsc, "--series", "hoary"]);
        done["builds"][0]["id"].to_string()
    };
    let (first, second) = (submit("first"), submit("second"));
    farm.wait_state(first.parse().unwrap(), 6);
    let said = farm.refused(&["master", "builder", "remove", "bob"]);
    assert!(
        said.contains("bob is running i386 build of first 1"),
        "{said}"
    );

    let mut drain = farm.farm_command(&["master", "builder", "drain", "bob", "--wait"]);
    let mut drain = drain.stdout(Stdio::null()).spawn().unwrap();
    farm.wait_row("SELECT manual FROM builder", &json!([1]));
    assert!(drain.try_wait().unwrap().is_none(), "bob is not idle");
    let said = farm.ok(&["master", "cancel", &first]);
    assert!(said.contains("is CANCELLING on bob"), "{said}");
    fake.wait_for("abort", 1, DEADLINE);
    farm.wait_state(first.parse().unwrap(), 10);
    assert!(until("the end of the drain", || drain.try_wait().unwrap()).success());
    let why = farm.json(&["master", "queue", "why", &second]);
    assert_eq!(
        why["why"],
        "The only non-virtual builder for i386 is manual."
    );

    farm.ok(&["master", "builder", "auto", "bob"]);
    farm.wait_state(second.parse().unwrap(), 6);
    let said = farm.ok(&["master", "builder", "disable", "bob"]);
    assert!(
        said.contains("returns to the queue at the next scan"),
        "{said}"
    );
    farm.wait_state(second.parse().unwrap(), 0);
    master.stop();
}

#[test]
fn tables_fit_a_terminal_and_are_not_wrapped_in_a_pipe() {
    let farm = Farm::new(Engine::Sqlite, QUICK);
    farm.ok(&["master", "series", "add", "ubuntu", "breezy-autotest"]);
    farm.ok(&["master", "arch", "add", "breezy-autotest", "i386"]);
    farm.ok(&[
        "master",
        "builder",
        "add",
        "bob",
        "http://bob.a-rather-long-domain.example.org:8221",
    ]);
    let reason = "the disk is full, and nobody will be there before Monday morning to replace it";
    farm.ok(&["master", "builder", "disable", "bob", "--reason", reason]);
    let list = ["master", "builder", "list"];
    let piped = farm.ok(&list);
    assert_eq!(piped.lines().count(), 2);
    assert!(piped.contains(reason));

    let size = Winsize {
        ws_row: 24,
        ws_col: 80,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let pty = openpty(Some(&size), None).unwrap();
    let mut command = farm.farm_command(&list);
    let mut child = command
        .stdout(pty.slave)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // The command holds a copy of the terminal, which would stay open.
    drop(command);
    let mut shown = Vec::new();
    // The read ends with an error when the child has closed the terminal.
    let _ = File::from(pty.master).read_to_end(&mut shown);
    assert!(child.wait().unwrap().success());
    let shown = String::from_utf8(shown).unwrap();
    assert!(
        shown
            .lines()
            .all(|line| line.trim_end().chars().count() <= 80),
        "{shown}"
    );
    let words: Vec<&str> = shown.split_whitespace().collect();
    for word in ["Monday", "i386", "bob"] {
        assert!(words.contains(&word), "{shown}");
    }
}
