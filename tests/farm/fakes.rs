//! The fake slaves answer `probe` as a real slave does, so that the other tests can trust them.

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::support::{Does, Fake, State, Work};
use crate::support::{DEADLINE, Site, run};

/// Runs `probe` with a question; returns the exit code, and the answer or the reason.
fn probe(site: &Site, fake: &Fake, question: &[&str]) -> (Option<i32>, Json) {
    let url = fake.url();
    let (code, printed) = run(site.command(&[&["probe", &url], question].concat()));
    let answer = serde_json::from_str(&printed).unwrap_or_else(|_| json!(printed));
    (code, answer)
}

#[test]
fn a_fake_builds_like_a_slave_in_both_forms() {
    let site = Site::new("");
    let sum = "0".repeat(40);
    let build = |fake: &Fake| {
        let files = format!(r#"{{"hello_1.dsc":"{sum}"}}"#);
        let question = ["build", "8-1", "debian", &sum, &files, "{}"];
        probe(&site, fake, &question).1
    };
    for fake in [Fake::start("i386"), Fake::start_2008("i386")] {
        let ask = |question: &[&str]| probe(&site, &fake, question).1;
        assert_eq!(ask(&["echo", "Test"]), json!(["Test"]));
        assert_eq!(ask(&["info"])[1], "i386");
        assert_eq!(build(&fake)[0], "BuilderStatus.UNKNOWNSUM");
        assert_eq!(fake.slave(|slave| slave.misdeeds.split_off(0)).len(), 1);
        let answer = ask(&["ensurepresent", &sum, "http://x/", "", ""]);
        assert_eq!(answer, json!([true, "Download"]));
        fake.works(Work::goes_on());
        assert_eq!(build(&fake), json!(["BuilderStatus.BUILDING", "8-1"]));
        assert!(ask(&["status"]).to_string().contains("BUILDING"));
        fake.slave(|slave| slave.finish());
        let status = ask(&["status"]);
        let files = status.get("filemap").unwrap_or_else(|| &status[3]).clone();
        let deb = files["hello_1_i386.deb"].as_str().unwrap();
        let (code, _) = probe(&site, &fake, &["get", deb, "-o", "deb"]);
        assert_eq!(code, Some(0));
        assert!(site.read("home/deb").contains("the package hello\n"));
        assert_eq!(ask(&["clean"]), "BuilderStatus.IDLE");
        fake.works(Work::goes_on());
        build(&fake);
        assert_eq!(ask(&["abort"]), "BuilderStatus.ABORTING");
        assert!(ask(&["status"]).to_string().contains("ABORTED"));
        ask(&["clean"]);
        assert_eq!(fake.accepted(), ["8-1", "8-1"]);
        assert_eq!(fake.misdeeds(), [""; 0]);
    }
}

#[test]
fn a_fake_misbehaves_as_a_test_asks() {
    let site = Site::new("");
    let fake = Fake::start("i386");
    let refused = |does: Does, reason: &str| {
        fake.once("status", does);
        let (code, said) = probe(&site, &fake, &["status"]);
        let said = said.to_string();
        assert!(code != Some(0) && said.contains(reason), "{said}");
    };
    refused(Does::Fault("no mood"), "no mood");
    refused(Does::Http("500 Internal Server Error"), "500");
    refused(Does::Garbage, "not XML-RPC");
    refused(Does::HangUp, "is the slave still running?");
    assert_eq!(probe(&site, &fake, &["status"]).0, Some(0));
    fake.vanish();
    assert!(
        probe(&site, &fake, &["status"])
            .1
            .to_string()
            .contains("refused")
    );
    fake.come_back();
    assert_eq!(probe(&site, &fake, &["status"]).0, Some(0));
    fake.slave(|slave| slave.state = State::Strange("CONFUSED".to_owned()));
    assert!(
        probe(&site, &fake, &["status"])
            .1
            .to_string()
            .contains("CONFUSED")
    );
    fake.wait_for("status", 7, Duration::ZERO);

    // A stalled call ends when the fake behaves again.
    fake.on("echo", Does::Stall);
    std::thread::scope(|scope| {
        let stalled = scope.spawn(|| probe(&site, &fake, &["echo", "x"]));
        fake.wait_for("echo", 1, DEADLINE);
        fake.behave();
        assert_ne!(stalled.join().unwrap().0, Some(0));
    });
    assert_eq!(probe(&site, &fake, &["echo", "x"]).1, json!(["x"]));
}
