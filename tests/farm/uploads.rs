//! Uploads happen once, whatever is killed, and every state of an upload has an end
//! (docs/farm.md §2.11).

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::support::fake_slave::package;
use super::support::farm::{Process, on_both_engines};
use super::support::{Does, Engine, Fake, Farm, QUICK, Work};
use crate::support::{Gate, sha1, until};

on_both_engines! {
    each_result_is_uploaded_once_although_masters_are_killed
    a_slow_upload_delays_no_other_and_their_number_is_limited
    the_exit_code_of_a_killed_runner_is_unknown
    a_killed_uploader_has_failed
    only_the_host_that_an_attempt_names_uploads_its_results
    a_kill_between_rename_and_commit_leaves_one_host_with_the_results
    a_host_deletes_only_its_own_old_copies
    results_that_are_gone_end_in_failedtoupload
    without_an_uploader_results_stay
    a_build_of_a_retired_host_can_be_cancelled
    a_running_upload_is_cancelled_only_by_force
    records_of_an_older_version_are_understood
    a_build_that_runs_without_a_job_can_be_cancelled
}

const FULLYBUILT: i64 = 1;
const FAILEDTOUPLOAD: i64 = 7;
const UPLOADING: i64 = 8;

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
struct Uploads {
    farm: Farm,
    _librarian: Process,
    keys: String,
}

impl Uploads {
    fn new(engine: Engine, keys: &str) -> Self {
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
    fn add(&self, build: i64, host: &str) -> String {
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
    fn add_with_results(&self, build: i64) -> String {
        let leaf = self.add(build, "one");
        self.place("results", &leaf, build);
        leaf
    }

    /// Puts the results of a build into a folder.
    fn place(&self, results: &str, leaf: &str, build: i64) -> PathBuf {
        let incoming = self.farm.path(&format!("home/{results}/incoming"));
        let folder = incoming.join(leaf);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("lib{build}_1.0_i386.deb")), "deb").unwrap();
        for path in [incoming.parent().unwrap(), &incoming, &folder] {
            self.farm.give(path);
        }
        folder
    }

    fn calls(&self, results: &str) -> Vec<String> {
        let calls = self.farm.read(&format!("home/{results}/calls"));
        calls.lines().map(str::to_owned).collect()
    }

    fn wait_call(&self, call: &str) {
        until(call, || {
            self.calls("results")
                .iter()
                .any(|one| one == call)
                .then_some(())
        });
    }

    fn go(&self, build: i64) {
        fs::write(self.farm.path(&format!("home/results/go-{build}")), "").unwrap();
    }

    fn reason(&self, build: i64) -> String {
        let row = self
            .farm
            .db
            .row(&format!("SELECT reason FROM build WHERE id = {build}"));
        row[0].as_str().unwrap().to_owned()
    }

    fn published(&self) -> i64 {
        self.farm.db.number("SELECT COUNT(*) FROM published_binary")
    }

    fn show(&self, build: i64) -> String {
        self.farm.ok(&["master", "show", &build.to_string()])
    }

    /// Starts a master of the host `two`, which has its own folder of results.
    fn second_host(&self) -> Process {
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

/// Waits for the process of the runner of some results.
fn runner(leaf: &str) -> Pid {
    let end = [b"/uploading/", leaf.as_bytes(), b"\0"].concat();
    until("runner", || {
        let pids = fs::read_dir("/proc").unwrap().flatten();
        pids.filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let text = fs::read(entry.path().join("cmdline")).ok()?;
            let is_runner = text.windows(7).any(|part| part == b"runner\0") && text.ends_with(&end);
            is_runner.then(|| Pid::from_raw(pid))
        })
        .next()
    })
}

/// Ages a folder by two days.
fn make_old(folder: &std::path::Path) {
    let past = std::time::SystemTime::now() - Duration::from_secs(2 * 24 * 3600);
    fs::File::open(folder).unwrap().set_modified(past).unwrap();
}

