//! The reactions of a running master to each state of a slave, in both forms of `status`
//! (docs/farm.md §2.9, §2.10, §3.2 to §3.5).

use std::time::Duration;

use serde_json::{Value as Json, json};

use super::support::fake::check_manners;
use super::support::fake_slave::{Outcome, Plans, package};
use super::support::farm::on_both_engines;
use super::support::rows::QUEUE;
use super::support::{Does, Engine, Fake, Farm, QUICK, State, Work};
use crate::support::until;

on_both_engines! {
    each_verdict_has_its_state_in_todays_status_form
    each_verdict_has_its_state_in_the_status_form_of_2008
    a_builder_without_a_job_is_cleaned_or_failed
    a_job_whose_builder_does_not_have_it_goes_back_to_the_queue
    a_slave_that_does_not_answer_delays_no_other
    a_cancelled_build_ends_whatever_its_slave_does
    the_next_master_cancels_what_the_last_one_did_not
    a_virtual_builder_is_reset_before_each_job
}

/// The numbers of build states.
const NEEDSBUILD: i64 = 0;
const FULLYBUILT: i64 = 1;
const FAILEDTOBUILD: i64 = 2;
const MANUALDEPWAIT: i64 = 3;
const CHROOTWAIT: i64 = 4;
const BUILDING: i64 = 6;
const CANCELLED: i64 = 10;

/// A furnished farm whose notifications go into a file.
fn farm(engine: Engine, more: &str) -> Farm {
    let farm = Farm::new(engine, "");
    let notices = farm.path("home/notices").display().to_string();
    farm.configure(&format!("{QUICK}notify = tee -a {notices}\n{more}"));
    farm.furnish();
    farm
}

/// The notified builds with their states, in the order of their ids.
fn notified(farm: &Farm) -> Vec<Json> {
    let text = farm.read("home/notices");
    let documents = serde_json::Deserializer::from_str(&text).into_iter::<Json>();
    let mut notified: Vec<Json> = documents
        .map(|document| {
            let document = document.unwrap();
            json!([document["build"], document["state"]])
        })
        .collect();
    notified.sort_by_key(|row| row[0].as_i64());
    notified
}

fn clean_and_idle(farm: &Farm, builders: i64) {
    let sql = "SELECT COUNT(*) FROM builder WHERE clean_status = 0 AND builderok";
    farm.wait_row(sql, &json!([builders]));
}

/// Each verdict, and the state in which its build ends. The job of a build that ends in BUILDERFAIL
/// or ABORTED goes back into the queue at once, and its second attempt ends in OK.
const VERDICTS: [(&str, i64); 7] = [
    ("OK", FULLYBUILT),
    ("PACKAGEFAIL", FAILEDTOBUILD),
    ("DEPFAIL", MANUALDEPWAIT),
    ("CHROOTFAIL", CHROOTWAIT),
    ("GIVENBACK", NEEDSBUILD),
    ("BUILDERFAIL", FULLYBUILT),
    ("ABORTED", FULLYBUILT),
];
const WANTED: &str = "libfoo-dev (>= 1.2)";

fn has_two_attempts(verdict: &str) -> bool {
    ["BUILDERFAIL", "ABORTED"].contains(&verdict)
}

fn each_verdict_has_its_state_in_todays_status_form(engine: Engine) {
    check_verdicts(engine, Fake::start);
}

fn each_verdict_has_its_state_in_the_status_form_of_2008(engine: Engine) {
    check_verdicts(engine, Fake::start_2008);
}

