//! Leases, what is read of builders and candidates, events, and the outbox.

use super::farm::{Farm, ME, NOW, change, farm, state, view};
use crate::db::tests::both;
use crate::db::{Db, params};
use crate::master::model::{BuildState, CleanStatus, Pocket, ResetProtocol, SeriesStatus};
use crate::master::rows::archives::{Binary, Known};
use crate::master::rows::candidate::candidate;
use crate::master::rows::events::NewEvent;
use crate::master::rows::files::{Content, File};
use crate::master::rows::leases::{self, Fence};
use crate::master::rows::{archives, builders, events, outbox, queue, series, uploads};
use crate::protocol::StatusForm;

#[test]
fn leases_are_taken_renewed_and_given_back() {
    both(|db| {
        let farm = farm(db);
        let fences = farm.builders(db, 25);
        let renewed = db.write(|tx| leases::renew(tx, ME, NOW + 2000)).unwrap();
        let sorted = |mut list: Vec<Fence>| {
            list.sort_by_key(|fence| fence.builder);
            list
        };
        assert_eq!(sorted(renewed), sorted(fences.clone()));
        let other = |limit| db.write(|tx| leases::take(tx, "o:2", NOW + 2000, NOW + 9000, limit));
        assert_eq!(other(50).unwrap(), []);
        let given: Vec<i64> = fences[..22].iter().map(|fence| fence.builder).collect();
        db.write(|tx| leases::drop_some(tx, "o:2", &given)).unwrap();
        assert_eq!(other(50).unwrap(), [], "one drops one's own");
        db.write(|tx| leases::drop_some(tx, ME, &given)).unwrap();
        assert_eq!(other(2).unwrap().len(), 2);
        let rest = other(50).unwrap();
        assert_eq!(rest.len(), 20);
        assert!(rest.iter().all(|fence| fence.epoch == 2), "{rest:?}");

        db.write(|tx| leases::leave(tx, ME)).unwrap();
        assert_eq!(other(50).unwrap().len(), 3);
        assert_eq!(db.write(|tx| leases::renew(tx, ME, NOW)).unwrap(), []);
        let (builder, _) = view(db, fences[0]);
        assert_eq!(builder.lease_owner.as_deref(), Some("o:2"));
        assert_eq!((builder.lease_until, builder.epoch), (NOW + 9000, 2));
    });
}

#[test]
fn processes_are_counted_while_they_are_heard_of() {
    both(|db| {
        let live = |now| db.read(|tx| leases::live_processes(tx, now, 100)).unwrap();
        assert_eq!(live(NOW), 1, "who asks lives");
        for (who, when) in [("a:1", NOW), ("b:1", NOW + 50), ("a:1", NOW + 120)] {
            db.write(|tx| leases::announce(tx, who, "host", when))
                .unwrap();
        }
        assert_eq!((live(NOW + 120), live(NOW + 151)), (2, 1));
        let day = 86_400_000;
        db.write(|tx| leases::announce(tx, "c:1", "host", NOW + 100 + day))
            .unwrap();
        let rows = db.read(|tx| tx.query("SELECT owner FROM master_process ORDER BY owner", &[]));
        let owners: Vec<String> = rows
            .unwrap()
            .iter()
            .map(|row| row.get(0).unwrap())
            .collect();
        assert_eq!(owners, ["a:1", "c:1"]);
    });
}

#[test]
fn one_process_has_a_singleton() {
    both(|db| {
        let ask = |who: &str, now: i64| {
            let asked = db.write(|tx| leases::singleton(tx, "chores", who, now, now + 100));
            asked.unwrap()
        };
        assert!(ask("a:1", 0));
        assert!(!ask("b:1", 50));
        assert!(ask("a:1", 90), "renewed until 190");
        assert!(!ask("b:1", 190));
        assert!(ask("b:1", 191));
        assert!(!ask("a:1", 200));
        db.write(|tx| leases::leave(tx, "b:1")).unwrap();
        assert!(ask("a:1", 200));
        let other = db.write(|tx| leases::singleton(tx, "gc", "b:1", 200, 300));
        assert!(other.unwrap());
    });
}

