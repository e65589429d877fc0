//! Disks that are full or read-only (docs/wire.md §5).
//!
//! The builder reports the disk, fails no package for it, loses no verdict, and works again when
//! the disk has space.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use nix::sys::statvfs::statvfs;
use serde_json::{Value as Json, json};

use crate::support::mounts::{
    has_mounts, may_mount, mount_tmpfs, mount_tmpfs_for, not_run, set_read_only, unmount,
};
use crate::support::{Daemon, Site, run, until};

/// The disks of these tests are smaller than the default reserve.
const DICT: &str = "statusform = dict\nverdicts = exact\n[limits]\nreserve = 1\nreserve_inodes = 1";

/// Fills the disk of `folder`, except for `left` bytes.
fn fill(folder: &Path, left: u64) {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(folder.join("ballast"))
        .unwrap();
    while file.write_all(&[b'x'; 4096]).is_ok() {}
    let len = file.metadata().unwrap().len();
    file.set_len(len.saturating_sub(left)).unwrap();
}

fn free_the_disk(folder: &Path) {
    fs::remove_file(folder.join("ballast")).unwrap();
}

/// A site whose home is on a disk of 8 MB.
fn small_home() -> Site {
    let site = Site::new(DICT);
    mount_tmpfs(&site.path("home"), 8 << 10);
    site.fill_home();
    site
}

/// A site whose journal is on a disk of `kib` KiB, apart from the rest.
fn small_journal(kib: u32) -> Site {
    let site = Site::new(DICT);
    let journal = site.path("home/journal");
    fs::create_dir(&journal).unwrap();
    mount_tmpfs(&journal, kib);
    site.give(&journal);
    site
}

fn verdict_of(status: &Json) -> &str {
    let word = status["build_status"].as_str().unwrap();
    word.strip_prefix("BuildStatus.").unwrap()
}

/// The verdict as the journal has it.
fn journaled(daemon: &Daemon) -> Json {
    serde_json::from_str(&daemon.read("home/journal/b1/verdict.json")).expect("a verdict")
}

#[test]
fn a_build_is_refused_when_the_journal_is_full() {
    if !may_mount("a journal on a full disk") {
        return;
    }
    let mut daemon = Daemon::start_in(small_journal(512));
    let journal = daemon.path("home/journal");
    let (mut refused, mut accepted) = (0, 0);
    for left in (0..=120).step_by(4) {
        fill(&journal, left << 10);
        match daemon.call("build", &daemon.parameters("b1", json!({}))) {
            Err(fault) => {
                refused += 1;
                assert!(fault.text.contains("No space left"), "{fault:?}");
                assert_eq!(daemon.state(), "IDLE");
                assert_eq!(daemon.names("home/journal"), ["ballast"]);
            }
            // An accepted build ends, and the journal has its verdict.
            Ok(_) => {
                accepted += 1;
                let status = daemon.wait_over();
                assert_ne!(verdict_of(&status), "PACKAGEFAIL", "{left} KiB");
                let kept = &journaled(&daemon)["status"];
                assert_eq!(kept, verdict_of(&status), "{left} KiB: {}", daemon.log());
                daemon.check_same_after_restart();
                daemon.clean();
            }
        }
        assert_eq!(daemon.strays().len(), 0, "{:?}", daemon.strays());
        assert!(!daemon.path("home/build-b1").exists());
        free_the_disk(&journal);
    }
    assert!(refused > 5 && accepted > 2, "{refused} {accepted}");
    daemon.check_same_after_restart();
    daemon.check_usable();
    daemon.check_cache();
}