fn each_result_is_uploaded_once_although_masters_are_killed(engine: Engine) {
    let uploads = Uploads::new(engine, "uploads = 2\n");
    let farm = &uploads.farm;
    fs::write(farm.path("home/results/pause"), "0.7").unwrap();
    let leaves: Vec<String> = (10..30)
        .map(|build| uploads.add_with_results(build))
        .collect();
    let mut during = 0;
    for round in 0..31_u64 {
        let master = farm.master("master");
        let pause = Duration::from_millis(round * 7919 % 350);
        // The pace of the kills.
        std::thread::sleep(pause);
        master.kill();
        let left = format!("SELECT COUNT(*) FROM build WHERE state = {UPLOADING}");
        during += i32::from(farm.db.number(&left) > 0);
    }
    assert!(during >= 20, "only {during} kills during the uploads");
    let master = farm.master("last");
    let built = format!("SELECT COUNT(*) FROM build WHERE state = {FULLYBUILT}");
    farm.wait_row(&built, &json!([20]));
    master.stop();
    let mut starts: Vec<String> = uploads.calls("results");
    starts.retain(|call| call.starts_with("start"));
    starts.sort();
    let expected: Vec<String> = leaves.iter().map(|leaf| format!("start {leaf}")).collect();
    assert_eq!(starts, expected);
    assert_eq!(uploads.published(), 20);
    assert_eq!(farm.names("home/results/incoming"), [""; 0]);
    let left = farm.names("home/results/uploading");
    assert!(left.iter().all(|name| name.starts_with('.')), "{left:?}");
}

fn a_slow_upload_delays_no_other_and_their_number_is_limited(engine: Engine) {
    let uploads = Uploads::new(engine, "uploads = 2\n");
    let farm = &uploads.farm;
    let [one, two, three] = [1, 2, 3].map(|build| uploads.add_with_results(build));
    let master = farm.master("master");
    uploads.wait_call(&format!("start {one}"));
    uploads.wait_call(&format!("start {two}"));
    uploads.go(2);
    farm.wait_state(3, FULLYBUILT);
    farm.wait_row("SELECT state FROM build WHERE id = 1", &json!([UPLOADING]));
    let calls = uploads.calls("results");
    let at = |call: String| calls.iter().position(|one| *one == call).unwrap();
    assert!(
        at(format!("end {two}")) < at(format!("start {three}")),
        "{calls:?}"
    );
    let show = uploads.show(1);
    assert!(show.contains("its uploader runs on one"), "{show}");
    // Many small uploads do not wait for a round each.
    (200..220)
        .step_by(2)
        .for_each(|build| drop(uploads.add_with_results(build)));
    let begun = Instant::now();
    let built = format!("SELECT COUNT(*) FROM build WHERE id >= 200 AND state = {FULLYBUILT}");
    farm.wait_row(&built, &json!([10]));
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    uploads.go(1);
    farm.wait_state(1, FULLYBUILT);
    master.stop();
}

fn the_exit_code_of_a_killed_runner_is_unknown(engine: Engine) {
    let uploads = Uploads::new(engine, "");
    let farm = &uploads.farm;
    let leaf = uploads.add_with_results(1);
    let master = farm.master("master");
    uploads.wait_call(&format!("start {leaf}"));
    kill(runner(&leaf), Signal::SIGKILL).unwrap();
    master.kill();
    // The next master waits for the uploader itself.
    uploads.add_with_results(4);
    let master = farm.master("another");
    farm.wait_state(4, FULLYBUILT);
    farm.wait_state(1, UPLOADING);
    uploads.go(1);
    farm.wait_state(1, FAILEDTOUPLOAD);
    let reason = uploads.reason(1);
    assert!(reason.contains("its exit code is unknown"), "{reason}");
    assert!(
        reason.contains("`master retry --upload-only 1`"),
        "{reason}"
    );
    let starts = |calls: Vec<String>| {
        let start = format!("start {leaf}");
        calls.iter().filter(|call| **call == start).count()
    };
    assert_eq!(starts(uploads.calls("results")), 1);
    assert_eq!(uploads.published(), 1);
    let said = farm.ok(&["master", "retry", "--upload-only", "1"]);
    assert!(
        said.contains("UPLOADING") && said.contains("by one"),
        "{said}"
    );
    farm.wait_state(1, FULLYBUILT);
    assert_eq!(starts(uploads.calls("results")), 2);
    assert_eq!(uploads.published(), 2);
    let (code, said) = farm.run(&["master", "retry", "--upload-only", "1"]);
    assert_eq!(code, Some(1), "{said}");
    master.stop();
}

