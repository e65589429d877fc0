//! The operator's commands on builders and builds: what they change, show and refuse.

use std::fs;

use serde_json::{Value as Json, json};

use super::support::farm::{Process, on_both_engines};
use super::support::{Engine, Farm, QUICK};

on_both_engines! {
    the_name_and_url_of_a_builder_are_unique_until_it_is_removed
    the_builder_list_hides_passwords
    enabling_a_builder_forgets_its_failures_and_is_an_event
    a_rescored_build_moves_in_the_queue
    a_cancelled_build_leaves_the_queue_and_can_be_retried_once
    waiting_and_failed_builds_are_explained
    published_packages_end_a_dep_wait
}

const BOB: [&str; 5] = ["master", "builder", "add", "bob", "http://me:pa55@bob"];
const FROG: [&str; 6] = [
    "master",
    "builder",
    "add",
    "frog",
    "http://frog:8221",
    "--manual",
];
const VIRTUAL: [&str; 5] = ["--virtual", "--vm-host", "pond", "--reset", "1.1"];

/// A farm with i386, the builder bob, and the virtual builder frog in manual mode.
fn with_builders(engine: Engine) -> Farm {
    let farm = Farm::new(engine, QUICK);
    farm.ok(&["master", "series", "add", "ubuntu", "hoary"]);
    farm.ok(&["master", "arch", "add", "hoary", "i386"]);
    farm.ok(&BOB);
    farm.ok(&[&FROG[..], &VIRTUAL[..]].concat());
    farm
}

/// The status of a builder as `builder list` shows it.
fn status(farm: &Farm, name: &str) -> String {
    let list = farm.json(&["master", "builder", "list"]);
    let mut list = list.as_array().unwrap().iter();
    let found = list.find(|one| one["name"] == name).unwrap();
    found["status"].as_str().unwrap().to_owned()
}

/// The kinds of the events that a `show` command printed.
fn kinds(shown: &Json) -> Vec<&Json> {
    let events = shown["events"].as_array().unwrap();
    events.iter().map(|event| &event["kind"]).collect()
}

fn the_name_and_url_of_a_builder_are_unique_until_it_is_removed(engine: Engine) {
    let farm = Farm::new(engine, QUICK);
    farm.ok(&["master", "series", "add", "ubuntu", "hoary"]);
    assert!(farm.refused(&BOB).contains("no --processor given"));
    farm.ok(&["master", "arch", "add", "hoary", "i386"]);
    let said = farm.ok(&BOB);
    assert!(said.contains("not probed yet"), "{said}");
    assert!(farm.refused(&BOB).contains("builder bob already exists"));
    assert_eq!(farm.run(&[&FROG[..], &VIRTUAL[..3]].concat()).0, Some(2));
    farm.ok(&[&FROG[..], &VIRTUAL[..]].concat());
    let twin = ["master", "builder", "add", "twin", "http://frog:8221/rpc"];
    assert!(farm.refused(&twin).contains("frog already has that URL"));
    farm.ok(&["master", "builder", "remove", "bob"]);
    let left = farm.json(&["master", "builder", "list"]);
    assert_eq!(left.as_array().unwrap().len(), 1);
    farm.ok(&BOB);
}

fn the_builder_list_hides_passwords(engine: Engine) {
    let farm = with_builders(engine);
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
}

fn enabling_a_builder_forgets_its_failures_and_is_an_event(engine: Engine) {
    let farm = with_builders(engine);
    farm.db.execute("UPDATE builder SET clean_status = 0");
    assert_eq!(status(&farm, "bob"), "Idle");
    assert_eq!(status(&farm, "frog"), "Idle (manual)");
    farm.ok(&["master", "builder", "disable", "bob", "--reason", "no disk"]);
    assert_eq!(status(&farm, "bob"), "Disabled: no disk");
    farm.db.execute("UPDATE builder SET failure_count = 4");
    farm.ok(&["master", "builder", "enable", "bob"]);
    assert!(status(&farm, "bob").starts_with("Cleaning for "));
    let row = farm.db.row(
        "SELECT builderok, failnotes, failure_count, clean_status FROM builder WHERE name = 'bob'",
    );
    assert_eq!(row, json!([1, null, 0, 1]));
    farm.ok(&["master", "builder", "auto", "frog"]);
    farm.ok(&["master", "builder", "drain", "frog", "--wait"]);
    assert!(status(&farm, "frog").ends_with("(manual)"));
    let shown = farm.json(&["master", "builder", "show", "bob"]);
    assert_eq!(kinds(&shown), ["added", "disabled", "enabled"]);
    assert!(
        farm.refused(&["master", "builder", "show", "bop"])
            .contains("did you mean bob?")
    );
}

/// A farm with a waiting build of each of two sources, `a` submitted before `b`.
struct Queue {
    farm: Farm,
    _librarian: Process,
    a: String,
    b: String,
}

