//! Lists of builds and jobs: their filters and their order.

use super::farm::{Farm, change, claim, farm};
use crate::db::Db;
use crate::db::tests::both;
use crate::master::model::BuildState;
use crate::master::rows::builds::Build;
use crate::master::rows::leases::Fence;
use crate::master::rows::lists::{self, Filter};

/// A farm with four waiting jobs, two of each architecture, and `runs` on a builder.
fn busy_farm(db: &Db) -> (Farm, Fence) {
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
    claim(db, fence).unwrap();
    (farm, fence)
}

/// The sources of builds, in their order.
fn names(builds: &[Build]) -> String {
    let names = builds.iter().map(|build| build.name.source.as_str());
    names.collect::<Vec<_>>().join(" ")
}

#[test]
fn builds_are_listed_by_every_filter() {
    both(|db| {
        let (_, fence) = busy_farm(db);
        let list = |filter: Filter| names(&db.read(|tx| lists::builds(tx, &filter)).unwrap());
        let all = Filter::default;
        assert_eq!(list(all()), "runs axb a_b high low");
        let waiting = Filter {
            state: Some(BuildState::NeedsBuild),
            ..all()
        };
        assert_eq!(list(waiting.clone()), "high a_b axb low");
        let limit = Some(2);
        assert_eq!(list(Filter { limit, ..waiting }), "high a_b");
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
        let series = Some(-1);
        assert_eq!(list(Filter { series, ..all() }), "");
    });
}

#[test]
fn a_page_of_builds_follows_the_page_before() {
    both(|db| {
        let (farm, _) = busy_farm(db);
        for (name, end) in [("e1", 40), ("e2", 60), ("e3", 60), ("e4", 50)] {
            let (build, queue) = farm.job(db, name, 0, 1);
            change(db, &format!("DELETE FROM build_queue WHERE id = {queue}"));
            let sql = format!("UPDATE build SET state = 1, finished_at = {end} WHERE id = {build}");
            change(db, &sql);
        }
        let pages = |filter: Filter| {
            let mut pages = Vec::new();
            let mut after = None;
            loop {
                let page = Filter {
                    after,
                    limit: Some(2),
                    ..filter.clone()
                };
                let builds = db.read(|tx| lists::builds(tx, &page)).unwrap();
                let Some(last) = builds.last() else {
                    return pages.join(" | ");
                };
                after = Some(last.id);
                pages.push(names(&builds));
            }
        };
        let of = |state| Filter {
            state: Some(state),
            ..Filter::default()
        };
        let all = Filter::default();
        assert_eq!(
            pages(all.clone()),
            "e4 e3 | e2 e1 | runs axb | a_b high | low"
        );
        assert_eq!(pages(of(BuildState::FullyBuilt)), "e3 e2 | e4 e1");
        assert_eq!(pages(of(BuildState::NeedsBuild)), "high a_b | axb low");
        let source = Some("e".to_owned());
        assert_eq!(
            pages(Filter {
                source,
                ..all.clone()
            }),
            "e4 e3 | e2 e1"
        );
        let arch_tag = Some("i386".to_owned());
        assert_eq!(
            pages(Filter { arch_tag, ..all }),
            "e4 e3 | e2 e1 | runs high | low"
        );
        // A build that has left the queue has no place in it.
        let filter = Filter {
            after: Some(-1),
            ..of(BuildState::NeedsBuild)
        };
        let error = db.read(|tx| lists::builds(tx, &filter)).unwrap_err();
        assert!(error.to_string().contains("without --after"), "{error}");
    });
}

#[test]
fn jobs_are_listed_in_the_order_of_dispatch() {
    both(|db| {
        let (_, fence) = busy_farm(db);
        let queue = |after, limit| db.read(|tx| lists::queue(tx, after, limit)).unwrap();
        let page = queue(None, None);
        assert_eq!(names(&page.running), "runs");
        assert_eq!(page.running[0].builder.as_ref().unwrap().0, "bob1");
        assert_eq!(names(&page.waiting), "high a_b axb low");
        let page = queue(None, Some(2));
        assert_eq!(names(&page.waiting), "high a_b");
        let page = queue(Some(page.waiting[1].id), Some(2));
        assert_eq!((names(&page.running), page.before), (String::new(), 2));
        assert_eq!(names(&page.waiting), "axb low");

        change(db, "UPDATE build_queue SET status = 3 WHERE lastscore = 5");
        assert_eq!(names(&queue(None, Some(1)).waiting), "high", "suspended");
        change(db, "UPDATE build_queue SET estimated_ms = 100");
        let size = lists::QueueSize {
            running: 1,
            waiting: 4,
            work_ms: 400,
        };
        assert_eq!(db.read(lists::queue_size).unwrap(), size);
        let running = db.read(lists::running).unwrap();
        assert_eq!((running.len(), running[0].0), (1, fence.builder));
    });
}

#[test]
fn jobs_ahead_are_those_for_the_same_builders() {
    both(|db| {
        let farm = farm(db);
        let job = |name, which, score| farm.job(db, name, which, score);
        let low = job("low", 0, 1);
        let (older, mine, younger) = (job("older", 0, 5), job("mine", 0, 5), job("younger", 0, 5));
        let high = job("high", 0, 9);
        job("elsewhere", 1, 9);
        job("virtual", 0, 8);
        change(
            db,
            "UPDATE build_queue SET virtualized = TRUE WHERE lastscore = 8",
        );
        change(db, "UPDATE build_queue SET estimated_ms = 100 * lastscore");
        let ahead = |(_, queue): (i64, i64), score| {
            let builders = (farm.processors[0], false);
            db.read(|tx| lists::ahead(tx, builders, (score, queue), 2))
                .unwrap()
        };
        let found = ahead(mine, 5);
        assert_eq!((found.jobs, found.work_ms), (2, 1400));
        assert_eq!(found.best, [(high.0, 9), (older.0, 5)]);
        assert_eq!(ahead(younger, 5).jobs, 3);
        assert_eq!((ahead(low, 1).jobs, ahead(low, 1).best.len()), (4, 2));
        assert_eq!(ahead(high, 9).jobs, 0);
    });
}