#[test]
fn builders_are_listed_with_all_that_is_known() {
    both(|db| {
        let farm = farm(db);
        let fences = farm.builders(db, 3);
        db.write(|tx| farm.can_run(tx, fences[0].builder, 1))
            .unwrap();
        change(
            db,
            "UPDATE builder SET virtualized = TRUE, vm_host = 'vm', vm_reset_protocol = 20,
                 failnotes = 'old', clean_status = 2 WHERE name = 'bob2'",
        );
        change(db, "DELETE FROM builder_processor WHERE builder_id = 3");
        db.write(|tx| builders::set_form(tx, fences[0], StatusForm::Tuple, None))
            .unwrap();
        db.write(|tx| builders::set_form(tx, fences[1], StatusForm::Dict, Some("1.2")))
            .unwrap();
        db.write(|tx| builders::fail(tx, fences[2], "no route"))
            .unwrap();
        farm.job(db, "hello", 1, 5);
        db.write(|tx| {
            let (bob, _) = builders::view(tx, fences[0].builder)?.unwrap();
            queue::claim(tx, fences[0], &bob, NOW)
        })
        .unwrap()
        .unwrap();

        let all = db.read(builders::all).unwrap();
        let names: Vec<&str> = all
            .iter()
            .map(|(builder, _)| builder.name.as_str())
            .collect();
        // bob3 can run nothing, bob2 is virtual.
        assert_eq!(names, ["bob3", "bob1", "bob2"]);
        let [(bob3, none), (bob1, job), (bob2, _)] = &all[..] else {
            panic!()
        };
        assert_eq!(
            (bob3.ok, bob3.failnotes.as_deref()),
            (false, Some("no route"))
        );
        assert!(none.is_none() && bob3.processors.is_empty());
        let can: Vec<&str> = bob1
            .processors
            .iter()
            .map(|one| one.name.as_str())
            .collect();
        assert_eq!(can, ["386", "amd64"]);
        assert_eq!(job.as_ref().unwrap().name.arch_tag, "amd64");
        assert_eq!((bob1.form, &bob1.version), (Some(StatusForm::Tuple), &None));
        assert_eq!(
            (bob2.form, bob2.version.as_deref()),
            (Some(StatusForm::Dict), Some("1.2"))
        );
        assert_eq!(
            (bob2.vm_host.as_deref(), bob2.clean),
            (Some("vm"), CleanStatus::Cleaning)
        );
        assert_eq!(bob2.reset, Some(ResetProtocol::Asynchronous));
        assert!(bob2.virtualized && bob2.ok && bob3.form.is_none());
        assert!(db.read(|tx| builders::view(tx, 99)).unwrap().is_none());
        // With a job it stays DIRTY.
        assert!(
            !db.write(|tx| builders::set_clean(tx, fences[0], CleanStatus::Clean, 0))
                .unwrap()
        );
        assert!(
            db.write(|tx| builders::set_clean(tx, fences[0], CleanStatus::Dirty, 0))
                .unwrap()
        );
    });
}

fn publish(db: &Db, farm: &Farm) {
    db.write(|tx| {
        tx.execute(
            "INSERT INTO published_binary
                 (arch_series_id, archive_id, name, version, component, source_name, published_at)
             VALUES ($1, $2, 'hello', '1', 'main', 'hello', 0)",
            &params![farm.arch_series[0], farm.archive],
        )
    })
    .unwrap();
}

