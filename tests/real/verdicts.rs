//! Failed builds: each cause has its verdict.

use std::fs::{self, OpenOptions};

use serde_json::json;

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