/// The file system has free blocks and no free inode.
#[test]
fn a_build_is_refused_when_the_journal_has_no_inodes() {
    if !may_mount("a journal on a disk that holds few files") {
        return;
    }
    let site = Site::new(DICT);
    let journal = site.path("home/journal");
    fs::create_dir(&journal).unwrap();
    site.give(&journal);
    let mut daemon = Daemon::start_in(site);
    let (mut refused, mut accepted) = (0, 0);
    for files in 2..16 {
        daemon.kill();
        mount_tmpfs_for(&journal, 1 << 10, files);
        daemon.give(&journal);
        daemon.restart();
        match daemon.call("build", &daemon.parameters("b1", json!({}))) {
            Err(fault) => {
                refused += 1;
                assert!(fault.text.contains("No space left"), "{fault:?}");
                assert_eq!(daemon.state(), "IDLE");
                assert_eq!(daemon.names("home/journal"), [""; 0]);
            }
            Ok(_) => {
                accepted += 1;
                let status = daemon.wait_over();
                assert_eq!(journaled(&daemon)["status"], verdict_of(&status), "{files}");
                daemon.check_same_after_restart();
                daemon.clean();
            }
        }
        assert_eq!(daemon.strays().len(), 0, "{:?}", daemon.strays());
        assert!(!daemon.path("home/build-b1").exists());
        daemon.check_cache();
        daemon.kill();
        unmount(&journal);
        daemon.restart();
    }
    assert!(refused > 2 && accepted > 2, "{refused} {accepted}");
    daemon.check_usable();
}

/// The home is on one disk, which a test fills in the given stage.
#[test]
fn a_disk_full_in_any_stage_is_builderfail() {
    if !may_mount("a build on a full disk") {
        return;
    }
    let mut daemon = Daemon::start_in(small_home());
    let home = daemon.path("home");
    let before = daemon.names("home/filecache");
    for stage in [
        "unpack", "mount", "update", "sbuild", "scan", "umount", "clean",
    ] {
        daemon.reset();
        let work = match stage {
            "sbuild" => "printf Hello > $work/h.bin && changes h.bin",
            "clean" => "rm -rf $work",
            _ => "cat > $work/file < /dev/zero",
        };
        daemon.on(stage, &format!("hold; seq 5000; {work}"));
        daemon.build("b1", json!({}));
        daemon.wait_at(stage);
        fill(&home, 0);
        daemon.let_go(stage);
        let status = daemon.wait_over();
        assert_eq!(
            verdict_of(&status),
            "BUILDERFAIL",
            "{stage}: {}",
            daemon.log()
        );
        assert_eq!(journaled(&daemon)["status"], "BUILDERFAIL", "{stage}");
        daemon.check_same_after_restart();
        assert_eq!(daemon.strays().len(), 0, "{:?}", daemon.strays());
        // The disk is still full.
        daemon.clean();
        assert_eq!(daemon.names("home/journal"), [""; 0], "{stage}");
        assert_eq!(daemon.names("home/filecache"), before, "{stage}");
        assert!(!daemon.path("home/build-b1").exists(), "{stage}");
        daemon.check_cache();
        free_the_disk(&home);
    }
    daemon.check_usable();
}

/// The results are in the cache, and the journal has no space for the log.
#[test]
fn a_full_journal_keeps_the_list_of_results() {
    if !may_mount("a verdict on a full disk") {
        return;
    }
    let mut daemon = Daemon::start_in(small_journal(1 << 10));
    let journal = daemon.path("home/journal");
    let before = daemon.names("home/filecache");
    let names: Vec<String> = (0..300)
        .map(|n| format!("a-rather-long-name-of-a-result-{n}.bin"))
        .collect();
    let each = "for file in $(seq -f 'a-rather-long-name-of-a-result-%g.bin' 0 299)";
    daemon.on(
        "sbuild",
        &format!(
            "{each}; do echo $file > $work/$file; done; changes {}",
            names.join(" ")
        ),
    );
    daemon.on("umount", "hold; seq 5000");
    daemon.build("b1", json!({}));
    daemon.wait_at("umount");
    assert_eq!(daemon.names("home/filecache").len(), before.len() + 301);
    fill(&journal, 0);
    daemon.let_go("umount");
    // A log with gaps does not prove that the build succeeded.
    assert_eq!(verdict_of(&daemon.wait_over()), "BUILDERFAIL");
    let verdict = journaled(&daemon);
    assert_eq!(verdict["files"].as_array().unwrap().len(), 301, "{verdict}");
    let reason = verdict["reason"].as_str().unwrap();
    assert!(reason.contains("the log could not be written"), "{reason}");
    daemon.check_same_after_restart();
    daemon.clean();
    assert_eq!(daemon.names("home/filecache"), before);
    free_the_disk(&journal);
    daemon.check_usable();
}