/// Has a builder for each verdict end a build with it, and checks all that the master does then.
fn check_verdicts(engine: Engine, start: fn(&str) -> Fake) {
    let farm = farm(engine, "give_back_delay = 600\n");
    let _librarian = farm.librarian();
    let plans = Plans::default();
    let mut fakes = Vec::new();
    for (build, (verdict, _)) in (1..).zip(VERDICTS) {
        let source = format!("source{build}_1.0-{build}");
        let mut work = Work::ends(verdict).log(&format!("the log of {build}\n"));
        if verdict == "DEPFAIL" {
            work.dependencies = WANTED.to_owned();
        }
        plans.add(&source, work);
        if has_two_attempts(verdict) {
            plans.add(&source, Work::ends("OK").log("a better one\n"));
        }
        let fake = start("i386");
        fake.slave(|slave| slave.plans = plans.clone());
        farm.add_builder(&format!("builder{build}"), &fake);
        fakes.push(fake);
    }
    let count = i64::try_from(VERDICTS.len()).unwrap();
    farm.add_builds(1, count, |_| 10);
    let master = farm.master("master");
    for (build, (_, state)) in (1..).zip(VERDICTS) {
        let log = format!("SELECT state FROM build WHERE id = {build} AND log_alias_id > 0");
        farm.wait_row(&log, &json!([state]));
    }
    clean_and_idle(&farm, count);

    for (build, (verdict, state)) in (1..).zip(VERDICTS) {
        check_verdict(&farm, build, verdict, state);
    }
    let waiting = "SELECT build_id, status, builder_id, attempt FROM build_queue
                   WHERE buildstart IS NULL AND not_before > 0";
    assert_eq!(farm.db.rows(waiting), [json!([5, 0, null, 1])]);
    // One warning each for a build given back and for a failure of the builder.
    let said = master.said();
    let lines = said.warnings();
    let saying = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    assert_eq!(saying("is GIVENBACK by"), 1, "{lines:#?}");
    assert_eq!(saying("has failed *****"), 1, "{lines:#?}");
    until("notices", || (notified(&farm).len() >= 2).then_some(()));
    master.stop();
    assert_eq!(
        notified(&farm),
        [json!([2, "FAILEDTOBUILD"]), json!([4, "CHROOTWAIT"])]
    );
    assert_eq!(farm.names("home/results/grabbing"), [""; 0]);
    check_manners(&fakes);
}

/// Checks the row, the log and the results of a build that has ended.
fn check_verdict(farm: &Farm, build: i64, verdict: &str, state: i64) {
    let [deb, changes] = &package(&format!("source{build}_1.0-{build}"), "i386")[..] else {
        panic!("a package and its .changes");
    };
    let row = farm.db.row(&format!(
        "SELECT state, dependencies, leaf, failure_count FROM build WHERE id = {build}"
    ));
    let again = has_two_attempts(verdict);
    let cookie = farm.cookie(build, if again { 2 } else { 1 });
    let wanted = (verdict == "DEPFAIL").then_some(WANTED);
    let leaf = (state == FULLYBUILT).then_some(&cookie);
    // An abort counts against the build, as no master asked for it.
    let failures = i64::from(verdict == "ABORTED");
    assert_eq!(row, json!([state, wanted, leaf, failures]), "{verdict}");
    let log = match again {
        false => format!("the log of {build}\n"),
        true => "a better one\n".to_owned(),
    };
    assert_eq!(farm.stored_log(build), log, "{verdict}");
    let folder = format!("home/results/incoming/{cookie}");
    if state == FULLYBUILT {
        assert_eq!(farm.names(&folder), [changes.0.clone(), deb.0.clone()]);
        for (name, bytes) in [deb, changes] {
            assert_eq!(farm.read(&format!("{folder}/{name}")).as_bytes(), bytes);
        }
    } else {
        assert!(!farm.path(&folder).exists(), "{verdict}");
    }
}

