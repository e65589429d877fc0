//! Results on their way from a slave to the uploader, whatever the slave sends
//! (docs/farm.md §2.11, §3.6, §8 item 9).

use std::collections::BTreeMap;

use serde_json::json;

use super::support::fake::check_manners;
use super::support::fake_slave::{Plans, changes, package};
use super::support::farm::{Process, on_both_engines};
use super::support::{Does, Engine, Fake, Farm, QUICK, Work};
use crate::support::{self, sha1, until};

on_both_engines! {
    a_damaged_download_is_repeated_until_it_is_right
    only_results_that_match_their_changes_are_handed_over
    results_of_another_build_are_refused
    a_file_damaged_at_every_try_counts_against_build_and_builder
    a_file_whose_name_leads_elsewhere_is_not_downloaded
    an_uploader_takes_or_refuses_results
    an_upload_survives_its_master
}

const FULLYBUILT: i64 = 1;
const FAILEDTOUPLOAD: i64 = 7;
const UPLOADING: i64 = 8;

/// A farm with one builder; `plans` says what its builds make.
struct OneBuilder {
    farm: Farm,
    fake: Fake,
    plans: Plans,
    _librarian: Process,
}

impl OneBuilder {
    fn new(engine: Engine) -> Self {
        let farm = Farm::new(engine, QUICK);
        farm.furnish();
        let librarian = farm.librarian();
        let fake = Fake::start("i386");
        farm.add_builder("bob", &fake);
        let plans = Plans::default();
        fake.slave(|slave| slave.plans = plans.clone());
        Self {
            farm,
            fake,
            plans,
            _librarian: librarian,
        }
    }

    /// Checks that neither the builder nor its slave has done anything wrong so far.
    fn check_builder(&self) {
        assert_eq!(
            self.farm
                .db
                .row("SELECT failure_count, builderok FROM builder"),
            json!([0, 1])
        );
    }

    /// Stops the master and checks that no download is left half-done.
    fn check_end(&self, master: Process) {
        master.stop();
        assert_eq!(self.farm.names("home/results/grabbing"), [""; 0]);
        check_manners([&self.fake]);
    }
}

fn source(build: i64) -> String {
    format!("source{build}_1.0-{build}")
}

/// The name and the bytes of the package that a build makes unless a plan says otherwise.
fn deb(build: i64) -> (String, Vec<u8>) {
    package(&source(build), "i386")[0].clone()
}

fn deb_sum(build: i64) -> String {
    sha1(&deb(build).1)
}

fn other_bytes() -> Does {
    Does::Bytes(b"other bytes".to_vec())
}

/// Each file gets three tries at one look; the next look begins again.
fn a_damaged_download_is_repeated_until_it_is_right(engine: Engine) {
    let farmed = OneBuilder::new(engine);
    let OneBuilder { farm, fake, .. } = &farmed;
    let short = || Does::Cut(5);
    let missing = || Does::Http("404 Not Found");
    let wrong: [(i64, &[Does]); 5] = [
        (1, &[other_bytes(), other_bytes(), other_bytes()]),
        (2, &[other_bytes(), short()]),
        (3, &[missing(), Does::HangUp]),
        (4, &[short(), short(), short()]),
        (5, &[missing(), missing(), missing(), other_bytes()]),
    ];
    for (build, does) in &wrong {
        for one in does.iter() {
            fake.once(&deb_sum(*build), one.clone());
        }
    }
    farm.add_builds(1, 5, |build| 100 - build);
    let master = farm.master("master");
    for (build, does) in &wrong {
        farm.wait_state(*build, FULLYBUILT);
        let cookie = farm.cookie(*build, 1);
        let row = farm.db.row(&format!(
            "SELECT leaf, failure_count FROM build WHERE id = {build}"
        ));
        assert_eq!(row, json!([cookie, 0]), "{build}");
        let (name, bytes) = deb(*build);
        assert_eq!(
            farm.read(&format!("home/results/incoming/{cookie}/{name}"))
                .as_bytes(),
            bytes
        );
        let path = json!(format!("/filecache/{}", deb_sum(*build)));
        let fetched = fake
            .called("GET")
            .iter()
            .filter(|args| args[0] == path)
            .count();
        assert_eq!(fetched, does.len() + 1, "{build}");
    }
    farmed.check_builder();
    farmed.check_end(master);
}