#[test]
fn an_abort_works_on_a_full_disk() {
    if !may_mount("an abort on a full disk") {
        return;
    }
    let mut daemon = Daemon::start_in(small_home());
    let home = daemon.path("home");
    daemon.on("sbuild", "hold");
    daemon.on("umount", "hold");
    daemon.build("b1", json!({}));
    daemon.wait_at("sbuild");
    fill(&home, 0);
    daemon.ok("abort", &[]);
    daemon.wait_at("umount");
    daemon.check_same_after_restart();
    assert_eq!(daemon.state(), "ABORTING");
    daemon.let_go("umount");
    assert_eq!(verdict_of(&daemon.wait_over()), "ABORTED");
    daemon.check_same_after_restart();
    daemon.clean();
    free_the_disk(&home);
    daemon.check_usable();
}

#[test]
fn results_larger_than_the_disk_are_builderfail() {
    if !may_mount("a cache on a full disk") {
        return;
    }
    let site = Site::new(DICT);
    let cache = site.path("home/filecache");
    let kept = site.names("home/filecache");
    fs::remove_dir_all(&cache).unwrap();
    fs::create_dir(&cache).unwrap();
    mount_tmpfs(&cache, 1 << 10);
    site.fill_cache();
    let mut daemon = Daemon::start_in(site);
    assert_eq!(daemon.names("home/filecache"), kept);
    daemon.on(
        "sbuild",
        "echo small > $work/small.bin; head -c 3000000 /dev/urandom > $work/large.bin; \
         changes small.bin large.bin",
    );
    daemon.build("b1", json!({}));
    let status = daemon.wait_over();
    assert_eq!(verdict_of(&status), "BUILDERFAIL", "{}", daemon.log());
    assert_eq!(daemon.names("home/filecache"), kept, "no result stays");
    daemon.check_same_after_restart();
    daemon.clean();
    daemon.check_usable();
}

#[test]
fn a_log_that_cannot_be_written_does_not_stop_the_build() {
    if !may_mount("a log on a full disk") {
        return;
    }
    let mut daemon = Daemon::start_in(small_journal(2 << 10));
    let journal = daemon.path("home/journal");
    daemon.on(
        "sbuild",
        "echo before; hold; seq 50000; : > $site/at-rest; until [ -e $site/go-rest ]; do sleep 0.02; \
         done; echo after; exit 3",
    );
    daemon.build("b1", json!({}));
    daemon.wait_at("sbuild");
    fill(&journal, 8 << 10);
    daemon.let_go("sbuild");
    daemon.wait_at("rest");
    // The program may be ahead of the shim, which writes what it printed.
    until("the log fills the disk", || {
        (statvfs(&journal).unwrap().blocks_available() == 0).then_some(())
    });
    assert_eq!(daemon.state(), "BUILDING");
    free_the_disk(&journal);
    daemon.let_go("rest");
    let status = daemon.wait_over();
    let log = daemon.log();
    assert_eq!(
        verdict_of(&status),
        "BUILDERFAIL",
        "the package does not fail"
    );
    for line in [
        "before\n",
        "some of the log could not be written",
        "after\n",
    ] {
        assert!(log.contains(line), "{line}: {log}");
    }
    daemon.check_same_after_restart();
    daemon.clean();
    daemon.check_usable();
}

#[test]
fn the_daemon_does_not_start_on_a_read_only_disk() {
    if !may_mount("a start on a read-only disk") {
        return;
    }
    let site = small_home();
    let home = site.path("home");
    set_read_only(&home, true);
    let config = site.config();
    let (code, said) = run(site.command(&["serve", "--config", config.to_str().unwrap()]));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("Read-only file system"), "{said}");
    assert!(said.contains(home.to_str().unwrap()), "{said}");
    set_read_only(&home, false);
    Daemon::start_in(site).check_usable();
}

