//! The writes of an operator about builders.

use super::farm::{ME, NOW, change, farm};
use crate::db::params;
use crate::db::tests::both;
use crate::master::model::CleanStatus;
use crate::master::rows::{builders, builds, leases, registry};

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
        assert_eq!(
            db.read(|tx| builds::view(tx, built))
                .unwrap()
                .unwrap()
                .builder
                .unwrap()
                .0,
            "bob"
        );
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
        let there = |since| {
            db.read(|tx| registry::any_master_is_alive(tx, since))
                .unwrap()
        };
        assert!(!there(0));
        db.write(|tx| leases::announce(tx, ME, "host", NOW))
            .unwrap();
        assert!(there(NOW) && !there(NOW + 1));
    });
}
