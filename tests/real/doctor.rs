//! `doctor --fix` makes a bare system build, and a chroot without passwd is named and mended.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::unistd::geteuid;
use serde_json::json;

use crate::support::machine::{machine, stdout, sum};
use crate::support::mounts::not_run;
use crate::support::package::Package;
use crate::support::real_slave::Slave;

use super::platforms::{chroot as chroot_of, release};

const PROGRAM: &str = env!("CARGO_BIN_EXE_buildd-slave");

/// Makes `$1` the root of a private mount namespace, and checks and mends it.
const IN_THE_SYSTEM: &str = r#"set -e
cd "$1"
mount --bind . .
cd "$1"
mount --rbind /dev dev
mount --rbind /sys sys
mount -t proc proc proc
mkdir -p old
pivot_root . old
umount -l /old
exec /usr/bin/buildd-slave doctor --fix --yes 2>&1
"#;

#[test]
fn a_bare_system_becomes_one_that_builds() {
    let Some(machine) = machine() else { return };
    if !geteuid().is_root() {
        return not_run("a_bare_system_becomes_one_that_builds", "root");
    }
    let system = machine.home.join("bare-system");
    fs::create_dir(&system).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--exclude=./dev/*", "--file"])
        .arg(&machine.chroot)
        .arg("--directory")
        .arg(&system);
    stdout(&mut tar);
    stdout(
        Command::new("install")
            .arg(PROGRAM)
            .arg(system.join("usr/bin/buildd-slave")),
    );
    fs::copy("/etc/resolv.conf", system.join("etc/resolv.conf")).unwrap();
    let mut unshare = Command::new("unshare");
    unshare
        .args(["--mount", "--pid", "--fork", "--kill-child"])
        .args(["--propagation", "private", "sh", "-c", IN_THE_SYSTEM, "sh"])
        .arg(&system);
    let output = unshare.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    for mend in ["useradd ", "usermod ", "apt-get update"] {
        assert!(said.contains(&format!("\n+ {mend}")), "{mend}: {said}");
    }
    let (_, last) = said.rsplit_once("Checking again:").unwrap();
    for check in [
        "user",
        "sbuild",
        "newuidmap",
        "user namespaces",
        "layer on disk",
        "mmdebstrap",
    ] {
        let ok = format!("\nok    {check}: ");
        assert!(last.contains(&ok), "{check}: {said}");
    }
    assert_eq!(output.status.code(), Some(0), "{said}");
    let ids = fs::read_to_string(system.join("etc/subuid")).unwrap();
    assert!(ids.contains("buildd:"), "{ids}");
    fs::remove_dir_all(&system).unwrap();
}

/// Runs `chroot WORDS… TAR` with the configuration of `slave`, with `input` on its stdin.
fn chroot(slave: &Slave, words: &str, tar: &Path, input: &str) {
    let line = format!(
        "printf %s '{input}' | {PROGRAM} chroot {words} {}",
        tar.display()
    );
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &line])
        .env("BUILDD_SLAVE_CONFIG", slave.dir.join("conf"));
    stdout(&mut shell);
}

#[test]
fn a_chroot_without_passwd_is_named_and_mended() {
    let Some(machine) = machine() else { return };
    let chroots = machine.folder("chroots-without-passwd");
    let slave = Slave::start_with(machine, "without-passwd", &chroots, "");
    let source = slave.pack(&Package::new("toy", "true"));
    // In Debian 12, apt itself needs passwd.
    let suite = release(machine, 1);
    let tar = slave.dir.join("bad.tar.zst");
    fs::copy(chroot_of(machine, suite, &machine.arch), &tar).unwrap();
    machine.give(&tar);
    let purge = "dpkg --purge --force-all passwd\n";
    chroot(&slave, "shell --save", &tar, purge);
    let build = || {
        slave.send(std::slice::from_ref(&tar));
        slave.begin_in(&sum("sha1sum", &tar), &source, json!({"suite": suite}));
        slave.end()
    };
    let ended = build();
    ended.assert("CHROOTFAIL");
    ended.assert_said("sbuild needs the package passwd in the chroot");
    slave.clean(&ended);
    let mut doctor = Command::new(PROGRAM);
    doctor
        .args(["doctor", "--config"])
        .arg(slave.dir.join("conf"));
    let said = doctor.output().unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let expect = format!("sbuild runs in the chroot: {}", sum("sha1sum", &tar));
    assert!(said.contains(&expect), "{said}");

    chroot(&slave, "update", &tar, "");
    let ended = build();
    ended.assert("OK");
    slave.clean(&ended);
}
