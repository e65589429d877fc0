//! The store of unpacked chroots: eviction, and crashes during unpacking.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::machine::{Machine, machine, stdout, sum};
use crate::support::package::Package;
use crate::support::real_slave::Slave;
use crate::support::{DEADLINE, within};

/// Packs a chroot with `mib` MiB of ballast, too small for apt. A build in it stays in UPDATE for
/// ten seconds.
fn chroot(slave: &Slave, name: &str, mib: usize) -> (PathBuf, String) {
    let tree = slave.dir.join(format!("tree-{name}"));
    for folder in ["etc", "usr/bin", "var"] {
        fs::create_dir_all(tree.join(folder)).unwrap();
    }
    symlink("usr/bin", tree.join("bin")).unwrap();
    fs::write(tree.join("var/ballast"), name.repeat(mib << 20)).unwrap();
    let tarball = slave.dir.join(format!("{name}.tar.gz"));
    let mut tar = Command::new("tar");
    tar.arg("--create").arg("--gzip").arg("--file");
    stdout(tar.arg(&tarball).arg("--directory").arg(&tree).arg("."));
    slave.send(std::slice::from_ref(&tarball));
    let sum = sum("sha1sum", &tarball);
    (tarball, sum)
}

fn own_store(machine: &'static Machine, name: &str, config: &str) -> (Slave, PathBuf) {
    let chroots = machine.folder(&format!("{name}-chroots"));
    (Slave::start_with(machine, name, &chroots, config), chroots)
}

/// The names in the store, without the `.use` files.
fn trees(chroots: &Path) -> Vec<String> {
    let names = fs::read_dir(chroots).unwrap().flatten();
    let mut names: Vec<String> = names
        .map(|entry| entry.file_name().into_string().unwrap())
        .filter(|name| !name.ends_with(".use"))
        .collect();
    names.sort();
    names
}

fn sorted(sums: &[&String]) -> Vec<String> {
    let mut sums: Vec<String> = sums.iter().map(|sum| (*sum).clone()).collect();
    sums.sort();
    sums
}

fn wait_for(slave: &Slave, word: &str) -> Value {
    let word = format!("BuilderStatus.{word}");
    within(Duration::from_secs(60), &word, || {
        let status = slave.status();
        (status[0] == word).then_some(status)
    })
}

/// Begins a build in a chroot and waits until it is in its session.
fn begin(slave: &Slave, source: &[PathBuf], chroot: &str) {
    slave.begin_in(chroot, source, json!({}));
    slave.await_log("] UPDATE");
}

fn end(slave: &Slave) {
    slave.call("abort", &[]);
    wait_for(slave, "ABORTED");
    slave.call("clean", &[]);
}

#[test]
fn the_least_recently_used_chroot_is_evicted_unless_in_use() {
    let Some(machine) = machine() else { return };
    let limits = "[limits]\nchroots_size = 8M\nreserve = 1M";
    let (slave, chroots) = own_store(machine, "evict", limits);
    let source = slave.pack(&Package::new("toy", "echo not reached"));
    let [(_, a), (_, b), (_, c), (_, large)] =
        [("a", 3), ("b", 3), ("c", 3), ("d", 9)].map(|(name, mib)| chroot(&slave, name, mib));
    for sum in [&a, &b, &a] {
        begin(&slave, &source, sum);
        end(&slave);
    }
    assert_eq!(trees(&chroots), sorted(&[&a, &b]));
    begin(&slave, &source, &c);
    assert_eq!(trees(&chroots), sorted(&[&a, &c]));
    let said = format!("Evicting the unpacked chroot {b} ");
    assert!(slave.log().contains(&said), "{}", slave.log());

    // During that build another daemon builds in the same store.
    let other = Slave::start_with(
        machine,
        "evict-other",
        &chroots,
        "[limits]\nchroots_size = 4M",
    );
    let (_, e) = chroot(&other, "e", 3);
    other.begin_in(&e, &source, json!({}));
    let ended = other.end();
    ended.assert("BUILDERFAIL");
    ended.assert_said("[limits] chroots_size is 4194304");
    other.call("clean", &[]);
    assert!(trees(&chroots).contains(&c));
    end(&slave);
    begin(&other, &source, &e);
    assert_eq!(trees(&chroots), sorted(&[&e]));
    end(&other);

    // A chroot larger than the limit evicts nothing and leaves nothing.
    begin(&slave, &source, &a);
    end(&slave);
    slave.begin_in(&large, &source, json!({}));
    let ended = slave.end();
    ended.assert("BUILDERFAIL");
    ended.assert_said("[limits] chroots_size is 8388608");
    slave.call("clean", &[]);
    assert_eq!(trees(&chroots), sorted(&[&a, &e]));
}

