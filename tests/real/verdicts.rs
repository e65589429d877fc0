//! Failed builds: each cause has its verdict.

use std::fs::{self, OpenOptions};

use serde_json::json;

use super::archive::Archive;
use crate::support::machine::{machine, sum};
use crate::support::package::Package;
use crate::support::real_slave::Slave;

#[test]
fn a_failed_package_is_packagefail() {
    let Some(machine) = machine() else { return };
    let slave = Slave::start(machine, "failing", "");
    let package = Package::new("toy", "echo 'toy.c:1: error: no such luck'\nexit 1");
    let ended = slave.build(&package, json!({}));
    ended.assert("PACKAGEFAIL");
    ended.assert_said("no such luck");
    slave.clean(&ended);
}

/// Builds a package with the build dependencies `both`, and checks that it waits for `wanted`.
fn dep_wait(test: &str, wanted: &'static str, both: &'static str) {
    let Some(machine) = machine() else { return };
    let slave = Slave::start(machine, test, "");
    let package = Package {
        build_depends: both,
        ..Package::new("toy", "echo not reached")
    };
    let ended = slave.build(&package, json!({}));
    ended.assert("DEPFAIL");
    assert_eq!(ended.dependencies, wanted);
    assert!(!ended.log.contains("\nnot reached"));
    slave.clean(&ended);
}

#[test]
fn a_missing_build_dependency_is_depfail() {
    dep_wait(
        "missing-dependency",
        "no-such-package-xyz",
        "bc, no-such-package-xyz",
    );
}

#[test]
fn a_too_old_build_dependency_is_depfail() {
    dep_wait("old-dependency", "hello (>= 99)", "hello (>= 99), bc");
}

/// Builds a package, and checks that it fails because apt refuses its dependencies, with `said`
/// after apt's words.
fn refused(test: &str, build_depends: &'static str, build_conflicts: &'static str, said: &str) {
    let Some(machine) = machine() else { return };
    let slave = Slave::start(machine, test, "");
    let package = Package {
        build_depends,
        build_conflicts,
        ..Package::new("toy", "echo not reached")
    };
    let ended = slave.build(&package, json!({}));
    ended.assert("PACKAGEFAIL");
    assert_eq!(ended.dependencies, "");
    ended.assert_said("The build dependencies cannot be installed: ");
    ended.assert_said(said);
    assert!(!ended.log.contains("\nnot reached"));
    slave.clean(&ended);
}

#[test]
fn an_architecture_that_no_package_has_is_packagefail() {
    refused("qualified", "bc:any", "", ", but not as bc:any)");
}

#[test]
fn a_build_conflict_with_a_dependency_is_packagefail() {
    let said = ", which apt does not choose)";
    refused("build-conflict", "bc", "bc", said);
}

#[test]
fn dependencies_that_conflict_are_packagefail() {
    let said = ", which apt does not choose)";
    refused("conflict", "exim4-daemon-light, postfix", "", said);
}

#[test]
fn a_dependency_of_a_dependency_that_is_missing_is_depfail() {
    let Some(machine) = machine() else { return };
    let slave = Slave::start(machine, "broken-chain", "");
    let dir = slave.dir.join("archive");
    let needs = "Depends: no-such-package-xyz (>= 2)";
    let archive = Archive::with_dependency(dir, "private-tool", needs);
    let package = Package {
        build_depends: "private-tool",
        ..Package::new("toy", "echo not reached")
    };
    let mut archives = vec![archive.line()];
    archives.extend(machine.archives());
    let ended = slave.build(&package, json!({"archives": archives}));
    ended.assert("DEPFAIL");
    let wanted = "no-such-package-xyz (>= 2) | private-tool (>> 1.0)";
    assert_eq!(ended.dependencies, wanted);
    slave.clean(&ended);
}

#[test]
fn a_package_for_another_architecture_is_packagefail() {
    let Some(machine) = machine() else { return };
    let slave = Slave::start(machine, "other-arch", "");
    let other = if machine.arch == "s390x" {
        "amd64"
    } else {
        "s390x"
    };
    let package = Package {
        architecture: other,
        ..Package::new("toy", "echo not reached")
    };
    let ended = slave.build(&package, json!({}));
    ended.assert("PACKAGEFAIL");
    let sentence = "The package does not build for this architecture";
    ended.assert_said(sentence);
    slave.clean(&ended);
}

#[test]
fn a_damaged_chroot_tarball_is_chrootfail() {
    let Some(machine) = machine() else { return };
    let slave = Slave::start(machine, "damaged-chroot", "");
    let source = slave.pack(&Package::new("toy", "echo not reached"));
    let noise = slave.dir.join("noise");
    let random = |n: u32| n.wrapping_mul(2_654_435_761).to_be_bytes();
    fs::write(&noise, Vec::from_iter((0..250_000).flat_map(random))).unwrap();
    // This tarball ends in the middle of a member.
    let cut = slave.dir.join("cut");
    fs::copy(&machine.chroot, &cut).unwrap();
    let file = OpenOptions::new().write(true).open(&cut).unwrap();
    file.set_len(20_000_000).unwrap();
    for tarball in [noise, cut] {
        slave.send(std::slice::from_ref(&tarball));
        slave.begin_in(&sum("sha1sum", &tarball), &source, json!({}));
        let ended = slave.end();
        ended.assert("CHROOTFAIL");
        slave.clean(&ended);
    }
}

#[test]
fn an_unreachable_archive_is_givenback() {
    let Some(machine) = machine() else { return };
    let slave = Slave::start(machine, "unreachable", "");
    let package = Package {
        build_depends: "bc",
        ..Package::new("toy", "echo not reached")
    };
    let nobody = format!("deb http://127.0.0.1:9/debian {} main", machine.suite);
    let ended = slave.build(&package, json!({"archives": [nobody]}));
    ended.assert("GIVENBACK");
    slave.clean(&ended);
}
