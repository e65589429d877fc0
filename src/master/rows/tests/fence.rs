//! A process that lost its lease writes nothing about the builder.

use super::farm::{BUILT, ME, NOW, claim, everything, farm, view};
use crate::db::tests::both;
use crate::db::{Error, Tx};
use crate::master::model::{BuildState, CleanStatus};
use crate::master::rows::leases::{self, Fence};
use crate::master::rows::{builders, queue};

#[test]
fn whoever_lost_the_lease_changes_nothing() {
    both(|db| {
        let farm = farm(db);
        let old = farm.builders(db, 1)[0];
        let (_, queue) = farm.job(db, "hello", 0, 10);
        let (builder, _) = view(db, old);
        claim(db, old).unwrap();
        let taken = db.write(|tx| leases::take(tx, "other:2", NOW + 1000, NOW + 9000, 10));
        assert!(
            taken.unwrap().is_empty(),
            "the lease lasts until NOW + 1000"
        );
        let taken = db
            .write(|tx| leases::take(tx, "other:2", NOW + 1001, NOW + 9000, 10))
            .unwrap();
        let new = Fence {
            builder: old.builder,
            epoch: old.epoch + 1,
        };
        assert_eq!(taken, [new]);
        let before = db.read(everything).unwrap();

        type Write<'a> = &'a dyn Fn(&mut Tx<'_>, Fence) -> Result<bool, Error>;
        let writes: [(&str, Write<'_>); 12] = [
            ("claim", &|tx, fence| {
                Ok(queue::claim(tx, fence, &builder, NOW)?.is_some())
            }),
            ("reset", &|tx, fence| queue::reset(tx, fence, queue, 0)),
            ("finish", &|tx, fence| {
                queue::finish(tx, fence, queue, &BUILT)
            }),
            ("discard", &|tx, fence| {
                queue::discard(tx, fence, queue, BuildState::Superseded, 0)
            }),
            ("set_state", &|tx, fence| {
                queue::set_state(tx, fence, queue, BuildState::Gathering)
            }),
            ("set_log", &|tx, fence| {
                queue::set_log(tx, fence, queue, None)
            }),
            ("set_cancel_by", &|tx, fence| {
                queue::set_cancel_by(tx, fence, queue, 5)
            }),
            ("count", &|tx, fence| {
                Ok(queue::count_failure(tx, fence)?.is_some())
            }),
            ("fail", &|tx, fence| builders::fail(tx, fence, "no route")),
            ("set_clean", &|tx, fence| {
                builders::set_clean(tx, fence, CleanStatus::Dirty, 1)
            }),
            ("set_count", &|tx, fence| {
                builders::set_failure_count(tx, fence, 4)
            }),
            ("set_form", &|tx, fence| {
                builders::set_form(tx, fence, crate::protocol::StatusForm::Dict, Some("1"))
            }),
        ];
        for (name, write) in writes {
            assert!(!db.write(|tx| write(tx, old)).unwrap(), "{name}");
        }
        assert_eq!(db.read(everything).unwrap(), before);
        let renewed = db.write(|tx| leases::renew(tx, ME, NOW + 5000)).unwrap();
        assert!(renewed.is_empty(), "{renewed:?}");
        // The same writes are the new holder's to make; each alone, undone.
        for (name, write) in &writes[1..] {
            let done = db.write(|tx| {
                assert!(write(tx, new)?, "{name}");
                Err::<(), _>(Error::Refused("undo".to_owned()))
            });
            assert_eq!(done.unwrap_err().to_string(), "undo");
        }
    });
}
