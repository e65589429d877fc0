//! The binaries that the farm knows to be published, and the dep-waits that they end.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::process::{Command, Stdio};

use serde_json::{Value as Json, json};

use super::support::farm::on_both_engines;
use super::support::{Engine, Farm, QUICK};

on_both_engines! {
    a_list_is_replaced_by_a_packages_file
    one_component_of_a_list_is_replaced
    compressed_files_and_standard_input_are_read
    a_file_without_packages_replaces_no_list_by_mistake
    a_provided_name_ends_a_dep_wait_as_long_as_it_is_published
    only_the_newest_version_ends_a_dep_wait
    a_removed_package_ends_no_dep_wait
    a_met_dependency_that_is_gone_again_keeps_a_build_waiting
}

/// The farm with its builds in MANUALDEPWAIT.
struct Waiting(Farm);

impl Waiting {
    /// Build 1 waits for the first of `lines`, and so on.
    fn new(engine: Engine, lines: &[&str]) -> Self {
        let farm = Farm::new(engine, QUICK);
        farm.furnish();
        farm.add_builds(1, i64::try_from(lines.len()).unwrap(), |_| 1);
        farm.db.execute("DELETE FROM build_queue");
        for (id, line) in (1..).zip(lines) {
            farm.db.execute(&format!(
                "UPDATE build SET state = 3, dependencies = '{line}' WHERE id = {id}"
            ));
        }
        Self(farm)
    }