/// Waits for a condition without pauses, as it may hold for a short time only.
fn until_soon(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < DEADLINE, "no {what} in {DEADLINE:?}");
    }
}

fn signal(words: &[&str], signal: Signal) {
    for pid in processes(words) {
        // The process may have ended already.
        let _ = kill(pid, signal);
    }
}

/// The living processes that have all of `words` in their command lines.
fn processes(words: &[&str]) -> Vec<Pid> {
    let numbers = fs::read_dir("/proc").unwrap().flatten();
    numbers
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line);
            let all = words.iter().all(|word| line.contains(word));
            all.then(|| Pid::from_raw(pid))
        })
        .collect()
}

#[test]
fn a_chroot_half_unpacked_by_a_crash_is_removed() {
    let Some(machine) = machine() else { return };
    let (mut slave, chroots) = own_store(machine, "torn", "[limits]\nreserve = 1M");
    let source = slave.pack(&Package::new("toy", "echo not reached"));
    let (_, sum) = chroot(&slave, "x", 200);
    let place = chroots.to_str().unwrap().to_owned();
    for journal_is_lost in [false, true] {
        slave.begin_in(&sum, &source, json!({}));
        until_soon("chroot half unpacked", || {
            trees(&chroots).iter().any(|name| name.starts_with(".tmp-"))
        });
        // The unpacking is stopped while the daemon and the shim are killed.
        signal(&["unpack", &place], Signal::SIGSTOP);
        slave.kill();
        let run = slave.dir.join("journal").join(slave.id());
        signal(&["shim", run.to_str().unwrap()], Signal::SIGKILL);
        signal(&["unpack", &place], Signal::SIGKILL);
        if journal_is_lost {
            // Without its journal entry the next daemon does not know the build.
            until_soon("end of the unpacking", || {
                processes(&["unpack", &place]).is_empty()
            });
            fs::remove_dir_all(&run).unwrap();
            assert!(trees(&chroots).iter().all(|name| name.starts_with(".tmp-")));
        }
        slave.start_again();
        if !journal_is_lost {
            let ended = slave.end();
            ended.assert("BUILDERFAIL");
            slave.call("clean", &[]);
        }
        assert_eq!(trees(&chroots), [""; 0]);
    }
    begin(&slave, &source, &sum);
    assert_eq!(trees(&chroots), sorted(&[&sum]));
    let ballast = chroots.join(&sum).join("root/var/ballast");
    assert_eq!(ballast.metadata().unwrap().len(), 200 << 20);
    let noted = fs::read_to_string(chroots.join(format!("{sum}.use"))).unwrap();
    let bytes: u64 = noted.parse().unwrap();
    assert!((200 << 20..201 << 20).contains(&bytes), "{bytes}");
    end(&slave);
}

#[test]
fn a_chroot_with_another_owner_is_discarded() {
    let Some(machine) = machine() else { return };
    let (mut slave, chroots) = own_store(machine, "owner", "");
    let source = slave.pack(&Package::new("toy", "echo not reached"));
    let (_, sum) = chroot(&slave, "a", 1);
    begin(&slave, &source, &sum);
    end(&slave);
    let chown = || {
        let user = fs::metadata(&slave.dir).unwrap().uid();
        stdout(
            Command::new("chown")
                .arg("-R")
                .arg(user.to_string())
                .arg(&chroots),
        );
    };
    let is_mapped = || {
        let owner = fs::metadata(chroots.join(&sum).join("root/etc"))
            .unwrap()
            .uid();
        owner >= 100_000
    };
    assert!(is_mapped());

    // A build unpacks it again.
    chown();
    let doctor = Command::new(env!("CARGO_BIN_EXE_buildd-slave"))
        .args(["doctor", "--config"])
        .arg(slave.dir.join("conf"))
        .output()
        .unwrap();
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(
        doctor.contains("unpacked chroots: 1 of 1 cannot be used"),
        "{doctor}"
    );
    begin(&slave, &source, &sum);
    let log = slave.log();
    assert!(log.contains("Discarding an unpacked chroot: "), "{log}");
    assert!(is_mapped());
    end(&slave);

    // The daemon discards it when it starts.
    chown();
    slave.kill();
    slave.start_again();
    assert_eq!(trees(&chroots), Vec::<String>::new());
}
