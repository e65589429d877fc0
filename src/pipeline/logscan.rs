//! Pure: finds the lines of a build's log that matter for its verdict.
//!
//! One pass over chunks of the raw log, in limited memory. The texts are those of sbuild 0.85 to
//! 0.91, dpkg and apt 1.x to 3.x, which prefix errors with `E: ` or `Error: `. `verdict` interprets
//! the findings, and knows which of them a package could have printed itself. Only the footer after
//! the last `| Summary` header counts as sbuild's. Headers match by prefix: newer ones end in a
//! time.
//!
//! sbuild reads apt's output from a pipe and writes it to the log; apt's errors go to the log at
//! once, in pieces (`E`, `: `, the text). So a piece may stand before, between or after any lines
//! of the output, and the rest of an error may begin a line of its own.

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, MatchKind};
use memchr::{memchr, memrchr};

use super::depwait::Named;
use crate::dpkg::relations::{Group, Relation, Spelling};

/// The bytes of a line that are searched.
const MAX_LINE_BYTES: usize = 8 << 10;
/// The lines kept from apt's list of unmet dependencies.
const MAX_UNMET: usize = 256;
/// The lines of other text that may stand within apt's list of unmet dependencies.
const MAX_STRAY_LINES: u32 = 32;

/// A line that shows why a build ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sign {
    /// apt could not fetch an index or a package.
    FetchFailed,
    /// An archive's lists are too old or not valid yet.
    Expired,
    /// Any error of apt or sbuild; the first one is kept.
    Error,
    /// apt stopped because an archive was not authenticated (docs/wire.md §3.7).
    ForceYes,
    /// dpkg failed while it installed the build dependencies.
    DpkgFailed,
    /// The source files are not those the .dsc lists.
    SourceDamaged,
    /// sbuild found no .dsc.
    SourceMissing,
    /// dpkg-buildpackage has started: later failures are the package's.
    Begun,
    /// The source package does not build for this architecture.
    ArchSkipped,
    /// A write found the disk full.
    NoSpace,
    /// dpkg could not rename a folder of the chroot, as no overlay allows it.
    CannotRename,
    /// The chroot has no such program, or cannot run it.
    CannotRun,
    /// The session itself failed, or a step of the host that makes it.
    SessionFailed,
    /// A process could not fork.
    NoFork,
    /// A process was killed, most likely because memory ran out.
    Killed,
    /// sbuild stopped a silent build.
    Inactive,
    /// A program of the toolchain crashed on this machine (2008 only, docs/wire.md §3.7).
    IllegalInstruction,
}

/// The prefixes of errors and warnings.
const MESSAGES: [&str; 4] = ["E: ", "W: ", "Error: ", "Warning: "];
/// The part of those prefixes that apt writes by itself.
const TORN_MARK: &str = ": ";
/// The header of sbuild's footer, and the prefixes of the lines read in it.
const FOOTER: [&str; 3] = ["| Summary", "Fail-Stage: ", "Status: "];
/// The headers of apt's list of unmet dependencies.
const UNMET: [&str; 2] = [
    "The following packages have unmet dependencies:",
    "Unsatisfied dependencies:",
];
/// The line of sbuild that follows the output of a failed apt.
const UNMET_END: &str = "apt-get failed.";
/// The kinds of relations in apt's list of unmet dependencies.
const KINDS: [&str; 6] = [
    " Depends: ",
    " PreDepends: ",
    " Conflicts: ",
    " Breaks: ",
    " Obsoletes: ",
    " Recommends: ",
];
/// The text after the name of a package that is installed in the wrong version (2008 only).
const OLD_VERSION: &str = "(inst ";