fn a_builder_without_a_job_is_cleaned_or_failed(engine: Engine) {
    let farm = farm(engine, "");
    let _librarian = farm.librarian();
    let waiting = |cookie: &str| State::Waiting {
        cookie: cookie.to_owned(),
        result: Outcome {
            verdict: "OK".to_owned(),
            files: Vec::new(),
            dependencies: String::new(),
        },
    };
    let building = |cookie: &str| State::Building {
        cookie: cookie.to_owned(),
        until: None,
    };
    // The name, the state of the slave, and the columns of the row.
    let rows = [
        ("disabled", State::Idle, "builderok = FALSE"),
        ("manual", State::Idle, "manual = TRUE"),
        ("dirty", State::Idle, "manual = TRUE, clean_status = 1"),
        ("left", waiting("7-7"), "manual = TRUE, clean_status = 1"),
        ("lost", building("7-8"), "manual = TRUE, clean_status = 1"),
        ("clean-building", building("7-9"), "clean_status = 0"),
        ("clean-waiting", waiting("7-10"), "clean_status = 0"),
        (
            "strange",
            State::Strange("CONFUSED".to_owned()),
            "clean_status = 0",
        ),
    ];
    let fakes: Vec<Fake> = rows
        .iter()
        .map(|(name, state, columns)| {
            let fake = Fake::start("i386");
            fake.slave(|slave| slave.state = state.clone());
            let id = farm.add_builder(name, &fake);
            farm.db
                .execute(&format!("UPDATE builder SET {columns} WHERE id = {id}"));
            fake
        })
        .collect();
    let master = farm.master("master");
    let row =
        |name: &str| format!("SELECT builderok, clean_status FROM builder WHERE name = '{name}'");
    for name in ["manual", "dirty", "left", "lost"] {
        farm.wait_row(&row(name), &json!([1, 0]));
    }
    // A CLEAN builder that is busy is failed.
    for name in ["clean-building", "clean-waiting"] {
        farm.wait_row(&row(name), &json!([0, 0]));
    }
    farm.wait_row(
        "SELECT COUNT(*) FROM builder WHERE failnotes LIKE '%7-9%' OR failnotes LIKE '%7-10%'",
        &json!([2]),
    );
    // A new job goes neither to a manual builder nor to one in a strange state.
    farm.add_builds(1, 1, |_| 10);
    fakes[1].wait_for(
        "status",
        fakes[1].called("status").len() + 2,
        Duration::from_secs(30),
    );
    assert_eq!(farm.build(1)[0], NEEDSBUILD);
    let methods: Vec<String> = fakes.iter().map(Fake::methods).collect();
    assert_eq!(methods[..2], ["", "status"]);
    assert_eq!(
        methods[3..6],
        [
            "status clean status",
            "status abort status clean status",
            "status"
        ]
    );
    master.wait_said("Builder 'lost' rescued from '7-8");
    master.stop();
    check_manners(&fakes);
}

fn a_job_whose_builder_does_not_have_it_goes_back_to_the_queue(engine: Engine) {
    let farm = farm(engine, "");
    let _librarian = farm.librarian();
    // The jobs of another master: 1 on a disabled builder, 2 on an idle one, 3 on one with another
    // build, 4 on a CLEAN one, 5 on one that builds it.
    farm.add_builds(1, 5, |_| 10);
    let states = [
        State::Idle,
        State::Idle,
        State::Building {
            cookie: "3-100003.7".to_owned(),
            until: None,
        },
        State::Idle,
        State::Building {
            cookie: farm.cookie(5, 1),
            until: None,
        },
    ];
    let fakes: Vec<Fake> = (1..)
        .zip(states)
        .map(|(build, state)| {
            let fake = Fake::start("i386");
            fake.slave(|slave| slave.state = state);
            let builder = farm.add_builder(&format!("builder{build}"), &fake);
            farm.db.execute(&format!(
                "UPDATE build SET state = 6, builder_id = {builder}, started_at = 5 WHERE id = {build};
                 UPDATE build_queue SET status = 1, attempt = 1, builder_id = {builder},
                   buildstart = 5, lastscore = -{build} WHERE build_id = {build};
                 UPDATE builder SET clean_status = 1, manual = TRUE WHERE id = {builder}"
            ));
            fake
        })
        .collect();
    farm.db.execute(
        "UPDATE builder SET builderok = FALSE WHERE name = 'builder1';
         UPDATE builder SET clean_status = 0 WHERE name = 'builder4'",
    );
    let master = farm.master("master");
    for build in 1..=3 {
        farm.wait_row(
            &format!("SELECT status, builder_id, buildstart, lastscore FROM build_queue WHERE build_id = {build}"),
            &json!([0, null, null, -build]),
        );
        let row = farm.db.row(&format!(
            "SELECT state, builder_id, failure_count FROM build WHERE id = {build}"
        ));
        assert_eq!(row, json!([NEEDSBUILD, null, 0]), "{build}");
    }
    farm.wait_state(4, FAILEDTOBUILD);
    let said = master.said();
    let warned = said.warnings();
    for text in [
        "disabled",
        "'2-100002.1', got none",
        "'3-100003.1', got '3-100003.7'",
    ] {
        assert!(
            warned.iter().any(|line| line.contains(text)),
            "{text}: {warned:#?}"
        );
    }
    // Builder 3 is aborted and cleaned; builder 5 goes on, and its log tail is kept.
    farm.wait_row(
        "SELECT clean_status FROM builder WHERE name = 'builder3'",
        &json!([0]),
    );
    farm.wait_row(
        "SELECT status, logtail FROM build_queue WHERE build_id = 5",
        &json!([1, "a log of the build\n"]),
    );
    fakes[4].slave(|slave| {
        "source5_1.0-5".clone_into(&mut slave.source);
        slave.finish();
    });
    farm.wait_state(5, FULLYBUILT);
    assert_eq!(fakes[0].methods(), "");
    assert_eq!(fakes[2].methods(), "status abort status clean status");
    master.stop();
    check_manners(&fakes);
}