impl Queue {
    fn new(engine: Engine) -> Self {
        let farm = Farm::new(engine, QUICK);
        let librarian = farm.librarian();
        farm.set_up();
        let [a, b] = ["aa", "bb"].map(|name| {
            let dsc = farm.dsc(name, "1", "i386", "");
            let done = farm.json(&["master", "submit", &dsc, "--series", "hoary"]);
            done["builds"][0]["id"].to_string()
        });
        Self {
            farm,
            _librarian: librarian,
            a,
            b,
        }
    }

    /// The ids of the builds in the queue, first to last, separated by blanks.
    fn order(&self) -> String {
        let queue = self.farm.json(&["master", "queue"]);
        let queue = queue.as_array().unwrap().clone();
        queue
            .iter()
            .map(|job| job["build"].to_string())
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Takes `a` out of the queue; `columns` are the state's number and further columns to set.
    fn end_a(&self, columns: &str) {
        let a = &self.a;
        self.farm.db.execute(&format!(
            "UPDATE build SET state = {columns} WHERE id = {a};
             DELETE FROM build_queue WHERE build_id = {a}"
        ));
    }
}

fn a_rescored_build_moves_in_the_queue(engine: Engine) {
    let queue = Queue::new(engine);
    let Queue { farm, a, b, .. } = &queue;
    assert_eq!(queue.order(), format!("{a} {b}"));
    farm.ok(&["master", "rescore", b, "9000"]);
    assert_eq!(queue.order(), format!("{b} {a}"));
    let shown = farm.json(&["master", "show", b]);
    assert_eq!(
        (&shown["score"], &shown["score_manual"]),
        (&json!(9000), &json!(true))
    );
    farm.ok(&["master", "rescore", b, "-1"]);
    assert_eq!(queue.order(), format!("{a} {b}"));
    let auto = farm.json(&["master", "rescore", b, "--auto"]);
    assert_eq!(
        (&auto["score"], &auto["manual"]),
        (&json!(4005), &json!(false))
    );
    assert_eq!(farm.run(&["master", "rescore", b]).0, Some(2));
}

fn a_cancelled_build_leaves_the_queue_and_can_be_retried_once(engine: Engine) {
    let queue = Queue::new(engine);
    let Queue { farm, a, b, .. } = &queue;
    let (code, said) = farm.run(&["master", "cancel", a, "999"]);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("is CANCELLED") && said.contains("no build 999"),
        "{said}"
    );
    assert_eq!(queue.order(), *b);
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
    let shown = farm.json(&["master", "show", a]);
    assert_eq!(kinds(&shown), ["submitted", "cancelled", "retried"]);
}

fn waiting_and_failed_builds_are_explained(engine: Engine) {
    let queue = Queue::new(engine);
    let Queue { farm, a, .. } = &queue;
    let why = farm.json(&["master", "queue", "why", a]);
    assert_eq!(why["why"], "There is no non-virtual builder for i386.");
    let said = farm.refused(&["master", "log", a]);
    assert!(said.contains("is waiting and has no log yet"), "{said}");
    queue.end_a("2");
    farm.db.execute("UPDATE series SET status = 4");
    let said = farm.refused(&["master", "retry", a]);
    assert!(
        said.contains("hoary is CURRENT and accepts no builds for RELEASE"),
        "{said}"
    );
    let said = farm.refused(&["master", "log", a]);
    assert!(said.contains("is FAILEDTOBUILD, and has no log"), "{said}");
    let failed = ["--state", "failedtobuild", "--source", "a"];
    let failed = farm.json(&[&["master", "builds"], &failed[..]].concat());
    assert_eq!(failed[0]["id"].to_string(), *a);
    let some = farm.json(&["master", "builds", "--limit", "1"]);
    assert_eq!(some.as_array().unwrap().len(), 1);
}

fn published_packages_end_a_dep_wait(engine: Engine) {
    let queue = Queue::new(engine);
    let Queue { farm, a, b, .. } = &queue;
    queue.end_a("3, dependencies = 'libfoo (>= 2)'");
    let packages = farm.path("Packages");
    let publish = |version: &str| {
        let text = format!("Package: libfoo\nVersion: {version}\nArchitecture: i386\n\n");
        fs::write(&packages, text).unwrap();
        let path = packages.display().to_string();
        farm.ok(&["master", "published", "add", "hoary", "i386", &path]);
    };
    publish("1");
    let report = farm.json(&["master", "retry-depwait", "--dry-run"]);
    assert_eq!(
        (&report["retried"], &report["still_waiting"]),
        (&json!([]), &json!(1))
    );
    publish("2");
    let report = farm.json(&["master", "retry-depwait", "--dry-run"]);
    assert_eq!(report["retried"][0]["build"].to_string(), *a);
    let report = farm.json(&["master", "retry-depwait"]);
    assert_eq!(report["retried"][0]["build"].to_string(), *a);
    assert_eq!(queue.order(), format!("{b} {a}"));
    let known = farm.json(&["master", "published", "list"]);
    assert_eq!(
        (&known[0]["packages"], &known[0]["arch"]),
        (&json!(2), &json!("i386"))
    );
}