/// An ext4 disk that a test can make fail: the kernel then makes it read-only.
struct FailingDisk {
    image: std::path::PathBuf,
    folder: std::path::PathBuf,
}

impl FailingDisk {
    /// Mounts one; `None` where this machine has no ext4 or loop devices.
    fn mount(site: &Site, folder: &Path) -> Option<Self> {
        let disk = Self {
            image: site.path("image"),
            folder: folder.to_owned(),
        };
        File::create(&disk.image)
            .unwrap()
            .set_len(16 << 20)
            .unwrap();
        let made = succeeds(
            Command::new("mkfs.ext4")
                .args(["-q", "-O", "^has_journal"])
                .arg(&disk.image),
        );
        (made && disk.attach() && disk.switch().exists()).then_some(disk)
    }

    fn attach(&self) -> bool {
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop,errors=remount-ro"]);
        succeeds(mount.arg(&self.image).arg(&self.folder))
    }

    /// The file in `/sys` that triggers an error of the file system.
    fn switch(&self) -> std::path::PathBuf {
        let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let folder = format!(" {} ", self.folder.display());
        let line = mounts.lines().find(|line| line.contains(&folder)).unwrap();
        let device = line
            .split(" /dev/")
            .nth(1)
            .unwrap()
            .split(' ')
            .next()
            .unwrap();
        Path::new("/sys/fs/ext4")
            .join(device)
            .join("trigger_fs_error")
    }

    fn fail(&self) {
        fs::write(self.switch(), "1").unwrap();
    }

    /// Repairs it, as an operator does when no process uses it.
    fn repair(&self) {
        unmount(&self.folder);
        Command::new("e2fsck")
            .arg("-fy")
            .arg(&self.image)
            .output()
            .unwrap();
        assert!(self.attach());
    }
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

#[test]
fn a_disk_that_becomes_read_only_is_builderfail_until_it_is_repaired() {
    let what = "a disk that fails in mid-build";
    if !may_mount(what) {
        return;
    }
    let site = Site::new(DICT);
    let home = site.path("home");
    let Some(disk) = FailingDisk::mount(&site, &home) else {
        return not_run(what, "mkfs.ext4 and loop devices");
    };
    site.fill_home();
    // The failing disk must not lose the files that the test has written.
    assert!(succeeds(Command::new("sync").arg("-f").arg(&home)));
    let mut daemon = Daemon::start_in(site);

    // The disk fails during a build.
    daemon.on("sbuild", "hold; echo x > $work/x || exit 3");
    daemon.build("b1", json!({}));
    daemon.wait_at("sbuild");
    disk.fail();
    daemon.let_go("sbuild");
    let status = daemon.wait_over();
    assert_eq!(verdict_of(&status), "BUILDERFAIL");
    assert_eq!(daemon.strays().len(), 0, "{:?}", daemon.strays());
    let said = daemon.said();
    assert!(said.contains("Read-only file system"), "{said}");
    // `clean` fails while the disk is read-only, and the fault says why.
    let reason = daemon.refused("clean", &[]);
    assert!(reason.contains("Read-only"), "{reason}");
    assert_eq!(daemon.ok("status", &[]), status, "the build still waits");
    daemon.stop();
    disk.repair();
    daemon.restart();
    assert_eq!(verdict_of(&daemon.wait_over()), "BUILDERFAIL");
    daemon.clean();
    daemon.check_usable();

    // The disk fails before a build.
    disk.fail();
    let reason = daemon.refused("build", &daemon.parameters("b2", json!({})));
    assert!(reason.contains("Read-only"), "{reason}");
    assert_eq!(daemon.state(), "IDLE");
    daemon.stop();
    disk.repair();
    daemon.restart();
    daemon.check_usable();
    daemon.check_cache();
    daemon.stop();
    unmount(&home);
    until("nothing mounted", || (!has_mounts(&home)).then_some(()));
}