fn a_slave_that_does_not_answer_delays_no_other(engine: Engine) {
    let farm = farm(engine, "");
    let _librarian = farm.librarian();
    let (stalling, gone, angry, good) = (
        Fake::start("i386"),
        Fake::start("i386"),
        Fake::start("i386"),
        Fake::start("i386"),
    );
    stalling.on("*", Does::Stall);
    gone.vanish();
    angry.on("*", Does::Http("500 Internal Server Error"));
    for (name, fake) in [
        ("stalling", &stalling),
        ("gone", &gone),
        ("angry", &angry),
        ("good", &good),
    ] {
        farm.add_builder(name, fake);
    }
    farm.add_builds(1, 6, |build| -build);
    let master = farm.master("master");
    for build in 1..=6 {
        farm.wait_state(build, FULLYBUILT);
    }
    assert_eq!(
        good.accepted(),
        (1..=6)
            .map(|build| farm.cookie(build, 1))
            .collect::<Vec<_>>()
    );
    // Five failed scans are one failure, and five failures disable a builder.
    let sql = "SELECT builderok, failure_count, failnotes FROM builder WHERE name = 'gone'";
    farm.wait_row_within(
        Duration::from_secs(60),
        "SELECT builderok, failure_count FROM builder WHERE name = 'gone'",
        &json!([0, 5]),
    );
    let notes = farm.db.row(sql)[2].as_str().unwrap().to_owned();
    assert!(notes.contains("refused"), "{notes}");
    assert_eq!(
        farm.db
            .row("SELECT builderok, failure_count FROM builder WHERE name = 'good'"),
        json!([1, 0])
    );
    master.stop();
    check_manners([&good]);
}

fn a_cancelled_build_ends_whatever_its_slave_does(engine: Engine) {
    let farm = farm(engine, "cancel_timeout = 2\n");
    let _librarian = farm.librarian();
    // Slave 1 aborts, slave 2 never finishes the abort, slave 3 refuses it, slave 4 has ended.
    let fakes: Vec<Fake> = (1..=4).map(|_| Fake::start("i386")).collect();
    for (build, fake) in (1..).zip(&fakes) {
        fake.works(Work::goes_on());
        farm.add_builder(&format!("builder{build}"), fake);
    }
    farm.add_builds(1, 4, |_| 10);
    let master = farm.master("master");
    for build in 1..=4 {
        farm.wait_state(build, BUILDING);
    }
    for fake in &fakes {
        fake.wait_for("build", 1, Duration::from_secs(30));
    }
    let of = |build: i64| {
        let cookie = farm.cookie(build, 1);
        fakes
            .iter()
            .find(|fake| fake.accepted() == [cookie.clone()])
            .unwrap()
    };
    of(2).slave(|slave| slave.abort_takes = None);
    of(3).on("abort", Does::Fault("I will not"));
    of(4).on("abort", Does::Fault("too late"));
    of(4).slave(|slave| {
        slave.work = Work::ends("OK");
        slave.finish();
    });
    let before = farm.db.number("SELECT COUNT(*) FROM build WHERE state = 6");
    // The master may have collected build 4 already.
    assert!(before >= 3);
    farm.db.execute(
        "UPDATE build_queue SET status = 2 WHERE status = 1;
         UPDATE build SET state = 9 WHERE state = 6",
    );
    for build in 1..=3 {
        farm.wait_state(build, CANCELLED);
        let jobs = format!("SELECT COUNT(*) FROM build_queue WHERE build_id = {build}");
        assert_eq!(farm.db.number(&jobs), 0);
    }
    farm.wait_row(
        "SELECT COUNT(*) FROM build WHERE id = 4 AND state IN (1, 10)",
        &json!([1]),
    );
    // Build 1 has its log, and its slave got one `abort`.
    assert_eq!(farm.stored_log(1), "a log of the build\n");
    assert_eq!(of(1).called("abort").len(), 1);
    assert!(notified(&farm).is_empty());
    of(2).slave(|slave| slave.abort_takes = Some(Duration::ZERO));
    of(2).slave(|slave| {
        let State::Aborting { cookie, .. } = slave.state.clone() else {
            panic!("the slave is not aborting");
        };
        slave.state = State::Aborting {
            cookie,
            until: Some(std::time::Instant::now()),
        };
    });
    of(3).behave();
    clean_and_idle(&farm, 4);
    master.stop();
    check_manners(&fakes);
}

