//! Tests of the tables of keys, and of the comparison of two configurations.

use super::*;
use crate::config::{Defaults, Farm};

/// The shipped configuration, with the commented default of each key.
const SHIPPED: &str = include_str!("../../../buildd-slave.conf");

fn defaults() -> Defaults {
    Defaults {
        host_arch: "amd64".to_owned(),
        home: "/home/buildd".into(),
        cpus: 2,
    }
}

fn slave(text: &str) -> Config {
    Config::parse("x.conf", text, &defaults()).unwrap().0
}

fn master(text: &str) -> Master {
    Farm::parse("x.conf", text, &defaults()).unwrap().0.master
}

/// Every key that the shipped configuration names.
fn keys() -> Vec<(String, String)> {
    let mut section = String::new();
    let mut found = Vec::new();
    for line in SHIPPED.lines() {
        if let Some(name) = line.strip_prefix('[') {
            name.trim_end_matches(']').clone_into(&mut section);
            continue;
        }
        let key = line.strip_prefix('#').and_then(|it| it.split_once(" ="));
        let is_key = |key: &str| key.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        if let Some((key, _)) = key.filter(|(key, _)| is_key(key)) {
            found.push((section.clone(), key.to_owned()));
        }
    }
    assert!(found.len() > 90, "{}", found.len());
    found
}

#[test]
fn each_key_is_applied_or_needs_a_restart_of_exactly_its_daemons() {
    for (section, key) in keys() {
        for daemon in [Daemon::Slave, Daemon::Master] {
            let both = daemon.applies(&section, &key) && daemon.restarts_for(&section, &key);
            assert!(!both, "{daemon:?}: [{section}] {key}");
        }
        let daemon = match section.as_str() {
            "master" | "database" | "librarian" => Daemon::Master,
            _ => Daemon::Slave,
        };
        assert!(
            daemon.applies(&section, &key) || daemon.restarts_for(&section, &key),
            "{daemon:?}: [{section}] {key} is in no table"
        );
    }
    // No table names a key that does not exist.
    let known = keys();
    for (section, names) in [
        SLAVE_APPLIES,
        SLAVE_RESTARTS,
        MASTER_APPLIES,
        MASTER_RESTARTS,
    ]
    .concat()
    {
        for name in names {
            let key = (section.to_owned(), (*name).to_owned());
            assert!(known.contains(&key), "[{section}] {name}");
        }
    }
}

/// Another value than the default for each key of a section whose value is one word.
fn values(section: &str, keys: &[&str]) -> String {
    let value = |key: &str| match key {
        "allow" => "192.0.2.1",
        "fetch_from" => "http://files.example.org/",
        "username" | "password" | "host" | "user" | "bindhost" => "other",
        "statusform" => "dict",
        "verdicts" => "launchpad",
        "network" => "never",
        "overlay" => "copy",
        "architecturetag" | "emulate" => "arm64",
        "chroots" | "filecache" | "home" | "journal" | "sessions" | "results"
            if section != "limits" =>
        {
            "/other"
        }
        "notify" | "reset_command" | "uploader" => "/bin/other",
        "scoring" => "modern",
        _ => "77",
    };
    let lines = keys.iter().filter(|key| **key != "isolation");
    let lines = lines.map(|key| format!("{key} = {}\n", value(key)));
    format!("[{section}]\n{}", lines.collect::<String>())
}

#[test]
fn a_slave_applies_exactly_the_keys_of_its_table() {
    let table = |table: &[Keys]| -> String {
        let sections = table.iter().filter(|(_, keys)| !keys.is_empty());
        sections.map(|(name, keys)| values(name, keys)).collect()
    };
    let old = slave("");
    let applied = table(SLAVE_APPLIES)
        + "[proxy]\napt = http://p.example.org/\n[gate]\nprivate = a.example.org\ncache_size = 9\n";
    let new = slave(&applied);
    assert_ne!(old, new);
    // The name of a folder below home follows home.
    assert_eq!(old.reloaded(&new), new);
    let restart = table(SLAVE_RESTARTS);
    let new = slave(&restart);
    assert_ne!(old.slave, new.slave);
    assert_ne!(old.limits, new.limits);
    let reloaded = old.reloaded(&new);
    assert_eq!((reloaded.slave, reloaded.limits), (old.slave, old.limits));
}

#[test]
fn a_master_applies_exactly_the_keys_of_its_table() {
    let old = master("");
    let new = master(&values("master", MASTER_APPLIES[0].1));
    assert_ne!(old, new);
    assert_eq!(old.reloaded(&new), new);
    let new = master(&values("master", MASTER_RESTARTS[0].1));
    assert_ne!(old, new);
    assert_eq!(old.reloaded(&new), old);
}

#[test]
fn changes_name_the_keys_that_differ() {
    let of = |started, current, now| Changes::of(Daemon::Slave, started, current, now);
    let none = "[slave]\nallow =\n# a comment\n[limits]\n";
    assert_eq!(of("", "", none), Changes::default());
    let now = "[builder]\nallow = ::1\nbindport = 1\n[limits]\nmemory = 1G\n[master]\nlease = 9\n";
    let changes = of("", "", now);
    assert_eq!(changes.applied, ["[limits] memory", "[slave] allow"]);
    assert_eq!(changes.need_restart, ["[slave] bindport"]);
    // Until the restart, each reload names the key again.
    let again = of("", now, now);
    assert_eq!(again.applied, Vec::<String>::new());
    assert_eq!(again.need_restart, ["[slave] bindport"]);
    assert_eq!(
        of("", now, "").applied,
        ["[limits] memory", "[slave] allow"]
    );
    let master = Changes::of(Daemon::Master, "", "", now);
    assert_eq!(master.need_restart, ["[master] lease"]);
}