#[test]
fn a_candidate_has_all_that_dispatch_needs() {
    both(|db| {
        let farm = farm(db);
        let (build, _) = farm.job(db, "hello", 0, 5);
        let read = || db.read(|tx| candidate(tx, build)).unwrap();
        let bare = read();
        assert!(bare.chroots.is_empty() && bare.files.is_empty());
        db.write(|tx| {
            for pocket in [Pocket::Updates, Pocket::Release] {
                tx.execute(
                    "INSERT INTO chroot (arch_series_id, pocket, alias_id, updated_at)
                     VALUES ($1, $2, $3, 0)",
                    &params![farm.arch_series[0], pocket, farm.alias],
                )?;
            }
            tx.execute(
                "INSERT INTO chroot (arch_series_id, pocket, alias_id, updated_at)
                 VALUES ($1, 10, NULL, 0)",
                &params![farm.arch_series[0]],
            )?;
            tx.execute(
                "INSERT INTO source_file (source_id, alias_id, filetype)
                 SELECT source_id, $2, 3 FROM build WHERE id = $1",
                &params![build, farm.alias],
            )
        })
        .unwrap();
        change(
            db,
            "UPDATE archive SET buildd_secret = 'topsecret', base_url = 'http://a/'",
        );
        change(db, "UPDATE build SET arch_indep = TRUE");
        let found = read();
        let file = File {
            alias: farm.alias,
            name: "hoary.tar.gz".to_owned(),
            restricted: false,
            content: Some(Content {
                size: 3,
                sha1: "sha1-of-it".to_owned(),
            }),
        };
        let chroots = [
            (Pocket::Release, file.clone()),
            (Pocket::Updates, file.clone()),
        ];
        assert_eq!(found.chroots, chroots);
        assert_eq!(found.files, [file]);
        assert!(found.arch_indep);
        assert_eq!(found.series_status, SeriesStatus::Development);
        assert_eq!(
            found.component.as_deref(),
            Some("universe"),
            "of the publication"
        );
        assert_eq!(found.archive.secret.as_deref(), Some("topsecret"));
        assert!(!format!("{found:?}").contains("topsecret"));
        assert!(found.published_in_private);
        assert!(
            found.primary.is_none() && !found.archive.has_binaries,
            "it is the primary one"
        );

        // The newest publication in force counts, whichever pocket it is in.
        change(
            db,
            "INSERT INTO publication
                 (source_id, series_id, archive_id, pocket, component, status, created_at)
             SELECT source_id, series_id, archive_id, 20, 'main', 1, 0 FROM publication",
        );
        assert_eq!(read().component.as_deref(), Some("main"));
        change(db, "UPDATE publication SET status = 3 WHERE status = 2");
        let pending = read();
        assert_eq!(
            (pending.component.as_deref(), pending.published_in_private),
            (Some("main"), false)
        );
        change(db, "UPDATE publication SET status = 4");
        assert_eq!(read().component, None);
        // A PPA beside it, which has binaries; the primary one still has none.
        change(db, "UPDATE archive SET purpose = 2");
        change(
            db,
            "INSERT INTO archive (distribution_id, name, purpose)
             SELECT distribution_id, 'another', 1 FROM archive",
        );
        publish(db, &farm);
        let ppa = read();
        let primary = ppa.primary.unwrap();
        assert_eq!(
            (primary.archive.name.as_str(), primary.has_binaries),
            ("another", false)
        );
        assert!(ppa.archive.has_binaries);
        // A tarball that has expired is no chroot.
        change(db, "UPDATE library_alias SET content_id = NULL");
        assert!(read().chroots.is_empty());
        assert!(db.read(|tx| candidate(tx, 99)).is_err());
    });
}

#[test]
fn events_are_told_newest_first_until_they_are_forgotten() {
    both(|db| {
        db.write(|tx| {
            let warn = log::Level::Warn;
            events::add(
                tx,
                &NewEvent {
                    level: warn,
                    builder: Some(1),
                    build: Some(8),
                    ..NewEvent::info(1, "lost", "the slave has not got it")
                },
            )?;
            events::add(
                tx,
                &NewEvent {
                    builder: Some(2),
                    build: Some(8),
                    ..NewEvent::info(2, "dispatched", "again")
                },
            )?;
            events::add(
                tx,
                &NewEvent {
                    builder: Some(1),
                    ..NewEvent::info(3, "enabled", "by hand")
                },
            )
        })
        .unwrap();
        let of_build = |limit| db.read(|tx| events::of_build(tx, 8, limit)).unwrap();
        let kinds = |events: &[events::Event]| -> Vec<String> {
            events.iter().map(|event| event.kind.clone()).collect()
        };
        assert_eq!(kinds(&of_build(9)), ["dispatched", "lost"]);
        assert_eq!(kinds(&of_build(1)), ["dispatched"]);
        let of_builder = db.read(|tx| events::of_builder(tx, 1, 9)).unwrap();
        assert_eq!(kinds(&of_builder), ["enabled", "lost"]);
        let event = &of_builder[1];
        assert_eq!((event.at, event.level), (1, log::Level::Warn));
        assert_eq!(event.message, "the slave has not got it");
        assert_eq!(db.write(|tx| events::prune(tx, 2)).unwrap(), 1);
        assert_eq!(kinds(&of_build(9)), ["dispatched"]);
    });
}

