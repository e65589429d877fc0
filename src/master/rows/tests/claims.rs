//! Claims: the job that a builder gets, and the reasons to refuse one.

use super::farm::{
    BUILT, NOW, assert_agree, change, claim, claim_best, everything, farm, lost, view,
    waiting_groups,
};
use crate::db::tests::both;
use crate::db::{Error, Tx};
use crate::master::model::{BuildState, CleanStatus, JobStatus};
use crate::master::rows::{builders, queue};

#[test]
fn a_claim_marks_job_build_and_builder() {
    both(|db| {
        let farm = farm(db);
        let bob = farm.builders(db, 1)[0];
        let (build, queue) = farm.job(db, "mozilla-firefox", 0, 10);
        let taken = claim(db, bob).unwrap();
        assert_eq!((taken.queue, taken.build, taken.attempt), (queue, build, 1));
        let (builder, job) = view(db, bob);
        let job = job.unwrap();
        assert_eq!(
            (builder.clean, builder.clean_changed_at),
            (CleanStatus::Dirty, NOW)
        );
        assert_eq!((job.status, job.started_at), (JobStatus::Running, NOW));
        assert_eq!((job.state, &job.logtail), (BuildState::Building, &None));
        let cookie = job.cookie();
        let nonce = cookie.strip_prefix(&format!("{build}-{queue}.1-"));
        assert_eq!(nonce.map(str::len), Some(32), "{cookie}");
        let title = "i386 build of mozilla-firefox 0.9 in ubuntu hoary RELEASE";
        assert_eq!(job.name.to_string(), title);
        assert_agree(db);
        assert_eq!(claim(db, bob), None, "the builder has a job");
    });
}

#[test]
fn no_cookie_is_used_twice() {
    both(|db| {
        let farm = farm(db);
        let bob = farm.builders(db, 1)[0];
        farm.job(db, "hello", 0, 1);
        let mut cookies = std::collections::BTreeSet::new();
        for _ in 0..3 {
            let queue = claim(db, bob).unwrap().queue;
            cookies.insert(view(db, bob).1.unwrap().cookie());
            db.write(|tx| {
                // Another farm of this database's backup counts the same attempts.
                tx.execute("UPDATE build_queue SET attempt = 0", &[])?;
                assert!(queue::reset(tx, bob, queue, 0, Some(&lost()))?);
                builders::set_clean(tx, bob, CleanStatus::Clean, NOW)
            })
            .unwrap();
        }
        assert_eq!(cookies.len(), 3, "{cookies:?}");
    });
}

#[test]
fn an_attempt_of_an_older_version_keeps_its_cookie() {
    both(|db| {
        let farm = farm(db);
        let bob = farm.builders(db, 1)[0];
        let (build, queue) = farm.job(db, "hello", 0, 1);
        claim(db, bob).unwrap();
        let older = |tx: &mut Tx<'_>| tx.execute("UPDATE build_queue SET nonce = NULL", &[]);
        db.write(older).unwrap();
        let job = view(db, bob).1.unwrap();
        assert_eq!(job.cookie(), format!("{build}-{queue}.1"));
    });
}

#[test]
fn the_highest_score_is_claimed_first_then_the_oldest_job() {
    both(|db| {
        let farm = farm(db);
        let bob = farm.builders(db, 1)[0];
        db.write(|tx| farm.can_run(tx, bob.builder, 1)).unwrap();
        let jobs = [
            farm.job(db, "low", 0, 1),
            farm.job(db, "high", 0, 20),
            farm.job(db, "of-amd64", 1, 20),
            farm.job(db, "negative", 1, -600),
            farm.job(db, "highest", 1, 21),
        ];
        let order: Vec<i64> = std::iter::from_fn(|| {
            let claim = claim(db, bob)?;
            assert!(
                db.write(|tx| queue::finish(tx, bob, claim.queue, &BUILT))
                    .unwrap()
            );
            let cleaned = db.write(|tx| builders::set_clean(tx, bob, CleanStatus::Clean, NOW));
            assert!(cleaned.unwrap());
            Some(claim.queue)
        })
        .collect();
        assert_eq!(order, [4, 1, 2, 0, 3].map(|index: usize| jobs[index].1));
    });
}

/// Changes after which the builder or the job is unfit for a claim.
const UNFIT: [(&str, &str); 15] = [
    ("builder disabled", "UPDATE builder SET builderok = FALSE"),
    ("builder manual", "UPDATE builder SET manual = TRUE"),
    ("builder dirty", "UPDATE builder SET clean_status = 1"),
    ("builder cleaning", "UPDATE builder SET clean_status = 2"),
    (
        "builder taken over",
        "UPDATE builder SET lease_epoch = lease_epoch + 1",
    ),
    ("builder virtual", "UPDATE builder SET virtualized = TRUE"),
    ("builder of no processor", "DELETE FROM builder_processor"),
    ("virtual job", "UPDATE build_queue SET virtualized = TRUE"),
    ("suspended job", "UPDATE build_queue SET status = 3"),
    (
        "job given back",
        "UPDATE build_queue SET not_before = 1000001",
    ),
    (
        "job of another processor",
        "UPDATE build_queue SET processor_id = 2",
    ),
    ("build that is over", "UPDATE build SET state = 5"),
    (
        "disabled architecture",
        "UPDATE arch_series SET enabled = FALSE",
    ),
    ("disabled archive", "UPDATE archive SET enabled = FALSE"),
    (
        "private archive, source not published",
        "UPDATE archive SET private = TRUE",
    ),
];

