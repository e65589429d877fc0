//! A farm whose results wait for the uploader.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use nix::unistd::Pid;

use super::farm::{Farm, Process};
use super::{Engine, QUICK};
use crate::support::until;

pub(crate) const FULLYBUILT: i64 = 1;
pub(crate) const FAILEDTOUPLOAD: i64 = 7;
pub(crate) const UPLOADING: i64 = 8;

/// Writes its calls to `calls`. Build 1 and 2 wait for `go-1` and `go-2`; odd builds above 100
/// are refused. It ends when the test does.
const UPLOADER: &str = r#"#!/bin/sh
leaf=${10} root=${11} build=${leaf%%-*}
echo "start $leaf" >>"$root/calls"
case $build in
1|2) until [ -e "$root/go-$build" ] || [ ! -e "$root" ]; do sleep 0.05; done;;
*) sleep "$(cat "$root/pause")";;
esac
echo "end $leaf" >>"$root/calls"
case $build in 1?[13579]) echo no odd ones >&2; exit 3;; esac
[ $build = 1 ] || { mkdir -p "$root/taken" && mv "$root/incoming/$leaf" "$root/taken"; }
"#;

/// A farm whose results wait for the uploader, without slaves.
pub(crate) struct Uploads {
    pub(crate) farm: Farm,
    _librarian: Process,
    keys: String,
}

impl Uploads {
    pub(crate) fn new(engine: Engine, keys: &str) -> Self {
        let farm = Farm::new(engine, "");
        fs::write(farm.path("uploader"), UPLOADER).unwrap();
        let mut install = Command::new("install");
        let install = install.args(["-m", "755"]).arg(farm.path("uploader"));
        assert!(
            install
                .arg(farm.path("bin/uploader"))
                .status()
                .unwrap()
                .success()
        );
        let keys = format!(
            "{QUICK}host = one\nuploader = {}\n{keys}",
            farm.path("bin/uploader").display()
        );
        farm.configure(&keys);
        farm.furnish();
        fs::write(farm.path("home/results/pause"), "0").unwrap();
        let librarian = farm.librarian();
        Self {
            farm,
            _librarian: librarian,
            keys,
        }
    }

    /// Adds a build in UPLOADING; returns the name of its folder.
    pub(crate) fn add(&self, build: i64, host: &str) -> String {
        let leaf = format!("{build}-{}.1-c0ffee", build + 1000);
        self.farm.add_builds(build, build, |_| 10);
        self.farm.db.execute(&format!(
            "DELETE FROM build_queue WHERE build_id = {build};
             UPDATE build SET state = {UPLOADING}, leaf = '{leaf}', started_at = 1, finished_at = 2
               WHERE id = {build};
             INSERT INTO attempt (build_id, number, cookie, host, started_at, ended_at, verdict, leaf)
               VALUES ({build}, 1, '{leaf}', {}, 1, 2, 0, '{leaf}')",
            match host {
                "" => "NULL".to_owned(),
                host => format!("'{host}'"),
            }
        ));
        leaf
    }

    /// Adds a build in UPLOADING whose results the host `one` has.
    pub(crate) fn add_with_results(&self, build: i64) -> String {
        let leaf = self.add(build, "one");
        self.place("results", &leaf, build);
        leaf
    }

    /// Puts the results of a build into a folder.
    pub(crate) fn place(&self, results: &str, leaf: &str, build: i64) -> PathBuf {
        let incoming = self.farm.path(&format!("home/{results}/incoming"));
        let folder = incoming.join(leaf);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("lib{build}_1.0_i386.deb")), "deb").unwrap();
        for path in [incoming.parent().unwrap(), &incoming, &folder] {
            self.farm.give(path);
        }
        folder
    }

    pub(crate) fn calls(&self, results: &str) -> Vec<String> {
        let calls = self.farm.read(&format!("home/{results}/calls"));
        calls.lines().map(str::to_owned).collect()
    }

    pub(crate) fn wait_call(&self, call: &str) {
        until(call, || {
            self.calls("results")
                .iter()
                .any(|one| one == call)
                .then_some(())
        });
    }

    pub(crate) fn go(&self, build: i64) {
        fs::write(self.farm.path(&format!("home/results/go-{build}")), "").unwrap();
    }

    pub(crate) fn reason(&self, build: i64) -> String {
        let row = self
            .farm
            .db
            .row(&format!("SELECT reason FROM build WHERE id = {build}"));
        row[0].as_str().unwrap().to_owned()
    }

    pub(crate) fn published(&self) -> i64 {
        self.farm.db.number("SELECT COUNT(*) FROM published_binary")
    }

    pub(crate) fn show(&self, build: i64) -> String {
        self.farm.ok(&["master", "show", &build.to_string()])
    }

    /// Starts a master of the host `two`, which has its own folder of results.
    pub(crate) fn second_host(&self) -> Process {
        let results = self.farm.path("home/results2");
        fs::create_dir_all(&results).unwrap();
        self.farm.give(&results);
        fs::write(results.join("pause"), "0").unwrap();
        let keys = self.keys.replace("host = one", "host = two");
        self.farm
            .configure(&format!("{keys}results = {}\n", results.display()));
        let master = self.farm.master("two");
        self.farm.configure(&self.keys);
        master
    }
}

/// The processes that are runners, each with its arguments.
pub(crate) fn runners() -> Vec<(Pid, String)> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let runner = |entry: fs::DirEntry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let text = fs::read_to_string(entry.path().join("cmdline")).ok()?;
        text.contains("\0runner\0")
            .then(|| (Pid::from_raw(pid), text))
    };
    entries.filter_map(runner).collect()
}

/// Waits for the runner of some results.
pub(crate) fn runner(farm: &Farm, leaf: &str) -> Pid {
    let entry = farm.path(&format!("home/results/uploading/{leaf}\0"));
    let entry = entry.display().to_string();
    until("runner", || {
        let mut all = runners().into_iter();
        all.find(|(_, arguments)| arguments.ends_with(&entry))
            .map(|(pid, _)| pid)
    })
}
