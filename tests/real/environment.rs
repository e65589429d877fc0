//! The surroundings of a build that its package can see: variables, paths, profiles.

use std::fs;
use std::process::Command;

use serde_json::json;

use crate::support::machine::{machine, stdout, sum};
use crate::support::package::Package;
use crate::support::real_slave::Slave;

#[test]
fn profiles_and_debug_symbols_reach_the_package() {
    let Some(machine) = machine() else { return };
    let slave = Slave::start(machine, "profiles", "");
    let package = Package {
        build_depends: "far-away <!nodoc>",
        ..Package::new(
            "toy",
            "echo \"profiles: $DEB_BUILD_PROFILES, options: $DEB_BUILD_OPTIONS.\"",
        )
    };
    let source = slave.pack(&package);
    slave.begin(&source, json!({}));
    let ended = slave.end();
    ended.assert("DEPFAIL");
    assert_eq!(ended.dependencies, "far-away");
    slave.clean(&ended);

    let profiles = json!(["nodoc", "nocheck"]);
    let args = json!({"build_profiles": profiles, "build_debug_symbols": true});
    slave.begin(&source, args);
    let ended = slave.end();
    ended.assert("OK");
    ended.assert_said("\nprofiles: nodoc nocheck, options: ");
    assert!(!ended.log.contains("noautodbgsym"));
    slave.clean(&ended);
}

#[test]
fn currently_building_is_there_only_for_its_readers() {
    let Some(machine) = machine() else { return };
    let slave = Slave::start(machine, "currently", "");
    let script = "cat /CurrentlyBuilding || echo 'no such file here'";
    let source = slave.pack(&Package::new("toy", script));
    slave.begin(&source, json!({}));
    let ended = slave.end();
    ended.assert("OK");
    ended.assert_said("\nno such file here\n");
    slave.clean(&ended);

    // The folder of pkgbinarymangler, which Ubuntu's chroots have.
    let chroot = slave.dir.join("mangled.tar");
    fs::copy(&machine.chroot, &chroot).unwrap();
    let folder = "./etc/pkgbinarymangler";
    fs::create_dir_all(slave.dir.join("more").join(folder)).unwrap();
    let mut append = Command::new("tar");
    append.arg("--append").arg("--file").arg(&chroot);
    append.args(["--owner=0", "--group=0", "--directory"]);
    stdout(append.arg(slave.dir.join("more")).arg(folder));
    slave.send(std::slice::from_ref(&chroot));
    let args = json!({"archive_purpose": "PPA"});
    slave.begin_in(&sum("sha1sum", &chroot), &source, args);
    fs::remove_file(&chroot).unwrap();
    let ended = slave.end();
    ended.assert("OK");
    let suite = &machine.suite;
    ended.assert_said(&format!("\nPackage: toy\nSuite: {suite}\nPurpose: PPA\n"));
    slave.clean(&ended);
}
