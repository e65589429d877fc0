//! Pure: what does a build's log say that matters for its verdict?
//!
//! One pass over chunks of the raw log, in bounded memory; texts are those of sbuild 0.85 to
//! 0.91, dpkg and apt (1.x to 3.x), which prefix errors with `E: ` or `Error: `. Decides nothing:
//! `verdict` weighs the findings, and knows which of them a package could have printed itself.
//! Only the footer after the last `| Summary` header counts as sbuild's. Line ends are not
//! anchored: newer section headers carry the time. Called by the shim beside the log's writer.

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, MatchKind};
use memchr::{memchr, memrchr};

use crate::dpkg::relations::strip;

/// The bytes of a line that are looked at.
const MAX_LINE_BYTES: usize = 8 << 10;
/// The relations kept of apt's list of unmet dependencies.
const MAX_UNMET: usize = 256;

/// A line that tells why a build ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sign {
    /// apt could not fetch an index or a package.
    FetchFailed,
    /// An archive's lists are too old or not valid yet.
    Expired,
    /// The first error of apt's or sbuild's, whatever it is about.
    Error,
    /// apt would not go on unasked, as an archive was not authenticated (docs/wire.md §3.7).
    ForceYes,
    /// dpkg failed while it installed the build dependencies.
    DpkgFailed,
    /// The source files are not those the .dsc lists.
    SourceDamaged,
    /// sbuild found no .dsc.
    SourceMissing,
    /// dpkg-buildpackage has begun: what happens now is the package's doing.
    Begun,
    /// The source package does not build for this architecture.
    ArchSkipped,
    /// A write found the disk full.
    NoSpace,
    /// A process was killed, most likely for want of memory.
    Killed,
    /// sbuild stopped a silent build.
    Inactive,
    /// A program of the toolchain crashed on this machine (2008 only, docs/wire.md §3.7).
    IllegalInstruction,
}

/// What begins an error or a warning.
const MESSAGES: [&str; 4] = ["E: ", "W: ", "Error: ", "Warning: "];
/// What begins sbuild's footer, and the lines in it that are read.
const FOOTER: [&str; 3] = ["| Summary", "Fail-Stage: ", "Status: "];
/// What begins apt's list of unmet dependencies.
const UNMET: [&str; 2] = [
    "The following packages have unmet dependencies:",
    "Unsatisfied dependencies:",
];
/// What follows the name of a package that is installed in the wrong version (2008 only).
const OLD_VERSION: &str = "(inst ";

/// Where in a line a sign's text stands.
enum At {
    /// After `E: ` or `Error: `.
    Error,
    /// After apt's or sbuild's `E: ` or `Error: `, `W: ` or `Warning: `.
    Message,
    /// Anywhere.
    Any,
}

/// The signs' texts.
const SIGNS: &[(Sign, At, &str)] = &[
    (Sign::FetchFailed, At::Message, "Failed to fetch "),
    (
        Sign::FetchFailed,
        At::Message,
        "Unable to fetch some archives",
    ),
    (
        Sign::FetchFailed,
        At::Message,
        "Failed to fetch some archives",
    ),
    (
        Sign::FetchFailed,
        At::Message,
        "Some index files failed to download",
    ),
    (Sign::Expired, At::Message, "Release file for "),
    (Sign::Error, At::Error, ""),
    (
        Sign::ForceYes,
        At::Message,
        "There are problems and -y was used without --force-yes",
    ),
    (
        Sign::ForceYes,
        At::Message,
        "There were unauthenticated packages and -y was used without",
    ),
    (
        Sign::DpkgFailed,
        At::Message,
        "Sub-process /usr/bin/dpkg returned an error code",
    ),
    (
        Sign::Begun,
        At::Any,
        "dpkg-buildpackage: info: source package ",
    ),
    (Sign::SourceDamaged, At::Any, " instead of expected "),
    (Sign::SourceMissing, At::Message, "Could not find "),
    (
        Sign::ArchSkipped,
        At::Any,
        " not in arch list or does not match any arch wildcards",
    ),
    (Sign::NoSpace, At::Any, "No space left on device"),
    (
        Sign::NoSpace,
        At::Message,
        "You don't have enough free space in ",
    ),
    (Sign::Killed, At::Any, "Killed signal terminated program"),
    (Sign::Killed, At::Any, "virtual memory exhausted"),
    (Sign::Killed, At::Any, "Cannot allocate memory"),
    (Sign::Killed, At::Any, "] Killed"),
    (Sign::Inactive, At::Message, "Build killed with signal "),
    (Sign::IllegalInstruction, At::Any, "terminated by signal 4"),
    (Sign::IllegalInstruction, At::Any, "Illegal instruction"),
];

