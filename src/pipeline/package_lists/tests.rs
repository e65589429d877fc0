//! Tests of chains of dependencies through package lists.

use super::*;

/// Lists of packages `NAME VERSION: DEPENDS`.
fn lists(packages: &[&str]) -> PackageLists {
    let mut lists = PackageLists::new("amd64");
    for package in packages {
        let (package, depends) = package.split_once(": ").unwrap_or((package, ""));
        let (name, version) = package.split_once(' ').unwrap();
        for line in [
            format!("Package: {name}"),
            "Architecture: amd64".to_owned(),
            format!("Version: {version}"),
            format!("Depends: {depends}"),
            String::new(),
        ] {
            lists.feed(&line);
        }
    }
    assert!(lists.finish());
    lists
}

fn chains(packages: &[&str], depends: &str) -> String {
    let depends = Relations::parse(depends, Spelling::Control).unwrap();
    lists(packages).broken_chains(&depends.0).to_string()
}

#[test]
fn a_missing_dependency_of_a_dependency_breaks_it() {
    let packages = ["a 1: b (>= 2)", "b 2: c, d (>= 3)", "c 1", "d 2: c"];
    assert_eq!(chains(&packages, "c, d"), "");
    // A newer version of any package on the way may need it no longer.
    assert_eq!(chains(&packages, "c, b"), "d (>= 3) | b (>> 2)");
    assert_eq!(chains(&packages, "a"), "d (>= 3) | b (>> 2) | a (>> 1)");
    assert_eq!(
        chains(&packages, "a, b"),
        "d (>= 3) | b (>> 2) | a (>> 1), d (>= 3) | b (>> 2)"
    );
}

#[test]
fn an_alternative_or_another_version_that_is_whole_is_enough() {
    let packages = ["a 1: c", "a 2: nope", "b 1: nope | c", "c 1", "d 1: nope"];
    assert_eq!(chains(&packages, "a, b, d | c"), "");
    assert_eq!(chains(&packages, "a (>= 2)"), "nope | a (>> 2)");
    assert_eq!(chains(&packages, "d | a (>> 1)"), "nope | a (>> 2)");
}

#[test]
fn circles_are_whole_unless_something_is_missing() {
    let whole = ["a 1: b", "b 1: a, c", "c 1"];
    assert_eq!(chains(&whole, "a"), "");
    let broken = ["a 1: b", "b 1: a, c", "c 1: b, nope"];
    assert_eq!(
        chains(&broken, "a"),
        "nope | c (>> 1) | b (>> 1) | a (>> 1)"
    );
}

#[test]
fn a_qualifier_that_cannot_be_met_is_no_reason_to_wait() {
    assert_eq!(chains(&["a 1: b:any", "b 1"], "a"), "");
    assert_eq!(chains(&["a 1: b:armhf"], "a"), "");
    assert_eq!(chains(&["a 1: b:any"], "a"), "b | a (>> 1)");
}

#[test]
fn a_deep_and_wide_archive_is_searched_quickly() {
    let packages: Vec<String> = (0..3000)
        .map(|number| format!("p{number} 1: p{}, p{}", number + 1, number / 2))
        .collect();
    let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
    let found = chains(&packages[..200], "p0");
    assert!(found.starts_with("p200 | p199 (>> 1) | "), "{found}");
}
