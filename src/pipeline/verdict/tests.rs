//! Tests of the verdicts, with logs as sbuild prints them.

use super::super::logscan::LogScan;
use super::*;

/// Returns the findings in a fixture log of sbuild.
macro_rules! log {
    ($name:literal) => {
        scan(include_str!(concat!(
            "../../../tests/fixtures/buildlogs/",
            $name,
            ".log"
        )))
    };
}

fn scan(log: &str) -> Findings {
    let mut scan = LogScan::new();
    log.as_bytes()
        .chunks(100)
        .for_each(|chunk| scan.feed(chunk));
    scan.finish()
}

fn check(code: i32, findings: &Findings, verdict: Verdict, reason: &str) {
    let found = classify(Exit::Code(code), findings);
    assert_eq!(found, classified(verdict, reason));
}

fn waits_for(relations: &str) -> Verdict {
    Verdict::DepFail {
        relations: relations.to_owned(),
    }
}

#[test]
fn a_successful_log_with_exit_0_is_ok() {
    check(
        0,
        &log!("successful"),
        Verdict::Ok,
        "The package was built.",
    );
}

#[test]
fn a_package_skipped_or_killed_in_its_build_fails() {
    use Verdict::PackageFail;
    let skipped = "The package does not build for this architecture: E: dsc: amd64 not in arch \
                   list or does not match any arch wildcards: i386 -- skipping";
    check(0, &log!("skipped"), PackageFail, skipped);
    check(1, &log!("skipped"), PackageFail, skipped);
    check(
        2,
        &log!("attempted"),
        PackageFail,
        "The package failed to build (stage build): c++: fatal error: Killed signal terminated \
         program cc1plus",
    );
    check(
        2,
        &log!("inactive"),
        PackageFail,
        "The package failed to build (stage build): E: Build killed with signal TERM after 150 \
         minutes of inactivity",
    );
}

/// The verdict that leaves `relations` to the package lists.
fn looks_up(package: &str, relations: &[&str]) -> Verdict {
    let named = relations.iter().map(|relation| Named {
        package: package.to_owned(),
        group: Group::parse(relation, Spelling::Message).unwrap(),
    });
    Verdict::DepCheck {
        named: named.collect(),
    }
}

#[test]
fn unmet_dependencies_are_looked_up_whatever_apt_says_of_them() {
    let dummy = "sbuild-build-depends-main-dummy";
    let relations = looks_up(dummy, &["libbar-dev (>= 2)", "nosuch"]);
    let reason = |why: &str| {
        format!(
            "The build dependencies cannot be installed: {dummy} : Depends: libbar-dev (>= 2) but \
             {why}; Depends: nosuch but it is not installable"
        )
    };
    check(
        3,
        &log!("unmet-definite"),
        relations.clone(),
        &reason("1.0-1 is to be installed"),
    );
    check(
        3,
        &log!("unmet-dubious"),
        relations,
        &reason("it is not going to be installed"),
    );
    let log = "E: Unable to locate package x\n| Summary\nFail-Stage: install-deps\n";
    check(
        3,
        &scan(log),
        looks_up("", &["x"]),
        "The build dependencies cannot be installed: no package x",
    );
    // A conflict alone names nothing to look up, and is quoted.
    let log = "The following packages have unmet dependencies:\n a : Conflicts: b\n\
               | Summary\nFail-Stage: install-deps\n";
    check(
        3,
        &scan(log),
        looks_up("", &[]),
        "The build dependencies cannot be installed: a : Conflicts: b",
    );
}

#[test]
fn a_failed_archive_gives_the_build_back() {
    use Verdict::GivenBack;
    let unreachable = "The archive failed: W: Failed to fetch \
                       http://archive.example.com/dists/bookworm/InRelease  Temporary failure \
                       resolving 'archive.example.com'";
    check(3, &log!("unreachable"), GivenBack, unreachable);
    check(1, &log!("unreachable"), GivenBack, unreachable);
    check(
        3,
        &log!("fetch-failed"),
        GivenBack,
        "The archive failed: E: Failed to fetch \
         http://archive.example.com/pool/libbar-dev_2-1_amd64.deb  404  Not Found \
         [IP: 192.0.2.1 80]",
    );
    check(
        3,
        &log!("apt-get-update"),
        GivenBack,
        "apt could not bring the chroot up to date (apt-get-update).",
    );
}

#[test]
fn a_broken_source_or_dependency_fails_the_package() {
    use Verdict::PackageFail;
    check(
        3,
        &log!("postinst"),
        PackageFail,
        "The build dependencies could not be installed: E: Sub-process /usr/bin/dpkg returned an \
         error code (1)",
    );
    check(
        3,
        &log!("unpack"),
        PackageFail,
        "The source package could not be unpacked: dpkg-source: error: file \
         ./hello_2.10.orig.tar.gz has size 725946 instead of expected 725947",
    );
}

#[test]
fn a_failed_session_is_named_with_its_mend() {
    let footer = "| Summary\nFail-Stage: create-session\nStatus: failed\n";
    let said = "buildd-slave enter: the session has ended (/proc/7/ns/user: gone)\n";
    check(
        1,
        &scan(&format!("{said}{footer}")),
        Verdict::BuilderFail,
        "The session failed: buildd-slave enter: the session has ended (/proc/7/ns/user: gone); \
         `buildd-slave doctor` on the builder shows whether sessions work there",
    );
    let said = "buildd-slave: cannot run /bin/sh in the chroot: No such file or directory\n";
    check(
        1,
        &scan(&format!("{said}{footer}")),
        Verdict::ChrootFail,
        "The chroot cannot run a program: buildd-slave: cannot run /bin/sh in the chroot: \
         No such file or directory; install its package in the chroot: buildd-slave chroot shell \
         TAR --save",
    );
    // Once the package's build has begun, the package could have printed the line.
    let begun = "dpkg-buildpackage: info: source package hello\n";
    let footer = "| Summary\nFail-Stage: build\nStatus: attempted\n";
    check(
        2,
        &scan(&format!("{begun}{said}{footer}")),
        Verdict::PackageFail,
        "The package failed to build (stage build).",
    );
}

