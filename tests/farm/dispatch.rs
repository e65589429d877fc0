//! The dispatch of a job to a slave (docs/farm.md §2.12, §2.13, §3.7).
//!
//! It covers the calls and their order, refusals by the slave, and secrets, which no log shows.

use std::fs;
use std::time::Duration;

use serde_json::{Value as Json, json};

use super::support::fake::{check_manners, unknown_sum};
use super::support::farm::on_both_engines;
use super::support::rows::{CHROOT_SUM, QUEUE, dsc_sum};
use super::support::{Does, Engine, Fake, Farm, QUICK, State, Work};
use crate::support::{DEADLINE, sha1, until};

on_both_engines! {
    a_slave_gets_files_then_a_build_with_all_arguments
    secrets_reach_only_the_slave
    jobs_that_cannot_be_built_are_not_dispatched
    a_refused_job_gets_a_second_attempt
    a_file_missing_in_the_librarian_does_not_count_against_the_builder
    jobs_are_dispatched_by_score_then_age
    a_new_job_is_dispatched_before_the_next_scan
    a_builder_that_needs_no_emulation_is_preferred
}

fn farm(engine: Engine, more: &str) -> Farm {
    let farm = Farm::new(engine, &format!("{QUICK}{more}"));
    farm.furnish();
    farm
}

fn a_slave_gets_files_then_a_build_with_all_arguments(engine: Engine) {
    for (start, kind) in [
        (Fake::start as fn(&str) -> Fake, "binarypackage"),
        (Fake::start_2008, "debian"),
    ] {
        let farm = farm(engine, "");
        let _librarian = farm.librarian();
        let fake = start("i386");
        farm.add_builder("bob", &fake);
        farm.add_builds(1, 1, |_| 10);
        farm.db.execute("UPDATE build SET pocket = 20; UPDATE publication SET pocket = 20, component = 'universe'");
        farm.db.execute("UPDATE series SET status = 4");
        let master = farm.master("master");
        farm.wait_state(1, 1);
        master.stop();
        let methods = fake.methods();
        assert!(
            methods.starts_with("status info ensurepresent ensurepresent build status GET"),
            "{methods}"
        );
        let base = farm.library_url();
        let file = |sum: &str, alias: i64, name: &str| {
            json!([sum, format!("{base}{alias}/{name}"), "", ""])
        };
        let sent: Vec<Json> = fake
            .called("ensurepresent")
            .into_iter()
            .map(Json::Array)
            .collect();
        assert_eq!(
            sent,
            [
                file(CHROOT_SUM, 1, "chroot.tar.gz"),
                file(&dsc_sum(1), 1 + QUEUE, "source1_1.0-1.dsc"),
            ]
        );
        let [cookie, of_kind, chroot, files, args] = &fake.called("build")[0][..] else {
            panic!("five parameters");
        };
        assert_eq!(*cookie, farm.cookie(1, 1));
        assert_eq!((of_kind, chroot), (&json!(kind), &json!(CHROOT_SUM)));
        assert_eq!(*files, json!({"source1_1.0-1.dsc": dsc_sum(1)}));
        let pocket = |suite: &str| {
            let base = "deb http://ftpmaster.internal/ubuntu";
            format!("{base} {suite} main restricted universe")
        };
        let archives = ["hoary", "hoary-security", "hoary-updates"].map(pocket);
        for (name, expected) in [
            ("ogrecomponent", json!("universe")),
            ("arch_indep", json!(false)),
            ("archives", json!(archives)),
            ("suite", json!("hoary-updates")),
            ("archive_purpose", json!("PRIMARY")),
            ("archive_private", json!(false)),
            ("build_debug_symbols", json!(false)),
            ("build_profiles", Json::Null),
        ] {
            assert_eq!(args[name], expected, "{name} in {args}");
        }
        if kind == "binarypackage" {
            assert_eq!(args["series"], "hoary");
            assert_eq!(args["arch_tag"], "i386");
        }
        check_manners([&fake]);
    }
}

