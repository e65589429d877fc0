//! Checks the rules about the sources that no compiler checks.
//!
//! It reads `src/` and `tests/` as text. The tables of areas and layers come from
//! `src/ARCHITECTURE.md`. Comments are left out, and so are unit tests where a rule says so. A
//! failure lists every offence as `file:line: rule`.
#![allow(clippy::unwrap_used)]

mod map;
mod packaging;
mod prose;
mod rust_version;
mod sources;

use std::collections::{BTreeMap, BTreeSet};

use map::{areas, layers};
use sources::{check, circles, imported, imports, names, sources, supers};

/// The homes of outside crates; folders end in `/`.
const CRATES: &[(&str, &[&str])] = &[
    ("tiny_http::", &["server/"]),
    ("httparse::", &["server/", "gate/"]),
    (
        "ureq::",
        &[
            "http_client.rs",
            "http_client/",
            "filecache/fetch.rs",
            "client/",
            "librarian/remote.rs",
        ],
    ),
    ("xml::", &["xmlrpc/"]),
    ("ini::", &["config/"]),
    ("prometheus::", &["metrics.rs"]),
    ("lzma_rust2::", &["dpkg/deb.rs", "dpkg/decompress.rs"]),
    ("rusqlite::", &["db/sqlite.rs"]),
    ("rustls::", &["db/tls.rs"]),
    ("sd_notify::", &["sys/service_manager.rs"]),
    ("clap_mangen::", &["manual/"]),
    ("clap_complete::", &["manual/"]),
    ("tar::", &["dpkg/deb.rs", "dpkg/deb/"]),
    ("zstd::", &["dpkg/deb.rs", "dpkg/deb/"]),
];

/// The names of effects, which a pure file may not contain. Plain values of the standard library,
/// such as `IpAddr`, `Duration` and `ExitStatus`, are no effects.
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
    // A group would hide what it imports.
    "use std::{",
];

/// Files whose `match`es over our own enums decide the course of a build: a new variant has to be
/// decided there.
const EXHAUSTIVE: &[&str] = &["pipeline/stage.rs", "slave/state.rs"];

/// The areas that need no row: the crate's root, and a test.
const WITHOUT_ROW: &[&str] = &["main", "fuzz"];

#[test]
fn pure_files_have_no_effects() {
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
fn areas_import_what_the_map_says() {
    let rows = areas();
    let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    check(|file, report| {
        let area = file.area();
        used.entry(area.to_owned()).or_default();
        if WITHOUT_ROW.contains(&area) {
            return;
        }
        let Some(allowed) = rows.iter().find(|(name, _)| name == area) else {
            report(1, format!("{area} has no row in src/ARCHITECTURE.md"));
            return;
        };
        for (line, code) in file.production() {
            for import in imports(code) {
                let to = import.split("::").next().unwrap_or_default();
                if to.is_empty() {
                    report(line, "imports go by area: no `use crate::{`".to_owned());
                } else if to != area {
                    used.get_mut(area).unwrap().insert(to.to_owned());
                    if !allowed.1.iter().any(|one| one == to) {
                        report(line, format!("{area} may not import crate::{to}"));
                    }
                }
            }
            if supers(code) >= file.depth() {
                report(line, "`super::` leads out of the area".to_owned());
            }
        }
    });
    for (area, allowed) in &rows {
        let used = used
            .get(area)
            .unwrap_or_else(|| panic!("src/ARCHITECTURE.md: there is no area {area}"));
        for import in allowed {
            assert!(
                used.contains(import),
                "src/ARCHITECTURE.md: {area} does not import {import} any more"
            );
        }
    }
}

#[test]
fn an_area_imports_only_areas_above_it_in_the_map() {
    let rows = areas();
    for (index, (area, imports)) in rows.iter().enumerate() {
        for import in imports {
            let above = rows[..index].iter().any(|(name, _)| name == import);
            assert!(above, "src/ARCHITECTURE.md: {import} is not above {area}");
        }
    }
}

#[test]
fn the_master_imports_only_lower_layers() {
    let layers = layers();
    let layer = |place: &str| layers.iter().find(|(_, name)| name == place);
    let mut seen = BTreeSet::new();
    check(|file, report| {
        let Some(inside) = file.name.strip_prefix("master/") else {
            return;
        };
        let place = inside.split('/').next().unwrap();
        let place = place.strip_suffix(".rs").unwrap_or(place);
        if place == "mod" {
            return;
        }
        seen.insert(place.to_owned());
        let Some((own, _)) = layer(place) else {
            report(
                1,
                format!("master/{place} has no row in src/ARCHITECTURE.md"),
            );
            return;
        };
        for (line, code) in file.production() {
            for import in imports(code) {
                let mut parts = import.split("::");
                if parts.next() != Some("master") {
                    continue;
                }
                let to = parts.next().unwrap_or_default();
                let lower = layer(to).is_some_and(|(number, _)| number < own);
                if to != place && !lower {
                    report(line, format!("layer {own}, {place}, may not import {to}"));
                }
            }
            if supers(code) > 0 && supers(code) + 1 >= file.depth() {
                report(line, "name another layer by `crate::master::`".to_owned());
            }
        }
    });
    for (_, place) in &layers {
        let known = seen.contains(place);
        assert!(known, "src/ARCHITECTURE.md: there is no master/{place}");
    }
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let sources = sources("src");
    let modules: BTreeMap<Vec<&str>, usize> = sources
        .iter()
        .enumerate()
        .map(|(index, file)| (file.module(), index))
        .collect();
    let edges: Vec<BTreeSet<usize>> = sources
        .iter()
        .map(|file| imported(file, &modules))
        .collect();
    let circles: Vec<String> = circles(&edges)
        .into_iter()
        .map(|circle| {
            let names: Vec<&str> = circle.iter().map(|&at| &*sources[at].name).collect();
            names.join(" ⇄ ")
        })
        .collect();
    assert!(circles.is_empty(), "\n{}\n", circles.join("\n"));
}

#[test]
fn every_crate_stays_in_its_home() {
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
fn statements_have_no_raw_numbers_of_enumerations() {
    const COLUMNS: &[&str] = &["status", "state", "purpose", "image_type", "protocol"];
    check(|file, report| {
        if !file.is_in("master/rows/") {
            return;
        }
        for (line, code) in file.production() {
            let words: Vec<&str> = code.split_whitespace().collect();
            for three in words.windows(3) {
                let column = COLUMNS.iter().any(|column| three[0].ends_with(column));
                let compared = matches!(three[1], "=" | "<>" | "IN");
                let digit = three[2].trim_start_matches('(').chars().next();
                if column && compared && digit.is_some_and(|c| c.is_ascii_digit()) {
                    let text = three.join(" ");
                    report(line, format!("a name of rows/numbers.rs instead of {text}"));
                }
            }
        }
    });
}
