//! The results of a build in the cache, and its log without credentials (docs/wire.md §3.6, §3.10).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::json;

use crate::support::{Daemon, sha1, until};

#[test]
fn results_are_listed_and_served_until_clean() {
    let daemon = Daemon::start("");
    daemon.on(
        "sbuild",
        "for n in a b; do printf \"package $n\" > $work/${n}_1_i386.deb; done; changes \
         a_1_i386.deb b_1_i386.deb; printf x > $work/not-listed",
    );
    let status = daemon.build_to_end("b1", json!({}));
    assert_eq!(status["build_status"], "BuildStatus.OK");
    let files = status["filemap"].as_object().unwrap().clone();
    let names: Vec<&String> = files.keys().collect();
    assert_eq!(
        names,
        ["hello_1_i386.changes", "a_1_i386.deb", "b_1_i386.deb"]
    );
    assert_eq!(files["a_1_i386.deb"], sha1(b"package a"));
    let expect = json!(["BuilderStatus.WAITING", "BuildStatus.OK", "b1", files, ""]);
    assert_eq!(daemon.ok("status", &[]), expect);
    for sum in files.values() {
        let sum = sum.as_str().unwrap();
        let answer = daemon.get(&format!("/filecache/{sum}"));
        assert_eq!((answer.status, sha1(&answer.body).as_str()), (200, sum));
    }
    daemon.clean();
    for sum in files.values() {
        let path = format!("/filecache/{}", sum.as_str().unwrap());
        assert_eq!(daemon.get(&path).status, 404);
    }
}

#[test]
fn arch_tag_names_the_changes_file() {
    let daemon = Daemon::start("");
    daemon.on(
        "sbuild",
        "printf x > $work/h.deb; changes h.deb; cd $work; mv hello_1_i386.changes \
         hello_1_lpia.changes",
    );
    let status = daemon.build_to_end("b1", json!({"arch_tag": "lpia"}));
    assert_eq!(status["build_status"], "BuildStatus.OK");
    assert!(status["filemap"]["hello_1_lpia.changes"].is_string());
}

/// Vector 24. The reference removed the one file twice and could never be cleaned.
#[test]
fn v24_results_with_equal_bytes_can_be_cleaned() {
    let daemon = Daemon::start("");
    let before = daemon.names("home/filecache");
    daemon.on(
        "sbuild",
        "cd $work; printf x | tee a.deb > b.deb; cd ..; changes a.deb b.deb",
    );
    let status = daemon.build_to_end("b1", json!({}));
    let files = &status["filemap"];
    assert_eq!(files["a.deb"], files["b.deb"]);
    assert_eq!(files["a.deb"], sha1(b"x"));
    daemon.clean();
    assert_eq!(daemon.names("home/filecache"), before);
}

#[test]
fn clean_works_when_a_result_is_missing() {
    let daemon = Daemon::start("");
    let before = daemon.names("home/filecache");
    let status = daemon.build_to_end("b1", json!({}));
    let sum = status["filemap"]["hello_1_i386.deb"].as_str().unwrap();
    fs::remove_file(daemon.path("home/filecache").join(sum)).unwrap();
    daemon.clean();
    assert_eq!(daemon.names("home/filecache"), before);
    daemon.check_usable();
}

#[test]
fn an_input_with_the_bytes_of_a_result_stays_in_the_cache() {
    let daemon = Daemon::start("");
    let before = daemon.names("home/filecache");
    daemon.on("sbuild", "cp $work/hello_1.dsc $work/h.deb; changes h.deb");
    let status = daemon.build_to_end("b1", json!({}));
    assert_eq!(status["filemap"]["h.deb"], daemon.dsc());
    daemon.clean();
    assert_eq!(daemon.names("home/filecache"), before);
}

/// A script that writes `h.deb` with the content `x`, and a .changes with the line `line`.
fn changes(line: &str) -> String {
    format!(
        "cd $work; printf x > h.deb; cat > hello_1_i386.changes << 'END'\nFormat: 1.8\nFiles:\n \
         {line}\nEND\n"
    )
}

