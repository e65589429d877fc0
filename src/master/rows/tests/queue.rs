//! Resets and ends of claimed jobs, missing and suspended queue rows.

use super::farm::{BUILT, NOW, assert_agree, change, claim, claim_best, farm, lost, state, view};
use crate::db::params;
use crate::db::tests::both;
use crate::master::model::{BuildState, CleanStatus, JobStatus};
use crate::master::rows::attempts::AttemptEnd;
use crate::master::rows::queue::End;
use crate::master::rows::{builders, entries, queue};

#[test]
fn a_reset_keeps_score_age_log_tail_and_attempt() {
    both(|db| {
        let farm = farm(db);
        let bob = farm.builders(db, 1)[0];
        let (build, queue) = farm.job(db, "hello", 0, 10);
        claim(db, bob).unwrap();
        let tail = (queue, bob.builder, "cc -O2".to_owned());
        db.write(|tx| queue::flush_tails(tx, std::slice::from_ref(&tail)))
            .unwrap();
        assert!(
            db.write(|tx| queue::reset(tx, bob, queue, NOW + 5, Some(&lost())))
                .unwrap()
        );
        assert_agree(db);
        assert_eq!(state(db, build), BuildState::NeedsBuild);
        let sql = "SELECT lastscore, created_at, attempt, logtail FROM build_queue";
        let row = db.read(|tx| tx.query_one(sql, &[])).unwrap();
        let numbers = [0, 1, 2].map(|index| row.get::<i64>(index).unwrap());
        assert_eq!(numbers, [10, NOW - 5000, 1]);
        assert_eq!(row.get::<String>(3).unwrap(), "cc -O2");
        let (builder, job) = view(db, bob);
        assert!(job.is_none() && builder.clean == CleanStatus::Dirty);
        let again = db
            .write(|tx| queue::reset(tx, bob, queue, 0, Some(&lost())))
            .unwrap();
        assert!(!again, "the job has no builder");

        assert!(
            db.write(|tx| builders::set_clean(tx, bob, CleanStatus::Clean, NOW))
                .unwrap()
        );
        assert_eq!(claim(db, bob), None, "not before NOW + 5");
        let later = db.write(|tx| {
            let (builder, _) = builders::view(tx, bob.builder)?.unwrap();
            claim_best(tx, bob, &builder, NOW + 5, 0)
        });
        assert_eq!(later.unwrap().unwrap().attempt, 2);
        let sql = "SELECT first_dispatched_at, started_at FROM build";
        let row = db.read(|tx| tx.query_one(sql, &[])).unwrap();
        let times = [0, 1].map(|index| row.get::<i64>(index).unwrap());
        assert_eq!(times, [NOW, NOW + 5]);
    });
}

#[test]
fn a_reset_does_not_undo_a_cancel() {
    both(|db| {
        let farm = farm(db);
        let bob = farm.builders(db, 1)[0];
        let (build, queue) = farm.job(db, "hello", 0, 10);
        claim(db, bob).unwrap();
        change(db, "UPDATE build_queue SET status = 2");
        change(db, "UPDATE build SET state = 9");
        assert!(
            !db.write(|tx| queue::reset(tx, bob, queue, 0, Some(&lost())))
                .unwrap()
        );
        assert!(
            db.write(|tx| queue::set_cancel_by(tx, bob, queue, 7))
                .unwrap()
        );
        let job = view(db, bob).1.unwrap();
        assert_eq!(
            (job.status, job.cancel_by),
            (JobStatus::Cancelling, Some(7))
        );
        assert_eq!(state(db, build), BuildState::Cancelling);
        assert_agree(db);
    });
}

#[test]
fn finish_stores_the_end_and_deletes_the_job() {
    both(|db| {
        let farm = farm(db);
        let bob = farm.builders(db, 1)[0];
        let (build, queue) = farm.job(db, "hello", 0, 10);
        claim(db, bob).unwrap();
        assert!(
            db.write(|tx| queue::set_state(tx, bob, queue, BuildState::Gathering))
                .unwrap()
        );
        assert_eq!(view(db, bob).1.unwrap().state, BuildState::Gathering);
        assert_agree(db);
        let end = End {
            state: BuildState::ManualDepWait,
            attempt: AttemptEnd {
                dependencies: Some("libfoo-dev (>= 2)"),
                log_alias: Some(farm.alias),
                leaf: None,
                ..BUILT.attempt
            },
        };
        assert!(db.write(|tx| queue::finish(tx, bob, queue, &end)).unwrap());
        assert_agree(db);
        let sql = "SELECT state, builder_id, log_alias_id, finished_at, dependencies FROM build";
        let row = db.read(|tx| tx.query_one(sql, &[])).unwrap();
        let numbers = [0, 1, 2, 3].map(|index| row.get::<i64>(index).unwrap());
        assert_eq!(numbers, [3, bob.builder, farm.alias, NOW + 60]);
        assert_eq!(row.get::<String>(4).unwrap(), "libfoo-dev (>= 2)");
        let (builder, job) = view(db, bob);
        assert!(job.is_none() && builder.clean == CleanStatus::Dirty);
        assert!(
            !db.write(|tx| queue::finish(tx, bob, queue, &BUILT))
                .unwrap(),
            "the job is deleted"
        );
        assert_eq!(state(db, build), BuildState::ManualDepWait);
    });
}

