//! Attempts, and the limits on attempts that end without a result (docs/farm.md §3.3).

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::support::fake::check_manners;
use super::support::fake_slave::Plans;
use super::support::farm::on_both_engines;
use super::support::{Engine, Fake, Farm, QUICK, Work};

on_both_engines! {
    a_job_that_always_ends_in_builderfail_fails_and_no_builder_is_disabled
    an_outage_of_all_builders_blames_neither_builders_nor_jobs
    a_build_that_is_given_back_too_often_ends_and_says_why
    a_retry_keeps_the_attempts_with_their_logs
}

const NEEDSBUILD: i64 = 0;
const FULLYBUILT: i64 = 1;
const FAILEDTOBUILD: i64 = 2;
const CHROOTWAIT: i64 = 4;

/// A farm with builders `builder1`…, whose slaves follow the plans.
fn farm(engine: Engine, more: &str, builders: usize, plans: &Plans) -> (Farm, Vec<Fake>) {
    let farm = Farm::new(engine, "");
    farm.configure(&format!("{QUICK}{more}"));
    farm.furnish();
    let mut fakes = Vec::new();
    for number in 1..=builders {
        let fake = Fake::start("i386");
        fake.slave(|slave| slave.plans = plans.clone());
        farm.add_builder(&format!("builder{number}"), &fake);
        fakes.push(fake);
    }
    (farm, fakes)
}

fn show(farm: &Farm, build: i64) -> Json {
    let text = farm.ok(&["master", "show", &build.to_string(), "--json"]);
    serde_json::from_str(&text).unwrap()
}

fn verdicts(shown: &Json) -> Vec<&str> {
    let attempts = shown["attempts"].as_array().unwrap();
    attempts
        .iter()
        .filter_map(|one| one["verdict"].as_str())
        .collect()
}

