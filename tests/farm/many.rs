//! Several masters on one database, some of which are killed.
//!
//! No job is built twice at once, no builder has two jobs, and no job is lost.
//! `BUILDD_MANY_BUILDERS`, `BUILDD_MANY_JOBS`, `BUILDD_MANY_MASTERS`, `BUILDD_MANY_LEASE` and
//! `BUILDD_MANY_SECONDS` (the deadline) change the sizes.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::json;

use super::support::fake::check_once_each;
use super::support::farm::on_both_engines;
use super::support::{Engine, Fake, Farm, Work, from_env};

on_both_engines! {
    each_job_is_built_once_although_masters_are_killed
}

fn each_job_is_built_once_although_masters_are_killed(engine: Engine) {
    let builders = from_env("BUILDD_MANY_BUILDERS", 30);
    let jobs: i64 = from_env("BUILDD_MANY_JOBS", 200);
    let masters = from_env("BUILDD_MANY_MASTERS", 4);
    let limit = Duration::from_secs(from_env("BUILDD_MANY_SECONDS", 120));

    let lease: u64 = from_env("BUILDD_MANY_LEASE", 4);
    let keys = format!("scan_interval = 1\nlease = {lease}\ntail_interval = 1\n");
    let farm = Farm::new(engine, &keys);
    farm.furnish();
    let librarian = farm.librarian();
    let fakes: Vec<Fake> = (0..builders)
        .map(|number: u64| {
            let fake = Fake::start("i386");
            fake.works(Work::ends("OK").takes(Duration::from_millis(100 + number * 37 % 900)));
            farm.add_builder(&format!("builder{number}"), &fake);
            fake
        })
        .collect();
    farm.add_builds(1, jobs, |build| build * 7919 % 1000);

    let mut running: Vec<_> = (0..masters)
        .map(|number: usize| farm.master(&format!("master{number}")))
        .collect();
    let begun = Instant::now();
    let mut kills = 0;
    let done = || farm.db.number("SELECT COUNT(*) FROM build WHERE state = 1");
    loop {
        let built = done();
        if built == jobs {
            break;
        }
        assert!(
            begun.elapsed() < limit,
            "{built} of {jobs} built in {limit:?}"
        );
        // The pace of the kills.
        std::thread::sleep(Duration::from_millis(700));
        // The number of kills is limited, as each one costs the time of a lease.
        if kills < 10 {
            let victim = kills * 7 % masters;
            let name = format!("master{victim}");
            let killed = std::mem::replace(&mut running[victim], farm.master(&name));
            killed.kill();
            kills += 1;
        }
    }
    let took = begun.elapsed();
    for master in running {
        master.stop();
    }
    librarian.stop();

    // Every accepted build is a separate attempt, and one of them has the results. A slave may be
    // cleaned twice, by a master whose lease expired and by the next one.
    check_once_each(&fakes);
    let mut tries: HashMap<i64, Vec<String>> = HashMap::new();
    for cookie in fakes.iter().flat_map(Fake::accepted) {
        let build = cookie.split('-').next().unwrap().parse().unwrap();
        tries.entry(build).or_default().push(cookie);
    }
    let again = tries.values().filter(|cookies| cookies.len() > 1).count();
    eprintln!(
        "{engine:?}: {jobs} jobs, {builders} builders, {masters} masters, {kills} kills: {took:?}, \
         {again} built more than once"
    );
    for row in farm.db.rows("SELECT id, leaf, failure_count FROM build") {
        let cookies = &tries[&row[0].as_i64().unwrap()];
        let leaf = row[1].as_str().unwrap().to_owned();
        assert_eq!(row[2], 0, "{row}");
        assert_eq!(cookies[..], [&*leaf], "{row}");
        assert_eq!(
            farm.names(&format!("home/results/incoming/{leaf}")).len(),
            2
        );
    }
    assert_eq!(farm.db.number("SELECT COUNT(*) FROM build_queue"), 0);
    let handed_over = farm.names("home/results/incoming").len();
    assert_eq!(i64::try_from(handed_over).unwrap(), jobs);
    let sql = "SELECT COUNT(*) FROM builder WHERE builderok AND failure_count = 0";
    assert_eq!(farm.db.row(sql), json!([builders]));
}
