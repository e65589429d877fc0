//! What operators write and look at: builders, chroots, archives, and steps into builds.

use super::farm::{Farm, ME, NOW, change, farm, state, view};
use crate::db::tests::both;
use crate::db::{Db, params};
use crate::master::model::{BuildState, CleanStatus, JobStatus, Pocket, SeriesStatus};
use crate::master::rows::archives::{self, Binary, Known};
use crate::master::rows::builders;
use crate::master::rows::builds::{self, Build};
use crate::master::rows::files::Content;
use crate::master::rows::leases::{self, Fence};
use crate::master::rows::lists::{self, Filter};
use crate::master::rows::{queue, registry, series};

fn build(db: &Db, id: i64) -> Build {
    db.read(|tx| builds::view(tx, id)).unwrap().unwrap()
}

/// Gives the best job to a builder; returns its build.
fn claim(db: &Db, fence: Fence) -> i64 {
    let builder = view(db, fence).0;
    let claim = db.write(|tx| queue::claim(tx, fence, &builder, NOW));
    claim.unwrap().unwrap().build
}

#[test]
fn builders_are_registered_put_away_and_taken_back() {
    both(|db| {
        let farm = farm(db);
        let new = registry::New {
            name: "bob".to_owned(),
            url: "http://bob:8221/".to_owned(),
            title: String::new(),
            manual: true,
            virtualized: false,
            vm_host: None,
            reset: None,
            processors: farm.processors.to_vec(),
        };
        let id = db.write(|tx| registry::add(tx, &new, NOW)).unwrap();
        let look = || {
            db.read(|tx| builders::view(tx, id))
                .unwrap()
                .map(|found| found.0)
        };
        let bob = look().unwrap();
        assert_eq!(
            (bob.clean, bob.manual, bob.ok),
            (CleanStatus::Dirty, true, true)
        );
        assert_eq!(bob.processors.len(), 2);

        let fence = db
            .write(|tx| leases::take(tx, ME, NOW, NOW + 1000, 1))
            .unwrap()[0];
        db.write(|tx| builders::set_clean(tx, fence, CleanStatus::Clean, NOW))
            .unwrap();
        change(db, "UPDATE builder SET failure_count = 3");
        db.write(|tx| registry::disable(tx, id, Some("no disk")))
            .unwrap();
        let bob = look().unwrap();
        assert_eq!((bob.ok, bob.failnotes.as_deref()), (false, Some("no disk")));
        db.write(|tx| registry::enable(tx, id, NOW + 5)).unwrap();
        db.write(|tx| registry::set_manual(tx, id, false)).unwrap();
        let bob = look().unwrap();
        assert_eq!((bob.ok, bob.failnotes, bob.failure_count), (true, None, 0));
        assert_eq!(
            (bob.clean, bob.clean_changed_at),
            (CleanStatus::Dirty, NOW + 5)
        );
        assert!(!bob.manual);
        // The lease is not touched: who has it goes on.
        assert_eq!(bob.lease_owner.as_deref(), Some(ME));

        // Without a history nothing is left.
        assert!(!db.write(|tx| registry::remove(tx, id)).unwrap());
        assert!(look().is_none());
        let id = db.write(|tx| registry::add(tx, &new, NOW)).unwrap();
        let (built, _) = farm.job(db, "hello", 0, 5);
        db.write(|tx| {
            let sql = "UPDATE build SET builder_id = $1, state = 1 WHERE id = $2";
            tx.execute(sql, &params![id, built])?;
            tx.execute("DELETE FROM build_queue", &[])
        })
        .unwrap();
        assert!(db.write(|tx| registry::remove(tx, id)).unwrap());
        let gone = db.read(|tx| builders::view(tx, id)).unwrap().unwrap().0;
        assert!(!gone.active && !gone.ok && gone.processors.is_empty());
        assert_eq!(build(db, built).builder.unwrap().0, "bob");
        // The name comes back with its history, the URL was free in between.
        let other = registry::New {
            name: "bert".to_owned(),
            ..new.clone()
        };
        let other = db.write(|tx| registry::add(tx, &other, NOW)).unwrap();
        db.write(|tx| registry::remove(tx, other)).unwrap();
        assert_eq!(db.write(|tx| registry::add(tx, &new, NOW)).unwrap(), id);
        let back = db.read(|tx| builders::view(tx, id)).unwrap().unwrap().0;
        assert!(back.active && back.ok && back.processors.len() == 2);
    });
}