#[test]
fn results_that_do_not_match_their_changes_are_packagefail() {
    let daemon = Daemon::start("");
    let before = daemon.names("home/filecache");
    fs::write(daemon.path("home/secret"), "x").unwrap();
    let md5 = "9dd4e461268c8034f5c8564e155c67a6";
    let good = format!("{md5} 1 devel optional h.deb");
    let at = |name: &str| changes(&format!("{md5} 1 devel optional {name}"));
    let replaced = |by: &str| format!("{}rm h.deb; {by}", changes(&good));
    for (what, script) in [
        ("nothing at all", ":".to_owned()),
        ("no .changes", "printf x > $work/h.deb".to_owned()),
        (
            "a .changes of another architecture",
            "cd $work; echo Files: > hello_1_amd64.changes".into(),
        ),
        ("an empty .changes", "> $work/hello_1_i386.changes".into()),
        ("a missing file", replaced("")),
        ("a link", replaced("ln -s ../secret h.deb")),
        ("a link to the chroot", replaced("ln -s hello_1.dsc h.deb")),
        ("a pipe", replaced("mkfifo h.deb")),
        ("a folder", replaced("mkdir h.deb")),
        ("a wrong hash", changes(&good.replace('9', "8"))),
        ("a wrong size", changes(&good.replace(" 1 ", " 2 "))),
        ("a file outside", at("../secret")),
        ("a file by its path", at("/etc/passwd")),
        ("the .changes itself", at("hello_1_i386.changes")),
        (
            "a .changes that is a link",
            "cd $work; ln -s ../secret hello_1_i386.changes".into(),
        ),
        (
            "a .changes that is a pipe",
            "mkfifo $work/hello_1_i386.changes".into(),
        ),
    ] {
        daemon.on("sbuild", &script);
        let status = daemon.build_to_end("b1", json!({}));
        assert_eq!(
            status["build_status"],
            "BuildStatus.PACKAGEFAIL",
            "{what}: {}",
            daemon.log()
        );
        assert_eq!(
            (&status["filemap"], &status["dependencies"]),
            (&json!({}), &json!("")),
            "{what}"
        );
        assert!(
            daemon.log().contains("Failed to gather results: "),
            "{what}: {}",
            daemon.log()
        );
        assert_eq!(daemon.names("home/filecache"), before, "{what}");
        assert!(daemon.called().ends_with("sbuild scan umount clean"));
        daemon.clean();
        daemon.reset();
    }
    daemon.on("sbuild", &changes(&good));
    assert_eq!(
        daemon.build_to_end("b1", json!({}))["build_status"],
        "BuildStatus.OK"
    );
}

/// The build program composes the secret as it runs, so that no file of the test holds it.
const TELL: &str = "pass=sec; pass=${pass}ret99; echo \"Get:1 http://buildd:$pass@ppa/ x\"; echo \
                    \"x,proxyauth=me:$pass,y\"; printf \"at the end http://u:$pass@h/\"; ";

#[test]
fn the_secrets_of_a_private_build_never_reach_the_disk() {
    let daemon = Daemon::start("");
    daemon.on("update", &format!("{TELL} echo; echo update is done"));
    daemon.on("sbuild", &format!("{TELL} hold; exit 3"));
    daemon.build("b1", json!({"archive_private": true}));
    daemon.wait_at("sbuild");
    until("the log of UPDATE", || {
        daemon.log().contains("update is done").then_some(())
    });
    assert_eq!(daemon.files_holding("secret99"), [""; 0]);
    assert!(!daemon.log_tail().contains("secret99"));
    daemon.let_go("sbuild");
    daemon.wait_over();
    assert_eq!(daemon.files_holding("secret99"), [""; 0]);
    let log = daemon.log();
    assert!(
        log.contains("Get:1 http://ppa/ x\n") && log.contains("x,y\n"),
        "{log}"
    );
    assert!(log.contains("at the end http://"), "{log}");
}

#[test]
fn the_log_of_a_public_build_is_as_it_was_printed() {
    let daemon = Daemon::start("");
    daemon.on(
        "sbuild",
        "printf 'http://user:pass@h/ \\001\\377\\n'; exit 3",
    );
    daemon.build_to_end("b1", json!({}));
    let log = daemon.get("/filecache/buildlog").body;
    let line = b"http://user:pass@h/ \x01\xff\n";
    assert!(log.windows(line.len()).any(|window| window == line));
}

#[test]
fn the_passwords_of_archives_are_not_logged_and_go_with_the_build() {
    let daemon = Daemon::start("");
    let args = json!({
        "archive_private": true,
        "archives": ["deb http://buildd:hush77@ppa/ hardy main"],
        "build_url": "https://me:hush77@launchpad/1",
    });
    daemon.build("b1", args);
    daemon.wait_over();
    assert_eq!(
        daemon.calls()[2][2],
        "deb http://buildd:hush77@ppa/ hardy main"
    );
    assert!(!daemon.log().contains("hush77"), "{}", daemon.log());
    assert!(!daemon.said().contains("hush77"), "{}", daemon.said());
    daemon.clean();
    daemon.reset();
    assert_eq!(daemon.files_holding("hush77"), [""; 0]);
}

#[test]
fn files_with_passwords_are_readable_by_the_builds_user_only() {
    let daemon = Daemon::start("");
    daemon.on("sbuild", "hold");
    daemon.build(
        "b1",
        json!({"archives": ["deb http://buildd:hush77@ppa/ hardy main"]}),
    );
    daemon.wait_at("sbuild");
    for name in daemon.files_holding("hush77") {
        // The list of calls belongs to the test.
        let mut ways = Path::new(&name)
            .ancestors()
            .take_while(|way| way != &Path::new("home"));
        let open = |way: &Path| {
            let mode = fs::metadata(daemon.path(way.to_str().unwrap()))
                .unwrap()
                .mode();
            mode & 0o077 != 0
        };
        assert!(
            name == "calls" || !ways.all(open),
            "{name} can be read by anyone"
        );
    }
    daemon.let_go("sbuild");
    daemon.wait_over();
}