/// How sure apt's words are that a relation cannot be met (docs/wire.md §3.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Certainty {
    /// The relation itself cannot be met.
    Definite,
    /// Something the relation needs may be missing instead: the package lists must be looked at.
    Dubious,
}

/// A relation, alternatives and all, that apt could not meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unmet {
    /// Without qualifiers, as a master reads it.
    pub(crate) relation: String,
    pub(crate) certainty: Certainty,
}

/// What was found in a log.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// sbuild's own account of where it stopped, absent after success.
    pub(crate) fail_stage: Option<String>,
    /// sbuild's own account of how it ended.
    pub(crate) status: Option<String>,
    /// The last list of unmet dependencies.
    pub(crate) unmet: Vec<Unmet>,
    /// Dependencies named by the old sbuild and apt, in the order of [`OldDep`]'s kinds.
    old_deps: [Option<String>; 5],
    /// The first line of each sign, in order of appearance.
    signs: Vec<(Sign, String)>,
}

/// The single lines that name a missing dependency, in order of precedence (docs/wire.md §3.7).
#[derive(Debug, Clone, Copy)]
enum OldDep {
    LaterThan,
    AtLeast,
    NotFound,
    NoCandidate,
    NotLocated,
}

impl Findings {
    /// Returns the first line that shows `sign`.
    pub(crate) fn sign(&self, sign: Sign) -> Option<&str> {
        let found = self.signs.iter().find(|(known, _)| *known == sign);
        found.map(|(_, line)| line.as_str())
    }

    /// Returns the relation of the first dep-wait pattern of 2008 that was met.
    pub(crate) fn old_dependency(&self) -> Option<&str> {
        self.old_deps.iter().flatten().next().map(String::as_str)
    }
}

/// Reads a log as it goes by.
#[derive(Debug, Default)]
pub(crate) struct LogScan {
    findings: Findings,
    /// The start of the line that has not ended yet.
    line: Vec<u8>,
    in_summary: bool,
    in_unmet: bool,
    /// The last unmet relation ended in `or`: its next alternative follows.
    or_follows: bool,
}

impl LogScan {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Reads the next bytes, cut anywhere.
    pub(crate) fn feed(&mut self, mut chunk: &[u8]) {
        loop {
            if self.line.is_empty() && !self.in_unmet {
                chunk = skip_idle_lines(chunk);
            }
            let Some(end) = memchr(b'\n', chunk) else {
                return self.hold(chunk);
            };
            self.hold(&chunk[..end]);
            self.end_line();
            chunk = &chunk[end + 1..];
        }
    }

    /// Returns what was found up to the end of the log.
    pub(crate) fn finish(mut self) -> Findings {
        self.end_line();
        self.findings
    }

    fn hold(&mut self, bytes: &[u8]) {
        let room = MAX_LINE_BYTES - self.line.len();
        self.line.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn end_line(&mut self) {
        let bytes = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&bytes);
        self.read_line(line.trim_end());
        self.line = bytes;
        self.line.clear();
    }

    fn read_line(&mut self, line: &str) {
        self.read_footer(line);
        self.read_unmet(line);
        for (sign, at, text) in SIGNS {
            let shown = match at {
                At::Error => ["E: ", "Error: "]
                    .iter()
                    .any(|start| line.starts_with(start)),
                At::Message => message(line).is_some_and(|message| message.starts_with(text)),
                At::Any => line.contains(text),
            };
            if shown && self.findings.sign(*sign).is_none() {
                self.findings.signs.push((*sign, line.to_owned()));
            }
        }
        if let Some((kind, relation)) = old_dependency(line) {
            let place = &mut self.findings.old_deps[kind as usize];
            match kind {
                OldDep::LaterThan | OldDep::AtLeast if place.is_some() => {}
                _ => *place = Some(relation),
            }
        }
    }

