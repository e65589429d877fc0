//! Chroots of other releases and architectures.
//!
//! `chroot create` makes them, beside the chroot of the machine. One younger than a week is reused.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::support::machine::{Machine, machine, stdout, sum};
use crate::support::package::Package;
use crate::support::real_slave::{Ended, Slave};

const PROGRAM: &str = env!("CARGO_BIN_EXE_buildd-slave");
const RELEASES: [&str; 6] = ["buster", "bullseye", "bookworm", "trixie", "forky", "sid"];
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// Returns the URL of the archive that has the release of this machine.
fn archive(machine: &Machine) -> String {
    let lines = machine.archives();
    let of_release = |line: &&String| line.split(' ').nth(2) == Some(&machine.suite);
    let line = lines.iter().find(of_release).expect("an archive");
    line.split(' ').nth(1).unwrap().trim_end_matches('/').into()
}

/// Returns the release `distance` releases later, or one nearer to the machine's, that the archive
/// of this machine has.
pub(super) fn release(machine: &Machine, distance: isize) -> &'static str {
    let here = RELEASES.iter().position(|name| *name == machine.suite);
    let here = here.expect("a known release");
    let archive = archive(machine);
    let has = |name: &str| {
        let file = machine.home.join(format!("release-{name}"));
        let url = format!("{archive}/dists/{name}/Release");
        let mut fetch = Command::new("/usr/lib/apt/apt-helper");
        let output = fetch.args(["download-file", &url]).arg(&file).output();
        output.unwrap().status.success()
    };
    let nearer = (1..=distance.unsigned_abs()).rev().filter_map(|step| {
        let step = isize::try_from(step).unwrap() * distance.signum();
        here.checked_add_signed(step)
            .and_then(|at| RELEASES.get(at))
    });
    let found = nearer.copied().find(|name| has(name));
    found.unwrap_or_else(|| panic!("{archive} has only {}", machine.suite))
}

/// Returns a tarball made by `chroot create`.
pub(super) fn chroot(machine: &Machine, suite: &str, arch: &str) -> PathBuf {
    let kept = std::env::var_os("BUILDD_TEST_CHROOT").expect("set by .ci/real");
    let kept = Path::new(&kept).parent().unwrap();
    let tarball = kept.join(format!("{suite}-{arch}.tar.zst"));
    let is_fresh = |about: fs::Metadata| about.modified().unwrap().elapsed().unwrap() < WEEK;
    if !fs::metadata(&tarball).is_ok_and(is_fresh) {
        let line = format!("deb {} {suite} main", archive(machine));
        stdout(
            Command::new(PROGRAM)
                .args(["chroot", "create", "--force", "--arch", arch])
                .args(["--suite", suite, "--archive", &line])
                .arg(&tarball),
        );
    }
    tarball
}

/// A package with a compiled program, which says where it was built.
fn package() -> Package {
    let script = "echo \"built on $(uname -m) for $(dpkg --print-architecture).\"\n\
                  printf '#include <stdio.h>\\nint main(void) { puts(\"it runs\"); return 0; }\\n' \
                  > hi.c\n\
                  gcc -o hi hi.c\n./hi\nldd --version | head -1";
    Package::new("toy", script)
}

/// Builds in a chroot and checks that the result is for its architecture.
fn build(slave: &Slave, tarball: &Path, suite: &str, arch: &str) -> Ended {
    slave.send(&[tarball.to_owned()]);
    let args = json!({"suite": suite, "arch_tag": arch});
    slave.begin_in(&sum("sha1sum", tarball), &slave.pack(&package()), args);
    let ended = slave.end();
    ended.assert("OK");
    ended.assert_said("\nit runs\n");
    let deb = format!("toy_1.0_{arch}.deb");
    assert!(ended.files.contains_key(&deb), "{:?}", ended.files);
    ended
}