#[test]
fn somebody_is_there_who_has_said_so_lately() {
    both(|db| {
        let there = |since| db.read(|tx| registry::is_anybody_there(tx, since)).unwrap();
        assert!(!there(0));
        db.write(|tx| leases::announce(tx, ME, "host", NOW))
            .unwrap();
        assert!(there(NOW) && !there(NOW + 1));
    });
}

#[test]
fn what_is_over_can_be_retried_and_nothing_else() {
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
            let queued = db.write(|tx| builds::retry(tx, &before, NOW)).unwrap();
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
            // Somebody was quicker.
            assert_eq!(
                db.write(|tx| builds::retry(tx, &before, NOW)).unwrap(),
                None
            );
        }
    });
}

#[test]
fn a_waiting_build_ends_at_once_and_a_running_one_is_asked_to() {
    both(|db| {
        let farm = farm(db);
        let fence = farm.builders(db, 1)[0];
        let (first, _) = farm.job(db, "first", 0, 9);
        let (second, _) = farm.job(db, "second", 0, 1);
        assert_eq!(claim(db, fence), first);
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
        // Once is enough, and what is over stays as it is.
        assert!(!waiting(first) && !running(first));
        assert!(!waiting(second) && !running(second));
        assert_eq!(state(db, second), BuildState::Cancelled);
    });
}

#[test]
fn a_score_set_by_hand_is_for_those_that_wait() {
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
        claim(db, fence);
        assert!(!set(7));
        assert_eq!(build(db, id).job.unwrap().score, -5);
    });
}

/// The sources of builds, in their order.
fn names(builds: &[Build]) -> String {
    let names = builds.iter().map(|build| build.name.source.as_str());
    names.collect::<Vec<_>>().join(" ")
}

#[test]
fn lists_go_by_what_is_asked_for() {
    both(|db| {
        let farm = farm(db);
        let fence = farm.builders(db, 1)[0];
        for (name, which, score) in [
            ("low", 0, 1),
            ("high", 0, 5),
            ("a_b", 1, 3),
            ("axb", 1, 3),
            ("runs", 0, 9),
        ] {
            farm.job(db, name, which, score);
        }
        claim(db, fence);
        let list = |filter: Filter| names(&db.read(|tx| lists::builds(tx, &filter)).unwrap());
        let all = Filter::default;
        assert_eq!(list(all()), "runs axb a_b high low");
        let waiting = Filter {
            state: Some(BuildState::NeedsBuild),
            ..all()
        };
        assert_eq!(list(waiting.clone()), "high a_b axb low");
        let two = Some(2);
        assert_eq!(
            list(Filter {
                limit: two,
                ..waiting
            }),
            "high a_b"
        );
        let source = |part: &str| Filter {
            source: Some(part.to_owned()),
            ..all()
        };
        assert_eq!(list(source("_")), "a_b");
        assert_eq!(list(source("%")), "");
        assert_eq!(list(source("ig")), "high");
        let arch_tag = Some("amd64".to_owned());
        assert_eq!(list(Filter { arch_tag, ..all() }), "axb a_b");
        let builder = Some(fence.builder);
        assert_eq!(list(Filter { builder, ..all() }), "runs");
        assert_eq!(
            list(Filter {
                series: Some(-1),
                ..all()
            }),
            ""
        );

        let queue = db.read(lists::queue).unwrap();
        assert_eq!(names(&queue), "runs high a_b axb low");
        assert_eq!(queue[0].builder.as_ref().unwrap().0, "bob1");
        let rivals = db
            .read(|tx| lists::rivals(tx, farm.processors[0], false))
            .unwrap();
        assert_eq!(
            rivals.iter().map(|(job, _)| job.score).collect::<Vec<_>>(),
            [5, 1]
        );
        let running = db.read(lists::running).unwrap();
        assert_eq!((running.len(), running[0].0), (1, fence.builder));
    });
}

