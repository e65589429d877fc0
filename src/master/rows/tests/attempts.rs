//! Each dispatch is an attempt, which stays.

use super::farm::{BUILT, NOW, assert_agree, change, claim, farm, view};
use crate::db::tests::both;
use crate::db::{Db, params};
use crate::master::model::{AttemptVerdict, BuildState};
use crate::master::rows::attempts::{self, Attempt, AttemptEnd};
use crate::master::rows::builders;
use crate::master::rows::builds::{self, Retry};
use crate::master::rows::leases::Fence;
use crate::master::rows::queue::{self, End};

fn of_build(db: &Db, build: i64) -> Vec<Attempt> {
    db.read(|tx| attempts::of_build(tx, build)).unwrap()
}

/// Ends the job of a builder, and makes the builder CLEAN.
fn returns(db: &Db, fence: Fence, verdict: AttemptVerdict) {
    let queue = view(db, fence).1.unwrap().queue;
    let end = AttemptEnd::new(verdict, "it fails", NOW + 9);
    let done = db.write(|tx| queue::reset(tx, fence, queue, 0, Some(&end)));
    assert!(done.unwrap());
    make_clean(db, fence);
}

fn make_clean(db: &Db, fence: Fence) {
    let clean = crate::master::model::CleanStatus::Clean;
    let done = db.write(|tx| builders::set_clean(tx, fence, clean, NOW));
    assert!(done.unwrap());
}

#[test]
fn a_retry_keeps_the_attempts_before_it() {
    both(|db| {
        let farm = farm(db);
        let bob = farm.builders(db, 1)[0];
        let (build, queue) = farm.job(db, "hello", 0, 10);
        claim(db, bob).unwrap();
        let cookie = view(db, bob).1.unwrap().cookie();
        let running = of_build(db, build);
        assert_eq!((running.len(), running[0].ended_at), (1, None));
        assert_eq!(running[0].cookie, cookie);
        returns(db, bob, AttemptVerdict::GivenBack);
        claim(db, bob).unwrap();
        let end = End {
            state: BuildState::FailedToBuild,
            attempt: AttemptEnd {
                verdict: AttemptVerdict::PackageFail,
                reason: Some("the tests fail"),
                log_alias: Some(farm.alias),
                leaf: None,
                ..BUILT.attempt
            },
        };
        assert!(db.write(|tx| queue::finish(tx, bob, queue, &end)).unwrap());
        make_clean(db, bob);
        let failed = db.read(|tx| builds::view(tx, build)).unwrap().unwrap();
        assert_eq!(failed.reason.as_deref(), Some("the tests fail"));
        let retried = db.write(|tx| builds::retry(tx, &failed, Retry::Operator, NOW));
        assert!(retried.unwrap().is_some());
        assert_eq!(
            db.read(|tx| builds::view(tx, build))
                .unwrap()
                .unwrap()
                .reason,
            None
        );
        claim(db, bob).unwrap();

        let all = of_build(db, build);
        let numbers: Vec<i64> = all.iter().map(|one| one.number).collect();
        assert_eq!(numbers, [1, 2, 3]);
        let [first, second, third] = &all[..] else {
            panic!()
        };
        assert_eq!(first.verdict, Some(AttemptVerdict::GivenBack));
        assert_eq!(first.reason.as_deref(), Some("it fails"));
        assert_eq!((first.started_at, first.ended_at), (NOW, Some(NOW + 9)));
        assert_eq!(second.verdict, Some(AttemptVerdict::PackageFail));
        assert_eq!(second.builder.as_deref(), Some("bob1"));
        assert_eq!(second.stages.as_deref(), Some("UNPACK 1.0 s"));
        assert_eq!(second.log.as_ref().map(|log| log.alias), Some(farm.alias));
        assert_eq!((third.verdict, third.ended_at), (None, None));
        assert_eq!(
            [first, second, third].map(|one| one.counted),
            [false, false, true]
        );
        assert_agree(db);
    });
}

#[test]
fn an_attempt_that_the_slave_never_heard_of_is_removed() {
    both(|db| {
        let farm = farm(db);
        let bob = farm.builders(db, 1)[0];
        let (build, queue) = farm.job(db, "hello", 0, 10);
        claim(db, bob).unwrap();
        let postponed = db.write(|tx| queue::reset(tx, bob, queue, 0, None));
        assert!(postponed.unwrap());
        assert!(of_build(db, build).is_empty());
        make_clean(db, bob);
        claim(db, bob).unwrap();
        assert_eq!(of_build(db, build)[0].number, 1);
        assert_agree(db);
    });
}

