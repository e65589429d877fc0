//! Races of several processes: no job is claimed twice, no builder has two jobs, and a process that
//! lost its lease writes nothing.
//!
//! Each thread opens the database itself, like a process. A shared step counter is the clock, so
//! leases expire after a number of steps.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::thread;

use super::farm::{
    BUILT as ENDED, ME, NOW, assert_agree, claim_best, farm, lost, view, waiting_groups,
};
use crate::db::tests::both_at;
use crate::db::{Db, Engine, params};
use crate::master::model::{BuildState, CleanStatus, JobStatus};
use crate::master::rows::attempts::AttemptEnd;
use crate::master::rows::builders::{self, Builder};
use crate::master::rows::leases::{self, Fence};
use crate::master::rows::queue::{self, Claim, End};

const BUILT: End<'static> = End {
    attempt: AttemptEnd {
        leaf: None,
        at: NOW,
        ..ENDED.attempt
    },
    ..ENDED
};

fn finish_and_clean(db: &Db, fence: Fence, claim: Claim) {
    let done = db.write(|tx| {
        let finished = queue::finish(tx, fence, claim.queue, &BUILT)?;
        Ok(finished && builders::set_clean(tx, fence, CleanStatus::Clean, NOW)?)
    });
    assert!(done.unwrap());
}

fn count(db: &Db, sql: &str) -> i64 {
    let row = db.read(|tx| tx.query_one(sql, &[]));
    row.unwrap().get(0).unwrap()
}

/// Claims a job and returns it with its sort key in the order of dispatch: (negative score, id).
fn claim(db: &Db, fence: Fence, builder: &Builder) -> Option<(Claim, (i64, i64))> {
    let claimed = db.write(|tx| {
        let Some(claim) = claim_best(tx, fence, builder, NOW, 0)? else {
            return Ok(None);
        };
        let sql = "SELECT -lastscore FROM build_queue WHERE id = $1";
        let score = tx.query_one(sql, &params![claim.queue])?.get(0)?;
        Ok(Some((claim, (score, claim.queue))))
    });
    claimed.unwrap()
}

/// Claims and ends jobs, as one process with some builders, until none is left. Returns the jobs.
fn claim_all(url: &str, mine: &[Fence]) -> Vec<i64> {
    let db = Db::open(url).unwrap();
    let mine: Vec<_> = mine
        .iter()
        .map(|&fence| (fence, view(&db, fence).0))
        .collect();
    let mut claimed = Vec::new();
    let mut last = (i64::MIN, 0);
    loop {
        let before = claimed.len();
        for (fence, builder) in &mine {
            let Some((claim, key)) = claim(&db, *fence, builder) else {
                continue;
            };
            assert!(last < key, "{key:?} after {last:?}");
            last = key;
            claimed.push(claim.queue);
            if claimed.len() % 50 == 0 {
                assert_agree(&db);
            }
            finish_and_clean(&db, *fence, claim);
        }
        if claimed.len() == before {
            return claimed;
        }
    }
}

#[test]
fn eight_claimers_share_the_queue() {
    both_at(|url| {
        let db = Db::open(url).unwrap();
        let farm = farm(&db);
        let fences = farm.builders(&db, 60);
        farm.jobs(&db, 2000);
        let claimed: Vec<i64> = thread::scope(|scope| {
            let shares = fences.chunks(8);
            let claimers: Vec<_> = shares
                .map(|mine| scope.spawn(|| claim_all(url, mine)))
                .collect();
            let claimed = claimers
                .into_iter()
                .flat_map(|claimer| claimer.join().unwrap());
            claimed.collect()
        });
        assert_eq!(claimed.len(), 2000);
        let different: HashSet<_> = claimed.iter().collect();
        assert_eq!(different.len(), 2000, "a job was claimed twice");
        let built = "SELECT count(*) FROM build WHERE state = 1";
        assert_eq!(count(&db, built), 2000);
    });
}

/// Does a random step of a scan on one builder, chosen by `dice`. Returns the job if it ended.
fn step(db: &Db, fence: Fence, now: i64, dice: u32) -> Option<i64> {
    let (builder, job) = view(db, fence);
    let Some(job) = job else {
        // Another process may have taken the builder over; then neither write changes anything.
        if builder.clean == CleanStatus::Clean {
            db.write(|tx| claim_best(tx, fence, &builder, now, 0))
                .unwrap();
        } else {
            db.write(|tx| builders::set_clean(tx, fence, CleanStatus::Clean, now))
                .unwrap();
        }
        return None;
    };
    assert_eq!(job.status, JobStatus::Running);
    let ended = db.write(|tx| match dice % 4 {
        0 => queue::reset(tx, fence, job.queue, 0, Some(&lost())).map(|_| false),
        1 => queue::set_state(tx, fence, job.queue, BuildState::Gathering).map(|_| false),
        2 => queue::discard(tx, fence, job.queue, BuildState::Superseded, "", now),
        _ => queue::finish(tx, fence, job.queue, &BUILT),
    });
    ended.unwrap().then_some(job.queue)
}

/// The state that the threads of [`takeovers_in_mid_scan_neither_lose_nor_repeat_a_job`] share.
struct Shared {
    clock: AtomicI64,
    ended: Mutex<Vec<i64>>,
    /// The number of times that a process found its lease lost.
    lost_leases: AtomicU32,
}