#[test]
fn a_broken_chroot_or_builder_is_not_the_packages_fault() {
    use Verdict::{BuilderFail, ChrootFail};
    check(
        1,
        &log!("create-session"),
        ChrootFail,
        "sbuild could not use the session of the chroot (create-session): E: Error creating chroot \
         session: skipping hello; check that sh and dpkg run in it: buildd-slave chroot shell TAR",
    );
    check(
        3,
        &log!("apt-full"),
        BuilderFail,
        "The builder's disk is full: E: Failed to fetch http://archive.example.com/libbar.deb  \
         Error writing to file - write (28: No space left on device)",
    );
    check(
        3,
        &log!("no-dsc"),
        BuilderFail,
        "sbuild was given no source package.",
    );
}

#[test]
fn a_give_back_line_counts_only_with_exit_3() {
    let verdict = |code, findings: &Findings| classify(Exit::Code(code), findings).verdict;
    assert_eq!(verdict(3, &log!("force-yes")), Verdict::GivenBack);
    assert_eq!(verdict(1, &log!("force-yes")), Verdict::PackageFail);
    let bare = scan("E: There are problems and -y was used without --force-yes\n");
    assert_eq!(verdict(3, &bare), Verdict::GivenBack);
    assert_eq!(verdict(1, &bare), Verdict::PackageFail);
}

#[test]
fn an_unmet_dependency_counts_only_in_its_stage() {
    let log = "The following packages have unmet dependencies:\n \
               d : Depends: x but it is not installable\n";
    let verdict = |log: &str| classify(Exit::Code(3), &scan(log)).verdict;
    assert_eq!(verdict(log), Verdict::PackageFail);
    let footer = "| Summary\nFail-Stage: install-deps\nStatus: given-back\n";
    assert_eq!(verdict(&format!("{log}{footer}")), looks_up("d", &["x"]));
}

#[test]
fn a_package_cannot_blame_the_builder_once_it_runs() {
    let footer = "| Summary\nFail-Stage: init\nStatus: failed\n";
    let begun = "dpkg-buildpackage: info: source package toy\n";
    for (code, log, expect) in [
        (3, footer.to_owned(), Verdict::BuilderFail),
        (3, format!("{begun}{footer}"), Verdict::PackageFail),
        (255, String::new(), Verdict::BuilderFail),
        (255, begun.to_owned(), Verdict::PackageFail),
    ] {
        let found = classify(Exit::Code(code), &scan(&log)).verdict;
        assert_eq!(found, expect, "{code} {log}");
    }
}

#[test]
fn signals_and_unknown_exit_codes_are_the_builders_failure() {
    let check = |exit, expect: Classification| {
        assert_eq!(classify(exit, &Findings::default()), expect);
    };
    let reason = "sbuild was killed by signal 9.";
    check(Exit::Signal(9), classified(Verdict::BuilderFail, reason));
    for code in [4, 5, 137, -1] {
        let reason = format!("sbuild failed with exit code {code}.");
        check(Exit::Code(code), classified(Verdict::BuilderFail, reason));
    }
    for code in [1, 2, 3] {
        let reason = format!("The package failed to build (exit code {code}).");
        check(Exit::Code(code), classified(Verdict::PackageFail, reason));
    }
    let reason = "sbuild ended without an error and without success.";
    check(Exit::Code(0), classified(Verdict::PackageFail, reason));
}

#[test]
fn site_programs_are_classified_by_the_exit_codes_of_2008() {
    let check = |code, log: &str, expect: Verdict| {
        let found = classify_site(Exit::Code(code), &scan(log)).verdict;
        assert_eq!(found, expect, "{code} {log}");
    };
    let missing = "E: Package foo has no installation candidate\n";
    let yes = "E: There are problems and -y was used without --force-yes\n";
    check(0, "", Verdict::Ok);
    check(1, missing, waits_for("foo"));
    check(
        1,
        "foo(inst 1.0 ! >= wanted 1.2)\n",
        waits_for("foo (>= 1.2)"),
    );
    check(1, "", Verdict::PackageFail);
    check(1, &format!("{missing}{yes}"), Verdict::GivenBack);
    check(2, missing, Verdict::GivenBack);
    check(3, missing, Verdict::PackageFail);
    check(3, yes, Verdict::GivenBack);
    check(
        3,
        "make: *** [all] Illegal instruction\n",
        Verdict::GivenBack,
    );
    check(3, "cc1: terminated by signal 4\n", Verdict::GivenBack);
    check(4, yes, Verdict::BuilderFail);
    let killed = classify_site(Exit::Signal(15), &Findings::default());
    let reason = "The build program was killed by signal 15.";
    assert_eq!(killed, classified(Verdict::BuilderFail, reason));
}

#[test]
fn a_chroot_without_passwd_is_named() {
    let log = "sh: 1: exec: groupadd: not found\n\
               | Summary\nFail-Stage: create-session\nStatus: failed\n";
    let mut scan = LogScan::new();
    scan.feed(log.as_bytes());
    let found = classify(Exit::Code(2), &scan.finish());
    assert_eq!(found.verdict, Verdict::ChrootFail);
    assert!(
        found.reason.contains("needs the package passwd"),
        "{}",
        found.reason
    );
}