fn the_next_master_cancels_what_the_last_one_did_not(engine: Engine) {
    let farm = farm(engine, "cancel_timeout = 2\n");
    let _librarian = farm.librarian();
    let fake = Fake::start("i386");
    fake.works(Work::goes_on());
    farm.add_builder("builder1", &fake);
    farm.add_builds(5, 5, |_| 10);
    let master = farm.master("master");
    fake.wait_for("build", 1, Duration::from_secs(30));
    master.kill();
    farm.db.execute(
        "UPDATE build_queue SET status = 2 WHERE status = 1;
         UPDATE build SET state = 9 WHERE state = 6",
    );
    let master = farm.master("master");
    farm.wait_state(5, CANCELLED);
    clean_and_idle(&farm, 1);
    master.stop();
    check_manners([&fake]);
}

fn a_virtual_builder_is_reset_before_each_job(engine: Engine) {
    let farm = farm(engine, "");
    let noted = farm.path("home/reset").display().to_string();
    let command = format!("{QUICK}reset_command = mkdir -p {noted}/%(vm_host)s/%(buildd_name)s\n");
    farm.configure(&command);
    let _librarian = farm.librarian();
    farm.db
        .execute("UPDATE archive SET require_virtualized = TRUE");
    let fakes: Vec<Fake> = (1..=4).map(|_| Fake::start("i386")).collect();
    let rows = [
        ("synchronous", "vm_host = 'host1', vm_reset_protocol = 11"),
        ("asynchronous", "vm_host = 'host2', vm_reset_protocol = 20"),
        ("homeless", "vm_reset_protocol = 11"),
        ("unruled", "vm_host = 'host4'"),
    ];
    for ((name, columns), fake) in rows.iter().zip(&fakes) {
        let id = farm.add_builder(name, fake);
        farm.db.execute(&format!(
            "UPDATE builder SET virtualized = TRUE, clean_status = 1, {columns} WHERE id = {id}"
        ));
    }
    farm.add_builds(1, 2, |_| 10);
    farm.db.execute(&format!(
        "UPDATE build_queue SET virtualized = TRUE WHERE id > {QUEUE}"
    ));
    let master = farm.master("master");
    // The builder with a synchronous reset builds, and is reset after each job.
    farm.wait_state(1, FULLYBUILT);
    farm.wait_state(2, FULLYBUILT);
    farm.wait_row(
        "SELECT clean_status FROM builder WHERE name = 'synchronous'",
        &json!([0]),
    );
    assert_eq!(farm.names("home/reset"), ["host1", "host2"]);
    assert_eq!(farm.names("home/reset/host1"), ["127"]);
    let asked = fakes[0].methods();
    assert!(asked.starts_with("echo"), "{asked}");
    // The builder with an asynchronous reset waits for `builder clean`.
    farm.wait_row(
        "SELECT clean_status FROM builder WHERE name = 'asynchronous'",
        &json!([2]),
    );
    assert_eq!(fakes[1].methods(), "");
    farm.ok(&["master", "builder", "clean", "asynchronous"]);
    fakes[1].wait_for("status", 1, Duration::from_secs(30));
    // A builder without a host or a reset protocol is failed.
    for name in ["homeless", "unruled"] {
        let sql = format!("SELECT builderok FROM builder WHERE name = '{name}'");
        farm.wait_row(&sql, &json!([0]));
    }
    assert_eq!(fakes[2].methods() + &fakes[3].methods(), "");
    master.stop();
    check_manners(&fakes[..2]);
}
