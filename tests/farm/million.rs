//! A generated farm of several thousand builds: every list has a limit, and no statement scans a
//! large table. (`Farm` checks the plans of every statement, in each test of this suite.)

use std::fs;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::support::farm::on_both_engines;
use super::support::million::Size;
use super::support::{Engine, Fake, Farm, QUICK};
use crate::support::within;

on_both_engines! {
    lists_are_pages_in_the_order_of_an_index
    why_fits_a_screen_with_many_builders
    builders_out_of_service_hold_no_threads
}

fn generated(engine: Engine) -> (Farm, Size) {
    let farm = Farm::new(engine, QUICK);
    let size = Size::part(200);
    farm.generate(size);
    (farm, size)
}

/// The rows of a list, and what it printed to stderr.
fn list(farm: &Farm, args: &[&str]) -> (Vec<Json>, String) {
    let mut command = farm.farm_command(&[args, &["--json"]].concat());
    let output = command.output().unwrap();
    let hint = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{args:?}: {hint}");
    (serde_json::from_slice(&output.stdout).unwrap(), hint)
}

fn ids(rows: &[Json], key: &str) -> Vec<i64> {
    rows.iter().map(|row| row[key].as_i64().unwrap()).collect()
}

fn lists_are_pages_in_the_order_of_an_index(engine: Engine) {
    let (farm, size) = generated(engine);
    let newest = size.finished + size.running + size.queued;
    // The default limits.
    let (rows, hint) = list(&farm, &["master", "builds"]);
    assert_eq!(
        ids(&rows, "id"),
        (newest - 49..=newest).rev().collect::<Vec<_>>()
    );
    let last = newest - 49;
    assert!(hint.contains(&format!("--after {last}")), "{hint}");
    let (rows, _) = list(&farm, &["master", "builds", "--after", &last.to_string()]);
    assert_eq!(rows[0]["id"], json!(last - 1));

    // A list with a filter continues where the page before ended, and misses no build.
    for filter in [
        &["--state", "FAILEDTOBUILD"][..],
        &["--state", "NEEDSBUILD"],
        &[
            "--state",
            "NEEDSBUILD",
            "--series",
            "series2",
            "--arch",
            "arch3",
        ],
        &["--state", "MANUALDEPWAIT", "--series", "series2"],
        &["--arch", "arch3"],
        &["--source", "source1"],
        &["--source", "source", "--series", "series3"],
    ] {
        let command = [&["master", "builds"], filter].concat();
        let (all, hint) = list(&farm, &[&command[..], &["--limit", "0"]].concat());
        assert_eq!(hint.trim(), "");
        let mut pages = Vec::new();
        let mut after = Vec::new();
        for _ in 0..3 {
            let more: Vec<&str> = after.iter().map(String::as_str).collect();
            let (rows, _) = list(&farm, &[&command[..], &["--limit", "7"], &more].concat());
            after = vec!["--after".to_owned(), rows.last().unwrap()["id"].to_string()];
            pages.extend(rows);
        }
        assert_eq!(ids(&pages, "id"), ids(&all[..21], "id"), "{filter:?}");
    }

    let (rows, hint) = list(&farm, &["master", "queue", "--limit", "2"]);
    let positions: Vec<&Json> = rows.iter().map(|row| &row["position"]).collect();
    assert_eq!(positions, [&Json::Null, &Json::Null, &json!(1), &json!(2)]);
    let last = rows[3]["build"].to_string();
    assert!(hint.contains(&format!("--after {last}")), "{hint}");
    let (rows, _) = list(&farm, &["master", "queue", "list", "--after", &last]);
    assert_eq!((rows.len(), &rows[0]["position"]), (50, &json!(3)));

    let (rows, hint) = list(&farm, &["master", "builder", "list", "--limit", "10"]);
    let names: Vec<&str> = rows
        .iter()
        .map(|row| row["name"].as_str().unwrap())
        .collect();
    assert_eq!(names.len(), 10);
    assert!(hint.contains(&format!("--after {}", names[9])), "{hint}");
    let (rows, _) = list(&farm, &["master", "builder", "list", "--after", names[9]]);
    assert_eq!(rows.len(), 15, "of 25 builders");
    farm.ok(&["master", "builder", "show", names[0]]);
    farm.ok(&["master", "show", &newest.to_string()]);
}

fn why_fits_a_screen_with_many_builders(engine: Engine) {
    let (farm, size) = generated(engine);
    farm.db.execute(
        "INSERT INTO builder (id, name, url, virtualized, manual, builderok, failnotes,
                              clean_status, created_at)
           SELECT 1000 + id, 'more' || id, 'more:' || id, FALSE, FALSE, id % 2 = 0,
             CASE WHEN id % 2 = 1 THEN 'no answer' END, 0, 0
           FROM build WHERE id <= 1000;
         INSERT INTO builder_processor (builder_id, processor_id)
           SELECT id, 1 FROM builder WHERE id > 1000",
    );
    let last = size.finished + size.running + size.queued;
    // The first job of the primary archive, which has no virtual builders.
    let sql = format!(
        "SELECT build_id FROM build_queue WHERE build_id > {last} - 100
        AND NOT virtualized AND processor_id = 1 AND status = 0 AND not_before = 0 LIMIT 1"
    );
    let build = farm.db.number(&sql).to_string();
    let printed = farm.ok(&["master", "queue", "why", &build]);
    assert!(printed.lines().count() <= 24, "{printed}");
    assert!(printed.contains("builders idle: more"), "{printed}");
}

fn builders_out_of_service_hold_no_threads(engine: Engine) {
    let farm = Farm::new(engine, QUICK);
    farm.furnish();
    let fakes = [Fake::start("i386"), Fake::start("i386")];
    for (fake, name) in fakes.iter().zip(["works", "disabled"]) {
        farm.add_builder(name, fake);
    }
    let rows: Vec<String> = (0..500)
        .map(|number| format!("('away{number}', 'http://127.0.0.1:1/{number}/', FALSE, FALSE, 0)"))
        .collect();
    farm.db.execute(&format!(
        "INSERT INTO builder (name, url, manual, builderok, created_at) VALUES {};
         UPDATE builder SET builderok = FALSE WHERE name = 'disabled'",
        rows.join(", ")
    ));
    let master = farm.master("master");
    farm.wait_row(
        "SELECT COUNT(*) FROM builder WHERE lease_owner IS NULL",
        &json!([0]),
    );
    let tasks = format!("/proc/{}/task", master.child.id());
    let threads = || fs::read_dir(&tasks).unwrap().count();
    // The threads of the first looks end after ten seconds without one.
    within(Duration::from_secs(60), "few threads", || {
        (threads() < 20).then_some(())
    });
    let [works, disabled] = &fakes;
    works.wait_for(
        "status",
        works.called("status").len() + 2,
        Duration::from_secs(30),
    );
    assert_eq!(disabled.methods(), "");
    farm.ok(&["master", "builder", "enable", "disabled"]);
    disabled.wait_for("status", 2, Duration::from_secs(30));
    master.stop();
}