    fn file(&self, text: &str) -> String {
        let path = self.0.path("Packages");
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn set(&self, text: &str, more: &[&str]) -> Json {
        let path = self.file(text);
        let command = ["master", "published", "set", "hoary", "i386", &path];
        self.0.json(&[&command[..], more].concat())
    }

    /// Ends dep-waits; returns the ids of the builds, and what met their dependencies.
    fn freed(&self) -> Vec<(i64, String)> {
        let report = self.0.json(&["master", "retry-depwait"]);
        let retried = report["retried"].as_array().unwrap().iter();
        retried
            .map(|one| {
                let met = one["met"].as_str().unwrap().to_owned();
                (one["build"].as_i64().unwrap(), met)
            })
            .collect()
    }

    /// The recorded packages with their component and Provides.
    fn known(&self) -> Vec<String> {
        let sql = "SELECT name, version, component, architecture, multi_arch
            FROM published_binary ORDER BY name, version";
        let rows = self.0.db.rows(sql).into_iter();
        let mut known: Vec<String> = rows.map(|row| words(&row)).collect();
        let sql = "SELECT name, version, 'provides', provided, qualifier, provided_version
            FROM published_provides ORDER BY name, version, provided";
        known.extend(self.0.db.rows(sql).iter().map(words));
        known
    }
}

/// The texts of a row, without the empty ones.
fn words(row: &Json) -> String {
    let texts = row.as_array().unwrap().iter().filter_map(Json::as_str);
    let texts = texts.filter(|text| !text.is_empty());
    texts.collect::<Vec<_>>().join(" ")
}

/// A stanza of a Packages file.
fn stanza(name: &str, version: &str, more: &str) -> String {
    format!("Package: {name}\nVersion: {version}\nArchitecture: i386\n{more}\n")
}

fn a_list_is_replaced_by_a_packages_file(engine: Engine) {
    let farm = Waiting::new(engine, &[]);
    let first = stanza("a", "1", "Provides: x (= 3), y\nMulti-Arch: same\n")
        + &stanza("b", "1", "Section: universe/libs\n")
        + &stanza("c", "1", "");
    let done = farm.set(&first, &[]);
    let counts = |done: &Json| {
        ["packages", "added", "changed", "removed"].map(|name| done[name].as_i64().unwrap())
    };
    assert_eq!(counts(&done), [3, 3, 0, 0], "{done}");
    assert_eq!(
        (&done["series"], &done["archive"]),
        (&json!("ubuntu/hoary"), &json!("primary"))
    );
    assert_eq!(
        farm.known(),
        [
            "a 1 main i386 same",
            "b 1 universe i386 no",
            "c 1 main i386 no",
            "a 1 provides x 3",
            "a 1 provides y"
        ]
    );
    assert_eq!(counts(&farm.set(&first, &[])), [3, 0, 0, 0]);
    let second = stanza("a", "1", "Provides: y, z:any (= 1)\nMulti-Arch: allowed\n")
        + &stanza("b", "2", "Section: universe/libs\n")
        + "Package: doc\nVersion: 1\nArchitecture: all\n\nPackage: no\nVersion: 1\nArchitecture: hppa\n";
    let path = farm.file(&second);
    let said = farm
        .0
        .ok(&["master", "published", "set", "hoary", "i386", &path]);
    assert_eq!(
        said,
        "primary has 3 packages for ubuntu/hoary i386: 2 added, 1 changed, 2 removed\n\
         skipped 1 package of other architectures\n"
    );
    assert_eq!(
        farm.known(),
        [
            "a 1 main i386 allowed",
            "b 2 universe i386 no",
            "doc 1 main all no",
            "a 1 provides y",
            "a 1 provides z any 1"
        ]
    );
    // `add` removes nothing.
    let path = farm.file(&stanza("a", "2", "Provides: y\n"));
    farm.0
        .ok(&["master", "published", "add", "hoary", "i386", &path]);
    assert_eq!(farm.known().len(), 7);
}

fn one_component_of_a_list_is_replaced(engine: Engine) {
    let farm = Waiting::new(engine, &[]);
    let main = stanza("a", "1", "") + &stanza("moves", "1", "");
    farm.set(&main, &["--component", "main"]);
    let universe = stanza("b", "1", "Section: libs\n");
    farm.set(&universe, &["--component", "universe"]);
    let known = [
        "a 1 main i386 no",
        "b 1 universe i386 no",
        "moves 1 main i386 no",
    ];
    assert_eq!(farm.known(), known);
    let moved = universe + &stanza("moves", "1", "");
    farm.set(&moved, &["--component", "universe"]);
    farm.set(&stanza("a", "2", ""), &["--component", "main"]);
    let known = [
        "a 2 main i386 no",
        "b 1 universe i386 no",
        "moves 1 universe i386 no",
    ];
    assert_eq!(farm.known(), known);
}

fn compressed_files_and_standard_input_are_read(engine: Engine) {
    let farm = Waiting::new(engine, &[]);
    let mut number = 0;
    for program in ["gzip", "xz"] {
        number += 1;
        let path = farm.file(&stanza("a", &number.to_string(), ""));
        let packed = Command::new(program).args(["-kf", &path]).status().unwrap();
        assert!(packed.success());
        let packed = format!("{path}.{}", if program == "gzip" { "gz" } else { "xz" });
        farm.0
            .ok(&["master", "published", "set", "hoary", "i386", &packed]);
        assert_eq!(farm.known(), [format!("a {number} main i386 no")]);
        let mut piped = farm
            .0
            .farm_command(&["master", "published", "set", "hoary", "i386"]);
        piped
            .stdin(File::open(&packed).unwrap())
            .stdout(Stdio::piped());
        let said = String::from_utf8(piped.output().unwrap().stdout).unwrap();
        assert!(said.contains("0 added, 0 changed, 0 removed"), "{said}");
    }
}

fn a_file_without_packages_replaces_no_list_by_mistake(engine: Engine) {
    let farm = Waiting::new(engine, &[]);
    farm.set(&stanza("a", "1", ""), &[]);
    let path = farm.file("");
    let command = ["master", "published", "set", "hoary", "i386", &path];
    let said = farm.0.refused(&command);
    assert!(
        said.contains("no packages for i386; --allow-empty removes all"),
        "{said}"
    );
    let path = farm.file("<html>404</html>");
    let said = farm
        .0
        .refused(&["master", "published", "set", "hoary", "i386", &path]);
    assert!(said.contains("paragraph 1: "), "{said}");
    assert_eq!(farm.known().len(), 1);
    farm.file("");
    farm.0.ok(&[&command[..], &["--allow-empty"]].concat());
    assert!(farm.known().is_empty());
}

fn a_provided_name_ends_a_dep_wait_as_long_as_it_is_published(engine: Engine) {
    let farm = Waiting::new(
        engine,
        &["api (>= 2)", "api (>= 3) | virtual", "api (>= 4)"],
    );
    let text = stanza("lib", "1:1", "Provides: api (= 2), virtual\n");
    farm.set(&text, &[]);
    assert_eq!(
        farm.freed(),
        [
            (1, "api (>= 2) by lib 1:1 in primary".to_owned()),
            (2, "api (>= 3) | virtual by lib 1:1 in primary".to_owned()),
        ]
    );
    let shown = farm.0.json(&["master", "show", "1"]);
    let event = &shown["events"][0];
    assert_eq!(event["kind"], "freed");
    let message = "its dependencies are published: api (>= 2) by lib 1:1 in primary; returned to \
                   the queue";
    assert_eq!(event["message"], message);
    assert!(farm.0.ok(&["master", "show", "1"]).contains(message));
    // A newer version that provides it no longer takes its place.
    let newer = stanza("lib", "1:2", "Provides: api (= 5)\n")
        + &stanza("lib", "1:1", "Provides: api (= 4)\n");
    farm.set(&newer, &[]);
    let waits = "DELETE FROM build_queue;
        UPDATE build SET state = 3, dependencies = 'virtual' WHERE id = 1;
        UPDATE build SET dependencies = 'api (<< 5)' WHERE id = 3";
    farm.0.db.execute(waits);
    assert_eq!(farm.freed(), []);
    farm.set(&(newer + &stanza("other", "1", "Provides: virtual\n")), &[]);
    assert_eq!(
        farm.freed(),
        [(1, "virtual by other 1 in primary".to_owned())]
    );
}

fn only_the_newest_version_ends_a_dep_wait(engine: Engine) {
    let lines = ["a (<< 2)", "a (= 1.5)", "b (> 1.2)", "b (< 2.0)"];
    let farm = Waiting::new(engine, &lines);
    let both = stanza("a", "1.5", "") + &stanza("a", "2", "") + &stanza("b", "1.2", "");
    farm.set(&both, &[]);
    assert_eq!(
        farm.freed(),
        [(4, "b (<< 2.0) by b 1.2 in primary".to_owned())]
    );
    // The archive goes back to an older version.
    farm.set(&(stanza("a", "1.5", "") + &stanza("b", "1.2", "")), &[]);
    let ids: Vec<i64> = farm.freed().into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids, [1, 2]);
}

