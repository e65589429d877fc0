//! The operator's commands about builders and builds: steps in, and what is shown of them.

use std::fs;

use serde_json::{Value as Json, json};

use super::support::farm::on_both_engines;
use super::support::{Engine, Farm, QUICK};

on_both_engines! {
    builders_are_looked_after
    builds_are_stepped_into
}

fn builders_are_looked_after(engine: Engine) {
    let farm = Farm::new(engine, QUICK);
    farm.ok(&["master", "series", "add", "ubuntu", "hoary"]);
    let add = ["master", "builder", "add", "bob", "http://me:pa55@bob"];
    assert!(farm.refused(&add).contains("no --processor given"));
    farm.ok(&["master", "arch", "add", "hoary", "i386"]);
    let said = farm.ok(&add);
    assert!(said.contains("not probed yet"), "{said}");
    assert!(farm.refused(&add).contains("builder bob already exists"));
    let frog = [
        "master",
        "builder",
        "add",
        "frog",
        "http://frog:8221",
        "--manual",
    ];
    let virt = ["--virtual", "--vm-host", "pond", "--reset", "1.1"];
    assert_eq!(farm.run(&[&frog[..], &virt[..3]].concat()).0, Some(2));
    farm.ok(&[&frog[..], &virt[..]].concat());
    let twin = ["master", "builder", "add", "twin", "http://frog:8221/rpc"];
    assert!(farm.refused(&twin).contains("frog already has that URL"));

    let list = farm.json(&["master", "builder", "list"]);
    assert!(!list.to_string().contains("pa55"));
    let (bob, frog) = (&list[0], &list[1]);
    assert_eq!(
        (&bob["name"], &bob["url"]),
        (&json!("bob"), &json!("http://bob:80/"))
    );
    assert_eq!(
        (&bob["processors"], &bob["manual"]),
        (&json!(["i386"]), &json!(false))
    );
    assert_eq!(
        (&frog["virtualized"], &frog["manual"]),
        (&json!(true), &json!(true))
    );
    let url = farm.db.value("SELECT url FROM builder WHERE name = 'bob'");
    assert_eq!(url, "http://me:pa55@bob:80/");

    let status = |name: &str| {
        let list = farm.json(&["master", "builder", "list"]);
        let mut list = list.as_array().unwrap().iter();
        let found = list.find(|one| one["name"] == name).unwrap();
        found["status"].as_str().unwrap().to_owned()
    };
    farm.db.execute("UPDATE builder SET clean_status = 0");
    assert_eq!(status("bob"), "Idle");
    assert_eq!(status("frog"), "Idle (manual)");
    farm.ok(&["master", "builder", "disable", "bob", "--reason", "no disk"]);
    assert_eq!(status("bob"), "Disabled: no disk");
    farm.db.execute("UPDATE builder SET failure_count = 4");
    farm.ok(&["master", "builder", "enable", "bob"]);
    assert!(status("bob").starts_with("Cleaning for "));
    let row = farm.db.row(
        "SELECT builderok, failnotes, failure_count, clean_status FROM builder WHERE name = 'bob'",
    );
    assert_eq!(row, json!([1, null, 0, 1]));
    farm.ok(&["master", "builder", "auto", "frog"]);
    farm.ok(&["master", "builder", "drain", "frog", "--wait"]);
    assert!(status("frog").ends_with("(manual)"));
    let shown = farm.json(&["master", "builder", "show", "bob"]);
    let kinds: Vec<&Json> = shown["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["kind"])
        .collect();
    assert_eq!(kinds, ["added", "disabled", "enabled"]);
    assert!(
        farm.refused(&["master", "builder", "show", "bop"])
            .contains("did you mean bob?")
    );

    farm.ok(&["master", "builder", "remove", "bob"]);
    assert_eq!(
        farm.json(&["master", "builder", "list"])
            .as_array()
            .unwrap()
            .len(),
        1
    );
    farm.ok(&add);
}

fn builds_are_stepped_into(engine: Engine) {
    let farm = Farm::new(engine, QUICK);
    let _librarian = farm.librarian();
    farm.set_up();
    let ids: Vec<String> = ["aa", "bb"]
        .iter()
        .map(|name| {
            let dsc = farm.dsc(name, "1", "i386", "");
            let done = farm.json(&["master", "submit", &dsc, "--series", "hoary"]);
            done["builds"][0]["id"].to_string()
        })
        .collect();
    let [a, b] = &ids[..] else { panic!() };
    let order = || {
        let queue = farm.json(&["master", "queue"]);
        let queue = queue.as_array().unwrap().clone();
        queue
            .iter()
            .map(|job| job["build"].to_string())
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(order(), format!("{a} {b}"));
    farm.ok(&["master", "rescore", b, "9000"]);
    assert_eq!(order(), format!("{b} {a}"));
    let shown = farm.json(&["master", "show", b]);
    assert_eq!(
        (&shown["score"], &shown["score_manual"]),
        (&json!(9000), &json!(true))
    );
    farm.ok(&["master", "rescore", b, "-1"]);
    assert_eq!(order(), format!("{a} {b}"));
    let auto = farm.json(&["master", "rescore", b, "--auto"]);
    assert_eq!(
        (&auto["score"], &auto["manual"]),
        (&json!(4005), &json!(false))
    );
    assert_eq!(farm.run(&["master", "rescore", b]).0, Some(2));

    let why = farm.json(&["master", "queue", "why", a]);
    assert_eq!(why["why"], "There is no non-virtual builder for i386.");
    let said = farm.refused(&["master", "log", a]);
    assert!(said.contains("is waiting and has no log yet"), "{said}");

    // One that cannot be done does not keep the others.
    let (code, said) = farm.run(&["master", "cancel", a, "999"]);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("is CANCELLED") && said.contains("no build 999"),
        "{said}"
    );
    assert_eq!(order(), *b);
    let said = farm.refused(&["master", "cancel", a]);
    assert!(
        said.contains("is CANCELLED: only waiting or running builds"),
        "{said}"
    );
    let retried = farm.json(&["master", "retry", a]);
    assert_eq!(
        (&retried[0]["was"], &retried[0]["score"]),
        (&json!("CANCELLED"), &json!(4005))
    );
    let said = farm.refused(&["master", "retry", a]);
    assert!(said.contains("it is already in the queue"), "{said}");
    farm.db.execute(&format!(
        "UPDATE build SET state = 2 WHERE id = {a}; DELETE FROM build_queue WHERE build_id = {a};
         UPDATE series SET status = 4"
    ));
    let said = farm.refused(&["master", "retry", a]);
    assert!(
        said.contains("hoary is CURRENT and accepts no builds for RELEASE"),
        "{said}"
    );
    let said = farm.refused(&["master", "log", a]);
    assert!(said.contains("is FAILEDTOBUILD, and has no log"), "{said}");

    let failed = farm.json(&[
        "master",
        "builds",
        "--state",
        "failedtobuild",
        "--source",
        "a",
    ]);
    assert_eq!(failed[0]["id"].to_string(), *a);
    let some = farm.json(&["master", "builds", "--limit", "1"]);
    assert_eq!(some.as_array().unwrap().len(), 1);
    let events = farm.json(&["master", "show", a]);
    let events = events["events"].as_array().unwrap().clone();
    let kinds: Vec<&Json> = events.iter().map(|event| &event["kind"]).collect();
    assert_eq!(kinds, ["submitted", "cancelled", "retried"]);

    // What an archive has frees what waited for it.
    farm.db.execute(&format!(
        "UPDATE series SET status = 2;
         UPDATE build SET state = 3, dependencies = 'libfoo (>= 2)' WHERE id = {a}"
    ));
    let packages = farm.path("Packages");
    let told = |version: &str| {
        let text = format!("Package: libfoo\nVersion: {version}\nArchitecture: i386\n\n");
        fs::write(&packages, text).unwrap();
        let path = packages.display().to_string();
        farm.ok(&["master", "published", "add", "hoary", "i386", &path]);
    };
    told("1");
    let report = farm.json(&["master", "retry-depwait", "--dry-run"]);
    assert_eq!(
        (&report["retried"], &report["still_waiting"]),
        (&json!([]), &json!(1))
    );
    told("2");
    let report = farm.json(&["master", "retry-depwait", "--dry-run"]);
    assert_eq!(report["retried"][0]["build"].to_string(), *a);
    let report = farm.json(&["master", "retry-depwait"]);
    assert_eq!(report["retried"][0]["build"].to_string(), *a);
    assert_eq!(order(), format!("{b} {a}"));
    let known = farm.json(&["master", "published", "list"]);
    assert_eq!(
        (&known[0]["packages"], &known[0]["arch"]),
        (&json!(2), &json!("i386"))
    );
}