/// The position of a sign's text in a line.
enum At {
    /// After `E: ` or `Error: `.
    Error,
    /// After `E: `, `Error: `, `W: ` or `Warning: `, or the rest of such a line.
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
    (Sign::CannotRun, At::Any, "buildd-slave: cannot run "),
    (Sign::SessionFailed, At::Any, "buildd-slave enter: "),
    (Sign::SessionFailed, At::Any, "buildd-slave unpack: "),
    (Sign::SessionFailed, At::Any, "buildd-slave virt: "),
    (Sign::CannotRename, At::Any, "Invalid cross-device link"),
    (
        Sign::NoSpace,
        At::Message,
        "You don't have enough free space in ",
    ),
    (Sign::CannotRun, At::Any, "groupadd: not found"),
    (Sign::CannotRun, At::Any, "useradd: not found"),
    (Sign::NoFork, At::Any, "Resource temporarily unavailable"),
    (Sign::NoFork, At::Any, "Cannot fork"),
    (Sign::Killed, At::Any, "Killed signal terminated program"),
    (Sign::Killed, At::Any, "virtual memory exhausted"),
    (Sign::Killed, At::Any, "Cannot allocate memory"),
    (Sign::Killed, At::Any, "] Killed"),
    (Sign::Inactive, At::Message, "Build killed with signal "),
    (Sign::IllegalInstruction, At::Any, "terminated by signal 4"),
    (Sign::IllegalInstruction, At::Any, "Illegal instruction"),
];

/// The findings in a log.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// The stage in which sbuild stopped; `None` after success.
    pub(crate) fail_stage: Option<String>,
    /// The status that sbuild reports.
    pub(crate) status: Option<String>,
    /// The last list of unmet dependencies.
    pub(crate) unmet: Vec<Named>,
    /// Its lines, also those about conflicts.
    pub(crate) unmet_lines: Vec<String>,
    /// Dependencies named by the old sbuild and apt, in the order of [`OldDep`]'s kinds.
    old_deps: [Option<String>; 5],
    /// The first line of each sign, in order.
    signs: Vec<(Sign, String)>,
}

/// The kinds of single lines that name a missing dependency, by precedence (docs/wire.md §3.7).
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

    /// Returns the relation of the first dep-wait pattern of 2008 that matched.
    pub(crate) fn old_dependency(&self) -> Option<&str> {
        self.old_deps.iter().flatten().next().map(String::as_str)
    }
}

/// Scans a log chunk by chunk.
#[derive(Debug, Default)]
pub(crate) struct LogScan {
    findings: Findings,
    /// The start of the line that has not ended yet.
    line: Vec<u8>,
    in_summary: bool,
    in_unmet: bool,
    /// The lines of other text in the list of unmet dependencies.
    stray_lines: u32,
    /// The package whose unmet dependencies are being listed.
    package: String,
    /// True if the last unmet relation ended in `or`: its next alternative follows.
    or_follows: bool,
}

impl LogScan {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Scans the next bytes, cut anywhere.
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

    /// Returns the findings at the end of the log.
    pub(crate) fn finish(mut self) -> Findings {
        self.end_line();
        self.findings
    }

