//! Every state of an upload has an end, and so has every build that no builder works on
//! (docs/farm.md §2.11, §3.5).

use std::fs;

use nix::sys::signal::kill;

use super::support::farm::on_both_engines;
use super::support::uploads::{FAILEDTOUPLOAD, FULLYBUILT, Uploads, runner};
use super::support::{Engine, Fake, QUICK};
use crate::support::until;

on_both_engines! {
    results_that_are_gone_end_in_failedtoupload
    without_an_uploader_results_stay
    a_build_of_a_retired_host_can_be_cancelled
    a_running_upload_is_cancelled_only_by_force
    records_of_an_older_version_are_understood
    a_build_that_runs_without_a_job_can_be_cancelled
    builds_on_a_disabled_or_removed_builder_end
}

fn results_that_are_gone_end_in_failedtoupload(engine: Engine) {
    let uploads = Uploads::new(engine, "");
    let farm = &uploads.farm;
    let gone = uploads.add(10, "one");
    let claimed = uploads.add_with_results(12);
    farm.db
        .execute("UPDATE attempt SET upload_started_at = 3 WHERE build_id = 12");
    let master = farm.master("master");
    farm.wait_state(10, FAILEDTOUPLOAD);
    let reason = uploads.reason(10);
    assert!(
        reason.contains(&format!("incoming/{gone} is missing")),
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
    uploads.place("results", &gone, 10);
    farm.ok(&["master", "retry", "--upload-only", "10"]);
    farm.wait_state(10, FULLYBUILT);
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
    let json = farm.ok(&["master", "show", "10", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let next = json["next"].as_str().unwrap();
    assert!(next.starts_with("retired has the results"), "{json}");
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
    let runner = runner(farm, &leaf);
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

fn builds_on_a_disabled_or_removed_builder_end(engine: Engine) {
    const NEEDSBUILD: i64 = 0;
    const CANCELLED: i64 = 10;
    let uploads = Uploads::new(engine, "");
    let farm = &uploads.farm;
    let cases = [
        (10, 6, 1, "TRUE", NEEDSBUILD),
        (11, 11, 1, "TRUE", NEEDSBUILD),
        (12, 9, 2, "TRUE", CANCELLED),
        (13, 6, 1, "FALSE", NEEDSBUILD),
        (14, 11, 1, "FALSE", NEEDSBUILD),
        (15, 9, 2, "FALSE", CANCELLED),
    ];
    let fakes: Vec<Fake> = cases.iter().map(|_| Fake::start("i386")).collect();
    for ((build, state, job, active, _), fake) in cases.iter().zip(&fakes) {
        let builder = farm.add_builder(&format!("builder{build}"), fake);
        farm.add_builds(*build, *build, |_| 10);
        farm.db.execute(&format!(
            "UPDATE builder SET active = {active}, builderok = FALSE, clean_status = 1
               WHERE id = {builder};
             UPDATE build SET state = {state}, builder_id = {builder} WHERE id = {build};
             UPDATE build_queue SET status = {job}, builder_id = {builder}, attempt = 1,
               buildstart = 1 WHERE build_id = {build}"
        ));
        let show = uploads.show(*build);
        assert!(show.contains("`buildd-slave master run`"), "{show}");
    }
    let master = farm.master("master");
    for (build, .., end) in cases {
        farm.wait_state(build, end);
    }
    master.stop();
}
