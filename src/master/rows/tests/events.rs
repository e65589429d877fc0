//! The events of a builder or a build.

use crate::db::tests::both;
use crate::master::rows::events::{self, NewEvent};

#[test]
fn events_are_listed_newest_first_until_pruned() {
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
                    ..NewEvent::info(3, "enabled", "by an operator")
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
        let old = db.read(|tx| events::before(tx, 2)).unwrap();
        assert_eq!(old.len(), 1);
        assert_eq!(db.write(|tx| events::delete(tx, &old)).unwrap(), 1);
        assert_eq!(kinds(&of_build(9)), ["dispatched"]);
    });
}
