//! Uploads happen once, whatever is killed (docs/farm.md §2.11).

use std::collections::HashSet;
use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use super::support::fake_slave::package;
use super::support::farm::on_both_engines;
use super::support::uploads::{FAILEDTOUPLOAD, FULLYBUILT, UPLOADING, Uploads, runner, runners};
use super::support::{Does, Engine, Fake, Work};
use crate::support::{Gate, sha1, until, within};

on_both_engines! {
    each_result_is_uploaded_once_although_masters_are_killed
    a_slow_upload_delays_no_other_and_their_number_is_limited
    the_exit_code_of_a_killed_runner_is_unknown
    runners_that_are_killed_at_any_moment_start_no_second_upload
    a_killed_uploader_has_failed
    only_the_host_that_an_attempt_names_uploads_its_results
    a_kill_between_rename_and_commit_leaves_one_host_with_the_results
    a_host_deletes_only_its_own_old_copies
    retention_keeps_the_results_of_all_hosts_that_share_the_folder
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
    kill(runner(farm, &leaf), Signal::SIGKILL).unwrap();
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

fn runners_that_are_killed_at_any_moment_start_no_second_upload(engine: Engine) {
    let uploads = Uploads::new(engine, "uploads = 3\n");
    let farm = &uploads.farm;
    fs::write(farm.path("home/results/pause"), "0.2").unwrap();
    let leaves: Vec<String> = (10..40)
        .map(|build| uploads.add_with_results(build * 10))
        .collect();
    let folder = farm.path("home/results/uploading").display().to_string();
    let master = farm.master("master");
    let mut killed = HashSet::new();
    let open = format!("SELECT COUNT(*) FROM build WHERE state = {UPLOADING}");
    within(Duration::from_secs(120), "end of all uploads", || {
        for (pid, arguments) in runners() {
            let ours = |leaf: &String| arguments.ends_with(&format!("{folder}/{leaf}\0"));
            let Some(index) = leaves.iter().position(ours) else {
                continue;
            };
            // One of three survives, and so does a runner that is started again.
            if index % 3 != 0 && killed.insert(index) {
                let pause = u64::try_from(index % 3 - 1).unwrap() * 97;
                std::thread::sleep(Duration::from_millis(pause));
                let _ = kill(pid, Signal::SIGKILL);
            }
        }
        (farm.db.number(&open) == 0).then_some(())
    });
    master.stop();
    let calls = uploads.calls("results");
    let mut built = 0;
    for (index, leaf) in leaves.iter().enumerate() {
        let count = |word: &str| {
            let call = format!("{word} {leaf}");
            calls.iter().filter(|one| **one == call).count()
        };
        assert!(count("start") <= 1, "{leaf}: {calls:?}");
        let build = i64::try_from(index + 10).unwrap() * 10;
        if farm.build(build)[0] == FULLYBUILT {
            built += 1;
            assert_eq!((count("start"), count("end")), (1, 1), "{leaf}");
        } else {
            assert!(killed.contains(&index), "{leaf}");
            let reason = uploads.reason(build);
            assert!(reason.contains("its exit code is unknown"), "{reason}");
        }
    }
    assert_eq!(uploads.published(), built);
    let killed = killed.len();
    eprintln!("{engine:?}: {killed} runners killed, {built} of 30 results FULLYBUILT");
}

fn a_killed_uploader_has_failed(engine: Engine) {
    let uploads = Uploads::new(engine, "");
    let farm = &uploads.farm;
    let leaf = uploads.add_with_results(2);
    let refused = uploads.add_with_results(101);
    let master = farm.master("master");
    uploads.wait_call(&format!("start {leaf}"));
    let runner = runner(farm, &leaf);
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
    farm.db.execute("UPDATE builder SET manual = TRUE");
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

fn retention_keeps_the_results_of_all_hosts_that_share_the_folder(engine: Engine) {
    let uploads = Uploads::new(engine, "retention_interval = 1\n");
    let farm = &uploads.farm;
    // `[master] host` is `one`, which is not the name of the machine.
    let kept = [(3, "one"), (4, "two")].map(|(build, host)| {
        let leaf = uploads.add(build, host);
        uploads.place("results", &leaf, build)
    });
    farm.db
        .execute(&format!("UPDATE build SET state = {FULLYBUILT}"));
    let hosts = farm.path("home/results/uploading/.hosts");
    fs::create_dir_all(&hosts).unwrap();
    fs::write(hosts.join("two"), "").unwrap();
    for path in [hosts.parent().unwrap(), &hosts] {
        farm.give(path);
    }
    for folder in &kept {
        make_old(folder);
    }
    let master = farm.master("master");
    // Two passes: the second orphan is made after the first one is gone.
    for build in [98, 99] {
        let orphan = uploads.place("results", &format!("{build}-1.1-c0ffee"), build);
        make_old(&orphan);
        until("removal", || (!orphan.exists()).then_some(()));
    }
    master.stop();
    for folder in kept {
        assert!(folder.exists(), "{}", folder.display());
    }
}