type Files = Vec<(String, Vec<u8>)>;

fn file(name: &str, bytes: &str) -> (String, Vec<u8>) {
    (name.to_owned(), bytes.as_bytes().to_vec())
}

/// The `.changes` of a build that lists `files`.
fn listing(build: i64, files: &[(&str, &str)]) -> (String, Vec<u8>) {
    let files: Vec<_> = files
        .iter()
        .map(|(name, text)| (*name, text.as_bytes()))
        .collect();
    let (name, version) = (format!("source{build}"), format!("1.0-{build}"));
    file(
        "x_1_i386.changes",
        &changes(&name, &version, "i386", &files),
    )
}

/// Builds `cases` of build, results, and state at the end. Results are handed over if the state is
/// FULLYBUILT; otherwise the reason contains the text.
fn hand_over(engine: Engine, cases: &[(i64, Files, Result<(), &str>)]) {
    let farmed = OneBuilder::new(engine);
    let OneBuilder { farm, plans, .. } = &farmed;
    for (build, files, _) in cases {
        plans.add(&source(*build), Work::ends("OK").makes(files.clone()));
    }
    let last = cases.last().unwrap().0;
    farm.add_builds(cases[0].0, last, |build| 100 - build);
    let master = farm.master("master");
    for (build, files, end) in cases {
        let state = if end.is_ok() {
            FULLYBUILT
        } else {
            FAILEDTOUPLOAD
        };
        farm.wait_state(*build, state);
        let folder = format!("home/results/incoming/{}", farm.cookie(*build, 1));
        match end {
            Ok(()) => {
                let there = farm.names(&folder).into_iter().map(|name| {
                    let bytes = farm.read(&format!("{folder}/{name}")).into_bytes();
                    (name, bytes)
                });
                let expected: BTreeMap<_, _> = files.iter().cloned().collect();
                assert_eq!(there.collect::<BTreeMap<_, _>>(), expected);
            }
            Err(reason) => {
                assert!(!farm.path(&folder).exists(), "{build}");
                let shown = farm.db.row(&format!(
                    "SELECT message FROM event WHERE kind = 'ended' AND build_id = {build}"
                ));
                let shown = shown[0].as_str().unwrap();
                assert!(shown.contains(reason), "{reason} is not in {shown}");
            }
        }
    }
    farmed.check_builder();
    farmed.check_end(master);
}

fn only_results_that_match_their_changes_are_handed_over(engine: Engine) {
    let cases: [(i64, Files, Result<(), &str>); 7] = [
        // Two names with one hash, and an empty file.
        (
            6,
            vec![
                file("a.bin", "same"),
                file("b.bin", "same"),
                file("empty", ""),
                listing(6, &[("a.bin", "same"), ("b.bin", "same"), ("empty", "")]),
            ],
            Ok(()),
        ),
        (
            7,
            vec![file("a.bin", "no list")],
            Err("exactly one .changes"),
        ),
        (
            8,
            vec![
                file("a.bin", "a"),
                listing(8, &[("a.bin", "a"), ("b.bin", "b")]),
            ],
            Err("b.bin is not among the results"),
        ),
        (
            9,
            vec![file("a.bin", "a"), listing(9, &[("a.bin", "another")])],
            Err("size or SHA-1 of a.bin does not match"),
        ),
        (
            10,
            vec![file("a b.bin", "a"), listing(10, &[("a b.bin", "a")])],
            Err("is not a valid file name for a result"),
        ),
        (11, vec![], Err("exactly one .changes")),
        (
            12,
            vec![
                file("a.bin", "a"),
                file("b.bin", "b"),
                listing(12, &[("a.bin", "a")]),
            ],
            Err("does not list b.bin, which the slave announced"),
        ),
    ];
    hand_over(engine, &cases);
}