#[test]
fn only_a_built_build_that_is_forced_is_built_again() {
    both(|db| {
        let farm = farm(db);
        let bob = farm.builders(db, 1)[0];
        let (build, queue) = farm.job(db, "hello", 0, 10);
        claim(db, bob).unwrap();
        assert!(
            db.write(|tx| queue::finish(tx, bob, queue, &BUILT))
                .unwrap()
        );
        let built = db.read(|tx| builds::view(tx, build)).unwrap().unwrap();
        let retry = |why| db.write(|tx| builds::retry(tx, &built, why, NOW)).unwrap();
        assert_eq!(retry(Retry::Operator), None);
        assert!(retry(Retry::Forced).is_some());
        let [first] = &of_build(db, build)[..] else {
            panic!()
        };
        assert_eq!(first.leaf.as_deref(), Some("8-1.1"), "its results stay");
        assert_eq!(first.host.as_deref(), Some("host"));
    });
}

fn claims(db: &Db, fence: Fence) -> Option<i64> {
    claim(db, fence).map(|claim| claim.build)
}

fn fails(db: &Db, fence: Fence) {
    returns(db, fence, AttemptVerdict::BuilderFail);
}

#[test]
fn a_job_is_kept_off_a_builder_that_failed_on_it_while_another_could_take_it() {
    both(|db| {
        let farm = farm(db);
        let [bob, frog] = farm.builders(db, 2)[..] else {
            panic!()
        };
        let (poison, queue) = farm.job(db, "poison", 0, 10);
        let (other, _) = farm.job(db, "other", 0, 5);
        assert_eq!(claims(db, bob), Some(poison));
        fails(db, bob);
        assert_eq!(
            claims(db, bob),
            Some(other),
            "bob leaves the better job to frog"
        );
        let has_other = |builder: Fence| {
            db.read(|tx| attempts::has_other_builder(tx, queue, builder.builder))
                .unwrap()
        };
        assert!(has_other(bob) && !has_other(frog));
        assert_eq!(claims(db, frog), Some(poison));
        fails(db, frog);
        assert_eq!(claims(db, frog), Some(poison), "no builder is left");
        fails(db, frog);
        returns(db, bob, AttemptVerdict::Lost);
        let failed_on = db.read(|tx| attempts::failed_on(tx, poison)).unwrap();
        assert_eq!(failed_on, ["bob1", "bob2"]);
        // frog goes out of service: bob takes the job although it failed there.
        assert_eq!(claims(db, bob), Some(poison));
        fails(db, bob);
        change(db, "UPDATE builder SET manual = TRUE WHERE name = 'bob2'");
        assert_eq!(claims(db, bob), Some(poison));
    });
}

#[test]
fn a_retry_by_an_operator_lets_the_job_go_to_every_builder() {
    both(|db| {
        let farm = farm(db);
        let [bob, _frog] = farm.builders(db, 2)[..] else {
            panic!()
        };
        let (poison, queue) = farm.job(db, "poison", 0, 10);
        claim(db, bob).unwrap();
        fails(db, bob);
        assert_eq!(claims(db, bob), None);
        db.write(|tx| {
            tx.execute("DELETE FROM build_queue WHERE id = $1", &params![queue])?;
            tx.execute("UPDATE build SET state = 2", &[])
        })
        .unwrap();
        let failed = db.read(|tx| builds::view(tx, poison)).unwrap().unwrap();
        db.write(|tx| builds::retry(tx, &failed, Retry::DepWait, NOW))
            .unwrap();
        assert_eq!(claims(db, bob), None, "a freed dep-wait still counts");
        change(db, "UPDATE attempt SET counted = FALSE");
        assert_eq!(claims(db, bob), Some(poison));
    });
}

#[test]
fn the_history_of_builds_and_builders_is_read_newest_first() {
    both(|db| {
        let farm = farm(db);
        let bob = farm.builders(db, 1)[0];
        let (build, queue) = farm.job(db, "hello", 0, 10);
        for verdict in [AttemptVerdict::GivenBack, AttemptVerdict::BuilderFail] {
            claim(db, bob).unwrap();
            returns(db, bob, verdict);
            change(
                db,
                "UPDATE attempt SET ended_at = ended_at - 5 WHERE number = 1",
            );
        }
        let verdicts = |ended: Vec<crate::master::policy::limits::Ended>| {
            ended.iter().map(|one| one.verdict).collect::<Vec<_>>()
        };
        let expect = [AttemptVerdict::BuilderFail, AttemptVerdict::GivenBack];
        let counted = db.read(|tx| attempts::counted(tx, build)).unwrap();
        assert_eq!(verdicts(counted), expect);
        let of_builder = db.read(|tx| attempts::of_builder(tx, bob.builder)).unwrap();
        assert_eq!(verdicts(of_builder), expect);
        let candidates = db.read(|tx| attempts::candidates(tx, queue)).unwrap();
        assert_eq!(candidates, [bob.builder]);
    });
}