    fn hold(&mut self, bytes: &[u8]) {
        let space = MAX_LINE_BYTES - self.line.len();
        self.line
            .extend_from_slice(&bytes[..bytes.len().min(space)]);
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
                At::Message => message_or_rest(line).starts_with(text),
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

    /// Reads the footer. Each header starts it anew; within one, the first value counts.
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

    /// Reads apt's list of unmet dependencies: the relations below its header. Pieces of apt's
    /// errors may stand anywhere within.
    fn read_unmet(&mut self, line: &str) {
        if UNMET.iter().any(|header| line.ends_with(header)) {
            self.findings.unmet.clear();
            self.findings.unmet_lines.clear();
            self.package.clear();
            (self.in_unmet, self.or_follows, self.stray_lines) = (true, false, 0);
            return;
        }
        if !self.in_unmet {
            return;
        }
        if self.findings.unmet_lines.len() < MAX_UNMET && self.read_relation(line) {
            let words: Vec<&str> = line.split_whitespace().collect();
            self.findings.unmet_lines.push(words.join(" "));
            return;
        }
        self.stray_lines += 1;
        self.in_unmet = self.stray_lines < MAX_STRAY_LINES && !line.ends_with(UNMET_END);
    }

    /// Parses ` PACKAGE : Depends: RELATION but REASON[ or]`; false if `line` is other text. Later
    /// lines are indented instead of the package; further alternatives also leave out the kind.
    fn read_relation(&mut self, line: &str) -> bool {
        let (line, or) = match line.strip_suffix(" or") {
            Some(line) => (line, true),
            None => (line, false),
        };
        let kind = KINDS.iter().find_map(|kind| Some((kind, line.find(kind)?)));
        let Some((kind, start)) = kind else {
            let indented = line.rsplit_once("  ").filter(|_| self.or_follows);
            let next = indented.and_then(|(_, text)| relation(text));
            let is_relation = next.is_some();
            if let (Some(next), Some(unmet)) = (next, self.findings.unmet.last_mut()) {
                unmet.group.0.push(next);
                self.or_follows = or;
            }
            return is_relation;
        };
        if let Some(before) = line[..start].strip_suffix(" :") {
            self.package = before.rsplit(' ').next().unwrap_or_default().to_owned();
        }
        let depends = [" Depends: ", " PreDepends: "].contains(kind);
        let relation = relation(&line[start + kind.len()..]).filter(|_| depends);
        self.or_follows = or && relation.is_some();
        if let Some(relation) = relation {
            self.findings.unmet.push(Named {
                package: self.package.clone(),
                group: Group(vec![relation]),
            });
        }
        true
    }
}

/// Parses `RELATION but REASON`. The reason says nothing certain: apt calls a package "not
/// installable" whenever it is not a candidate.
fn relation(text: &str) -> Option<Relation> {
    let relation = text.split(" but ").next().unwrap_or_default();
    Relation::parse(relation, Spelling::Message).ok()
}

/// Skips the lines at the start of `text` in which [`LogScan::read_line`] can find nothing. `text`
/// begins a line outside a list of unmet dependencies; its last line is never skipped.
///
/// Reading each line of a log of a gigabyte would take ten times as long.
fn skip_idle_lines(text: &[u8]) -> &[u8] {
    static STARTS: LazyLock<Vec<&str>> = LazyLock::new(|| {
        let messages = SIGNS.iter().filter(|(_, at, _)| matches!(at, At::Message));
        let rests = messages.map(|(_, _, text)| *text);
        MESSAGES
            .into_iter()
            .chain([TORN_MARK])
            .chain(rests)
            .collect()
    });
    static TEXTS: LazyLock<AhoCorasick> = LazyLock::new(|| {
        let signs = SIGNS.iter().filter(|(_, at, _)| matches!(at, At::Any));
        let texts = signs.map(|(_, _, text)| *text).chain(FOOTER).chain(UNMET);
        let texts = texts.chain([OLD_VERSION]).map(str::to_owned);
        let starts = STARTS.iter().map(|start| format!("\n{start}"));
        AhoCorasick::builder()
            // Only this kind uses vector instructions.
            .match_kind(MatchKind::LeftmostFirst)
            .build(texts.chain(starts))
            .expect("the patterns are few and short")
    });
    if STARTS
        .iter()
        .any(|start| text.starts_with(start.as_bytes()))
    {
        return text;
    }
    let found = TEXTS
        .find(text)
        .map_or(text.len(), |found| found.start() + 1);
    let start = memrchr(b'\n', &text[..found]).map_or(0, |end| end + 1);
    &text[start..]
}

/// Returns the text after the prefix of an error or warning.
fn message(line: &str) -> Option<&str> {
    MESSAGES.iter().find_map(|mark| line.strip_prefix(mark))
}

/// Returns the text of an error or warning, also if its prefix stands on an earlier line.
fn message_or_rest(line: &str) -> &str {
    let rest = || line.strip_prefix(TORN_MARK);
    message(line).or_else(rest).unwrap_or(line)
}

/// Parses a single line that names a missing dependency.
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
    // `PKG(inst VERSION ! >> wanted VERSION)`; a line may have several.
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

/// Returns the first word of `text` without quotes; `None` for a dummy package of sbuild.
fn bare_name(text: &str) -> Option<String> {
    let name = text
        .split_ascii_whitespace()
        .next()?
        .trim_matches(['\'', '"', '`']);
    let is_name = !name.is_empty() && !name.starts_with("sbuild-build-depends-");
    is_name.then(|| name.to_owned())
}

#[cfg(test)]
mod tests;
