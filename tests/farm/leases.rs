//! Leases under wrong clocks, and of a pass (docs/farm.md §6.4).

use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};

use super::support::fake::check_manners;
use super::support::farm::on_both_engines;
use super::support::{Does, Engine, Fake, Farm, QUICK, Work};
use crate::support::clock::{self, Shared, set_clock};
use crate::support::{Gate, until};

on_both_engines! {
    a_pass_calls_no_slave_after_its_leases_have_ended
}

const LEASE: Duration = Duration::from_secs(2);

/// A farm on PostgreSQL with idle builders, whose masters may have their own clocks.
fn farm_with_clocks(keys: &str, builders: usize) -> Option<(Farm, Vec<Fake>)> {
    super::support::postgres::database()?;
    let mut farm = Farm::new(Engine::Postgres, keys);
    farm.copy_program();
    farm.furnish();
    let fakes: Vec<Fake> = (0..builders).map(|_| Fake::start("i386")).collect();
    for (number, fake) in fakes.iter().enumerate() {
        farm.add_builder(&format!("builder{number}"), fake);
    }
    Some((farm, fakes))
}

/// The number of builders of each process, by the time that it started.
fn shares(farm: &Farm) -> Vec<Json> {
    farm.db.rows(
        "SELECT COUNT(b.id) FROM master_process p LEFT JOIN builder b ON b.lease_owner = p.owner
         GROUP BY p.owner ORDER BY p.owner",
    )
}

fn epochs(farm: &Farm) -> Vec<Json> {
    farm.db
        .rows("SELECT id, lease_owner, lease_epoch FROM builder ORDER BY id")
}

#[test]
fn a_master_whose_clock_is_an_hour_off_takes_no_lease_and_loses_none() {
    for off in ["+1h", "-1h"] {
        let Some((farm, fakes)) = farm_with_clocks(QUICK, 4) else {
            return;
        };
        let clock_file = farm.path("clock");
        let what = "masters whose clocks differ";
        let Some(environment) = clock::environment(&clock_file, what) else {
            return;
        };
        let _shared = Shared;
        set_clock(&clock_file, off);
        let right = farm.master("right");
        until("all leases", || {
            let held = "SELECT COUNT(*) FROM builder WHERE lease_owner IS NOT NULL";
            (farm.db.number(held) == 4).then_some(())
        });
        let wrong = farm.master_with("wrong", &environment);
        until("equal shares", || {
            (shares(&farm) == [json!([2]), json!([2])]).then_some(())
        });
        let before = epochs(&farm);
        // Five lifetimes of a lease, in which both renew theirs.
        let begun = Instant::now();
        while begun.elapsed() < LEASE * 5 {
            assert_eq!(epochs(&farm), before, "{off}");
            std::thread::sleep(Duration::from_millis(100));
        }
        let listed: Json =
            serde_json::from_str(&farm.ok(&["master", "builder", "list", "--json"])).unwrap();
        let scanned = |one: &Json| one["scanned_by"].is_string();
        assert!(listed.as_array().unwrap().iter().all(scanned), "{listed}");
        wrong.stop();
        until("all leases", || {
            (shares(&farm) == [json!([4])]).then_some(())
        });
        right.stop();
        check_manners(&fakes);
    }
}

#[test]
fn a_jump_of_the_clock_neither_ends_nor_extends_a_lease() {
    // The leases are renewed every ten seconds.
    let keys = QUICK.replace("lease = 2", "lease = 30");
    let Some((farm, fakes)) = farm_with_clocks(&keys, 1) else {
        return;
    };
    let clock_file = farm.path("clock");
    let what = "a master whose clock jumps";
    let Some(environment) = clock::environment(&clock_file, what) else {
        return;
    };
    let _shared = Shared;
    let librarian = farm.librarian();
    fakes[0].works(Work::goes_on());
    farm.add_builds(1, 1, |_| 10);
    let calls = || fakes[0].called("status").len();
    let master = farm.master_with("jumps", &environment);
    until("build", || fakes[0].accepted().pop());
    // While the database is locked, no lease can be renewed.
    let held = farm.db.hold();
    set_clock(&clock_file, "+1h");
    let (before, begun) = (calls(), Instant::now());
    until("calls after the jump", || {
        (calls() >= before + 4).then_some(())
    });
    assert!(
        begun.elapsed() < Duration::from_secs(15),
        "{:?}",
        begun.elapsed()
    );
    drop(held);
    master.stop();

    farm.configure(QUICK);
    set_clock(&clock_file, "+0");
    let before = calls();
    let master = farm.master_with("jumps", &environment);
    until("calls of the next master", || {
        (calls() > before).then_some(())
    });
    let held = farm.db.hold();
    set_clock(&clock_file, "-1h");
    std::thread::sleep(LEASE + Duration::from_millis(500));
    let before = calls();
    std::thread::sleep(LEASE * 2);
    assert_eq!(calls(), before);
    drop(held);
    until("calls with a new lease", || {
        (calls() > before).then_some(())
    });
    master.stop();
    librarian.stop();
    check_manners(&fakes);
}

/// The database is locked, so the pass cannot renew its leases while a slave keeps it waiting.
fn a_pass_calls_no_slave_after_its_leases_have_ended(engine: Engine) {
    let keys = QUICK.replace("rpc_timeout = 5", "rpc_timeout = 60");
    let farm = Farm::new(engine, &keys);
    farm.furnish();
    let fakes = [(); 3].map(|()| Fake::start("i386"));
    let gate = Gate::default();
    for (number, fake) in fakes.iter().enumerate() {
        fake.works(Work::goes_on());
        farm.add_builder(&format!("builder{number}"), fake);
    }
    fakes[0].once("echo", Does::Late(gate.clone()));
    let total = || fakes.iter().map(|fake| fake.calls().len()).sum::<usize>();
    std::thread::scope(|scope| {
        let pass = scope.spawn(|| farm.scan());
        until("the first call", || (total() == 1).then_some(()));
        let held = farm.db.hold();
        std::thread::sleep(LEASE + Duration::from_millis(500));
        gate.open();
        // The answer of the first slave is read, and no call follows.
        std::thread::sleep(LEASE);
        assert_eq!(total(), 1);
        drop(held);
        pass.join().unwrap();
    });
    // The next pass has its own leases.
    farm.scan();
    assert!(fakes.iter().all(|fake| !fake.called("info").is_empty()));
    check_manners(&fakes);
}
