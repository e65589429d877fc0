//! The daemon removes what dead builds have left when it starts, and nothing else (docs/wire.md §5,
//! daemon restart, rm -rf with mounts left).

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::json;

use crate::support::mounts::{has_mounts, may_mount, mount_bind, not_run, unmount};
use crate::support::{Daemon, Site, until};

/// A folder with files and folders in it, of the daemon's user.
fn make_tree(site: &Site, name: &str) {
    for folder in ["", "/a", "/a/b", "/a/b/c"] {
        fs::create_dir_all(site.path(&format!("{name}{folder}"))).unwrap();
        site.give(&site.path(&format!("{name}{folder}")));
    }
    for file in ["/file", "/a/file", "/a/b/c/file"] {
        fs::write(site.path(&format!("{name}{file}")), "x").unwrap();
    }
}

/// A work tree: the same with a link to a file of the build.
fn make_work_tree(site: &Site, name: &str) {
    make_tree(site, name);
    let file = site.path("home/filecache").join(site.dsc());
    symlink(file, site.path(&format!("{name}/hello_1.dsc"))).unwrap();
}

/// A process of the daemon's user whose environment names the journal entry `run`.
fn process_of(site: &Site, run: &Path) -> Child {
    let owner = fs::metadata(site.path("home")).unwrap();
    Command::new("sleep")
        .arg("1000")
        .uid(owner.uid())
        .gid(owner.gid())
        .env("BUILDD_SLAVE_RUN", run)
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

/// A site with what two dead builds left, and with much that looks like it. Its child processes:
struct Leftovers {
    /// Uses the session `hand-chroot-1`.
    user: Child,
    /// Belongs to a build that the command line runs, with a journal of its own.
    other_build: Child,
    /// Belongs to the dead build `dead2`.
    stray: Child,
    _alone: MutexGuard<'static, ()>,
}

/// A daemon looks for the processes of a build on the whole host, by the id of the build. The ids
/// are the same in all of these sites, so there is only one of them at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Leftovers {
    fn make(site: &Site) -> Self {
        let alone = alone();
        let journal = site.path("home/journal");
        fs::create_dir(&journal).unwrap();
        site.give(&journal);
        make_work_tree(site, "home/build-dead1");
        make_work_tree(site, "home/build-dead2");
        // Named like the tree of a build, with other content.
        make_tree(site, "home/build-area");
        for folder in [
            "home/sessions",
            "home/sessions/dead1",
            "home/sessions/hand-chroot-1",
        ] {
            fs::create_dir(site.path(folder)).unwrap();
            site.give(&site.path(folder));
        }
        // Not a session.
        make_tree(site, "home/sessions/notes");
        let mut user = Command::new("sh");
        user.args(["-c", "read line", "-"])
            .arg(site.path("home/sessions/hand-chroot-1"));
        // Names that no build has, and files that are no folders.
        make_tree(site, "home/build-not a build");
        make_tree(site, "home/build-");
        make_tree(site, "home/rebuild-1");
        make_tree(site, "elsewhere");
        fs::write(site.path("home/build-file"), "x").unwrap();
        symlink(site.path("elsewhere"), site.path("home/build-link")).unwrap();
        make_work_tree(site, "home/build-hand-hello-1");
        let other_build = site.path("home/by-hand/hand-hello-1/hand-hello-1");
        Self {
            user: user.stdin(Stdio::piped()).spawn().unwrap(),
            other_build: process_of(site, &other_build),
            stray: process_of(site, &journal.join("dead2")),
            _alone: alone,
        }
    }
}