fn secrets_reach_only_the_slave(engine: Engine) {
    let farm = farm(engine, "");
    let librarian = farm.librarian();
    let fake = Fake::start("i386");
    farm.add_builder("bob", &fake);
    farm.add_builds(1, 1, |_| 10);
    let secret = "s3cr3t-of-the-archive";
    farm.db.execute(&format!(
        "INSERT INTO archive (id, distribution_id, owner, name, purpose, private, base_url,
                              buildd_secret, build_debug_symbols, build_profiles)
           VALUES (2, 1, 'cprov', 'ppa', 2, TRUE, 'http://private.ppa/cprov/ubuntu', '{secret}',
                   TRUE, 'nodoc nocheck');
         UPDATE build SET archive_id = 2;
         UPDATE publication SET archive_id = 2;
         INSERT INTO published_binary (arch_series_id, archive_id, name, version, component,
                                       source_name, published_at)
           VALUES (1, 2, 'libfoo1', '1', 'main', 'foo', 0);
         UPDATE library_alias SET restricted = TRUE WHERE id = 1 + {QUEUE}"
    ));
    // The first `build` call fails, and its fault might repeat the arguments.
    fake.once("build", Does::Fault("no"));
    fake.works(Work::ends("PACKAGEFAIL").log("a log without secrets\n"));
    let master = farm.master("master");
    farm.wait_state(1, 2);
    master.stop();
    let sent = fake.called("ensurepresent");
    assert_eq!(sent[0][3], "", "the chroot is public");
    let mut secrets = vec![secret.to_owned()];
    for file in sent.iter().filter(|file| file[0] == dsc_sum(1)) {
        let token = file[3].as_str().unwrap();
        assert_eq!((&file[2], token.len()), (&json!(""), 32), "{file:?}");
        secrets.push(token.to_owned());
    }
    assert!(secrets.len() > 1);
    let args = &fake.called("build")[0][4];
    assert_eq!(args["archive_private"], true);
    assert_eq!(args["build_debug_symbols"], true);
    assert_eq!(args["build_profiles"], json!(["nodoc", "nocheck"]));
    let archives = args["archives"].to_string();
    assert!(
        archives.contains(&format!("http://buildd:{secret}@private.ppa/")),
        "{archives}"
    );
    librarian.stop();
    let log_is_private = farm
        .db
        .row("SELECT a.restricted FROM build b JOIN library_alias a ON a.id = b.log_alias_id");
    assert_eq!(log_is_private, json!([1]));
    let shown = farm.db.rows("SELECT message FROM event");
    let shown = json!(shown).to_string() + &farm.read("master.log") + &farm.read("librarian.log");
    for secret in secrets {
        assert!(!shown.contains(&secret), "{secret}");
    }
}

fn jobs_that_cannot_be_built_are_not_dispatched(engine: Engine) {
    let farm = farm(engine, "");
    let _librarian = farm.librarian();
    let fake = Fake::start("i386");
    farm.add_builder("bob", &fake);
    farm.add_builds(1, 5, |build| -build);
    farm.db.execute(&format!(
        "INSERT INTO series (id, distribution_id, name, status) VALUES (2, 1, 'old', 6);
         INSERT INTO arch_series (id, series_id, arch_tag, processor_id) VALUES (2, 2, 'i386', 1);
         INSERT INTO series (id, distribution_id, name, status) VALUES (3, 1, 'new', 2);
         INSERT INTO arch_series (id, series_id, arch_tag, processor_id, enabled) VALUES
           (3, 3, 'i386', 1, TRUE), (4, 1, 'i486', 1, FALSE);
         UPDATE publication SET status = 3 WHERE source_id = 1;
         UPDATE build SET arch_series_id = 2 WHERE id = 2;
         UPDATE publication SET series_id = 2 WHERE source_id = 2;
         UPDATE build SET arch_series_id = 3 WHERE id = 3;
         UPDATE publication SET series_id = 3 WHERE source_id = 3;
         UPDATE build SET arch_series_id = 4 WHERE id = 4;
         UPDATE build_queue SET lastscore = 1000 - build_id WHERE id > {QUEUE}"
    ));
    let master = farm.master("master");
    // 1 is superseded, 2 is in an obsolete series, 3 has no chroot, 4 is of a disabled
    // architecture, and 5 can be built.
    farm.wait_state(1, 5);
    farm.wait_state(2, 2);
    farm.wait_state(5, 1);
    let left = farm
        .db
        .rows("SELECT build_id, builder_id FROM build_queue ORDER BY build_id");
    assert_eq!(left, [json!([3, null]), json!([4, null])]);
    assert_eq!(fake.accepted(), [farm.cookie(5, 1)]);
    assert_eq!(
        farm.db
            .row("SELECT log_alias_id, builder_id FROM build WHERE id = 1"),
        json!([null, null])
    );
    // The job is dispatched when its chroot is set.
    farm.ok(&["master", "chroot", "set", "ubuntu/new", "i386", "1"]);
    farm.db.execute("UPDATE build_queue SET not_before = 0");
    farm.wait_state(3, 1);
    master.stop();
    check_manners([&fake]);
}