/// Builds in a chroot of a release, `distance` releases later than the machine's.
fn build_in_release(test: &str, distance: isize) {
    let Some(machine) = machine() else { return };
    let suite = release(machine, distance);
    let slave = Slave::start(machine, test, "");
    let tarball = chroot(machine, suite, &machine.arch);
    let ended = build(&slave, &tarball, suite, &machine.arch);
    slave.clean(&ended);
}

#[test]
fn an_older_release_builds() {
    build_in_release("older", -2);
}

#[test]
fn a_newer_release_builds() {
    build_in_release("newer", 1);
}

#[test]
fn i386_builds_without_emulation() {
    let Some(machine) = machine() else { return };
    assert_eq!(machine.arch, "amd64", "this test knows only i386 on amd64");
    let slave = Slave::start(machine, "smaller", "");
    let ended = build(
        &slave,
        &chroot(machine, &machine.suite, "i386"),
        &machine.suite,
        "i386",
    );
    ended.assert_said("\nbuilt on i686 for i386.\n");
    assert!(!ended.log.contains("emulated"));
    slave.clean(&ended);
}

#[test]
fn arm64_builds_by_emulation_and_the_host_stays_as_it_is() {
    let Some(machine) = machine() else { return };
    let handlers = || {
        let listed = fs::read_dir("/proc/sys/fs/binfmt_misc")
            .into_iter()
            .flatten();
        let mut names: Vec<_> = listed.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = handlers();
    let tarball = chroot(machine, &machine.suite, "arm64");
    let slave = Slave::start(machine, "emulated", "emulate = arm64");
    let info = json!(["1.0", machine.arch, ["debian", "emulate:arm64"]]);
    assert_eq!(slave.call("info", &[]), info);
    let mut doctor = Command::new(PROGRAM);
    doctor
        .args(["doctor", "--config"])
        .arg(slave.dir.join("conf"));
    let findings = String::from_utf8(doctor.output().unwrap().stdout).unwrap();
    assert!(
        findings.contains("\nok    emulation of arm64: "),
        "{findings}"
    );
    let ended = build(&slave, &tarball, &machine.suite, "arm64");
    ended.assert_said("\nbuilt on aarch64 for arm64.\n");
    ended.assert_said("\nPrograms for arm64 are emulated here.\n");
    assert_eq!(handlers(), before);
    slave.clean(&ended);
}

/// Makes a tarball whose dpkg is for `arch`, with nothing to run in it.
fn hollow(slave: &Slave, arch: &str) -> PathBuf {
    let tree = slave.dir.join(format!("hollow-{arch}"));
    for folder in ["bin", "etc", "usr", "var/lib/dpkg"] {
        fs::create_dir_all(tree.join(folder)).unwrap();
    }
    let status = format!("Package: dpkg\nStatus: install ok installed\nArchitecture: {arch}\n");
    fs::write(tree.join("var/lib/dpkg/status"), status).unwrap();
    let tarball = tree.with_extension("tar");
    stdout(
        Command::new("tar")
            .args(["--create", "--file"])
            .arg(&tarball)
            .arg("--directory")
            .arg(&tree)
            .arg("."),
    );
    slave.send(std::slice::from_ref(&tarball));
    tarball
}

#[test]
fn a_chroot_of_another_architecture_than_the_build_is_refused() {
    let Some(machine) = machine() else { return };
    let slave = Slave::start(machine, "mismatch", "");
    let source = slave.pack(&Package::new("toy", "echo not reached"));
    let refuses = |chroot: &str, wanted: &str, status: &str, reason: &str| {
        let tarball = hollow(&slave, chroot);
        let args = json!({"arch_tag": wanted});
        slave.begin_in(&sum("sha1sum", &tarball), &source, args);
        let ended = slave.end();
        ended.assert(status);
        ended.assert_said(reason);
        slave.clean(&ended);
    };
    let arch = &machine.arch;
    let reason = format!("the chroot is for s390x, the build is for {arch}");
    refuses("s390x", arch, "CHROOTFAIL", &reason);
    let reason = "this builder runs no programs for s390x; to emulate it, add s390x to [slave] \
                  emulate";
    refuses("s390x", "s390x", "BUILDERFAIL", reason);
}