    /// Takes the footer's values: each header starts it anew, and later output adds nothing.
    fn read_footer(&mut self, line: &str) {
        let [summary, fail_stage, status] = FOOTER;
        if line.starts_with(summary) {
            self.in_summary = true;
            (self.findings.fail_stage, self.findings.status) = (None, None);
        }
        if !self.in_summary {
            return;
        }
        if let Some(stage) = line.strip_prefix(fail_stage) {
            self.findings
                .fail_stage
                .get_or_insert_with(|| stage.trim().to_owned());
        } else if let Some(status) = line.strip_prefix(status) {
            self.findings
                .status
                .get_or_insert_with(|| status.trim().to_owned());
        }
    }

    /// Reads apt's list of unmet dependencies: indented lines below its header. What apt says on
    /// stderr meanwhile may stand before the first, or part of it: an `E`, say.
    fn read_unmet(&mut self, line: &str) {
        let is_relation = line.starts_with(' ')
            || [" : Depends: ", " : PreDepends: "]
                .iter()
                .any(|kind| line.contains(kind));
        let header = UNMET.iter().any(|header| line.starts_with(header));
        if header {
            self.findings.unmet.clear();
            (self.in_unmet, self.or_follows) = (true, false);
        } else if !is_relation {
            self.in_unmet = false;
        } else if self.in_unmet && self.findings.unmet.len() < MAX_UNMET {
            self.read_unmet_line(line.trim());
        }
    }

    /// Reads ` PACKAGE : Depends: RELATION but REASON[ or]`; following lines leave out the
    /// package, and further alternatives also the kind.
    fn read_unmet_line(&mut self, line: &str) {
        let text = line.split_once(" : ").map_or(line, |(_, text)| text);
        let (text, or) = text
            .strip_suffix(" or")
            .map_or((text, false), |text| (text, true));
        if std::mem::replace(&mut self.or_follows, or) {
            if let Some(unmet) = self.findings.unmet.last_mut() {
                let next = unmet_relation(text);
                unmet.relation = format!("{} | {}", unmet.relation, next.relation);
                unmet.certainty = unmet.certainty.max(next.certainty);
            }
            return;
        }
        let relation = text
            .strip_prefix("Depends: ")
            .or_else(|| text.strip_prefix("PreDepends: "));
        match relation {
            Some(relation) => self
                .findings
                .unmet
                .push(unmet_relation(relation.trim_start())),
            None => self.or_follows = false,
        }
    }
}

/// Splits `RELATION but REASON`; no reason or an unknown one is dubious.
fn unmet_relation(text: &str) -> Unmet {
    let (relation, reason) = text.split_once(" but ").unwrap_or((text, ""));
    let reason = reason.trim_end();
    let definite = reason.ends_with(" is to be installed")
        || reason == "it is not installable"
        || reason == "it is a virtual package"
        || (reason.ends_with(" is installed") && reason != "it is installed");
    let certainty = if definite {
        Certainty::Definite
    } else {
        Certainty::Dubious
    };
    Unmet {
        relation: strip(relation),
        certainty,
    }
}

/// Returns `text`, which begins a line, from the first line on in which [`LogScan::read_line`] may
/// find something outside a list of unmet dependencies; at least from the last line on. A log may
/// come by the gigabyte, and looking at each of its lines takes ten times as long.
fn skip_idle_lines(text: &[u8]) -> &[u8] {
    static TEXTS: LazyLock<AhoCorasick> = LazyLock::new(|| {
        let signs = SIGNS.iter().filter(|(_, at, _)| matches!(at, At::Any));
        let texts = signs.map(|(_, _, text)| *text).chain(FOOTER).chain(UNMET);
        let texts = texts.chain([OLD_VERSION]).map(str::to_owned);
        AhoCorasick::builder()
            // The kind that vectors are used for.
            .match_kind(MatchKind::LeftmostFirst)
            .build(texts.chain(MESSAGES.map(|mark| format!("\n{mark}"))))
            .expect("they are few and short")
    });
    if MESSAGES
        .iter()
        .any(|mark| text.starts_with(mark.as_bytes()))
    {
        return text;
    }
    let found = TEXTS
        .find(text)
        .map_or(text.len(), |found| found.start() + 1);
    let start = memrchr(b'\n', &text[..found]).map_or(0, |end| end + 1);
    &text[start..]
}