fn a_refused_job_gets_a_second_attempt(engine: Engine) {
    let refusals: [(&str, Does); 5] = [
        ("build", unknown_sum()),
        ("build", Does::Fault("no such chroot")),
        ("build", Does::HangUp),
        ("ensurepresent", Does::Fault("no")),
        ("ensurepresent", Does::Http("500 Internal Server Error")),
    ];
    let farm = farm(engine, "");
    let _librarian = farm.librarian();
    let fake = Fake::start("i386");
    farm.add_builder("bob", &fake);
    let master = farm.master("master");
    for (build, (what, does)) in (1..).zip(refusals) {
        fake.once(what, does);
        farm.add_builds(build, build, |_| 10);
        farm.wait_state(build, 1);
        // The job went back to the queue, its second attempt succeeded, and one failure counts.
        let row = farm.db.row(&format!(
            "SELECT failure_count, leaf FROM build WHERE id = {build}"
        ));
        assert_eq!(row, json!([1, farm.cookie(build, 2)]), "{what}");
        let count = farm.db.number("SELECT failure_count FROM builder");
        assert_eq!(count, 0, "a success resets the failures of the builder");
    }
    // The slave accepts a build and its answer is late: it keeps the job or is cleaned.
    fake.works(Work::ends("OK").takes(Duration::from_secs(2)));
    let gate = crate::support::Gate::default();
    fake.once("build", Does::Late(gate.clone()));
    farm.add_builds(9, 9, |_| 10);
    fake.wait_for("build", 9, DEADLINE);
    farm.wait_state(9, 1);
    gate.open();
    master.stop();
    assert_eq!(fake.misdeeds(), [""; 0]);
}

fn a_file_missing_in_the_librarian_does_not_count_against_the_builder(engine: Engine) {
    let farm = farm(engine, "");
    let librarian = farm.librarian();
    let fake = Fake::start("i386");
    farm.add_builder("bob", &fake);
    farm.add_builds(1, 1, |_| 10);
    // The librarian has no blob for the chroot of these tests.
    fake.on(
        "ensurepresent",
        Does::Answer(json!([false, "Error accessing Librarian: HTTP Error 404"])),
    );
    let master = farm.master("master");
    farm.wait_row(
        "SELECT q.status, q.builder_id, b.state, b.failure_count, w.failure_count, w.builderok
         FROM build_queue q JOIN build b ON b.id = q.build_id CROSS JOIN builder w
         WHERE q.not_before > 0",
        &json!([0, null, 0, 0, 0, 1]),
    );
    assert_eq!(fake.called("build").len(), 0);
    // The librarian has this chroot, so the failure counts.
    fs::write(farm.path("real.tar.gz"), "a real chroot").unwrap();
    let path = farm.path("real.tar.gz").display().to_string();
    farm.ok(&["master", "chroot", "set", "hoary", "i386", &path]);
    farm.db.execute("UPDATE build_queue SET not_before = 0");
    farm.wait_row(
        "SELECT CASE WHEN failure_count > 0 THEN 1 END FROM build",
        &json!([1]),
    );
    let tried = fake.called("ensurepresent");
    assert!(tried.iter().any(|file| file[0] == sha1(b"a real chroot")));
    fake.behave();
    farm.wait_state(1, 1);
    master.stop();
    librarian.stop();
    check_manners([&fake]);
}

