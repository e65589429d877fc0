//! Notifications that wait for delivery.

use super::farm::{NOW, farm};
use crate::db::tests::both;
use crate::master::rows::outbox;

#[test]
fn the_outbox_returns_the_oldest_until_it_is_deleted() {
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
