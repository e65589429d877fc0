//! Lists of builds and jobs: their filters and their order.

use super::farm::{Farm, claim, farm};
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
fn jobs_are_listed_in_the_order_of_dispatch() {
    both(|db| {
        let (farm, fence) = busy_farm(db);
        let queue = db.read(lists::queue).unwrap();
        assert_eq!(names(&queue), "runs high a_b axb low");
        assert_eq!(queue[0].builder.as_ref().unwrap().0, "bob1");
        let waiting = db
            .read(|tx| lists::waiting_jobs(tx, farm.processors[0], false))
            .unwrap();
        assert_eq!(
            waiting.iter().map(|(job, _)| job.score).collect::<Vec<_>>(),
            [5, 1]
        );
        let running = db.read(lists::running).unwrap();
        assert_eq!((running.len(), running[0].0), (1, fence.builder));
    });
}
