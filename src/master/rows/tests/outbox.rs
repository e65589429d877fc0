//! Notifications that wait for delivery.

use super::farm::{NOW, farm};
use crate::db::tests::both;
use crate::master::rows::outbox;

#[test]
fn a_notification_is_pending_until_it_is_deleted() {
    both(|db| {
        let (build, _) = farm(db).job(db, "hello", 0, 5);
        let pending = || db.read(outbox::pending).unwrap();
        assert_eq!(pending(), [0_i64; 0]);
        db.write(|tx| {
            outbox::put(tx, build, NOW, "{\"first\":1}")?;
            outbox::put(tx, build, NOW, "{\"second\":2}")
        })
        .unwrap();
        let [first, second] = pending()[..] else {
            panic!("{:?}", pending());
        };
        let get = |id| db.read(|tx| outbox::get(tx, id)).unwrap();
        let found = get(first).unwrap();
        assert_eq!(
            (found.document.as_str(), found.created_at),
            ("{\"first\":1}", NOW)
        );
        assert_eq!(get(second).unwrap().document, "{\"second\":2}");
        db.write(|tx| outbox::done(tx, first)).unwrap();
        assert_eq!(get(first), None);
        assert_eq!(pending(), [second]);
    });
}
