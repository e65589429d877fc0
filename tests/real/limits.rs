//! Disk limits: a build gets its promised space, and the builder keeps its reserve.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::json;

use crate::support::machine::{Machine, machine, stdout};
use crate::support::package::Package;
use crate::support::real_slave::{Ended, Slave};

/// A small file system in memory.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(machine: &Machine, folder: PathBuf, size: &str) -> Self {
        let mut mount = Command::new("mount");
        mount.args([
            "-t",
            "tmpfs",
            "-o",
            &format!("size={size},nr_inodes=20000,mode=755"),
            "tmpfs",
        ]);
        stdout(mount.arg(&folder));
        machine.give(&folder);
        Self(folder)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Builds a package that runs `script`, on a disk of 400 MiB and 20,000 inodes with a reserve of
/// 100 MiB and 2,000 inodes. `promise` are lines for `[limits]`.
fn on_a_small_disk(machine: &'static Machine, name: &str, promise: &str, script: &str) -> Ended {
    let disk = SmallDisk::mount(machine, machine.folder(&format!("disk-of-{name}")), "400M");
    let config = format!(
        "sessions = {}/sessions\noverlay = disk\n[limits]\nreserve = 100M\nreserve_inodes = 2000\n{promise}",
        disk.0.display()
    );
    let slave = Slave::start(machine, name, &config);
    let ended = slave.build(&Package::new("toy", script), json!({}));
    slave.clean(&ended);
    assert_eq!(fs::read_dir(disk.0.join("sessions")).unwrap().count(), 0);
    ended
}

#[test]
fn a_package_that_fills_the_disk_leaves_the_reserve() {
    let Some(machine) = machine() else { return };
    // The package writes slowly enough for the daemon to stop it before the disk is full.
    let script = "for n in $(seq 1000); do head -c 4M /dev/zero >big-$n; sleep 0.1; done";
    let ended = on_a_small_disk(machine, "fills-disk", "disk = 50M", script);
    ended.assert("PACKAGEFAIL");
    ended.assert_said("The package filled the disk: it used ");
    ended.assert_said("more than the 50 MiB that a build is promised ([limits] disk)");
    assert!(!ended.log.contains("No space left"));
}

#[test]
fn a_builder_with_less_disk_than_promised_is_builderfail() {
    let Some(machine) = machine() else { return };
    // The package fills the disk at once and removes the file, as compilers do.
    let script = "head -c 1G /dev/zero >big || { rm big; exit 1; }";
    let ended = on_a_small_disk(machine, "small-disk", "disk = 1G", script);
    ended.assert("BUILDERFAIL");
    ended.assert_said("of the 1024 MiB that a build is promised ([limits] disk)");
}

/// Creates 40,000 files, slowly enough for the daemon to stop it before the disk has no inodes.
const MANY_FILES: &str = "for n in $(seq 200); do
     mkdir d$n; (cd d$n; seq 200 | xargs touch); sleep 0.05
     done";

#[test]
fn a_package_that_takes_all_inodes_leaves_the_reserve() {
    let Some(machine) = machine() else { return };
    let promise = "disk = 50M\ninodes = 5000";
    let ended = on_a_small_disk(machine, "fills-inodes", promise, MANY_FILES);
    ended.assert("PACKAGEFAIL");
    ended.assert_said("more than the 5000 inodes that a build is promised ([limits] inodes)");
    assert!(!ended.log.contains("No space left"));
}

#[test]
fn a_builder_with_fewer_inodes_than_promised_is_builderfail() {
    let Some(machine) = machine() else { return };
    let promise = "disk = 50M\ninodes = 100000";
    let ended = on_a_small_disk(machine, "few-inodes", promise, MANY_FILES);
    ended.assert("BUILDERFAIL");
    ended.assert_said("of the 100000 inodes that a build is promised ([limits] inodes)");
}
