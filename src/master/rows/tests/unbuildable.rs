//! Waiting builds that can never be built.

use super::farm::{NOW, change, claim, farm, state};
use crate::db::Db;
use crate::db::tests::both;
use crate::master::model::BuildState;
use crate::master::rows::events;
use crate::master::rows::unbuildable::{self, Place, Unbuildable};

fn found(db: &Db, place: Place) -> Vec<Unbuildable> {
    let window = db.read(|tx| unbuildable::window(tx, place, 0)).unwrap();
    window.map_or_else(Vec::new, |(found, last)| {
        let rest = db.read(|tx| unbuildable::window(tx, place, last)).unwrap();
        assert_eq!(rest, None);
        found
    })
}

fn end(db: &Db, one: &Unbuildable) -> bool {
    db.write(|tx| unbuildable::end(tx, one, NOW)).unwrap()
}

fn jobs(db: &Db) -> i64 {
    let sql = "SELECT COUNT(*) FROM build_queue";
    let row = db.read(|tx| tx.query_one(sql, &[])).unwrap();
    row.get(0).unwrap()
}

#[test]
fn a_build_without_a_publication_ends_wherever_it_waits() {
    both(|db| {
        let farm = farm(db);
        let waiting = farm.job(db, "waiting", 0, 5).0;
        let suspended = farm.job(db, "suspended", 0, 4).0;
        change(db, "UPDATE build_queue SET status = 3 WHERE lastscore = 4");
        let depwait = farm.job(db, "depwait", 0, 3).0;
        change(db, "DELETE FROM build_queue WHERE lastscore = 3");
        change(db, "UPDATE build SET state = 3 WHERE source_id = 3");
        assert_eq!(found(db, Place::Queue), []);
        assert_eq!(found(db, Place::DepWaits), []);
        // SUPERSEDED, DELETED, OBSOLETE: each is no longer current.
        for (status, source) in [(3, 1), (4, 2), (5, 3)] {
            change(
                db,
                &format!("UPDATE publication SET status = {status} WHERE source_id = {source}"),
            );
        }
        let queue = found(db, Place::Queue);
        let builds: Vec<i64> = queue.iter().map(|one| one.build).collect();
        assert_eq!(builds, [waiting, suspended]);
        let depwaits = found(db, Place::DepWaits);
        assert_eq!(depwaits.len(), 1);
        for one in queue.iter().chain(&depwaits) {
            assert!(end(db, one));
            assert!(!end(db, one), "only once");
        }
        for build in [waiting, suspended, depwait] {
            assert_eq!(state(db, build), BuildState::Superseded);
            let events = db.read(|tx| events::of_build(tx, build, 9)).unwrap();
            assert_eq!(events.len(), 1);
            assert_eq!(
                events[0].message,
                "SUPERSEDED: the source is no longer published"
            );
        }
        assert_eq!(jobs(db), 0);
    });
}

#[test]
fn a_series_that_is_closed_ends_its_builds_but_no_running_one() {
    both(|db| {
        let farm = farm(db);
        let running = farm.job(db, "running", 0, 9).0;
        let waiting = farm.job(db, "waiting", 0, 5).0;
        let bob = farm.builders(db, 1)[0];
        change(db, "UPDATE series SET status = 6");
        let both = found(db, Place::Queue);
        assert_eq!(both.len(), 2);
        claim(db, bob).unwrap();
        assert!(!end(db, &both[0]), "it has a builder now");
        assert!(end(db, &both[1]));
        assert_eq!(state(db, running), BuildState::Building);
        assert_eq!(state(db, waiting), BuildState::FailedToBuild);
        assert_eq!(jobs(db), 1);
        // The series may be open again by the time.
        let late = farm.job(db, "late", 0, 5).0;
        let found = found(db, Place::Queue);
        change(db, "UPDATE series SET status = 2");
        assert!(!end(db, &found[0]));
        assert_eq!(state(db, late), BuildState::NeedsBuild);
    });
}
