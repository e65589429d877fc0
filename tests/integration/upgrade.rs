//! A daemon takes over the builds of older versions, and a downgraded one leaves those of newer
//! versions alone (docs/farm.md §10).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value as Json, json};

use super::journal_fixture::{DICT, PLACE, RESULT, SPEC, fixture, format_of};
use crate::support::{Daemon, Site, run, sha1, until};

const PROGRAM: &str = env!("CARGO_BIN_EXE_buildd-slave");
/// Holds the lock that flock(1) has taken. Ends with the verdict of the fixture's ended build, or
/// at SIGTERM with that of its aborted one.
const OLD_SHIM: &str = "
    end() {
        cp \"$SITE/$1\" \"$ENTRY/.next\" && mv \"$ENTRY/.next\" \"$ENTRY/verdict.json\"
        exit
    }
    ENTRY=$1
    trap 'end aborted' TERM
    : > \"$SITE/ready\"
    until [ -e \"$SITE/go\" ]; do sleep 0.02; done
    end ended
";

/// The formats that have a fixture.
fn formats() -> Vec<u64> {
    let folder = fixture(1).parent().unwrap().to_owned();
    let names = fs::read_dir(folder).unwrap();
    let format = |entry: fs::DirEntry| entry.file_name().to_str().unwrap().parse().unwrap();
    names.map(|entry| format(entry.unwrap())).collect()
}

/// Returns a file of the fixture, as it is in this site.
fn text_of(site: &Site, format: u64, name: &str) -> String {
    let place = site.path("").display().to_string();
    let text = fs::read_to_string(fixture(format).join(name)).unwrap();
    text.replace(PLACE, place.trim_end_matches('/'))
}

/// Makes a site with the entry of the fixture that is in `state`.
fn site_with(format: u64, state: &str) -> Site {
    let site = Site::new(DICT);
    for folder in ["home/journal", "home/journal/b1"] {
        fs::create_dir(site.path(folder)).unwrap();
        site.give(&site.path(folder));
    }
    for entry in fs::read_dir(fixture(format).join(state)).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let path = site.path("home/journal/b1").join(&name);
        fs::write(&path, text_of(&site, format, &format!("{state}/{name}"))).unwrap();
        site.give(&path);
    }
    site.add_file(RESULT.as_bytes());
    site
}

/// A process that holds the lock of the entry, as the shim of an older version.
struct OldShim(Child);

impl OldShim {
    fn start(site: &Site, format: u64) -> Self {
        for end in ["ended", "aborted"] {
            let verdict = text_of(site, format, &format!("{end}/verdict.json"));
            fs::write(site.path(end), verdict).unwrap();
        }
        let (entry, owner) = (
            site.path("home/journal/b1"),
            fs::metadata(site.path("home")).unwrap(),
        );
        let mut shim = Command::new("flock");
        shim.arg("--no-fork").arg(entry.join("lock"));
        shim.args(["sh", "-c", OLD_SHIM, "shim"]).arg(&entry);
        shim.uid(owner.uid()).gid(owner.gid());
        shim.env("SITE", site.path(""))
            .env("BUILDD_SLAVE_RUN", &entry);
        let shim = shim.stdin(Stdio::null()).spawn().unwrap();
        until("the shim", || site.path("ready").exists().then_some(()));
        fs::write(entry.join("lock"), shim.id().to_string()).unwrap();
        Self(shim)
    }