/// The slave is not trusted: one that was taken over could send anything.
fn results_of_another_build_are_refused(engine: Engine) {
    let package = |build: i64, fields: [&str; 4]| {
        let [name, source, version, arch] = fields;
        let bytes = String::from_utf8(support::deb(name, source, version, arch)).unwrap();
        let deb = format!("{name}_{version}_{arch}.deb");
        vec![file(&deb, &bytes), listing(build, &[(&deb, &bytes)])]
    };
    let is = |build: i64| format!("but this build is of source{build} 1.0-{build} for i386");
    let reasons: Vec<String> = [
        (31, "its Source is \"other\", "),
        (32, "its Version is \"1.0-31\", "),
        (33, "its Architecture is \"amd64\", "),
        (34, "its Architecture is \"all\", "),
        (35, "its Source is \"other\", "),
    ]
    .iter()
    .map(|(build, problem)| format!("{problem}{}", is(*build)))
    .collect();
    let list = |name: &str, version: &str, arch: &str| {
        vec![file("x_1_i386.changes", &changes(name, version, arch, &[]))]
    };
    let cases: [(i64, Files, Result<(), &str>); 7] = [
        (
            30,
            package(30, ["lib", "source30", "1.0-30", "i386"]),
            Ok(()),
        ),
        (
            31,
            package(31, ["lib", "other", "1.0-31", "i386"]),
            Err(&reasons[0]),
        ),
        (
            32,
            package(32, ["lib", "source32", "1.0-31", "i386"]),
            Err(&reasons[1]),
        ),
        (
            33,
            package(33, ["lib", "source33", "1.0-33", "amd64"]),
            Err(&reasons[2]),
        ),
        (
            34,
            package(34, ["lib", "source34", "1.0-34", "all"]),
            Err(&reasons[3]),
        ),
        (35, list("other", "1.0-35", "i386"), Err(&reasons[4])),
        (
            36,
            list("source36", "1.0-36", "i386 source"),
            Err("i386 source"),
        ),
    ];
    hand_over(engine, &cases);
}

fn a_file_damaged_at_every_try_counts_against_build_and_builder(engine: Engine) {
    let farmed = OneBuilder::new(engine);
    let OneBuilder {
        farm, fake, plans, ..
    } = &farmed;
    plans.add(&source(12), Work::ends("OK"));
    fake.on(&deb_sum(12), other_bytes());
    farm.add_builds(12, 12, |_| 10);
    let master = farm.master("master");
    farm.wait_row(
        "SELECT b.failure_count, w.failure_count FROM build b CROSS JOIN builder w WHERE b.id = 12",
        &json!([1, 1]),
    );
    fake.behave();
    farm.wait_state(12, FULLYBUILT);
    farmed.check_end(master);
}

fn a_file_whose_name_leads_elsewhere_is_not_downloaded(engine: Engine) {
    let farmed = OneBuilder::new(engine);
    let OneBuilder {
        farm, fake, plans, ..
    } = &farmed;
    let sum = sha1(b"evil");
    let names = ["../evil", "/tmp/evil", "", "sub/evil", ".evil", "-evil"];
    let claims = names.iter().map(|name| ((*name).to_owned(), sum.clone()));
    for (build, claim) in (20..).zip(claims) {
        let evil = Work {
            claims: Some(vec![claim]),
            ..Work::ends("OK")
        };
        plans.add(
            &source(build),
            evil.makes(vec![("evil".to_owned(), b"evil".to_vec())]),
        );
    }
    let count = i64::try_from(names.len()).unwrap();
    farm.add_builds(20, 19 + count, |_| 10);
    let master = farm.master("master");
    farm.wait_row_within(
        std::time::Duration::from_secs(120),
        "SELECT COUNT(*) FROM build WHERE id >= 20 AND state IN (2, 7)",
        &json!([count]),
    );
    let path = json!(format!("/filecache/{sum}"));
    assert!(fake.called("GET").iter().all(|args| args[0] != path));
    for folder in ["", "home", "home/results", "home/results/incoming"] {
        assert!(
            farm.names(folder).iter().all(|name| !name.contains("evil")),
            "{folder}"
        );
    }
    farmed.check_end(master);
}