fn jobs_are_dispatched_by_score_then_age(engine: Engine) {
    let farm = farm(engine, "");
    let _librarian = farm.librarian();
    let fake = Fake::start("i386");
    farm.add_builder("bob", &fake);
    let scores = [5, 7, 5, 9, -3, 7, 0, 9];
    let score = |build: i64| scores[usize::try_from(build).unwrap() - 1];
    farm.add_builds(1, 8, score);
    let master = farm.master("master");
    let sql = "SELECT COUNT(*) FROM build WHERE state = 1";
    farm.wait_row_within(Duration::from_secs(60), sql, &json!([8]));
    master.stop();
    let expected = [4, 8, 2, 6, 1, 3, 7, 5].map(|build| farm.cookie(build, 1));
    assert_eq!(fake.accepted(), expected);
    check_manners([&fake]);
}

fn a_new_job_is_dispatched_before_the_next_scan(engine: Engine) {
    let farm = farm(engine, "");
    // The scan interval is long, and a new job does not wait for the next scan.
    farm.configure(&QUICK.replace("scan_interval = 1\n", "scan_interval = 60\n"));
    let _librarian = farm.librarian();
    let fake = Fake::start("i386");
    fake.works(Work::goes_on());
    farm.add_builder("bob", &fake);
    let master = farm.master("master");
    fake.wait_for("status", 1, DEADLINE);
    farm.add_builds(1, 1, |_| 10);
    let begun = std::time::Instant::now();
    until("dispatch", || fake.accepted().first().cloned());
    let waited = begun.elapsed();
    eprintln!("dispatched after {waited:?}");
    assert!(waited < Duration::from_secs(20), "{waited:?}");
    assert!(fake.slave(|slave| matches!(slave.state, State::Building { .. })));
    master.stop();
}

fn a_builder_that_needs_no_emulation_is_preferred(engine: Engine) {
    let farm = farm(engine, "prefer_native = 1 h\n");
    let _librarian = farm.librarian();
    let [native, emulating] = [Fake::start("i386"), Fake::start("amd64")];
    for fake in [&native, &emulating] {
        fake.works(Work::goes_on());
    }
    emulating.slave(|slave| slave.emulated = vec!["i386", "s390x"]);
    farm.add_builder("bob", &native);
    farm.add_builder("qemu", &emulating);
    farm.add_builds(1, 2, |build| 10 - build);
    let queued = |ago: i64| {
        let now = std::time::SystemTime::UNIX_EPOCH
            .elapsed()
            .unwrap()
            .as_secs();
        let at = (i64::try_from(now).unwrap() - ago) * 1000;
        farm.db
            .execute(&format!("UPDATE build_queue SET created_at = {at}"));
    };
    queued(0);
    let master = farm.master("master");
    until("dispatch", || native.accepted().first().cloned());
    // The second job waits for bob, which is busy, although qemu is idle.
    emulating.wait_for("status", 4, DEADLINE);
    assert_eq!(emulating.accepted(), [""; 0]);
    let bob = farm.json(&["master", "builder", "show", "bob"]);
    assert_eq!(bob["emulated"], json!([]));
    let qemu = farm.json(&["master", "builder", "show", "qemu"]);
    assert_eq!(
        (&qemu["processors"], &qemu["emulated"]),
        (&json!(["386"]), &json!(["386"]))
    );
    let why = farm.json(&["master", "queue", "why", "2"]);
    assert_eq!(
        why["why"],
        "It is next in the queue: the only builder that could run it without emulation is busy."
    );
    assert!(
        why.to_string()
            .contains("builder qemu: idle; emulates 386, and leaves it"),
        "{why}"
    );
    // It has waited long enough.
    queued(3601);
    until("dispatch", || emulating.accepted().first().cloned());
    master.stop();
    // The slave was asked once, not at every look.
    assert_eq!(emulating.called("info").len(), 1);
}
