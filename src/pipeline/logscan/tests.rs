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

/// Each unmet dependency with its package.
fn unmet(findings: &Findings) -> Vec<String> {
    let named = findings.unmet.iter();
    named
        .map(|named| format!("{}: {}", named.package, named.group))
        .collect()
}

#[test]
fn unmet_dependencies_keep_their_alternatives() {
    let log = b"The following packages have unmet dependencies:\n \
        sbuild-dummy : Depends: libfoo-dev:amd64 (>= 2) but 1.0-1 is to be installed\n\
        \x20               Depends: a but it is not installable or\n\
        \x20                        b (= 3) but it is not going to be installed\n\
        \x20               Conflicts: c but 1 is to be installed\n\
        \x20               Depends: c-compiler (>= 5)\n \
        libz : PreDepends: v but it is a virtual package\n\
        E: Unable to correct problems, you have held broken packages.\n\
        apt-get failed.\n x : Depends: no\n";
    let findings = scan(log, 5);
    assert_eq!(
        unmet(&findings),
        [
            "sbuild-dummy: libfoo-dev:amd64 (>= 2)",
            "sbuild-dummy: a | b (= 3)",
            "sbuild-dummy: c-compiler (>= 5)",
            "libz: v",
        ]
    );
    assert_eq!(findings.unmet_lines.len(), 6);
    assert_eq!(
        findings.unmet_lines[3],
        "Conflicts: c but 1 is to be installed"
    );
}

#[test]
fn apts_single_angles_are_strict() {
    let log = b"The following packages have unmet dependencies:\n \
        x : Depends: a (> 1.2) but 1.2 is to be installed\n     Depends: b (< 2.0)\n";
    assert_eq!(unmet(&scan(log, 64)), ["x: a (>> 1.2)", "x: b (<< 2.0)"]);
}

#[test]
fn the_last_list_of_unmet_dependencies_counts() {
    let log = b"Unsatisfied dependencies:\n x : Depends: a\n\
        The following packages have unmet dependencies:\n y : Conflicts: b\n";
    let findings = scan(log, 9);
    assert_eq!(unmet(&findings), [""; 0]);
    assert_eq!(findings.unmet_lines, ["y : Conflicts: b"]);
}

#[test]
fn errors_of_apt_may_stand_anywhere_in_the_list() {
    let list = [
        "The following packages have unmet dependencies:\n",
        " dummy : Depends: a (>= 99)\n",
        "         Depends: b but it is not installable or\n",
        "                  c but it is not installable\n",
        " libz : Conflicts: d\n",
        "apt-get failed.\n",
        " x : Depends: no\n",
    ];
    let error = [
        "E",
        ": ",
        "Unable to correct problems, you have held broken packages.",
        "\n",
    ];
    // Both parts of the error, cut anywhere, stand before any two lines.
    let places = 0..=list.len();
    for first in places.clone() {
        for second in first..=list.len() {
            for cut in 0..=error.len() {
                let mut log = String::new();
                for place in places.clone() {
                    if place == first {
                        log += &error[..cut].concat();
                    }
                    if place == second {
                        log += &error[cut..].concat();
                    }
                    log += list.get(place).copied().unwrap_or_default();
                }
                let findings = scan(log.as_bytes(), 5);
                let wanted = ["dummy: a (>= 99)", "dummy: b | c"];
                assert_eq!(unmet(&findings), wanted, "{log}");
                assert_eq!(findings.unmet_lines.len(), 4, "{log}");
            }
        }
    }
}

#[test]
fn a_list_without_end_is_left() {
    let noise = "cc -c a.c\n".repeat(40);
    let log = format!("Unsatisfied dependencies:\n x : Depends: a\n{noise} y : Depends: no\n");
    assert_eq!(unmet(&scan(log.as_bytes(), 64)), ["x: a"]);
}

#[test]
fn errors_of_apt_may_be_torn() {
    let text = "Failed to fetch http://archive.example.org/a.deb  404  Not Found";
    for log in [
        format!("EFetched 0 B in 1s (0 B/s)\n: {text}\n"),
        format!("E: Fetched 0 B in 1s (0 B/s)\n{text}\n"),
    ] {
        let findings = scan(log.as_bytes(), 7);
        assert!(findings.sign(Sign::FetchFailed).is_some(), "{log}");
    }
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
        assert!(whole.unmet.len() <= whole.unmet_lines.len());
        assert!(whole.unmet_lines.len() <= MAX_UNMET && whole.signs.len() <= SIGNS.len());
        for line in unmet(&whole).iter().chain(&whole.unmet_lines) {
            assert!(!line.contains('\n'), "{line:?}");
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
