//! Rules about debian/: what must agree with Cargo.toml, Cargo.lock and .ci/setup.

use std::collections::BTreeSet;
use std::fs;

use crate::sources::root;

/// Packages that `.ci/setup` installs to compile the program; the package contains the result.
const TO_COMPILE: &[&str] = &["gcc", "libc6-dev"];

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// Returns the value of the first line `key = "value"` of Cargo.toml.
fn cargo(key: &str) -> String {
    let text = read("Cargo.toml");
    let value = text.lines().find_map(|line| {
        let value = line.strip_prefix(key)?.trim_start().strip_prefix('=')?;
        Some(value.trim().trim_matches('"').to_owned())
    });
    value.unwrap_or_else(|| panic!("Cargo.toml has no {key}"))
}

/// Returns the packages of a field in debian/control, each with its version, if it has one.
fn relations(package: &str, field: &str) -> BTreeSet<String> {
    let control = read("debian/control");
    let paragraph = control
        .split("\n\n")
        .find(|paragraph| paragraph.lines().any(|line| line == package))
        .unwrap_or_else(|| panic!("debian/control has no {package}"));
    paragraph
        .lines()
        .skip_while(|line| *line != format!("{field}:"))
        .skip(1)
        .take_while(|line| line.starts_with([' ', '#']))
        .filter_map(|line| line.strip_prefix(' '))
        .map(|line| line.trim_end_matches(',').to_owned())
        .collect()
}

#[test]
fn the_changelog_has_the_version_of_cargo() {
    let changelog = read("debian/changelog");
    let first = changelog.lines().next().unwrap();
    let version = cargo("version");
    assert!(
        first.starts_with(&format!("buildd-slave ({version}-")),
        "Cargo.toml has version {version}, debian/changelog begins: {first}"
    );
}

#[test]
fn building_the_package_needs_the_rust_of_cargo() {
    let needed = relations("Source: buildd-slave", "Build-Depends");
    let rust = cargo("rust-version");
    for tool in ["cargo", "rustc"] {
        let relation = format!("{tool} (>= {rust}) <!pkg.buildd-slave.hostcargo>");
        assert!(
            needed.contains(&relation),
            "debian/control, Build-Depends: not {relation} in {needed:?}"
        );
    }
}

#[test]
fn the_package_depends_on_what_setup_installs_for_builds() {
    let depends = relations("Package: buildd-slave", "Depends");
    let setup = read(".ci/setup");
    let needed: Vec<&str> = setup
        .lines()
        // The rest of the file is for tests, and indented.
        .filter_map(|line| line.strip_prefix("need "))
        .flat_map(|line| {
            let words = line.split_once(' ').unwrap().1;
            let packages = match words.strip_prefix('\'') {
                Some(quoted) => quoted.split('\'').next(),
                None => words.split(' ').next(),
            };
            packages.unwrap().split(' ')
        })
        .filter(|package| !TO_COMPILE.contains(package))
        .collect();
    assert!(needed.contains(&"sbuild"), "{needed:?}");
    for package in needed {
        assert!(
            depends.contains(package),
            "debian/control: buildd-slave does not depend on {package}"
        );
    }
}

/// Returns the crates that `make source` puts into `vendor/`, as NAME-VERSION.
fn vendored() -> BTreeSet<String> {
    let lock = read("Cargo.lock");
    lock.split("[[package]]")
        .filter(|entry| entry.contains("\nsource = "))
        .map(|entry| {
            let value = |key| {
                let mut lines = entry.lines();
                let value = lines.find_map(|line| line.strip_prefix(key));
                value.unwrap().trim_matches('"')
            };
            format!("{}-{}", value("name = "), value("version = "))
        })
        .collect()
}

#[test]
fn the_copyright_file_has_every_crate() {
    let copyright = read("debian/copyright");
    let listed: BTreeSet<String> = copyright
        .lines()
        .filter_map(|line| line.strip_prefix("Files: vendor/")?.strip_suffix("/*"))
        .filter(|name| !name.contains('*'))
        .map(str::to_owned)
        .collect();
    let locked = vendored();
    let differ: Vec<_> = locked.symmetric_difference(&listed).collect();
    assert!(
        differ.is_empty(),
        "debian/copyright is older than Cargo.lock: run `make copyright`; differ: {differ:?}"
    );
}

#[test]
fn the_copyright_file_has_the_text_of_every_licence() {
    let copyright = read("debian/copyright");
    let (mut named, mut explained) = (BTreeSet::new(), BTreeSet::new());
    for paragraph in copyright.split("\n\n") {
        let mut lines = paragraph.lines();
        let Some(names) = lines.find_map(|line| line.strip_prefix("License: ")) else {
            continue;
        };
        if lines.next().is_some() {
            explained.insert(names);
        } else {
            let names = names.split(" or ").flat_map(|one| one.split(" and "));
            named.extend(names.map(|one| one.trim_end_matches(',')));
        }
    }
    assert!(named.contains("MIT") && named.contains("Unicode-3.0"));
    let missing: Vec<_> = named.difference(&explained).collect();
    assert!(
        missing.is_empty(),
        "debian/copyright: no paragraph with the text of {missing:?}"
    );
}