#[test]
fn a_claim_refuses_unfit_builders_and_jobs() {
    both(|db| {
        let farm = farm(db);
        let bob = farm.builders(db, 1)[0];
        farm.job(db, "hello", 0, 10);
        change(db, "UPDATE publication SET status = 1");
        let its = (farm.processors[0], false, 1);
        for (unfit, sql) in UNFIT {
            let tried = db.write(|tx| {
                assert!(tx.execute(sql, &[])? > 0, "{unfit}");
                let before = everything(tx)?;
                let (builder, _) = builders::view(tx, bob.builder)?.unwrap();
                assert_eq!(claim_best(tx, bob, &builder, NOW, 0)?, None, "{unfit}");
                assert_eq!(everything(tx)?, before, "{unfit}");
                if !unfit.starts_with("builder") {
                    let groups = waiting_groups(tx, NOW, None)?;
                    assert!(!groups.contains(&its), "{unfit}: {groups:?}");
                }
                Err::<(), _>(Error::Refused("undo".to_owned()))
            });
            assert_eq!(tried.unwrap_err().to_string(), "undo");
        }
        change(db, "UPDATE publication SET status = 2");
        change(db, "UPDATE archive SET private = TRUE");
        let groups = db.read(|tx| waiting_groups(tx, NOW, None)).unwrap();
        assert_eq!(groups, [its]);
        assert!(
            claim(db, bob).is_some(),
            "a private archive that has published the source"
        );
    });
}

#[test]
fn an_emulating_builder_leaves_a_job_to_native_ones_for_a_while() {
    both(|db| {
        let farm = farm(db);
        let [native, emulating] = farm.builders(db, 2)[..] else {
            panic!("two builders");
        };
        let tags = ["i386".to_owned()];
        assert!(
            db.write(|tx| builders::set_emulated(tx, emulating, &tags))
                .unwrap()
        );
        let (builder, _) = view(db, emulating);
        assert!(builder.processors[0].emulated);
        assert!(!view(db, native).0.processors[0].emulated);
        // The job has waited for 5000 ms.
        farm.job(db, "hello", 0, 10);
        let its = (farm.processors[0], false, 1);
        let may = |since: i64| {
            let tried = db.write(|tx| {
                let claim = claim_best(tx, emulating, &builder, NOW, since)?;
                let groups = waiting_groups(tx, NOW, Some(since))?;
                Err::<(), _>(Error::Refused(format!("{} {groups:?}", claim.is_some())))
            });
            tried.unwrap_err().to_string()
        };
        assert_eq!(may(NOW - 5001), "false []");
        assert!(may(NOW - 5000).starts_with("true"));
        let groups = db.read(|tx| waiting_groups(tx, NOW, None)).unwrap();
        assert_eq!(groups, [its], "a native builder may take it");
        // Busy, a native builder is still in service.
        change(
            db,
            "UPDATE builder SET clean_status = 1 WHERE name = 'bob1'",
        );
        assert_eq!(may(0), "false []");
        for unfit in ["builderok = FALSE", "manual = TRUE", "virtualized = TRUE"] {
            let undo = "UPDATE builder SET builderok = TRUE, manual = FALSE, virtualized = FALSE";
            change(
                db,
                &format!("UPDATE builder SET {unfit} WHERE name = 'bob1'"),
            );
            assert!(may(0).starts_with("true"), "{unfit}");
            change(db, undo);
        }
        change(db, "UPDATE builder SET clean_status = 0");
        assert!(claim(db, native).is_some());
    });
}

#[test]
fn the_slaves_answer_replaces_what_a_builder_emulates() {
    both(|db| {
        let farm = farm(db);
        let bob = farm.builders(db, 1)[0];
        db.write(|tx| farm.can_run(tx, bob.builder, 1)).unwrap();
        let set = |tags: &[&str]| {
            let tags: Vec<String> = tags.iter().map(|&tag| tag.to_owned()).collect();
            assert!(
                db.write(|tx| builders::set_emulated(tx, bob, &tags))
                    .unwrap()
            );
            view(db, bob).0.shown_processors()
        };
        assert_eq!(set(&["amd64", "s390x"]), "386, amd64 (emulated)");
        assert_eq!(set(&["i386"]), "386 (emulated), amd64");
        assert_eq!(set(&[]), "386, amd64");
        change(db, "UPDATE builder SET lease_epoch = lease_epoch + 1");
        let lost = db.write(|tx| builders::set_emulated(tx, bob, &["amd64".to_owned()]));
        assert!(!lost.unwrap());
    });
}

#[test]
fn a_claim_takes_the_first_job_that_is_still_left() {
    both(|db| {
        let farm = farm(db);
        let [bob, eve, zoe] = farm.builders(db, 3)[..] else {
            panic!("three builders")
        };
        let jobs = [("first", 9), ("second", 8), ("third", 7), ("fourth", 6)];
        let jobs = jobs.map(|(name, score)| farm.job(db, name, 0, score));
        let (builder, _) = view(db, eve);
        // Another builder claims the first job, and the second is set aside, after the search.
        let best = db
            .read(|tx| queue::best_jobs(tx, &builder, NOW, 0))
            .unwrap();
        assert_eq!(claim(db, bob).unwrap().build, jobs[0].0);
        let until = NOW + 1;
        let aside = format!("UPDATE build_queue SET not_before = {until} WHERE lastscore = 8");
        change(db, &aside);
        let claimed = |fence| {
            db.write(|tx| queue::claim(tx, fence, &best, NOW, 0))
                .unwrap()
        };
        assert_eq!(claimed(eve).unwrap().build, jobs[2].0);
        // Nothing that was found may be built any more.
        change(db, "UPDATE arch_series SET enabled = FALSE");
        assert_eq!(claimed(zoe), None);
        assert_eq!(view(db, zoe).0.clean, CleanStatus::Clean);
        assert_agree(db);
    });
}