impl Shared {
    /// Scans as one process until `jobs` jobs have ended. It never renews its leases, so others
    /// take them over in the middle of its steps.
    fn run(&self, url: &str, number: u32, jobs: usize) {
        let db = Db::open(url).unwrap();
        let me = format!("host:{number}");
        let mut dice = number;
        while self.ended.lock().unwrap().len() < jobs {
            let now = self.clock.fetch_add(1, Ordering::Relaxed);
            let mine = db
                .write(|tx| leases::take(tx, &me, now, now + 12, 4))
                .unwrap();
            for &fence in mine.iter().cycle().take(5 * mine.len()) {
                let now = self.clock.fetch_add(1, Ordering::Relaxed);
                dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let job = step(&db, fence, now, dice >> 16);
                self.ended.lock().unwrap().extend(job);
                let held = db.write(|tx| leases::hold(tx, fence)).unwrap();
                self.lost_leases
                    .fetch_add((!held).into(), Ordering::Relaxed);
            }
            assert_agree(&db);
        }
    }
}

#[test]
fn takeovers_in_mid_scan_neither_lose_nor_repeat_a_job() {
    const JOBS: usize = 150;
    both_at(|url| {
        let db = Db::open(url).unwrap();
        let farm = farm(&db);
        farm.builders(&db, 12);
        farm.jobs(&db, 150);
        let shared = Shared {
            clock: AtomicI64::new(NOW + 2000),
            ended: Mutex::default(),
            lost_leases: AtomicU32::new(0),
        };
        thread::scope(|scope| {
            for number in 0..4 {
                let shared = &shared;
                scope.spawn(move || shared.run(url, number, JOBS));
            }
        });
        let ended = shared.ended.into_inner().unwrap();
        let different: HashSet<_> = ended.iter().collect();
        assert_eq!(
            (ended.len(), different.len()),
            (JOBS, JOBS),
            "a job ended twice"
        );
        let over = "SELECT count(*) FROM build WHERE state IN (1, 5)";
        assert_eq!(count(&db, over), 150);
        assert!(
            shared.lost_leases.into_inner() > 0,
            "no lease was lost, so the test proves nothing"
        );
    });
}

#[test]
fn each_singleton_and_each_lease_has_one_holder() {
    both_at(|url| {
        let db = Db::open(url).unwrap();
        farm(&db).builders(&db, 40);
        db.write(|tx| leases::leave(tx, ME)).unwrap();
        for round in 0..10 {
            let now = round * 1000;
            let (holders, leased) = (AtomicU32::new(0), Mutex::new(Vec::new()));
            thread::scope(|scope| {
                for number in 0..8 {
                    let (holders, leased) = (&holders, &leased);
                    scope.spawn(move || {
                        let db = Db::open(url).unwrap();
                        let me = format!("host:{number}");
                        let held = db.write(|tx| leases::singleton(tx, "c", &me, now, now + 999));
                        holders.fetch_add(held.unwrap().into(), Ordering::Relaxed);
                        let took = db
                            .write(|tx| leases::take(tx, &me, now, now + 999, 7))
                            .unwrap();
                        leased.lock().unwrap().extend(took);
                    });
                }
            });
            assert_eq!(holders.into_inner(), 1);
            let leased = leased.into_inner().unwrap();
            let builders: HashSet<i64> = leased.iter().map(|fence| fence.builder).collect();
            assert_eq!((builders.len(), leased.len()), (40, 40));
            assert!(leased.iter().all(|fence| fence.epoch == round + 2));
        }
    });
}

#[test]
fn the_best_of_twenty_thousand_jobs_comes_from_the_index() {
    both_at(|url| {
        let db = Db::open(url).unwrap();
        let farm = farm(&db);
        farm.jobs(&db, 20_000);
        let fences = farm.builders(&db, 30);
        let plan = |db: &Db| {
            let engine = db.read(|tx| Ok(tx.engine())).unwrap();
            let (explain, column) = match engine {
                Engine::Sqlite => ("EXPLAIN QUERY PLAN", 3),
                Engine::Postgres => ("EXPLAIN", 0),
            };
            let sql = format!("{explain} {}", queue::best_jobs_of_processor(false));
            let params = params![NOW, false, farm.processors[0], fences[0].builder];
            let rows = db.write(|tx| tx.query(&sql, &params)).unwrap();
            let lines = rows.iter().map(|row| row.get::<String>(column).unwrap());
            lines.collect::<Vec<_>>().join("\n")
        };
        for statistics in [false, true] {
            if statistics {
                db.write(|tx| tx.execute("ANALYZE", &[])).unwrap();
            }
            let plan = plan(&db);
            assert!(plan.contains("build_queue_pick"), "{plan}");
            assert!(
                !plan.contains("Sort") && !plan.contains("TEMP B-TREE"),
                "{plan}"
            );
        }
        let mut last = (i64::MIN, 0);
        for &fence in &fences {
            let (_, key) = claim(&db, fence, &view(&db, fence).0).unwrap();
            assert!(last < key, "{key:?} after {last:?}");
            last = key;
        }
        assert_agree(&db);
        let groups = db.read(|tx| waiting_groups(tx, NOW, None)).unwrap();
        assert_eq!(
            groups,
            [(farm.processors[0], false, 1000)],
            "a count stops at 1,000"
        );
    });
}