fn a_killed_uploader_has_failed(engine: Engine) {
    let uploads = Uploads::new(engine, "");
    let farm = &uploads.farm;
    let leaf = uploads.add_with_results(2);
    let refused = uploads.add_with_results(101);
    let master = farm.master("master");
    uploads.wait_call(&format!("start {leaf}"));
    let runner = runner(&leaf);
    let children = format!("/proc/{runner}/task/{runner}/children");
    let children = fs::read_to_string(children).unwrap();
    let uploader: i32 = children.trim().parse().unwrap();
    kill(Pid::from_raw(uploader), Signal::SIGKILL).unwrap();
    farm.wait_state(2, FAILEDTOUPLOAD);
    let reason = uploads.reason(2);
    assert!(reason.contains("signal: 9"), "{reason}");
    farm.wait_state(101, FAILEDTOUPLOAD);
    let reason = uploads.reason(101);
    assert!(reason.contains("exit status: 3: no odd ones"), "{reason}");
    // A failed upload publishes nothing.
    assert_eq!(uploads.published(), 0);
    assert_eq!(
        farm.names("home/results/taken").len() + farm.names("home/results/incoming").len(),
        2
    );
    assert!(uploads.calls("results").contains(&format!("end {refused}")));
    master.stop();
}

fn only_the_host_that_an_attempt_names_uploads_its_results(engine: Engine) {
    let uploads = Uploads::new(engine, "");
    let farm = &uploads.farm;
    let both: Vec<String> = (10..16)
        .map(|build| {
            let host = if build % 2 == 0 { "one" } else { "two" };
            let leaf = uploads.add(build, host);
            uploads.place("results", &leaf, build);
            uploads.place("results2", &leaf, build);
            leaf
        })
        .collect();
    // An older version did not write down the host: the one that has the folder uploads it.
    let old = uploads.add(20, "");
    uploads.place("results2", &old, 20);
    let one = farm.master("one");
    let two = uploads.second_host();
    let built = format!("SELECT COUNT(*) FROM build WHERE state = {FULLYBUILT}");
    farm.wait_row(&built, &json!([7]));
    for (index, leaf) in both.iter().enumerate() {
        let start = format!("start {leaf}");
        let by = ["results", "results2"].map(|results| uploads.calls(results).contains(&start));
        assert_eq!(by, [index % 2 == 0, index % 2 == 1], "{leaf}");
    }
    assert!(uploads.calls("results2").contains(&format!("start {old}")));
    let host = farm.db.row("SELECT host FROM attempt WHERE build_id = 20");
    assert_eq!(host, json!(["two"]));
    one.stop();
    two.stop();
}

