//! The same source built by plain `sbuild --chroot-mode=unshare` and by the slave.
//!
//! The packages must be equal byte for byte. A package that prints its surroundings must see no
//! difference but those of `plain_sbuild.differences`, which docs/wire.md §3.13 explains.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::geteuid;
use serde_json::json;

use crate::support::machine::{Machine, machine};
use crate::support::package::Package;
use crate::support::real_slave::{Ended, Slave};

/// Debian's path of builds, the default of sbuild since 0.87.1.
const PATH: &str = "--build-path=/build/reproducible-path";

/// Prints one line for each thing that a package can see: a word for its kind, then the thing.
const SURROUNDINGS: &str = r#"
echo @@BEGIN
env | sort | sed 's/^/env /'
# Point, flags, type and source of a mount. Numbers of devices and sizes depend on the machine.
sed -E 's/^([^ ]+ ){4}([^ ]+) ([^ ]+) (.* )?- ([^ ]+) .*/mount \2 \5 \3/' /proc/self/mountinfo
ls -A / | sed 's/^/root /'
ls -A /dev | sed 's/^/dev /'
echo "id $(id)"
echo "umask $(umask)"
echo "directory $(pwd)"
echo "host $(uname -n)"
sed 's/^/hosts /' /etc/hosts
sed 's/^/resolv.conf /' /etc/resolv.conf
sed 's/^/hostname /' /etc/hostname
ulimit -a | sed 's/^/limit /'
ls /sys/class/net | sed 's/^/interface /'
sed -n '/^Cap\|^NoNewPrivs\|^Seccomp/s/^/status /p' /proc/self/status
readlink /proc/self/fd/0 | sed 's/^/stdin /'
tty >/dev/null && echo 'terminal yes'
echo @@END
"#;

/// The differences that are explained, one a line: `-` for what only plain sbuild has and `+` for
/// what only the slave has. A `*` stands for any text.
const ALLOWED: &str = include_str!("plain_sbuild.differences");

/// Builds `dsc` by plain sbuild as the user that builds; returns the folder of the results and the
/// log.
fn build_plainly(machine: &Machine, test: &str, dsc: &Path) -> (PathBuf, String) {
    let folder = machine.folder(&format!("{test}-plain"));
    let tmp = machine.folder(&format!("{test}-plain/tmp"));
    let config = folder.join("sbuildrc");
    fs::write(&config, "$log_filter = 0;\n1;\n").unwrap();
    let mut command = match geteuid().is_root() {
        true => Command::new("runuser"),
        false => Command::new("env"),
    };
    if geteuid().is_root() {
        command.args(["-u", "buildd", "--", "env"]);
    }
    command.args(["-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]);
    command.arg(format!("HOME={}", folder.display()));
    command.arg(format!("TMPDIR={}", tmp.display()));
    command.arg(format!("SBUILD_CONFIG={}", config.display()));
    command.args(["sbuild", "--chroot-mode=unshare", "--nolog", PATH]);
    command.arg(format!("--chroot={}", machine.chroot.display()));
    command.arg(format!("--dist={}", machine.suite));
    command.args(["--no-run-lintian", "--bd-uninstallable-explainer=none"]);
    command.args(["--apt-update", "--apt-distupgrade"]).arg(dsc);
    let output = command
        .current_dir(&folder)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stdout).into_owned();
    let end: Vec<&str> = log.lines().rev().take(40).collect();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{end:#?} {error}");
    (folder, log)
}

/// Builds the same by the slave, with what plain sbuild builds by default.
fn build_by_slave(slave: &Slave, source: &[PathBuf]) -> Ended {
    slave.begin(
        source,
        json!({"arch_indep": true, "build_debug_symbols": true}),
    );
    let ended = slave.end();
    ended.assert("OK");
    ended
}

/// Returns the names of the `.deb` files in a folder.
fn debs(folder: &Path) -> BTreeSet<String> {
    let names = fs::read_dir(folder).unwrap();
    names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".deb"))
        .collect()
}

#[test]
fn packages_are_those_of_plain_sbuild() {
    let Some(machine) = machine() else { return };
    let slave = Slave::start(machine, "same", "");
    let source: Vec<_> = fs::read_dir(&machine.hello)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    let is_dsc = |path: &&PathBuf| path.extension().is_some_and(|end| end == "dsc");
    // The user that builds may not reach the folder of the sources.
    let copies = machine.folder("same-source");
    for file in &source {
        fs::copy(file, copies.join(file.file_name().unwrap())).unwrap();
    }
    let dsc = source.iter().find(is_dsc).unwrap().file_name().unwrap();
    let (plain, _) = build_plainly(machine, "same", &copies.join(dsc));
    let ended = build_by_slave(&slave, &source);
    let names = debs(&plain);
    let own = ended.files.keys().filter(|name| name.ends_with(".deb"));
    assert_eq!(own.cloned().collect::<BTreeSet<_>>(), names);
    // hello and hello-dbgsym.
    assert_eq!(names.len(), 2, "{names:?}");
    for name in names {
        let own = slave.fetch(&name, &ended.files[&name]);
        let (own, plain) = (fs::read(own).unwrap(), fs::read(plain.join(&name)).unwrap());
        assert!(own == plain, "{name} differs from the one of plain sbuild");
    }
    slave.clean(&ended);
}

#[test]
fn a_package_sees_what_it_sees_in_plain_sbuild() {
    let Some(machine) = machine() else { return };
    let slave = Slave::start(machine, "surroundings", "");
    let source = slave.pack(&Package::new("toy", SURROUNDINGS));
    let (_, plain) = build_plainly(machine, "surroundings", &source[0]);
    let ended = build_by_slave(&slave, &source);
    let (plain, own) = (seen(&plain), seen(&ended.log));
    assert!(
        plain.contains("umask 0022") && plain.len() > 100,
        "{plain:?}"
    );
    let only = |sign: &str, here: &BTreeSet<String>, there: &BTreeSet<String>| -> Vec<String> {
        let lines = here.difference(there);
        lines.map(|line| format!("{sign} {line}")).collect()
    };
    let mut differences = only("-", &plain, &own);
    differences.extend(only("+", &own, &plain));
    let allowed = |line: &String| {
        let patterns = ALLOWED.lines().filter(|line| !line.starts_with('#'));
        patterns.into_iter().any(|pattern| fits(pattern, line))
    };
    differences.retain(|line| !allowed(line));
    assert!(
        differences.is_empty(),
        "not in plain_sbuild.differences:\n{}",
        differences.join("\n")
    );
    slave.clean(&ended);
}

/// Returns the lines that [`SURROUNDINGS`] printed.
fn seen(log: &str) -> BTreeSet<String> {
    let lines = log.lines().map(|line| line.trim_end_matches('\r'));
    lines
        .skip_while(|line| *line != "@@BEGIN")
        .skip(1)
        .take_while(|line| *line != "@@END")
        .map(str::to_owned)
        .collect()
}

/// Returns whether the text fits a pattern, in which `*` stands for any text.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|text| {
            let mut ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
            ends.any(|at| fits(rest, &text[at..]))
        }),
    }
}