/// Returns what follows the mark of an error or warning.
fn message(line: &str) -> Option<&str> {
    MESSAGES.iter().find_map(|mark| line.strip_prefix(mark))
}

/// Reads the single lines that name a missing dependency.
fn old_dependency(line: &str) -> Option<(OldDep, String)> {
    if let Some(message) = message(line) {
        if let Some(name) = message.strip_prefix("Couldn't find package ") {
            return Some((OldDep::NotFound, bare_name(name)?));
        }
        if let Some(name) = message.strip_prefix("Unable to locate package ") {
            return Some((OldDep::NotLocated, bare_name(name)?));
        }
        let name = message
            .strip_prefix("Package ")?
            .split_once(" has no installation candidate")?;
        return Some((OldDep::NoCandidate, bare_name(name.0)?));
    }
    // `PKG(inst VERSION ! >> wanted VERSION)`, possibly several in a line.
    let (name, rest) = line.split_once(OLD_VERSION)?;
    let (_, rest) = rest.split_once(" ! ")?;
    let (operator, rest) = rest.split_once(" wanted ")?;
    let (version, _) = rest.split_once(')')?;
    let name = bare_name(name.rsplit(' ').next()?)?;
    match operator {
        ">>" => Some((OldDep::LaterThan, format!("{name} (>> {version})"))),
        "=" | ">=" => Some((OldDep::AtLeast, format!("{name} (>= {version})"))),
        _ => None,
    }
}

/// Returns a package name without quotes and what follows it.
///
/// Names of sbuild's own dummy packages are no dependencies of anything.
fn bare_name(text: &str) -> Option<String> {
    let name = text
        .split_ascii_whitespace()
        .next()?
        .trim_matches(['\'', '"', '`']);
    let is_name = !name.is_empty() && !name.starts_with("sbuild-build-depends-");
    is_name.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
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
    fn unmet_dependencies_with_alternatives() {
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
    fn what_apt_says_at_the_same_time_may_stand_before_a_relation() {
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
    fn reasons() {
        let check =
            |reason: &str, expect| assert_eq!(unmet_relation(reason).certainty, expect, "{reason}");
        check("x but 1.0 is installed", Certainty::Definite);
        check("x but it is not installed", Certainty::Dubious);
        check("x but it is not going to be installed", Certainty::Dubious);
        check("x", Certainty::Dubious);
    }

    #[test]
    fn old_patterns_in_their_order() {
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
    fn what_matters_is_found_among_what_does_not() {
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
            include_bytes!("../../tests/fixtures/buildlogs/unmet-dubious.log"),
            include_bytes!("../../tests/fixtures/buildlogs/fetch-failed.log"),
            include_bytes!("../../tests/fixtures/buildlogs/successful.log"),
            b"The following packages have unmet dependencies:\n x : Depends: a (>= 1) but 2 is to be \
              installed or\n b:any but it is not installable\nE: Unable to locate package c\n",
            b"  p(inst 1 ! >> wanted 2)\n| Summary\nFail-Stage: build\nStatus: attempted\n] Killed\n",
        ];
        crate::fuzz::fuzz("logs", &seeds, |input| {
            let whole = scan(input, input.len().max(1));
            // However it comes in pieces, it says the same.
            let pieces = scan(input, 7);
            assert_eq!(format!("{pieces:?}"), format!("{whole:?}"));
            assert!(whole.unmet.len() <= MAX_UNMET && whole.signs.len() <= SIGNS.len());
            for unmet in &whole.unmet {
                assert!(!unmet.relation.contains('\n'), "{unmet:?}");
            }
        });
    }

    #[test]
    fn a_very_long_line_is_read_from_its_start_only() {
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
}