fn a_kill_between_rename_and_commit_leaves_one_host_with_the_results(engine: Engine) {
    let uploads = Uploads::new(engine, "");
    let farm = &uploads.farm;
    let fake = Fake::start("i386");
    fake.works(Work::ends("OK"));
    farm.add_builder("bob", &fake);
    farm.add_builds(4, 4, |_| 10);
    let sum = sha1(&package("source4_1.0-4", "i386")[0].1);
    let gate = Gate::default();
    fake.once(&sum, Does::HoldAt(5, gate.clone()));
    let one = farm.master("one");
    let path = json!(format!("/filecache/{sum}"));
    let is_fetched = || fake.called("GET").iter().any(|args| args[0] == path);
    until("download", || is_fetched().then_some(()));
    let held = farm.db.hold();
    gate.open();
    let cookie = farm.cookie(4, 1);
    let copy = farm.path(&format!("home/results/incoming/{cookie}"));
    until("rename", || copy.exists().then_some(()));
    one.kill();
    drop(held);
    let two = uploads.second_host();
    farm.wait_state(4, FULLYBUILT);
    // The first host is back, and has a copy that nobody uploads.
    let one = farm.master("one");
    uploads.add_with_results(6);
    farm.wait_state(6, FULLYBUILT);
    let start = format!("start {cookie}");
    assert!(uploads.calls("results2").contains(&start));
    assert!(!uploads.calls("results").contains(&start));
    assert!(copy.exists());
    one.stop();
    two.stop();
}

fn a_host_deletes_only_its_own_old_copies(engine: Engine) {
    let uploads = Uploads::new(engine, "");
    let farm = &uploads.farm;
    let elsewhere = [3, 4].map(|build| uploads.add(build, "two"));
    farm.db
        .execute(&format!("UPDATE build SET state = {FULLYBUILT}"));
    let old = uploads.place("results", &elsewhere[0], 3);
    let young = uploads.place("results", &elsewhere[1], 4);
    let unknown = uploads.place("results", "99-1.1-c0ffee", 99);
    let ours = uploads.add(5, "one");
    farm.db
        .execute(&format!("UPDATE build SET state = {FULLYBUILT}"));
    let ours = uploads.place("results", &ours, 5);
    for folder in [&old, &unknown, &ours] {
        make_old(folder);
    }
    let master = farm.master("master");
    until("removal", || (!old.exists()).then_some(()));
    assert!(young.exists() && unknown.exists() && ours.exists());
    master.stop();
    // A folder that the other host uses as well has no copies.
    let shared = uploads.place("results", &elsewhere[0], 3);
    make_old(&shared);
    fs::write(farm.path("home/results/uploading/.hosts/two"), "").unwrap();
    let other = uploads.add(6, "three");
    farm.db
        .execute(&format!("UPDATE build SET state = {FULLYBUILT}"));
    let other = uploads.place("results", &other, 6);
    make_old(&other);
    let master = farm.master("master");
    until("removal", || (!other.exists()).then_some(()));
    assert!(shared.exists());
    master.stop();
}

fn results_that_are_gone_end_in_failedtoupload(engine: Engine) {
    let uploads = Uploads::new(engine, "");
    let farm = &uploads.farm;
    uploads.add(10, "one");
    let claimed = uploads.add_with_results(12);
    farm.db
        .execute("UPDATE attempt SET upload_started_at = 3 WHERE build_id = 12");
    let master = farm.master("master");
    farm.wait_state(10, FAILEDTOUPLOAD);
    let reason = uploads.reason(10);
    assert!(
        reason.contains("folder of the results is missing"),
        "{reason}"
    );
    // Its uploader was started, and the record of it is gone.
    farm.wait_state(12, FAILEDTOUPLOAD);
    assert!(uploads.reason(12).contains("its exit code is unknown"));
    assert!(
        !uploads
            .calls("results")
            .contains(&format!("start {claimed}"))
    );
    let show = uploads.show(12);
    assert!(show.contains("`master retry --upload-only 12`"), "{show}");
    farm.ok(&["master", "retry", "10"]);
    master.stop();
}

fn without_an_uploader_results_stay(engine: Engine) {
    let uploads = Uploads::new(engine, "");
    let farm = &uploads.farm;
    let leaf = uploads.add_with_results(10);
    farm.configure(&format!("{QUICK}host = one\n"));
    let master = farm.master("master");
    farm.wait_state(10, FULLYBUILT);
    assert_eq!(farm.names("home/results/incoming"), [leaf]);
    assert_eq!(uploads.published(), 0);
    master.stop();
}