#[test]
fn the_outbox_gives_the_oldest_until_it_is_done() {
    both(|db| {
        let (build, _) = farm(db).job(db, "hello", 0, 5);
        let next = |after| db.read(|tx| outbox::next(tx, after)).unwrap();
        assert_eq!(next(0), None);
        db.write(|tx| {
            outbox::put(tx, build, NOW, "{\"first\":1}")?;
            outbox::put(tx, build, NOW, "{\"second\":2}")
        })
        .unwrap();
        let first = next(0).unwrap();
        assert_eq!(
            (first.document.as_str(), first.created_at),
            ("{\"first\":1}", NOW)
        );
        let second = next(first.id).unwrap();
        assert_eq!(second.document, "{\"second\":2}");
        assert_eq!(next(0), Some(first.clone()));
        db.write(|tx| outbox::done(tx, first.id)).unwrap();
        assert_eq!(next(0), Some(second));
    });
}

#[test]
fn uploads_are_done_once() {
    both(|db| {
        let farm = farm(db);
        let bob = farm.builders(db, 1)[0];
        let (build, queue) = farm.job(db, "hello", 0, 5);
        let waiting = || db.read(uploads::waiting).unwrap();
        db.write(|tx| {
            let (builder, _) = builders::view(tx, bob.builder)?.unwrap();
            queue::claim(tx, bob, &builder, NOW)?.unwrap();
            let end = queue::End {
                state: BuildState::Uploading,
                dependencies: None,
                log_alias: None,
                leaf: Some("1-1.1"),
                finished_at: NOW + 9,
            };
            queue::finish(tx, bob, queue, &end)
        })
        .unwrap();
        let [upload] = &waiting()[..] else { panic!() };
        assert_eq!((upload.build, upload.leaf.as_str()), (build, "1-1.1"));
        assert_eq!((upload.builder.as_str(), upload.started_at), ("bob1", NOW));
        assert_eq!(upload.name.source, "hello");
        let done = |state| db.write(|tx| uploads::done(tx, upload, state, Some(farm.alias)));
        let has_binaries = || {
            let found = db.read(|tx| candidate(tx, build));
            found.unwrap().archive.has_binaries
        };
        assert!(!has_binaries());
        for _ in 0..2 {
            let hello = [Binary {
                name: "hello".to_owned(),
                version: "0.9".to_owned(),
                component: upload.component.clone(),
                source: upload.name.source.clone(),
            }];
            let (arch, archive) = (upload.arch_series, upload.archive);
            db.write(|tx| archives::publish(tx, arch, archive, &hello, Known::Keep, NOW))
                .unwrap();
        }
        assert!(has_binaries());
        assert!(done(BuildState::FullyBuilt).unwrap());
        assert!(
            !done(BuildState::FailedToUpload).unwrap(),
            "somebody was quicker"
        );
        assert_eq!(state(db, build), BuildState::FullyBuilt);
        assert!(waiting().is_empty());
    });
}

#[test]
fn architectures_are_listed_with_their_families() {
    both(|db| {
        let farm = farm(db);
        db.write(|tx| {
            let sql = "INSERT INTO chroot (arch_series_id, pocket, alias_id, updated_at)
                VALUES ($1, $2, $3, 0)";
            tx.execute(sql, &params![farm.arch_series[0], 10, farm.alias])?;
            tx.execute(sql, &params![farm.arch_series[1], 0, None::<i64>])
        })
        .unwrap();
        let all = db.read(series::architectures).unwrap();
        let known = |one: &series::ArchSeries| {
            let has_chroot = !one.chroots.is_empty();
            (one.tag.clone(), one.family.clone(), has_chroot)
        };
        let all: Vec<_> = all.iter().map(known).collect();
        let of = |tag: &str, family: &str, has| (tag.to_owned(), family.to_owned(), has);
        assert_eq!(all, [of("amd64", "amd64", false), of("i386", "x86", true)]);
    });
}
