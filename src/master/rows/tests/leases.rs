//! Leases on builders, live processes, and singletons.

use super::farm::{ME, NOW, farm, view};
use crate::db::tests::both;
use crate::master::rows::leases::{self, Fence};

#[test]
fn leases_are_taken_renewed_and_released() {
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
        let some: Vec<i64> = fences[..22].iter().map(|fence| fence.builder).collect();
        db.write(|tx| leases::release(tx, "o:2", &some)).unwrap();
        assert_eq!(
            other(50).unwrap(),
            [],
            "a process releases only its own leases"
        );
        db.write(|tx| leases::release(tx, ME, &some)).unwrap();
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
fn live_processes_are_counted() {
    both(|db| {
        let live = |now| db.read(|tx| leases::live_processes(tx, now, 100)).unwrap();
        assert_eq!(live(NOW), 1, "the caller counts");
        for (owner, when) in [("a:1", NOW), ("b:1", NOW + 50), ("a:1", NOW + 120)] {
            db.write(|tx| leases::announce(tx, owner, "host", when))
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
fn one_process_holds_a_singleton() {
    both(|db| {
        let take = |owner: &str, now: i64| {
            let taken = db.write(|tx| leases::singleton(tx, "chores", owner, now, now + 100));
            taken.unwrap()
        };
        assert!(take("a:1", 0));
        assert!(!take("b:1", 50));
        assert!(take("a:1", 90), "renewed until 190");
        assert!(!take("b:1", 190));
        assert!(take("b:1", 191));
        assert!(!take("a:1", 200));
        db.write(|tx| leases::leave(tx, "b:1")).unwrap();
        assert!(take("a:1", 200));
        let other = db.write(|tx| leases::singleton(tx, "gc", "b:1", 200, 300));
        assert!(other.unwrap());
    });
}