fn a_build_of_a_retired_host_can_be_cancelled(engine: Engine) {
    let uploads = Uploads::new(engine, "");
    let farm = &uploads.farm;
    uploads.add(10, "retired");
    let master = farm.master("master");
    let show = uploads.show(10);
    assert!(
        show.contains("retired has the results, and no master runs there"),
        "{show}"
    );
    assert!(show.contains("`master cancel 10`"), "{show}");
    farm.ok(&["master", "cancel", "10"]);
    farm.wait_state(10, FAILEDTOUPLOAD);
    assert!(uploads.reason(10).starts_with("cancelled by "));
    assert!(uploads.show(10).contains(" on retired"));
    farm.ok(&["master", "retry", "10"]);
    master.stop();
}

fn a_running_upload_is_cancelled_only_by_force(engine: Engine) {
    let uploads = Uploads::new(engine, "uploads = 1\n");
    let farm = &uploads.farm;
    let leaf = uploads.add_with_results(1);
    let waiting = uploads.add_with_results(3);
    let master = farm.master("master");
    uploads.wait_call(&format!("start {leaf}"));
    farm.ok(&["master", "cancel", "3"]);
    let (code, said) = farm.run(&["master", "cancel", "1"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("its uploader runs on one") && said.contains("--force"),
        "{said}"
    );
    let runner = runner(&leaf);
    farm.ok(&["master", "cancel", "--force", "1"]);
    farm.wait_state(1, FAILEDTOUPLOAD);
    assert!(
        uploads
            .reason(1)
            .contains("the archive may have the results")
    );
    until("end of the runner", || {
        kill(runner, None).is_err().then_some(())
    });
    until("no entry", || {
        let names = farm.names("home/results/uploading");
        names.iter().all(|name| name.starts_with('.')).then_some(())
    });
    uploads.add_with_results(4);
    farm.wait_state(4, FULLYBUILT);
    let calls = uploads.calls("results");
    assert!(!calls.contains(&format!("start {waiting}")), "{calls:?}");
    assert!(!calls.contains(&format!("end {leaf}")), "{calls:?}");
    master.stop();
}

/// The file of an older version holds the packages, and the end if the uploader has ended.
fn records_of_an_older_version_are_understood(engine: Engine) {
    let uploads = Uploads::new(engine, "");
    let farm = &uploads.farm;
    let folder = farm.path("home/results/uploading");
    fs::create_dir_all(&folder).unwrap();
    farm.give(&folder);
    for (build, end) in [(10, r#"{"reason":null}"#), (12, "null")] {
        let leaf = uploads.add(build, "");
        uploads.place("results", &leaf, build);
        let record = format!(r#"{{"binaries":[["lib{build}","1.0"]],"end":{end}}}"#);
        fs::write(folder.join(&leaf), record).unwrap();
        farm.give(&folder.join(&leaf));
    }
    let master = farm.master("master");
    farm.wait_state(10, FULLYBUILT);
    farm.wait_state(12, FAILEDTOUPLOAD);
    assert!(uploads.reason(12).contains("its exit code is unknown"));
    assert_eq!(uploads.calls("results"), [""; 0]);
    assert_eq!(uploads.published(), 1);
    master.stop();
}

fn a_build_that_runs_without_a_job_can_be_cancelled(engine: Engine) {
    let uploads = Uploads::new(engine, "");
    let farm = &uploads.farm;
    for (build, state) in [(10, 6), (11, 9), (12, 11)] {
        farm.add_builds(build, build, |_| 10);
        farm.db.execute(&format!(
            "DELETE FROM build_queue; UPDATE build SET state = {state} WHERE id = {build}"
        ));
        let show = uploads.show(build);
        assert!(
            show.contains(&format!("`master cancel {build}` ends it")),
            "{show}"
        );
        farm.ok(&["master", "cancel", &build.to_string()]);
        farm.wait_state(build, 10);
    }
}
