//! `doctor` names what is wrong with a host, and `doctor --fix` mends it after a yes.
//!
//! The tests break folders of their own, and files of `/etc` in a private mount namespace.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::unistd::Uid;

use crate::support::mounts::{may_mount, mount_bind, mount_tmpfs, not_run};
use crate::support::{Daemon, Site, run};

/// Runs `doctor` with more arguments.
fn doctor(site: &Site, more: &[&str]) -> (Option<i32>, String) {
    let config = site.config().display().to_string();
    let words: Vec<&str> = ["doctor", "--config", &config]
        .into_iter()
        .chain(more.iter().copied())
        .collect();
    run(site.command(&words))
}

/// Runs `doctor --fix` on a terminal, and types `answer`.
fn on_a_terminal(site: &Site, answer: &str) -> (Option<i32>, String) {
    let plain = site.command(&[]);
    let line = format!(
        "{} doctor --fix --config {}",
        plain.get_program().to_string_lossy(),
        site.config().display()
    );
    let mut terminal = Command::new("script");
    terminal
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .env("HOME", site.path("home"));
    let typed = site.path("typed");
    fs::write(&typed, format!("{answer}\n")).unwrap();
    terminal.stdin(Stdio::from(fs::File::open(&typed).unwrap()));
    run(terminal)
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().mode() & 0o7777
}

/// A copy of `/etc` in the mount namespace of this test alone; `false` if it may not mount.
fn private_etc(site: &Site, what: &str) -> bool {
    if !may_mount(what) {
        return false;
    }
    let copy = site.path("etc");
    fs::create_dir(&copy).unwrap();
    let mut cp = Command::new("cp");
    cp.args(["-a", "/etc/."]).arg(&copy);
    assert_eq!(run(cp).0, Some(0));
    mount_bind(&copy, Path::new("/etc"));
    true
}

#[test]
fn nothing_is_mended_without_a_yes() {
    let site = Site::new("");
    let cache = site.path("elsewhere");
    site.configure(&format!("filecache = {}", cache.display()));
    let (code, said) = doctor(&site, &["--fix"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("stdin is no terminal"), "{said}");
    let (code, said) = doctor(&site, &["--yes"]);
    assert_eq!(code, Some(2), "--yes alone is a wrong command line: {said}");
    let (code, said) = doctor(&site, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("; try: install -d -m 0700 -o "), "{said}");
    if Uid::effective().is_root() {
        let (code, said) = on_a_terminal(&site, "n");
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("Do this? [y/N]"), "{said}");
        assert!(said.contains("Not mended."), "{said}");
        assert!(!said.contains("\n+ "), "{said}");
    }
    assert!(!cache.exists());
}

