//! Successful builds and their results.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::support::machine::{machine, stdout, sum};
use crate::support::package::Package;
use crate::support::real_slave::{Ended, Slave};

/// Fetches all results and checks their hashes in the `.changes`; returns the listed names.
fn verify(slave: &Slave, ended: &Ended) -> Vec<String> {
    for (name, sum) in &ended.files {
        slave.fetch(name, sum);
    }
    let changes = ended.files.keys().find(|name| name.ends_with(".changes"));
    let changes = changes.unwrap_or_else(|| panic!("no .changes in {:?}", ended.files));
    let text = fs::read_to_string(slave.dir.join(changes)).unwrap();
    let listed: Vec<String> = text
        .lines()
        .skip_while(|line| *line != "Checksums-Sha256:")
        .skip(1)
        .take_while(|line| line.starts_with(' '))
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            assert_eq!(words[0], sum("sha256sum", &slave.dir.join(words[2])));
            words[2].to_owned()
        })
        .collect();
    assert_eq!(listed.len() + 1, ended.files.len(), "{:?}", ended.files);
    listed
}

/// Asserts that the fields of a `.deb` match its name, and that dpkg can unpack it.
fn assert_installable(deb: &Path) {
    let field = |name: &str| stdout(Command::new("dpkg-deb").arg("-f").arg(deb).arg(name));
    let name = format!(
        "{}_{}_{}.deb",
        field("Package"),
        field("Version"),
        field("Architecture")
    );
    assert_eq!(deb.file_name().unwrap().to_str().unwrap(), name);
    let root = deb.with_extension("root");
    stdout(Command::new("dpkg-deb").arg("-x").arg(deb).arg(&root));
    assert!(root.join("usr/share").is_dir());
}

#[test]
fn hello_builds_with_debug_symbols() {
    let Some(machine) = machine() else { return };
    let slave = Slave::start(machine, "hello", "");
    let source: Vec<_> = fs::read_dir(&machine.hello)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    slave.begin(&source, json!({"build_debug_symbols": true}));
    let ended = slave.end();
    ended.assert("OK");
    assert_eq!(ended.dependencies, "");
    ended.assert_said("Status: successful");
    let listed = verify(&slave, &ended);
    let has = |start: &str, end: &str| {
        let found = listed
            .iter()
            .find(|name| name.starts_with(start) && name.ends_with(end));
        found.unwrap_or_else(|| panic!("no {start}…{end} in {listed:?}"))
    };
    has("hello_", ".buildinfo");
    has("hello-dbgsym_", ".deb");
    assert_installable(
        &slave
            .dir
            .join(has("hello_", &format!("_{}.deb", machine.arch))),
    );
    slave.clean(&ended);
}

#[test]
fn the_configured_parallelism_reaches_the_package() {
    let Some(machine) = machine() else { return };
    let slave = Slave::start(machine, "parallel", "parallel = 3");
    let package = Package::new("toy", "echo \"options: $DEB_BUILD_OPTIONS.\"");
    let ended = slave.build(&package, json!({}));
    ended.assert("OK");
    let said = "options: noautodbgsym parallel=3.";
    ended.assert_said(said);
    let listed = verify(&slave, &ended);
    assert!(listed.contains(&format!("toy_1.0_{}.deb", machine.arch)));
    slave.clean(&ended);
}

#[test]
fn a_package_for_all_architectures_is_built_where_asked_for() {
    let Some(machine) = machine() else { return };
    let slave = Slave::start(machine, "arch-all", "");
    let package = Package {
        architecture: "all",
        ..Package::new("toy", "echo fine")
    };
    let ended = slave.build(&package, json!({"arch_indep": true}));
    ended.assert("OK");
    verify(&slave, &ended);
    assert_installable(&slave.dir.join("toy_1.0_all.deb"));
    slave.clean(&ended);
}

#[test]
fn a_dsc_of_another_name_with_md5_only_is_built() {
    let Some(machine) = machine() else { return };
    let slave = Slave::start(machine, "odd-dsc", "");
    let mut files = slave.pack(&Package::new("toy", "echo fine"));
    let text = fs::read_to_string(&files[0]).unwrap();
    let mut old: Vec<&str> = Vec::new();
    let mut dropping = false;
    for line in text.lines() {
        dropping = line.starts_with("Checksums-") || (dropping && line.starts_with(' '));
        if !dropping {
            old.push(line);
        }
    }
    assert!(text.contains("Checksums-Sha1:") && old.contains(&"Files:"));
    files[0] = files[0].with_file_name("odd.dsc");
    fs::write(&files[0], old.join("\r\n")).unwrap();
    slave.begin(&files, json!({}));
    let ended = slave.end();
    ended.assert("OK");
    let listed = verify(&slave, &ended);
    assert!(listed.contains(&format!("toy_1.0_{}.deb", machine.arch)));
    slave.clean(&ended);
}

#[test]
fn an_unusable_dsc_is_packagefail_before_the_chroot_is_unpacked() {
    let Some(machine) = machine() else { return };
    let slave = Slave::start(machine, "bad-dsc", "");
    let files = slave.pack(&Package::new("toy", "echo fine"));
    slave.begin_in(&machine.chroot_sum, &files[..1], json!({}));
    let ended = slave.end();
    ended.assert("PACKAGEFAIL");
    ended.assert_said("it lists toy_1.0.tar.xz, which is not among the files of the build");
    assert!(!ended.log.contains("] UNPACK"));
    slave.clean(&ended);
}
