//! Do the sources keep the rules that no compiler checks?
//!
//! Pure files touch nothing, folders import only what they may, each outside crate has its home,
//! the words of the wire are spelled in one place, and no file grows too long. It reads `src/` and
//! `tests/` as text; comments are not looked at, and tests of a file are excepted where a rule says
//! so. A failure lists every offence as `file:line: rule`.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// What each folder, or single file, at the top of `src/` may import: `area`, or `area::item` for
/// nothing else of it. A new area has to be entered here.
const IMPORTS: &[(&str, &[&str])] = &[
    ("xmlrpc", &[]),
    ("sys", &[]),
    ("metrics", &[]),
    ("cache_eviction", &[]),
    ("server", &["metrics", "sys"]),
    ("privileges", &["sys"]),
    ("http_client", &["sys"]),
    ("protocol", &["xmlrpc"]),
    ("config", &["protocol", "server"]),
    ("config_file", &["config", "sys"]),
    (
        "filecache",
        &[
            "cache_eviction",
            "http_client",
            "metrics",
            "protocol",
            "sys",
        ],
    ),
    ("session", &["metrics", "cache_eviction", "sys"]),
    ("client", &["http_client", "protocol", "xmlrpc"]),
    ("db", &[]),
    (
        "librarian",
        &[
            "client",
            "config",
            "config_file",
            "db",
            "http_client",
            "privileges",
            "protocol",
            "server",
            "sys",
        ],
    ),
    (
        "master",
        &[
            "pipeline",
            "client",
            "config",
            "config_file",
            "db",
            "dpkg",
            "librarian",
            "privileges",
            "protocol",
            "sys",
            "xmlrpc",
        ],
    ),
    ("dpkg", &["protocol"]),
    (
        "pipeline",
        &[
            "config",
            "dpkg",
            "filecache",
            "metrics",
            "protocol",
            "session",
            "sys",
            "xmlrpc::decode_base64",
        ],
    ),
    (
        "slave",
        &[
            "pipeline",
            "config",
            "config_file",
            "filecache",
            "metrics",
            "privileges",
            "protocol",
            "cache_eviction",
            "server",
            "session",
            "sys",
            "xmlrpc",
        ],
    ),
    (
        "commands",
        &[
            "pipeline",
            "client",
            "config",
            "config_file",
            "dpkg",
            "filecache",
            "privileges",
            "protocol",
            "server",
            "session",
            "sys",
            "xmlrpc",
        ],
    ),
    ("internal", &["pipeline", "session", "sys"]),
    ("logger", &[]),
    ("fuzz", &[]),
    ("cli", EVERYTHING),
    ("main", EVERYTHING),
];
const EVERYTHING: &[&str] = &["*"];

/// Where an outside crate may be named: folders end in `/`.
const CRATES: &[(&str, &[&str])] = &[
    ("tiny_http::", &["server/"]),
    ("httparse::", &["server/"]),
    (
        "ureq::",
        &[
            "filecache/fetch.rs",
            "http_client.rs",
            "client/",
            "librarian/remote.rs",
        ],
    ),
    ("xml::", &["xmlrpc/"]),
    ("ini::", &["config/"]),
    ("prometheus::", &["metrics.rs"]),
];

/// What a pure file may not name. Plain values of the standard library, such as `IpAddr`,
/// `Duration` and `ExitStatus`, are no effects.
const EFFECTS: &[&str] = &[
    "std::fs",
    "std::env",
    "std::thread",
    "process::Command",
    "process::Child",
    "process::exit",
    "Command::new",
    "File::",
    "Instant",
    "SystemTime",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "ToSocketAddrs",
    "stdin",
    "stdout",
    "stderr",
    "nix::",
    "crate::sys",
    // What a group brings in would not be seen.
    "use std::{",
];

/// Files whose `match`es over our own enums decide the course of a build: a new variant has to be
/// decided there.
const EXHAUSTIVE: &[&str] = &["pipeline/stage.rs", "slave/state.rs"];

const LONGEST: usize = 600;

#[test]
fn pure_files_touch_nothing() {
    let mut pure = 0;
    check(|file, report| {
        if !file.text.starts_with("//! Pure:") {
            return;
        }
        pure += 1;
        for (line, code) in file.production() {
            for effect in EFFECTS.iter().filter(|effect| names(code, effect)) {
                report(line, format!("a pure file may not name {effect}"));
            }
        }
    });
    assert!(pure > 20, "only {pure} pure files found: is the mark gone?");
}

#[test]
fn folders_import_only_what_they_may() {
    check(|file, report| {
        let area = file.area();
        let Some((_, allowed)) = IMPORTS.iter().find(|(name, _)| *name == area) else {
            report(1, format!("{area} is not in the table of imports"));
            return;
        };
        for (line, code) in file.production() {
            for import in imports(code) {
                let below = |edge: &str| import.starts_with(&format!("{edge}::"));
                let may = |&edge: &&str| edge == "*" || import == edge || below(edge);
                if import.is_empty() {
                    report(line, "imports go by area: no `use crate::{`".to_owned());
                } else if import.split("::").next() != Some(area) && !allowed.iter().any(may) {
                    report(line, format!("{area} may not import crate::{import}"));
                }
            }
            if supers(code) >= file.depth() {
                report(line, "`super::` leads out of the area".to_owned());
            }
        }
    });
}