impl Drop for Leftovers {
    fn drop(&mut self) {
        for child in [&mut self.user, &mut self.other_build, &mut self.stray] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn a_dead_builds_tree_session_and_processes_are_removed_and_named() {
    let site = Site::new("");
    let mut left = Leftovers::make(&site);
    let daemon = Daemon::start_in(site);
    let ended = until("end of the stray process", || {
        left.stray.try_wait().unwrap()
    });
    assert!(!ended.success());
    for gone in [
        "home/build-dead1",
        "home/build-dead2",
        "home/sessions/dead1",
    ] {
        assert!(!daemon.path(gone).exists(), "{gone}");
    }
    let said = daemon.said();
    let pid = format!("killing process {} (sleep)", left.stray.id());
    for named in ["build-dead1", "build-dead2", "sessions/dead1", &pid] {
        assert!(said.contains(named), "{named}: {said}");
    }
}

#[test]
fn files_and_processes_that_no_dead_build_left_are_kept() {
    let site = Site::new("");
    let mut left = Leftovers::make(&site);
    let daemon = Daemon::start_in(site);
    until("end of the stray process", || {
        left.stray.try_wait().unwrap()
    });
    assert_eq!(
        left.other_build.try_wait().unwrap(),
        None,
        "the process of another build lives"
    );
    let expect = [
        "build-",
        "build-area",
        "build-file",
        "build-hand-hello-1",
        "build-link",
        "build-not a build",
        "filecache",
        "journal",
        "rebuild-1",
        "sessions",
    ];
    assert_eq!(daemon.names("home"), expect);
    assert_eq!(daemon.names("home/sessions"), ["hand-chroot-1", "notes"]);
    for kept in [
        "elsewhere",
        "home/build-area",
        "home/build-hand-hello-1",
        "home/rebuild-1",
        "home/sessions/notes",
    ] {
        assert!(daemon.path(kept).join("a/b/c/file").exists(), "{kept}");
    }
}

#[test]
fn a_running_build_keeps_its_tree_until_its_process_ends() {
    let site = Site::new("");
    let mut left = Leftovers::make(&site);
    let mut daemon = Daemon::start_in(site);
    assert!(daemon.path("home/build-hand-hello-1").exists());
    left.other_build.kill().unwrap();
    left.other_build.wait().unwrap();
    daemon.on("sbuild", "sleep 1000 & hold; exit 2");
    daemon.build("b1", json!({}));
    daemon.wait_at("sbuild");
    daemon.kill();
    daemon.restart();
    assert!(daemon.path("home/build-b1").exists());
    assert!(
        !daemon.path("home/build-hand-hello-1").exists(),
        "its builder is dead"
    );
    daemon.let_go("sbuild");
    assert_eq!(daemon.wait_over()["build_status"], "BuildStatus.GIVENBACK");
    daemon.clean();
    daemon.check_usable();
}

#[test]
fn a_dead_builds_session_is_removed_even_if_subordinate_ids_own_it() {
    let what = "a session left by a dead build";
    let site = Site::new("");
    let ranges = fs::read_to_string("/etc/subuid").unwrap_or_default();
    let first = site.user().and_then(|user| {
        let prefix = format!("{}:", user.name);
        let range = ranges.lines().find_map(|line| line.strip_prefix(&prefix))?;
        range.split(':').next()?.parse::<u32>().ok()
    });
    let Some(first) = first else {
        return not_run(what, "root, and a user buildd with subordinate ids");
    };
    make_tree(&site, "home/sessions/dead1/upper");
    fs::create_dir(site.path("home/sessions/dead1/work")).unwrap();
    site.give(&site.path("home/sessions"));
    for name in [
        "",
        "/work",
        "/upper",
        "/upper/a",
        "/upper/a/b",
        "/upper/a/b/c",
        "/upper/a/b/c/file",
    ] {
        let path = site.path(&format!("home/sessions/dead1{name}"));
        chown(path, Some(first), Some(first)).unwrap();
    }
    let daemon = Daemon::start_in(site);
    assert!(
        daemon.names("home/sessions").is_empty(),
        "{}",
        daemon.said()
    );
}

/// The configured file cache may have the name of a work tree.
#[test]
fn configured_folders_are_not_leftovers() {
    let site = Site::new("");
    let (home, cache) = (site.path("home"), site.path("home/build-cache"));
    fs::rename(site.path("home/filecache"), &cache).unwrap();
    site.reconfigure(|line| {
        let more = format!(
            "{line}\nfilecache = {}\nsessions = {}",
            cache.display(),
            home.display()
        );
        Some(if line.starts_with("home = ") {
            more
        } else {
            line.to_owned()
        })
    });
    let cached = site.names("home/build-cache");
    let mut daemon = Daemon::start_in(site);
    daemon.kill();
    daemon.restart();
    assert_eq!(daemon.names("home/build-cache"), cached);
    assert_eq!(daemon.names("home"), ["build-cache", "journal"]);
    daemon.check_usable();
}

#[test]
fn leftovers_with_mounts_are_not_entered() {
    if !may_mount("leftovers with something mounted in them") {
        return;
    }
    let _alone = alone();
    let site = Site::new("");
    make_tree(&site, "precious");
    fs::write(site.path("precious/file"), "precious").unwrap();
    make_work_tree(&site, "home/build-dead1");
    make_work_tree(&site, "home/build-dead2");
    make_work_tree(&site, "home/build-dead3");
    make_work_tree(&site, "home/build-dead4");
    let precious = site.path("precious");
    // Bind mounts of the same file system look like folders.
    let mounts = [
        site.path("home/build-dead1/a/b"),
        site.path("home/build-dead2"),
        site.path("home/build-dead3/a/file"),
    ];
    mount_bind(&precious, &mounts[0]);
    mount_bind(&precious, &mounts[1]);
    mount_bind(&precious.join("file"), &mounts[2]);
    let whole = |site: &Site| {
        let files =
            ["file", "a/file", "a/b/c/file"].map(|name| site.read(&format!("precious/{name}")));
        assert_eq!(files, ["precious", "x", "x"]);
        assert_eq!(site.names("precious/a/b/c"), ["file"]);
    };

    let mut daemon = Daemon::start_in(site);
    whole(&daemon);
    assert!(
        !daemon.path("home/build-dead4").exists(),
        "a tree without mounts is removed"
    );
    let said = daemon.said();
    for number in [1, 3] {
        let named = format!("home/.left-build-dead{number}, left by an earlier build: ");
        assert!(said.contains(&named), "{said}");
    }
    // The mounted folder is not the tree of a build.
    assert!(!said.contains("build-dead2"), "{said}");
    assert_eq!(daemon.state(), "IDLE");
    daemon.check_usable();
    // A build of that name fails and does not enter the mount either.
    daemon.reset();
    daemon.on("clean", ": the site program removes nothing");
    let status = daemon.build_to_end("dead2", json!({}));
    assert_eq!(status["build_status"], "BuildStatus.BUILDERFAIL");
    daemon.clean();
    whole(&daemon);
    daemon.reset();

    for mount in [
        // The mount moved with the folder that holds it.
        daemon.path("home/.left-build-dead1/.removing-1/b"),
        daemon.path("home/.left-build-dead1/a/b"),
        mounts[1].clone(),
        daemon.path("home/.left-build-dead3/a/file"),
        daemon.path("home/.left-build-dead3/.removing-1/file"),
    ] {
        if mount.exists() {
            unmount(&mount);
        }
    }
    daemon.kill();
    daemon.restart();
    whole(&daemon);
    assert_eq!(daemon.names("home"), ["filecache", "journal"]);
    assert!(!has_mounts(&daemon.path("home")));
    daemon.check_usable();
}