#[test]
fn chroots_are_replaced_and_taken_away() {
    both(|db| {
        let Farm {
            arch_series: [arch, _],
            alias,
            ..
        } = farm(db);
        let set = |pocket| {
            db.write(|tx| series::set_chroot(tx, arch, pocket, alias, NOW))
                .unwrap()
        };
        set(Pocket::Release);
        set(Pocket::Release);
        set(Pocket::Security);
        let found = db.read(series::chroots).unwrap();
        let pockets: Vec<Pocket> = found.iter().map(|one| one.pocket).collect();
        assert_eq!(pockets, [Pocket::Release, Pocket::Security]);
        assert_eq!(
            found[0].file.content,
            Some(Content {
                size: 3,
                sha1: "sha1-of-it".to_owned()
            })
        );
        let known = db.read(series::architectures).unwrap();
        assert_eq!(known[1].chroots, pockets, "{known:?}");
        let remove = |pocket| {
            db.write(|tx| series::remove_chroot(tx, arch, pocket))
                .unwrap()
        };
        assert!(remove(Pocket::Security) && !remove(Pocket::Security));
        assert_eq!(db.read(series::chroots).unwrap().len(), 1);
    });
}

#[test]
fn series_and_archives_keep_what_is_set() {
    both(|db| {
        farm(db);
        let mut hoary = db.read(series::all).unwrap().remove(0);
        hoary.status = SeriesStatus::Current;
        hoary.nominated = Some("i386".to_owned());
        db.write(|tx| series::set(tx, &hoary)).unwrap();
        let found = db.read(series::all).unwrap().remove(0);
        assert_eq!(found.status, SeriesStatus::Current);
        assert_eq!(found.nominated.as_deref(), Some("i386"));
        let again = db
            .write(|tx| series::ensure_distribution(tx, "ubuntu"))
            .unwrap();
        assert_eq!(again, hoary.distribution_id);

        let mut archive = db.read(archives::all).unwrap().remove(0);
        archive.private = true;
        archive.relative_score = -7;
        db.write(|tx| {
            archives::set(tx, &archive)?;
            archives::set_secret(tx, archive.id, "s3cret")
        })
        .unwrap();
        let found = db.read(archives::all).unwrap().remove(0);
        assert!(found.private && found.has_secret && found.relative_score == -7);
        assert!(!format!("{found:?}").contains("s3cret"));
    });
}

#[test]
fn published_binaries_are_told_in_thousands_and_more_than_once() {
    both(|db| {
        let farm = farm(db);
        let binary = |number: usize, component: &str| Binary {
            name: format!("lib{number}"),
            version: "1".to_owned(),
            component: component.to_owned(),
            source: format!("src{}", number % 2),
        };
        let tell = |component: &str, count: usize| {
            let all: Vec<Binary> = (0..count).map(|number| binary(number, component)).collect();
            db.write(|tx| {
                archives::publish(
                    tx,
                    farm.arch_series[0],
                    farm.archive,
                    &all,
                    Known::Update,
                    NOW,
                )
            })
            .unwrap();
        };
        tell("main", 1001);
        tell("universe", 3);
        tell("universe", 0);
        let counted = db.read(archives::published).unwrap();
        let counts: Vec<(&str, i64)> = counted
            .iter()
            .map(|one| (one.component.as_str(), one.binaries))
            .collect();
        assert_eq!(counts, [("main", 998), ("universe", 3)]);
        let series = db.read(series::all).unwrap()[0].id;
        let of = |tag, source| {
            db.read(|tx| archives::binaries_of(tx, series, tag, source))
                .unwrap()
                .len()
        };
        assert_eq!(
            (of("i386", "src1"), of("amd64", "src1"), of("i386", "x")),
            (500, 0, 0)
        );
    });
}
