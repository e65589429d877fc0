//! An operator retries, cancels and scores builds.

use super::farm::{NOW, claim, farm, state};
use crate::db::tests::both;
use crate::db::{Db, params};
use crate::master::model::{BuildState, JobStatus};
use crate::master::rows::builds::{self, Build, Retry};

fn build(db: &Db, id: i64) -> Build {
    db.read(|tx| builds::view(tx, id)).unwrap().unwrap()
}

#[test]
fn only_unsuccessful_builds_can_be_retried() {
    both(|db| {
        let farm = farm(db);
        let (id, _) = farm.job(db, "hello", 0, 5);
        for was in BuildState::ALL {
            db.write(|tx| {
                tx.execute("DELETE FROM build_queue", &[])?;
                let sql = "UPDATE build SET state = $1, started_at = 1, finished_at = 2,
                    log_alias_id = $2, dependencies = 'x', leaf = 'y', failure_count = 3,
                    first_dispatched_at = 4";
                tx.execute(sql, &params![*was, farm.alias])
            })
            .unwrap();
            let before = build(db, id);
            let queued = db
                .write(|tx| builds::retry(tx, &before, Retry::Operator, NOW))
                .unwrap();
            assert_eq!(queued.is_some(), was.is_retriable(), "{was}");
            let after = build(db, id);
            let Some(job) = after.job else {
                assert_eq!(after.state, *was);
                continue;
            };
            assert_eq!(after.state, BuildState::NeedsBuild);
            assert!(after.log.is_none() && after.dependencies.is_none() && after.leaf.is_none());
            assert_eq!((after.started_at, after.finished_at), (None, None));
            assert_eq!(
                (after.failure_count, after.first_dispatched_at),
                (0, Some(4))
            );
            assert_eq!((job.status, job.created_at), (JobStatus::Waiting, NOW));
            assert_eq!((job.attempt, job.manual), (0, false));
            // The state has changed since `before` was read.
            assert_eq!(
                db.write(|tx| builds::retry(tx, &before, Retry::Operator, NOW))
                    .unwrap(),
                None
            );
        }
    });
}

#[test]
fn cancel_ends_a_waiting_build_and_marks_a_running_one() {
    both(|db| {
        let farm = farm(db);
        let fence = farm.builders(db, 1)[0];
        let (first, _) = farm.job(db, "first", 0, 9);
        let (second, _) = farm.job(db, "second", 0, 1);
        assert_eq!(claim(db, fence).unwrap().build, first);
        let waiting = |id| db.write(|tx| builds::cancel_waiting(tx, id, NOW)).unwrap();
        let running = |id| db.write(|tx| builds::cancel_running(tx, id)).unwrap();

        assert!(waiting(second));
        let ended = build(db, second);
        assert_eq!(
            (ended.state, ended.finished_at),
            (BuildState::Cancelled, Some(NOW))
        );
        assert!(ended.job.is_none());

        assert!(!waiting(first) && running(first));
        let asked = build(db, first);
        assert_eq!(asked.state, BuildState::Cancelling);
        assert_eq!(asked.job.unwrap().status, JobStatus::Cancelling);
        // A second cancel does nothing, and neither does one of an ended build.
        assert!(!waiting(first) && !running(first));
        assert!(!waiting(second) && !running(second));
        assert_eq!(state(db, second), BuildState::Cancelled);
    });
}

#[test]
fn only_a_waiting_job_gets_a_manual_score() {
    both(|db| {
        let farm = farm(db);
        let fence = farm.builders(db, 1)[0];
        let (id, _) = farm.job(db, "hello", 0, 9);
        let set = |score| {
            db.write(|tx| builds::set_score(tx, id, score, true))
                .unwrap()
        };
        assert!(set(-5));
        let job = build(db, id).job.unwrap();
        assert_eq!((job.score, job.manual), (-5, true));
        claim(db, fence).unwrap();
        assert!(!set(7));
        assert_eq!(build(db, id).job.unwrap().score, -5);
    });
}