fn a_job_that_always_ends_in_builderfail_fails_and_no_builder_is_disabled(engine: Engine) {
    let plans = Plans::default();
    plans.add("source1_1.0-1", Work::ends("BUILDERFAIL"));
    for build in 2..=9 {
        plans.add(&format!("source{build}_1.0-{build}"), Work::ends("OK"));
    }
    let (farm, fakes) = farm(engine, "", 4, &plans);
    let _librarian = farm.librarian();
    farm.add_builds(1, 9, |build| if build == 1 { 100 } else { 10 });
    let master = farm.master("master");
    farm.wait_state(1, FAILEDTOBUILD);
    for build in 2..=9 {
        farm.wait_state(build, FULLYBUILT);
    }
    master.stop();
    let sql = "SELECT COUNT(*) FROM builder WHERE builderok AND failnotes IS NULL";
    assert_eq!(farm.db.row(sql), json!([4]));
    let shown = show(&farm, 1);
    assert_eq!(verdicts(&shown), ["BUILDERFAIL"; 3]);
    let mut builders: Vec<&str> = shown["attempts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["builder"].as_str().unwrap())
        .collect();
    builders.sort_unstable();
    builders.dedup();
    assert_eq!(
        builders.len(),
        3,
        "a job is kept off builders that it failed on"
    );
    let reason = shown["reason"].as_str().unwrap();
    let expect = format!("BUILDERFAIL on {}, which do not fail", builders.join(", "));
    assert!(reason.starts_with(&expect), "{reason}");
    check_manners(&fakes);
}

fn an_outage_of_all_builders_blames_neither_builders_nor_jobs(engine: Engine) {
    let plans = Plans::default();
    let (farm, fakes) = farm(engine, "give_back_delay = 1\n", 3, &plans);
    for fake in &fakes {
        fake.slave(|slave| slave.work = Work::ends("BUILDERFAIL"));
    }
    let _librarian = farm.librarian();
    farm.add_builds(1, 6, |_| 10);
    let master = farm.master("master");
    let limit = Duration::from_secs(90);
    let many = "SELECT COUNT(*) >= 15 FROM attempt WHERE verdict = 5";
    farm.wait_row_within(limit, many, &json!([1]));
    let sql = "SELECT COUNT(*) FROM builder WHERE builderok";
    assert_eq!(farm.db.row(sql), json!([3]));
    let sql = "SELECT COUNT(*) FROM build WHERE state IN (0, 6, 11)";
    assert_eq!(farm.db.row(sql), json!([6]));
    for fake in &fakes {
        fake.slave(|slave| slave.work = Work::ends("OK"));
    }
    farm.db.execute("UPDATE build_queue SET not_before = 0");
    for build in 1..=6 {
        farm.wait_state(build, FULLYBUILT);
    }
    master.stop();
    check_manners(&fakes);
}

fn a_build_that_is_given_back_too_often_ends_and_says_why(engine: Engine) {
    let plans = Plans::default();
    let log = "[2026-11-28 04:00:00 UTC] Stages: INIT 0.0 s, UPDATE 9.3 s\n\
               Verdict: GIVENBACK: UPDATE failed: no route to the archive\n";
    plans.add("source1_1.0-1", Work::ends("GIVENBACK").log(log));
    plans.add("source2_1.0-2", Work::ends("OK"));
    let more = "notify = false\ngive_back_delay = 1\ngive_back_limit = 3\n";
    let (farm, fakes) = farm(engine, more, 1, &plans);
    let _librarian = farm.librarian();
    farm.add_builds(1, 2, |build| 20 - build);
    let master = farm.master("master");
    farm.wait_state(1, CHROOTWAIT);
    farm.wait_state(2, FULLYBUILT);
    master.stop();
    let shown = show(&farm, 1);
    assert_eq!(verdicts(&shown), ["GIVENBACK"; 3]);
    let reason = "given back 3 times, the last time by builder1: \
                  UPDATE failed: no route to the archive";
    assert_eq!(shown["reason"], reason);
    let first = &shown["attempts"][0];
    assert_eq!(first["reason"], "UPDATE failed: no route to the archive");
    assert_eq!(first["stages"], "INIT 0.0 s, UPDATE 9.3 s");
    assert_eq!(farm.db.row("SELECT COUNT(*) FROM notification"), json!([1]));
    // The limit counts again from a retry.
    farm.ok(&["master", "retry", "1"]);
    assert_eq!(farm.build(1)[0], NEEDSBUILD);
    let master = farm.master("master again");
    farm.wait_state(1, CHROOTWAIT);
    master.stop();
    assert_eq!(verdicts(&show(&farm, 1)), ["GIVENBACK"; 6]);
    check_manners(&fakes);
}

fn a_retry_keeps_the_attempts_with_their_logs(engine: Engine) {
    let plans = Plans::default();
    for (verdict, log) in [("PACKAGEFAIL", "the first\n"), ("OK", "the second\n")] {
        plans.add("source1_1.0-1", Work::ends(verdict).log(log));
    }
    let (farm, fakes) = farm(engine, "", 1, &plans);
    let _librarian = farm.librarian();
    farm.add_builds(1, 1, |_| 10);
    let master = farm.master("master");
    farm.wait_state(1, FAILEDTOBUILD);
    farm.ok(&["master", "retry", "1"]);
    farm.wait_state(1, FULLYBUILT);
    let (code, said) = farm.run(&["master", "retry", "1"]);
    assert!(
        code == Some(1) && said.contains("build it again with --force"),
        "{said}"
    );
    farm.ok(&["master", "retry", "--force", "1"]);
    farm.wait_row(
        "SELECT COUNT(*) FROM attempt WHERE verdict = 0",
        &json!([2]),
    );
    farm.wait_state(1, FULLYBUILT);
    master.stop();
    let shown = show(&farm, 1);
    assert_eq!(verdicts(&shown), ["PACKAGEFAIL", "OK", "OK"]);
    let log = |attempt: &str| farm.ok(&["master", "log", "1", "--attempt", attempt]);
    assert_eq!(log("1"), "the first\n");
    assert_eq!(log("2"), "the second\n");
    // The results of the first success stay beside those of the second.
    for attempt in [1, 2] {
        let leaf = shown["attempts"][attempt]["results"].as_str().unwrap();
        assert!(
            farm.path(&format!("home/results/incoming/{leaf}")).is_dir(),
            "{leaf}"
        );
    }
    let text = farm.ok(&["master", "show", "1"]);
    assert!(
        text.contains("Attempts:") && text.contains("PACKAGEFAIL"),
        "{text}"
    );
    let (code, said) = farm.run(&["master", "log", "1", "--attempt", "9"]);
    assert!(
        code == Some(1) && said.contains("build 1 has no attempt 9; it has 3"),
        "{said}"
    );
    check_manners(&fakes);
}