#[test]
fn discard_leaves_no_trace_on_build_and_builder() {
    both(|db| {
        let farm = farm(db);
        let bob = farm.builders(db, 1)[0];
        let (build, queue) = farm.job(db, "hello", 0, 10);
        claim(db, bob).unwrap();
        let superseded = BuildState::Superseded;
        assert!(
            db.write(|tx| queue::discard(tx, bob, queue, superseded, "unpublished", NOW))
                .unwrap()
        );
        assert_agree(db);
        assert_eq!(state(db, build), superseded);
        let sql = "SELECT builder_id, started_at, first_dispatched_at FROM build";
        let row = db.read(|tx| tx.query_one(sql, &[])).unwrap();
        let left = [0, 1, 2].map(|index| row.get::<Option<i64>>(index).unwrap());
        assert_eq!(left, [None; 3]);
        assert_eq!(view(db, bob).0.clean, CleanStatus::Clean);
        farm.job(db, "next", 0, 1);
        assert!(claim(db, bob).is_some());
    });
}

#[test]
fn failures_are_counted_for_builder_and_build() {
    both(|db| {
        let farm = farm(db);
        let bob = farm.builders(db, 1)[0];
        let count = || db.write(|tx| queue::count_failure(tx, bob)).unwrap();
        assert_eq!(count(), Some((1, None)));
        farm.job(db, "hello", 0, 10);
        claim(db, bob).unwrap();
        assert_eq!(count(), Some((2, Some(1))));
        assert_eq!(count(), Some((3, Some(2))));
        assert!(
            db.write(|tx| builders::set_failure_count(tx, bob, 0))
                .unwrap()
        );
        assert_eq!(count(), Some((1, Some(3))));
        assert_eq!(view(db, bob).0.failure_count, 1);
    });
}

#[test]
fn log_tails_are_stored_only_for_jobs_on_the_builder() {
    both(|db| {
        let farm = farm(db);
        let fences = farm.builders(db, 30);
        farm.jobs(db, 30);
        let tails: Vec<_> = fences
            .iter()
            .enumerate()
            .map(|(number, &fence)| {
                let queue = claim(db, fence).unwrap().queue;
                let builder = if number == 7 { 999 } else { fence.builder };
                (queue, builder, format!("tail {number} ${number}"))
            })
            .collect();
        db.write(|tx| queue::flush_tails(tx, &[])).unwrap();
        db.write(|tx| queue::flush_tails(tx, &tails)).unwrap();
        for (number, (_, job)) in fences.iter().map(|&fence| view(db, fence)).enumerate() {
            let expected = (number != 7).then(|| format!("tail {number} ${number}"));
            assert_eq!(job.unwrap().logtail, expected);
        }
    });
}

#[test]
fn missing_queue_rows_are_added() {
    both(|db| {
        let farm = farm(db);
        let bob = farm.builders(db, 1)[0];
        let (_, queue) = farm.job(db, "hello", 0, 10);
        claim(db, bob).unwrap();
        let entries = || {
            db.write(|tx| {
                let builds = entries::missing(tx, 500)?;
                entries::add(tx, &builds, NOW)
            })
            .unwrap()
        };
        assert_eq!(entries(), 0);
        db.write(|tx| queue::finish(tx, bob, queue, &BUILT))
            .unwrap();
        assert_eq!(entries(), 0);
        change(
            db,
            "UPDATE build SET state = 0, builder_id = NULL, estimated_ms = 7",
        );
        change(db, "UPDATE archive SET require_virtualized = TRUE");
        assert_eq!((entries(), entries()), (1, 0));
        let sql = "SELECT virtualized, estimated_ms, lastscore, created_at, id FROM build_queue";
        let row = db.read(|tx| tx.query_one(sql, &params![])).unwrap();
        assert!(row.get::<bool>(0).unwrap());
        let numbers = [1, 2, 3].map(|index| row.get::<i64>(index).unwrap());
        assert_eq!(numbers, [7, 0, NOW]);
        assert_ne!(
            row.get::<i64>(4).unwrap(),
            queue,
            "ids are never used twice"
        );
        assert_agree(db);
    });
}

#[test]
fn jobs_of_disabled_architectures_and_archives_are_suspended() {
    both(|db| {
        let farm = farm(db);
        let bob = farm.builders(db, 1)[0];
        farm.job(db, "of-i386", 0, 10);
        farm.job(db, "of-amd64", 1, 10);
        let (_, running) = farm.job(db, "running", 0, 20);
        claim(db, bob).unwrap();
        let suspend = || {
            db.write(|tx| {
                let jobs = entries::to_suspend(tx, 500)?;
                let suspended = entries::set_suspended(tx, &jobs, true)?;
                let jobs = entries::to_resume(tx, 500)?;
                Ok(suspended + entries::set_suspended(tx, &jobs, false)?)
            })
            .unwrap()
        };
        let statuses = || -> Vec<i64> {
            let sql = "SELECT status FROM build_queue ORDER BY id";
            let rows = db.read(|tx| tx.query(sql, &[])).unwrap();
            rows.iter().map(|row| row.get(0).unwrap()).collect()
        };
        assert_eq!((suspend(), statuses()), (0, vec![0, 0, 1]));
        change(
            db,
            "UPDATE arch_series SET enabled = FALSE WHERE arch_tag = 'i386'",
        );
        assert_eq!((suspend(), statuses()), (1, vec![3, 0, 1]));
        assert!(
            db.write(|tx| queue::reset(tx, bob, running, 0, Some(&lost())))
                .unwrap()
        );
        change(db, "UPDATE archive SET enabled = FALSE");
        assert_eq!((suspend(), statuses()), (2, vec![3, 3, 3]));
        assert_agree(db);
        change(db, "UPDATE archive SET enabled = TRUE");
        assert_eq!((suspend(), statuses()), (1, vec![3, 0, 3]));
        change(db, "UPDATE arch_series SET enabled = TRUE");
        assert_eq!((suspend(), statuses()), (2, vec![0, 0, 0]));
    });
}