/// A farm with an uploader that accepts packages whose version is an even number, and refuses
/// others with a message. With build 3 the uploader takes the results, then waits for `go`.
fn with_uploader(engine: Engine) -> (Farm, Fake, Process) {
    let farm = Farm::new(engine, "");
    std::fs::write(
        farm.path("uploader"),
        "#!/bin/sh\n[ \"$1 $3 $4 $5 $6 $7\" = '--log-file -d ubuntu -s hoary -b' ] || exit 2\n\
         leaf=${10} root=${11}\ntake() { mkdir -p $root/taken; mv $root/incoming/$leaf $root/taken; }\n\
         case $leaf in 3-*) take; : >$root/at; until [ -e $root/go ]; do sleep 0.1; done; exit 0; esac\n\
         ls \"$root/incoming/$leaf\"/*[02468]_i386.deb && take && exit 0\n\
         echo odd things are not for us > \"$2\"; exit 1\n",
    )
    .unwrap();
    let mut install = std::process::Command::new("install");
    install
        .args(["-m", "755"])
        .arg(farm.path("uploader"))
        .arg(farm.path("bin/uploader"));
    assert!(install.status().unwrap().success());
    farm.configure(&format!(
        "{QUICK}uploader = {}\n",
        farm.path("bin/uploader").display()
    ));
    farm.furnish();
    let librarian = farm.librarian();
    let fake = Fake::start("i386");
    farm.add_builder("bob", &fake);
    (farm, fake, librarian)
}

fn an_uploader_takes_or_refuses_results(engine: Engine) {
    let (farm, _fake, _librarian) = with_uploader(engine);
    farm.add_builds(1, 2, |_| 10);
    let master = farm.master("master");
    farm.wait_state(1, FAILEDTOUPLOAD);
    farm.wait_state(2, FULLYBUILT);
    let log = farm.db.row(
        "SELECT a.id, a.filename FROM build b JOIN library_alias a ON a.id = b.upload_log_alias_id
         WHERE b.id = 1",
    );
    let path = format!("/{}/{}", log[0], log[1].as_str().unwrap());
    assert_eq!(farm.library(&path).text(), "odd things are not for us\n");
    let taken = farm.cookie(2, 1);
    assert_eq!(farm.names("home/results/taken"), [taken]);
    master.stop();
}

/// The next master starts no second upload of the same results. It waits for the first, and records
/// its exit code.
fn an_upload_survives_its_master(engine: Engine) {
    let (farm, _fake, _librarian) = with_uploader(engine);
    farm.add_builds(3, 3, |_| 10);
    let master = farm.master("master");
    until("upload", || {
        farm.path("home/results/at").exists().then_some(())
    });
    master.kill();
    let master = farm.master("another");
    farm.add_builds(4, 4, |_| 10);
    farm.wait_state(4, FULLYBUILT);
    assert_eq!(
        farm.db.row("SELECT state FROM build WHERE id = 3"),
        json!([UPLOADING])
    );
    std::fs::write(farm.path("home/results/go"), "").unwrap();
    farm.wait_state(3, FULLYBUILT);
    let taken = [3, 4].map(|build| farm.cookie(build, 1));
    assert_eq!(farm.names("home/results/taken"), taken);
    master.stop();
}