#[test]
fn every_crate_stays_at_home() {
    check(|file, report| {
        for (line, code) in file.production() {
            for (name, homes) in CRATES {
                if names(code, name) && !homes.iter().any(|home| file.is_in(home)) {
                    report(line, format!("{name} belongs in {}", homes.join(", ")));
                }
            }
        }
    });
}

#[test]
fn wire_words_are_spelled_in_protocol_only() {
    check(|file, report| {
        for (line, code) in file.production() {
            let spelled = code.contains("\"BuilderStatus.") || code.contains("\"BuildStatus.");
            if spelled && !file.is_in("protocol/") {
                report(line, "the words of the wire belong in protocol/".to_owned());
            }
        }
    });
}

#[test]
fn deciding_matches_are_exhaustive() {
    check(|file, report| {
        for (line, code) in file.production() {
            if EXHAUSTIVE.contains(&file.name.as_str()) && names(code, "_ =>") {
                report(line, "name every variant instead of `_ =>`".to_owned());
            }
        }
    });
}

#[test]
fn every_file_has_a_header_and_ends_before_it_tires() {
    check(|file, report| {
        if !file.text.starts_with("//! ") {
            report(1, "a file begins with `//!`: what is it for?".to_owned());
        }
        too_long(file, report);
    });
    check_in("tests", too_long);
}

fn too_long(file: &Source, report: &mut dyn FnMut(usize, String)) {
    let lines = file.text.lines().count();
    if lines > LONGEST {
        report(lines, format!("longer than {LONGEST} lines"));
    }
}

/// A file below `src/` or `tests/`.
struct Source {
    /// Relative to that folder.
    name: String,
    text: String,
}

impl Source {
    /// The folder at the top of `src/`, or the file there.
    fn area(&self) -> &str {
        let first = self.name.split('/').next().unwrap();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    fn is_in(&self, home: &str) -> bool {
        self.name == home
            || (home.ends_with('/') && self.name.starts_with(home))
            || home.strip_suffix('/') == self.name.strip_suffix(".rs")
    }

    /// How many `super::` lead from here to the root of the crate.
    fn depth(&self) -> usize {
        let path = self.name.strip_suffix("/mod.rs").unwrap_or(&self.name);
        path.split('/').count()
    }

    fn is_test(&self) -> bool {
        self.name.split('/').any(|part| part == "tests") || self.name.ends_with("/tests.rs")
    }

    /// The lines without comments, numbered from 1.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| {
            let comment = line.trim_start().starts_with("//");
            let end = line.find(" // ").unwrap_or(line.len());
            (index + 1, if comment { "" } else { &line[..end] })
        })
    }

    /// The same without tests.
    fn production(&self) -> impl Iterator<Item = (usize, &str)> {
        let tests = "#[cfg(test)]\nmod tests {";
        let end = match self.text.find(tests) {
            _ if self.is_test() => 0,
            Some(offset) => self.text[..offset].lines().count(),
            None => usize::MAX,
        };
        self.code().take_while(move |(line, _)| *line <= end)
    }
}

/// Runs `rule` over all of `src/`; fails with everything it reports.
fn check(rule: impl FnMut(&Source, &mut dyn FnMut(usize, String))) {
    check_in("src", rule);
}

fn check_in(folder: &str, mut rule: impl FnMut(&Source, &mut dyn FnMut(usize, String))) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut offences = Vec::new();
    for path in files(&root) {
        let name = path.strip_prefix(&root).unwrap().display().to_string();
        let text = fs::read_to_string(&path).unwrap();
        let shown = format!("{folder}/{name}");
        rule(&Source { name, text }, &mut |line, offence| {
            offences.push(format!("{shown}:{line}: {offence}"));
        });
    }
    assert!(offences.is_empty(), "\n{}\n", offences.join("\n"));
}

/// All Rust files below `folder`, in order.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Tells whether `code` holds `name` by itself, not as part of a longer name or path.
fn names(code: &str, name: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(name).any(|(at, _)| {
        let before = code[..at].chars().next_back();
        let after = code[at + name.len()..].chars().next();
        let open_end = name.ends_with(is_part) && after.is_some_and(is_part);
        !before.is_some_and(|c| is_part(c) || (c == ':' && name.ends_with("::"))) && !open_end
    })
}

/// The paths after each `crate::`; empty for a group.
fn imports(code: &str) -> Vec<&str> {
    let path = |rest: &str| {
        let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        rest.find(|c| !is_path(c)).unwrap_or(rest.len())
    };
    code.match_indices("crate::")
        .map(|(at, found)| &code[at + found.len()..])
        .map(|rest| rest[..path(rest)].trim_end_matches("::"))
        .collect()
}

/// The longest chain of `super::`.
fn supers(code: &str) -> usize {
    (1..10)
        .take_while(|&count| code.contains(&"super::".repeat(count)))
        .count()
}

#[test]
fn the_scan_sees_what_it_should() {
    assert_eq!(imports("use crate::xmlrpc::{Value};"), ["xmlrpc"]);
    assert_eq!(imports("use crate::{a, b};"), [""]);
    assert_eq!(imports("f(crate::a::B, crate::c::d())"), ["a::B", "c::d"]);
    assert!(names("use std::time::Instant;", "Instant"));
    assert!(!names("Instantly", "Instant"));
    assert!(names("xml::x", "xml::") && !names("crate::xml::x", "xml::"));
    assert!(names("fs::File::open", "File::open") && !names("Route::Files", "File"));
    assert_eq!(supers("use super::super::x;"), 2);
}