#[test]
fn folders_get_their_owner_and_mode() {
    if !Uid::effective().is_root() {
        return not_run("folders_get_their_owner_and_mode", "root");
    }
    let site = Site::new("");
    let (home, cache) = (site.path("home"), site.path("elsewhere"));
    site.configure(&format!("filecache = {}", cache.display()));
    let (code, said) = on_a_terminal(&site, "y");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("+ install -d -m 0700 -o "), "{said}");
    assert!(said.contains("Checking again:"), "{said}");
    let owner = home.metadata().unwrap().uid();
    assert_eq!(
        (mode(&cache), cache.metadata().unwrap().uid()),
        (0o700, owner)
    );

    if !site.heeds_modes() {
        return;
    }
    chown(&cache, Some(0), Some(0)).unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o500)).unwrap();
    let (code, said) = doctor(&site, &["--fix", "--yes"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(
        (mode(&home), cache.metadata().unwrap().uid()),
        (0o700, owner)
    );
    // What is well stays as it is.
    let (code, said) = doctor(&site, &["--fix", "--yes"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("+ "), "{said}");
}

#[test]
fn the_user_that_builds_mends_its_own_folders_and_no_others() {
    let site = Site::new("");
    let user = site.user().cloned();
    let (home, cache) = (site.path("home"), site.path("elsewhere"));
    site.configure(&format!("filecache = {}", cache.display()));
    fs::set_permissions(&home, fs::Permissions::from_mode(0o500)).unwrap();
    let mut site = site;
    // The program as that user runs it.
    site.start_with(Vec::new());
    let (code, said) = doctor(&site, &["--fix", "--yes"]);
    if user.is_none() && Uid::effective().is_root() {
        return;
    }
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("\n+ chmod u+rwx "), "{said}");
    assert_eq!(mode(&home), 0o700);
    let rest = "These need root (sudo buildd-slave doctor --fix): path of [slave] filecache";
    assert!(said.contains(rest), "{said}");
    assert!(!cache.exists());
}

#[test]
fn the_first_mend_that_fails_is_the_last_one() {
    if !Uid::effective().is_root() {
        return not_run("the_first_mend_that_fails_is_the_last_one", "root");
    }
    let site = Site::new("");
    site.configure("filecache = /proc/none/filecache");
    let program = site.path("bin/ogre");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o644)).unwrap();
    let (code, said) = doctor(&site, &["--fix", "--yes"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("install: cannot "),
        "its output is shown: {said}"
    );
    assert!(said.contains("Nothing further was changed."), "{said}");
    assert_eq!(mode(&program), 0o644, "{said}");
    site.configure("");
    let (code, said) = doctor(&site, &["--fix", "--yes"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(mode(&program), 0o755);
}

#[test]
fn missing_subordinate_ids_are_added() {
    let site = Site::new("");
    if !private_etc(&site, "missing_subordinate_ids_are_added") {
        return;
    }
    let Some(user) = site.user().cloned() else {
        return not_run("missing_subordinate_ids_are_added", "the user buildd");
    };
    for file in ["/etc/subuid", "/etc/subgid"] {
        fs::write(file, "other:100000:65536\n").unwrap();
    }
    site.configure("");
    site.reconfigure(|line| (!line.starts_with("isolation")).then(|| line.to_owned()));
    let (code, said) = doctor(&site, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("FAIL  subordinate ids: "), "{said}");
    let (_, said) = doctor(&site, &["--fix", "--yes"]);
    let expect = format!(
        "\n+ usermod --add-subuids 165536-231071 --add-subgids 165536-231071 {}\n",
        user.name
    );
    assert!(said.contains(&expect), "{said}");
    assert!(said.contains("\nok    subordinate ids: "), "{said}");
    for file in ["/etc/subuid", "/etc/subgid"] {
        let text = fs::read_to_string(file).unwrap();
        let line = format!("{}:165536:65536\n", user.name);
        assert!(text.ends_with(&line), "{text}");
    }
}

#[test]
fn a_missing_user_is_added_and_then_its_home_is_checked() {
    let site = Site::new("");
    let what = "a_missing_user_is_added_and_then_its_home_is_checked";
    if !private_etc(&site, what) {
        return;
    }
    // useradd makes the home there.
    mount_tmpfs(Path::new("/var/lib"), 4 << 20);
    site.reconfigure(|line| match line {
        _ if line.starts_with("user = ") => Some("user = builder-of-a-test".to_owned()),
        _ if line.starts_with("home = ") => None,
        _ => Some(line.to_owned()),
    });
    let (code, said) = doctor(&site, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("FAIL  user: this host has no user builder-of-a-test"),
        "{said}"
    );
    let (code, said) = doctor(&site, &["--fix", "--yes"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("\n+ useradd --system "), "{said}");
    assert!(said.contains("\nok    user: builder-of-a-test\n"), "{said}");
    let home = Path::new("/var/lib/builder-of-a-test");
    let accounts = fs::read_to_string("/etc/passwd").unwrap();
    let uid = home.metadata().unwrap().uid();
    assert!(
        accounts.contains(&format!("builder-of-a-test:x:{uid}:")),
        "{accounts}"
    );
}

/// Copies the configuration of a daemon, with its port.
fn with_port(daemon: &Daemon) {
    let port = daemon.port;
    daemon.reconfigure(|line| {
        let known = line.replace("bindport = 0", &format!("bindport = {port}"));
        Some(known)
    });
}

#[test]
fn the_own_daemon_may_use_its_port() {
    // The second one lets in no client of this host.
    for more in ["", "allow = 192.0.2.1"] {
        let daemon = Daemon::start(more);
        with_port(&daemon);
        let (code, said) = doctor(&daemon, &[]);
        assert_eq!(code, Some(0), "{more}: {said}");
        let expect = format!(
            "ok    listening on 127.0.0.1:{}: the running slave",
            daemon.port
        );
        assert!(said.contains(&expect), "{more}: {said}");
    }
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = other.local_addr().unwrap().port();
    let site = Site::new("");
    site.reconfigure(|line| Some(line.replace("bindport = 0", &format!("bindport = {port}"))));
    // It accepts no connection, and answers nothing.
    let (_, said) = doctor(&site, &[]);
    assert!(said.contains("another program uses the port"), "{said}");
}

#[test]
fn an_unhealthy_daemon_fails_the_check() {
    let daemon = Daemon::start("[limits]\nreserve = 900000G");
    assert_eq!(daemon.get("/healthz").status, 503);
    with_port(&daemon);
    let (code, said) = doctor(&daemon, &[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("FAIL  space at "), "{said}");
    assert!(said.contains("FAIL  health of the daemon: "), "{said}");
    // The operator may free the disk; the mend does nothing about it.
    let (code, said) = doctor(&daemon, &["--fix", "--yes"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("Only you can mend `space at "), "{said}");
    assert!(!said.contains("\n+ "), "{said}");
}

/// Runs `$PROGRAM doctor --fix --yes` in a user namespace with all ids, whose limit of further
/// namespaces is 0, and with a private `/etc` in the folder `$FOLDER`.
const WITHOUT_NAMESPACES: &str = r#"set -e
mkfifo "$FOLDER/go"
unshare --user --mount --pid --fork --kill-child sh -c '
    read _ <"$FOLDER/go"
    # Only a new program gets the rights of root.
    exec sh -e "$FOLDER/inside"' &
outer=$!
until [ "$(readlink /proc/$outer/ns/user)" != "$(readlink /proc/self/ns/user)" ]; do
    sleep 0.05
done
for kind in uid gid; do
    echo '0 0 4294967295' >/proc/$outer/${kind}_map
done
echo go >"$FOLDER/go"
wait $outer
"#;
const INSIDE: &str = r#"mount --bind "$FOLDER/etc" /etc
mount -t proc proc /proc
echo 0 >/proc/sys/user/max_user_namespaces
"$PROGRAM" doctor --fix --yes --config "$FOLDER/buildd-slave.conf" 2>&1
"#;

#[test]
fn a_setting_that_forbids_namespaces_is_changed_and_kept() {
    let what = "a_setting_that_forbids_namespaces_is_changed_and_kept";
    let site = Site::new("");
    if !Uid::effective().is_root() || site.user().is_none() || !may_mount(what) {
        return not_run(what, "root and the user buildd");
    }
    site.reconfigure(|line| (!line.starts_with("isolation")).then(|| line.to_owned()));
    let mut copy = Command::new("cp");
    copy.args(["-a", "/etc"]).arg(site.path("etc"));
    assert_eq!(run(copy).0, Some(0));
    fs::write(site.path("inside"), INSIDE).unwrap();
    let mut script = Command::new("sh");
    script
        .args(["-c", WITHOUT_NAMESPACES])
        .env("FOLDER", site.path(""))
        .env("PROGRAM", env!("CARGO_BIN_EXE_buildd-slave"))
        .stdin(Stdio::null());
    let (_, said) = run(script);
    let (before, after) = said.split_once("Checking again:").expect(&said);
    let limit = "FAIL  user namespaces: refused: the limit of user namespaces is reached";
    assert!(before.contains(limit), "{said}");
    assert!(
        before.contains("\n+ sysctl --load /etc/sysctl.d/"),
        "{said}"
    );
    assert!(
        after.contains("\nok    user.max_user_namespaces: 65536\n"),
        "{said}"
    );
    assert!(!after.contains("the limit of user namespaces"), "{said}");
    let kept = site.read("etc/sysctl.d/60-buildd-slave.conf");
    assert_eq!(kept, "user.max_user_namespaces = 65536\n");
}
