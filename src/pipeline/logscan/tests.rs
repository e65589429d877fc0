//! Tests of the scan of logs.

use super::*;

fn scan(log: &[u8], chunk: usize) -> Findings {
    let mut scan = LogScan::new();
    log.chunks(chunk).for_each(|bytes| scan.feed(bytes));
    scan.finish()
}

#[test]
fn a_package_cannot_fake_the_footer() {
    let log = b"Status: successful\n| Summary \nStatus: successful\n\
                | Summary        Sun, 22 Nov 2026 11:32:28 +0000 |\n\
                Fail-Stage: build\nStatus: attempted\nStatus: successful\n";
    let findings = scan(log, 7);
    assert_eq!(findings.status.as_deref(), Some("attempted"));
    assert_eq!(findings.fail_stage.as_deref(), Some("build"));
    assert_eq!(scan(b"Status: successful\n", 7).status, None);
}

#[test]
fn unmet_dependencies_keep_their_alternatives() {
    use Certainty::{Definite, Dubious};
    let log = b"The following packages have unmet dependencies:\n \
        sbuild-dummy : Depends: libfoo-dev:amd64 (>= 2) but 1.0-1 is to be installed\n\
        \x20               Depends: a but it is not installable or\n\
        \x20                        b (= 3) but it is not going to be installed\n\
        \x20               Conflicts: c but 1 is to be installed\n\
        \x20               Depends: c-compiler (>= 5)\n \
        libz : PreDepends: v but it is a virtual package\n\
        E: Unable to correct problems, you have held broken packages.\n Depends: no\n";
    let unmet = scan(log, 5).unmet;
    let found: Vec<_> = unmet
        .iter()
        .map(|u| (&u.relation[..], u.certainty))
        .collect();
    assert_eq!(
        found,
        [
            ("libfoo-dev (>= 2)", Definite),
            ("a | b (= 3)", Dubious),
            ("c-compiler (>= 5)", Dubious),
            ("v", Definite),
        ]
    );
}

#[test]
fn stderr_of_apt_may_be_mixed_into_a_relation() {
    for torn in [
        "E",
        "E:",
        "E: Unable to correct problems, you have held broken packages.",
    ] {
        let log = format!(
            "The following packages have unmet dependencies:\n\
             {torn} dummy : Depends: a but it is not installable\n: Unable\n Depends: no\n"
        );
        let unmet = scan(log.as_bytes(), 5).unmet;
        let found: Vec<_> = unmet.iter().map(|unmet| &unmet.relation[..]).collect();
        assert_eq!(found, ["a"], "{torn}");
    }
}

#[test]
fn the_reason_decides_the_certainty() {
    let check =
        |reason: &str, expect| assert_eq!(unmet_relation(reason).certainty, expect, "{reason}");
    check("x but 1.0 is installed", Certainty::Definite);
    check("x but it is not installed", Certainty::Dubious);
    check("x but it is not going to be installed", Certainty::Dubious);
    check("x", Certainty::Dubious);
}

#[test]
fn old_patterns_count_by_precedence() {
    let check = |log: &str, expect: Option<&str>| {
        assert_eq!(scan(log.as_bytes(), 64).old_dependency(), expect, "{log}");
    };
    check(
        "E: Unable to locate package a\nE: Unable to locate package b\n",
        Some("b"),
    );
    check("E: Package 'x' has no installation candidate\n", Some("x"));
    check("E: Package x has no installation candidate\n", Some("x"));
    check(
        "E: Unable to locate package a\nE: Couldn't find package b\n",
        Some("b"),
    );
    check(
        "q(inst 1 ! >= wanted 2)\np(inst 1 ! >> wanted 2)\n",
        Some("p (>> 2)"),
    );
    check("  p(inst 1 ! = wanted 2)\n", Some("p (>= 2)"));
    check(
        "E: Unable to locate package sbuild-build-depends-main-dummy\n",
        None,
    );
}

#[test]
fn signs_are_found_among_other_lines() {
    let idle = "cc -c a.c\nFILE: x\n\n".repeat(3);
    for (_, at, text) in SIGNS {
        let mark = match at {
            At::Error => "E: ",
            At::Message => "W: ",
            At::Any => "x",
        };
        let line = format!("{mark}{text}.");
        for log in [
            line.clone(),
            format!("{idle}{line}"),
            format!("{line}\n{idle}"),
            format!("{idle}{line}\n{idle}"),
        ] {
            for chunk in [3, 11, 4096] {
                let signs = scan(log.as_bytes(), chunk).signs;
                let lines: Vec<_> = signs.iter().map(|(_, line)| line).collect();
                assert_eq!(lines, [&line], "{log} by {chunk}");
            }
        }
    }
}

#[test]
fn fuzz_logs() {
    let seeds: [&[u8]; 5] = [
        include_bytes!("../../../tests/fixtures/buildlogs/unmet-dubious.log"),
        include_bytes!("../../../tests/fixtures/buildlogs/fetch-failed.log"),
        include_bytes!("../../../tests/fixtures/buildlogs/successful.log"),
        b"The following packages have unmet dependencies:\n \
          x : Depends: a (>= 1) but 2 is to be installed or\n \
          b:any but it is not installable\nE: Unable to locate package c\n",
        b"  p(inst 1 ! >> wanted 2)\n| Summary\nFail-Stage: build\nStatus: attempted\n\
          ] Killed\n",
    ];
    crate::fuzz::fuzz("logs", &seeds, |input| {
        let whole = scan(input, input.len().max(1));
        // The chunks make no difference.
        let pieces = scan(input, 7);
        assert_eq!(format!("{pieces:?}"), format!("{whole:?}"));
        assert!(whole.unmet.len() <= MAX_UNMET && whole.signs.len() <= SIGNS.len());
        for unmet in &whole.unmet {
            assert!(!unmet.relation.contains('\n'), "{unmet:?}");
        }
    });
}

#[test]
fn only_the_start_of_a_very_long_line_is_read() {
    let mut log = b"E: Failed to fetch ".to_vec();
    log.resize(1 << 20, b'x');
    log.extend_from_slice(b"No space left on device\n");
    let findings = scan(&log, 1000);
    assert_eq!(
        findings.sign(Sign::FetchFailed).unwrap().len(),
        MAX_LINE_BYTES
    );
    assert_eq!(findings.sign(Sign::NoSpace), None);
}
