//! The writes of an operator about builders.

use super::farm::{ME, NOW, change, farm};
use crate::db::tests::both;
use crate::db::{Db, params};
use crate::master::model::CleanStatus;
use crate::master::rows::builders::{self, Builder};
use crate::master::rows::registry::{self, New};
use crate::master::rows::{builds, leases};

/// A manual builder `bob` to register.
fn bob(processors: &[i64]) -> New {
    New {
        name: "bob".to_owned(),
        url: "http://bob:8221/".to_owned(),
        title: String::new(),
        manual: true,
        virtualized: false,
        vm_host: None,
        reset: None,
        processors: processors.to_vec(),
    }
}

fn add(db: &Db, new: &New) -> i64 {
    db.write(|tx| registry::add(tx, new, NOW)).unwrap()
}

fn find(db: &Db, id: i64) -> Option<Builder> {
    let found = db.read(|tx| builders::view(tx, id)).unwrap();
    found.map(|(builder, _)| builder)
}

#[test]
fn builders_are_registered_disabled_and_enabled() {
    both(|db| {
        let farm = farm(db);
        let id = add(db, &bob(&farm.processors));
        let look = || find(db, id).unwrap();
        let bob = look();
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
        let bob = look();
        assert_eq!((bob.ok, bob.failnotes.as_deref()), (false, Some("no disk")));
        db.write(|tx| registry::enable(tx, id, NOW + 5)).unwrap();
        db.write(|tx| registry::set_manual(tx, id, false)).unwrap();
        let bob = look();
        assert_eq!((bob.ok, bob.failnotes, bob.failure_count), (true, None, 0));
        assert_eq!(
            (bob.clean, bob.clean_changed_at),
            (CleanStatus::Dirty, NOW + 5)
        );
        assert!(!bob.manual);
        // The operator's writes do not touch the lease.
        assert_eq!(bob.lease_owner.as_deref(), Some(ME));
    });
}

#[test]
fn a_removed_builder_keeps_its_history_and_can_return() {
    both(|db| {
        let farm = farm(db);
        let new = bob(&farm.processors);
        // Without a history, nothing is left.
        let id = add(db, &new);
        assert!(!db.write(|tx| registry::remove(tx, id)).unwrap());
        assert!(find(db, id).is_none());

        let id = add(db, &new);
        let (built, _) = farm.job(db, "hello", 0, 5);
        db.write(|tx| {
            let sql = "UPDATE build SET builder_id = $1, state = 1 WHERE id = $2";
            tx.execute(sql, &params![id, built])?;
            tx.execute("DELETE FROM build_queue", &[])
        })
        .unwrap();
        assert!(db.write(|tx| registry::remove(tx, id)).unwrap());
        let gone = find(db, id).unwrap();
        assert!(!gone.active && !gone.ok && gone.processors.is_empty());
        let build = db.read(|tx| builds::view(tx, built)).unwrap().unwrap();
        assert_eq!(build.builder.unwrap().0, "bob");
        // Its URL is free for another builder. Registered again, `bob` has the same row.
        let name = "bert".to_owned();
        let other = New {
            name,
            ..new.clone()
        };
        let other = add(db, &other);
        db.write(|tx| registry::remove(tx, other)).unwrap();
        assert_eq!(add(db, &new), id);
        let back = find(db, id).unwrap();
        assert!(back.active && back.ok && back.processors.len() == 2);
    });
}

#[test]
fn a_master_is_alive_after_a_recent_announcement() {
    both(|db| {
        let alive = |since| {
            let found = db.read(|tx| registry::any_master_is_alive(tx, since));
            found.unwrap()
        };
        assert!(!alive(0));
        db.write(|tx| leases::announce(tx, ME, "host", NOW))
            .unwrap();
        assert!(alive(NOW) && !alive(NOW + 1));
    });
}