fn remove<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["master", "published", "remove", "hoary"], more].concat()
}

fn a_removed_package_ends_no_dep_wait(engine: Engine) {
    let farm = Waiting::new(engine, &["a", "x"]);
    let farm_of = &farm.0;
    farm.set(
        &(stanza("a", "1", "Provides: x\n") + &stanza("a", "2", "Provides: x\n")),
        &[],
    );
    let said = farm_of.refused(&remove(&["a", "3"]));
    assert!(
        said.contains("no a 3 is recorded in primary for ubuntu/hoary"),
        "{said}"
    );
    assert!(
        farm_of
            .refused(&remove(&["b"]))
            .contains("no b is recorded")
    );
    let done = farm_of.json(&remove(&["a", "2"]));
    assert_eq!(done["removed"], json!([{"arch": "i386", "version": "2"}]));
    assert_eq!(farm.known(), ["a 1 main i386 no", "a 1 provides x"]);
    let said = farm_of.ok(&remove(&["a", "--arch", "i386"]));
    assert_eq!(said, "removed a from primary for ubuntu/hoary: 1 (i386)\n");
    assert!(farm.known().is_empty());
    assert_eq!(farm.freed(), []);
}

fn a_met_dependency_that_is_gone_again_keeps_a_build_waiting(engine: Engine) {
    let farm = Waiting::new(engine, &["a, b"]);
    farm.set(&stanza("a", "1", ""), &[]);
    assert_eq!(farm.freed(), []);
    farm.set(&stanza("b", "1", ""), &[]);
    assert_eq!(farm.freed(), []);
    farm.set(&(stanza("a", "1", "") + &stanza("b", "1", "")), &[]);
    let met = "a by a 1 in primary, b by b 1 in primary";
    assert_eq!(farm.freed(), [(1, met.to_owned())]);
}

/// Prints times of a large list and of many dep-waits, and asserts what they change.
#[test]
fn large_lists_and_many_dep_waits_are_fast() {
    let packages: i64 = super::support::from_env("BUILDD_PUBLISHED", 3000);
    let waits: i64 = super::support::from_env("BUILDD_DEPWAITS", 300);
    let farm = Waiting::new(Engine::Sqlite, &[]);
    farm.0.add_builds(1, waits, |_| 1);
    farm.0.db.execute(
        "DELETE FROM build_queue;
         UPDATE build SET state = 3, dependencies =
             'lib' || id || '-dev (>= 2) | nope, api' || id || ' (>= 1), later' || (id % 10)",
    );
    let list = |version: i64| {
        let mut text = String::new();
        for number in 0..packages {
            let provides = format!("Provides: api{number} (= 1), x, y, z\n");
            text += &stanza(&format!("lib{number}-dev"), &version.to_string(), &provides);
        }
        writeln!(text, "{}", stanza("later7", "1", "")).unwrap();
        text
    };
    for version in [1, 2] {
        let text = list(version);
        let began = std::time::Instant::now();
        let done = farm.set(&text, &[]);
        eprintln!("set of {packages} packages: {:?}", began.elapsed());
        assert_eq!(done["packages"], packages + 1);
    }
    let began = std::time::Instant::now();
    let freed = farm.freed().len();
    eprintln!(
        "pass over {waits} dep-waits: {:?}, {freed} freed",
        began.elapsed()
    );
    let expected = (1..=waits.min(packages - 1))
        .filter(|id| id % 10 == 7)
        .count();
    assert_eq!(freed, expected);
}