    fn is_alive(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for OldShim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Checks that the daemon keeps the verdict and that `clean` ends the build.
fn check_end(mut daemon: Daemon, verdict: &str) -> Json {
    let status = daemon.wait_over();
    assert_eq!(status["build_status"], format!("BuildStatus.{verdict}"));
    assert_eq!(status["build_id"], "b1");
    daemon.check_same_after_restart();
    daemon.clean();
    assert_eq!(daemon.names("home/journal"), [""; 0]);
    daemon.check_usable();
    status
}

#[test]
fn a_running_build_of_an_older_version_ends_with_its_verdict() {
    for format in formats() {
        let site = site_with(format, "running");
        let _shim = OldShim::start(&site, format);
        let daemon = Daemon::start_in(site);
        assert_eq!(daemon.state(), "BUILDING");
        assert!(daemon.log_tail().contains("sbuild is here"));
        fs::write(daemon.path("go"), "").unwrap();
        let status = daemon.wait_over();
        let sum = status["filemap"]["h.bin"].as_str().unwrap();
        assert_eq!(daemon.get(&format!("/filecache/{sum}")).text(), RESULT);
        let result = daemon.path("home/filecache").join(sha1(RESULT.as_bytes()));
        check_end(daemon, "OK");
        assert!(!result.exists());
    }
}

#[test]
fn an_abort_reaches_the_shim_of_an_older_version() {
    for format in formats() {
        let site = site_with(format, "running");
        let _shim = OldShim::start(&site, format);
        let daemon = Daemon::start_in(site);
        daemon.ok("abort", &[]);
        check_end(daemon, "ABORTED");

        // The abort that an older daemon has requested.
        let site = site_with(format, "aborting");
        let _shim = OldShim::start(&site, format);
        check_end(Daemon::start_in(site), "ABORTED");
    }
}

#[test]
fn an_ended_build_of_an_older_version_waits_with_its_verdict() {
    for format in formats() {
        for (state, verdict) in [
            ("ended", "OK"),
            ("dep_wait", "DEPFAIL"),
            ("aborted", "ABORTED"),
            ("dead", "BUILDERFAIL"),
        ] {
            let site = site_with(format, state);
            let daemon = Daemon::start_in(site);
            let log = text_of(&daemon, format, &format!("{state}/log"));
            if state != "dep_wait" {
                // The other build is private.
                assert!(daemon.log().starts_with(&log), "{state}: {}", daemon.log());
            }
            let status = check_end(daemon, verdict);
            if state == "dep_wait" {
                assert_eq!(status["dependencies"], "libfoo");
            }
        }
    }
}

/// Changes the format that a file of the entry states.
fn set_format(site: &Site, file: &str, format: u64, program: &str) {
    let path = site.path("home/journal/b1").join(file);
    let mut content: Json = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    content["format"] = json!(format);
    content["program"] = json!(program);
    fs::write(path, content.to_string()).unwrap();
}

/// All files below a folder with their contents, without the lock of the daemon.
fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.insert(path.clone(), Vec::new());
            found.extend(contents(&path));
        } else if !path.ends_with(".daemon") {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

#[test]
fn a_downgraded_daemon_does_not_start_and_leaves_the_newer_build_alone() {
    for (state, file) in [("running", "spec.json"), ("ended", "verdict.json")] {
        let site = site_with(1, state);
        let mut shim = OldShim::start(&site, 1);
        set_format(&site, file, 99, "9.9.9");
        // A starting daemon removes these.
        for folder in ["home/journal/.new-b2", "home/journal/.old-0"] {
            fs::create_dir(site.path(folder)).unwrap();
            site.give(&site.path(folder));
        }
        fs::write(site.path("home/filecache/.tmp-1-2"), "half a file").unwrap();
        let before = contents(&site.path("home"));
        let config = site.config().display().to_string();
        let (code, said) = run(site.command(&["serve", "--config", &config]));
        assert_eq!(code, Some(1), "{said}");
        let path = site.path("home/journal/b1").display().to_string();
        let own = env!("CARGO_PKG_VERSION");
        for part in [
            &path,
            "buildd-slave 9.9.9 wrote it in format 99",
            &format!("this is buildd-slave {own}, which reads formats up to"),
            "install the newer version again",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert_eq!(contents(&site.path("home")), before);
        assert!(shim.is_alive());

        // The version that knows the format continues.
        set_format(&site, file, 1, own);
        let daemon = Daemon::start_in(site);
        fs::write(daemon.path("go"), "").unwrap();
        check_end(daemon, "OK");
    }
}

#[test]
fn an_entry_states_its_format_and_the_version_of_its_program() {
    let daemon = Daemon::start(DICT);
    daemon.build_to_end("b1", json!({}));
    let verdict = daemon.read("home/journal/b1/verdict.json");
    for text in [daemon.read(SPEC), verdict] {
        let content: Json = serde_json::from_str(&text).unwrap();
        assert_eq!(content["program"], env!("CARGO_PKG_VERSION"));
        assert_eq!(content["format"], format_of(&daemon));
    }
    // Every older format has a fixture. The current one gets it when the next one is made.
    let known: Vec<u64> = (1..format_of(&daemon)).collect();
    let mut found = formats();
    found.sort_unstable();
    found.retain(|format| *format < format_of(&daemon));
    assert_eq!(found, known);
}

/// A package manager replaces the program's file while the daemon and a shim run it.
#[test]
fn a_build_goes_on_when_the_file_of_the_program_is_replaced() {
    let mut site = Site::new(DICT);
    site.start_with(Vec::new());
    let program = site.path("buildd-slave");
    let replace = |by: &Path| {
        let mut copy = Command::new("cp");
        copy.arg(by).arg(program.with_extension("new"));
        assert!(copy.status().unwrap().success());
        fs::rename(program.with_extension("new"), &program).unwrap();
    };
    // RELEASE.md: the program of the last version.
    if let Some(last) = std::env::var_os("BUILDD_TEST_LAST") {
        replace(Path::new(&last));
    }
    let mut daemon = Daemon::start_in(site);
    let first = fs::metadata(&program).unwrap().ino();
    let new = Path::new(PROGRAM);
    replace(new);
    assert_ne!(fs::metadata(&program).unwrap().ino(), first);
    // The old daemon starts builds by its own program.
    daemon.on("sbuild", "hold; printf Hello > $work/h.bin; changes h.bin");
    daemon.build("b1", json!({}));
    daemon.wait_at("sbuild");
    replace(new);
    daemon.stop();
    daemon.restart();
    assert_eq!(daemon.state(), "BUILDING");
    replace(new);
    daemon.let_go("sbuild");
    check_end(daemon, "OK");
}
