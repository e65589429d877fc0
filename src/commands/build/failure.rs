//! Pure: picks the lines of a build log that show why the build failed.
//!
//! Searches the failed stage, up to sbuild's clean-up and summary. Picks errors of apt, sbuild,
//! compilers and make, the list of unmet dependencies, and the last lines of the stage.

/// Maximum number of lines.
const SHOWN_LINES: usize = 15;
/// Number of last lines of the stage among them.
const LAST_LINES: usize = 6;

/// Stages that also run after a failure.
const CLOSING: [&str; 3] = ["REAP", "UMOUNT", "CLEANUP"];

/// Returns the lines of `log` that show the cause, in their order.
pub(super) fn failure_lines(log: &str) -> Vec<&str> {
    let lines = failed_stage(log);
    let mut in_unmet = false;
    let mut picked = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let begins_unmet = line.contains("following packages have unmet dependencies");
        in_unmet = begins_unmet || (in_unmet && line.starts_with(' '));
        if in_unmet || is_error(line) {
            picked.push(number);
        }
    }
    let last = (0..lines.len())
        .rev()
        .filter(|number| lines.get(*number).is_some_and(|line| has_content(line)))
        .take(LAST_LINES);
    // The first errors are the likely causes.
    picked.truncate(SHOWN_LINES - LAST_LINES);
    picked.extend(last);
    picked.sort_unstable();
    picked.dedup();
    let line = |number: usize| lines.get(number).map(|line| line.trim_end());
    picked.into_iter().filter_map(line).collect()
}

/// Returns the lines of the last stage that is not a closing one, up to sbuild's clean-up.
fn failed_stage(log: &str) -> Vec<&str> {
    let lines: Vec<&str> = log.lines().collect();
    let begin = lines
        .iter()
        .rposition(|line| stage_of(line).is_some_and(|stage| !CLOSING.contains(&stage)))
        .map_or(0, |at| at + 1);
    let rest = lines.get(begin..).unwrap_or_default();
    let section = |name: &str| rest.iter().rposition(|line| line.starts_with(name));
    let end = section("| Cleanup")
        .or_else(|| section("| Summary"))
        .or_else(|| rest.iter().position(|line| stage_of(line).is_some()));
    rest.get(..end.unwrap_or(rest.len()))
        .unwrap_or_default()
        .to_vec()
}

/// Returns the stage that begins with this line of the shim: `[Sun Nov 22 11:32:29 2026] NAME`.
fn stage_of(line: &str) -> Option<&str> {
    let (time, name) = line.strip_prefix('[')?.split_once("] ")?;
    let is_stage = time.split(' ').count() >= 5 && name.bytes().all(|b| b.is_ascii_uppercase());
    is_stage.then_some(name)
}

fn is_error(line: &str) -> bool {
    let starts = ["E: ", "Error: ", "make: *** ", "Traceback "];
    let holds = [
        "error:",
        ": error ",
        "ERROR:",
        ": *** [",
        "No space left on device",
        "undefined reference",
    ];
    starts.iter().any(|text| line.starts_with(text)) || holds.iter().any(|text| line.contains(text))
}

/// Returns whether a line is neither blank, a rule, nor a headline of sbuild.
fn has_content(line: &str) -> bool {
    let headline =
        line == "Finished" || line.starts_with("| ") || line.starts_with("Build finished at ");
    !headline && line.chars().any(char::is_alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    macro_rules! log {
        ($name:literal) => {
            include_str!(concat!("../../../tests/fixtures/buildlogs/", $name, ".log"))
        };
    }

    #[test]
    fn the_lines_include_the_cause_and_exclude_the_summary() {
        for (log, expect) in [
            (
                log!("attempted"),
                &[
                    "c++: fatal error: Killed signal terminated program cc1plus",
                    "dpkg-buildpackage: error: debian/rules build subprocess returned exit status 2",
                    "E: Build failure (dpkg-buildpackage died)",
                ][..],
            ),
            (
                log!("unmet-definite"),
                &[
                    " sbuild-build-depends-main-dummy : Depends: libbar-dev (>= 2) but 1.0-1 is to be installed",
                    "                                   Depends: nosuch but it is not installable",
                    "E: Unable to correct problems, you have held broken packages.",
                ],
            ),
            (
                log!("fetch-failed"),
                &[
                    "E: Failed to fetch http://archive.example.com/pool/libbar-dev_2-1_amd64.deb  404  Not Found [IP: 192.0.2.1 80]",
                ],
            ),
            (
                log!("postinst"),
                &[
                    "dpkg: error processing package libbar-dev (--configure):",
                    "E: Sub-process /usr/bin/dpkg returned an error code (1)",
                ],
            ),
            (
                log!("unpack"),
                &[
                    "dpkg-source: error: file ./hello_2.10.orig.tar.gz has size 725946 instead of expected 725947",
                ],
            ),
            (
                log!("inactive"),
                &["E: Build killed with signal TERM after 150 minutes of inactivity"],
            ),
            (
                log!("no-dsc"),
                &["E: Could not find /home/buildd/build-1/hello_2.10-3.dsc"],
            ),
        ] {
            let shown = failure_lines(log);
            for line in expect {
                assert!(shown.contains(line), "{line}: {shown:#?}");
            }
            assert!(shown.len() <= SHOWN_LINES, "{shown:#?}");
            assert!(
                !shown.iter().any(|line| line.starts_with("Fail-Stage")),
                "{shown:#?}"
            );
        }
    }

    #[test]
    fn only_lines_of_the_failed_stage_are_shown() {
        let log = "[Sun Nov 22 11:32:29 2026] UPDATE\nE: passing trouble\n\
                   [Sun Nov 22 11:32:30 2026] MOUNT\nE: cannot mount\nMOUNT failed: x\n\
                   [Sun Nov 22 11:32:31 2026] CLEANUP\nE: later\nVerdict: CHROOTFAIL: x\n";
        assert_eq!(failure_lines(log), ["E: cannot mount", "MOUNT failed: x"]);
    }

    #[test]
    fn sbuilds_clean_up_is_left_out() {
        let log = "make: *** [debian/rules:4: build] Error 1\n\nFinished\n--------\n\n\
                   | Cleanup   |\nPurging\nE: Build failure\n| Summary  |\nFail-Stage: build\n";
        assert_eq!(
            failure_lines(log),
            ["make: *** [debian/rules:4: build] Error 1"]
        );
    }

    #[test]
    fn the_first_and_the_last_of_many_errors_are_shown() {
        let log: String = (0..1000).map(|n| format!("a.c:{n}: error: x\n")).collect();
        let shown = failure_lines(&log);
        assert_eq!(shown.len(), SHOWN_LINES);
        assert_eq!(
            (shown.first(), shown.last()),
            (Some(&"a.c:0: error: x"), Some(&"a.c:999: error: x"))
        );
        assert!(failure_lines("").is_empty());
    }
}
