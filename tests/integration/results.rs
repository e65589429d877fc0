//! The results of a build in the cache, and its log without credentials (docs/wire.md §3.6, §3.10).

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::json;

use crate::support::{Daemon, deb, sha1, until};

#[test]
fn results_are_listed_and_served_until_clean() {
    let daemon = Daemon::start("");
    daemon.on(
        "sbuild",
        "for n in a b; do printf \"package $n\" > $work/${n}.bin; done; changes \
         a.bin b.bin; printf x > $work/not-listed",
    );
    let status = daemon.build_to_end("b1", json!({}));
    assert_eq!(status["build_status"], "BuildStatus.OK");
    let files = status["filemap"].as_object().unwrap().clone();
    let names: Vec<&String> = files.keys().collect();
    assert_eq!(names, ["hello_1_i386.changes", "a.bin", "b.bin"]);
    assert_eq!(files["a.bin"], sha1(b"package a"));
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
        "printf x > $work/h.bin; changes h.bin; cd $work; \
         sed s/i386/lpia/ hello_1_i386.changes > hello_1_lpia.changes",
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
        "cd $work; printf x | tee a.bin > b.bin; cd ..; changes a.bin b.bin",
    );
    let status = daemon.build_to_end("b1", json!({}));
    let files = &status["filemap"];
    assert_eq!(files["a.bin"], files["b.bin"]);
    assert_eq!(files["a.bin"], sha1(b"x"));
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
    daemon.on("sbuild", "cp $work/hello_1.dsc $work/h.bin; changes h.bin");
    let status = daemon.build_to_end("b1", json!({}));
    assert_eq!(status["filemap"]["h.bin"], daemon.dsc());
    daemon.clean();
    assert_eq!(daemon.names("home/filecache"), before);
}

/// A script that writes `h.bin` with the content `x`, and a .changes with the line `line`.
fn changes(line: &str) -> String {
    format!(
        "cd $work; printf x > h.bin; cat > hello_1_i386.changes << 'END'\nFormat: 1.8\nSource: hello\n\
         Version: 1\nArchitecture: i386\nFiles:\n {line}\nEND\n"
    )
}

#[test]
fn results_that_do_not_match_their_changes_are_packagefail() {
    let daemon = Daemon::start("");
    let before = daemon.names("home/filecache");
    fs::write(daemon.path("home/secret"), "x").unwrap();
    let md5 = "9dd4e461268c8034f5c8564e155c67a6";
    let good = format!("{md5} 1 devel optional h.bin");
    let at = |name: &str| changes(&format!("{md5} 1 devel optional {name}"));
    let replaced = |by: &str| format!("{}rm h.bin; {by}", changes(&good));
    for (what, script) in [
        ("nothing at all", ":".to_owned()),
        ("no .changes", "printf x > $work/h.bin".to_owned()),
        (
            "a .changes of another architecture",
            "cd $work; echo Files: > hello_1_amd64.changes".into(),
        ),
        ("an empty .changes", "> $work/hello_1_i386.changes".into()),
        ("a missing file", replaced("")),
        ("a link", replaced("ln -s ../secret h.bin")),
        ("a link to the chroot", replaced("ln -s hello_1.dsc h.bin")),
        ("a pipe", replaced("mkfifo h.bin")),
        ("a folder", replaced("mkdir h.bin")),
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

/// A script that puts a package into the results, and changes the .changes by `sed`.
fn with_package(daemon: &Daemon, file: &str, fields: [&str; 4], sed: &str) -> String {
    let [package, source, version, arch] = fields;
    fs::write(daemon.path("a.deb"), deb(package, source, version, arch)).unwrap();
    format!(
        "cp $site/a.deb $work/{file}; changes {file}; sed -i '{sed}' $work/hello_1_i386.changes"
    )
}

/// A package that takes over its build environment could pass off its own results for another's.
#[test]
fn results_of_another_build_are_packagefail() {
    let daemon = Daemon::start("");
    let before = daemon.names("home/filecache");
    let good = ["lib", "hello", "1", "i386"];
    let is = "but this build is of hello 1 for i386";
    for (file, fields, sed, reason) in [
        (
            "lib_1_i386.deb",
            ["lib", "bash", "1", "i386"],
            "",
            "its Source is \"bash\", ",
        ),
        (
            "lib_2_i386.deb",
            ["lib", "hello", "2", "i386"],
            "",
            "its Version is \"2\", ",
        ),
        (
            "lib_1_amd64.deb",
            ["lib", "hello", "1", "amd64"],
            "",
            "its Architecture is \"amd64\", ",
        ),
        (
            "lib_1_all.deb",
            ["lib", "hello", "1", "all"],
            "",
            "its Architecture is \"all\", ",
        ),
        (
            "lib_1_i386.deb",
            good,
            "s/Source: hello/Source: bash/",
            "its Source is \"bash\", ",
        ),
        (
            "lib_1_i386.deb",
            good,
            "s/Version: 1/Version: 2/",
            "its Version is \"2\", ",
        ),
        (
            "lib_1_i386.deb",
            good,
            "s/Architecture: i386/Architecture: source i386/",
            "its Architecture is \"source i386\", ",
        ),
        (
            "lib_1_i386.udeb",
            ["lib", "bash", "1", "i386"],
            "",
            "its Source is \"bash\", ",
        ),
    ] {
        daemon.on("sbuild", &with_package(&daemon, file, fields, sed));
        let status = daemon.build_to_end("b1", json!({}));
        let log = daemon.log();
        assert_eq!(status["build_status"], "BuildStatus.PACKAGEFAIL", "{log}");
        assert!(log.contains(&format!("{reason}{is}\n")), "{reason}: {log}");
        assert_eq!(daemon.names("home/filecache"), before, "{reason}");
        daemon.clean();
        daemon.reset();
    }
    for (file, fields, args) in [
        ("lib_1_i386.deb", good, json!({})),
        (
            "lib_1_all.deb",
            ["lib", "hello", "1", "all"],
            json!({"arch_indep": true}),
        ),
        (
            "lib_9_i386.ddeb",
            ["lib", "hello (1)", "9", "i386"],
            json!({}),
        ),
    ] {
        daemon.on("sbuild", &with_package(&daemon, file, fields, ""));
        let status = daemon.build_to_end("b1", args);
        assert_eq!(status["build_status"], "BuildStatus.OK", "{}", daemon.log());
        daemon.clean();
        daemon.reset();
    }
}

#[test]
fn a_package_that_says_something_else_than_its_name_is_packagefail() {
    let daemon = Daemon::start("");
    for (script, reason) in [
        (
            with_package(
                &daemon,
                "bash_1_i386.deb",
                ["lib", "hello", "1", "i386"],
                "",
            ),
            "bash_1_i386.deb: its control file is of lib 1 for i386, which belongs in \
             lib_1_i386.deb",
        ),
        (
            "printf x > $work/h.deb; changes h.deb".to_owned(),
            "h.deb: is not a Debian package: it does not begin like one",
        ),
        (
            "cd $work; cp hello_1.dsc b_1.dsc; cd ..; changes b_1.dsc".to_owned(),
            "lists b_1.dsc, but this build is of hello 1 for i386, without the source",
        ),
    ] {
        daemon.on("sbuild", &script);
        let status = daemon.build_to_end("b1", json!({}));
        let log = daemon.log();
        assert_eq!(status["build_status"], "BuildStatus.PACKAGEFAIL", "{log}");
        assert!(log.contains(reason), "{reason}: {log}");
        daemon.clean();
        daemon.reset();
    }
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
