//! A process that lost its lease writes nothing about the builder.

use super::farm::{BUILT, ME, NOW, claim, claim_best, everything, farm, lost, view};
use crate::db::tests::both;
use crate::db::{Error, Tx};
use crate::master::model::{BuildState, CleanStatus};
use crate::master::rows::builders::{self, Builder};
use crate::master::rows::leases::{self, Fence};
use crate::master::rows::queue;
use crate::protocol::StatusForm;

type Write = Box<dyn Fn(&mut Tx<'_>, Fence) -> Result<bool, Error>>;

/// Every fenced write, for a builder and its job. The claim is the first.
fn writes(builder: Builder, job: i64) -> [(&'static str, Write); 11] {
    fn write(write: impl Fn(&mut Tx<'_>, Fence) -> Result<bool, Error> + 'static) -> Write {
        Box::new(write)
    }
    let claim =
        move |tx: &mut Tx<'_>, fence: Fence| Ok(claim_best(tx, fence, &builder, NOW, 0)?.is_some());
    let (gathering, superseded) = (BuildState::Gathering, BuildState::Superseded);
    [
        ("claim", write(claim)),
        (
            "reset",
            write(move |tx, fence| queue::reset(tx, fence, job, 0, Some(&lost()))),
        ),
        (
            "finish",
            write(move |tx, fence| queue::finish(tx, fence, job, &BUILT)),
        ),
        (
            "discard",
            write(move |tx, fence| queue::discard(tx, fence, job, superseded, "", 0)),
        ),
        (
            "set_state",
            write(move |tx, fence| queue::set_state(tx, fence, job, gathering)),
        ),
        (
            "set_cancel_by",
            write(move |tx, fence| queue::set_cancel_by(tx, fence, job, 5)),
        ),
        (
            "count",
            write(|tx, fence| Ok(queue::count_failure(tx, fence)?.is_some())),
        ),
        (
            "fail",
            write(|tx, fence| builders::fail(tx, fence, "no route")),
        ),
        (
            "set_clean",
            write(|tx, fence| builders::set_clean(tx, fence, CleanStatus::Dirty, 1)),
        ),
        (
            "set_count",
            write(|tx, fence| builders::set_failure_count(tx, fence, 4)),
        ),
        (
            "set_form",
            write(|tx, fence| builders::set_form(tx, fence, StatusForm::Dict, Some("1"))),
        ),
    ]
}

#[test]
fn only_the_lease_holder_writes() {
    both(|db| {
        let farm = farm(db);
        let old = farm.builders(db, 1)[0];
        let (_, queue) = farm.job(db, "hello", 0, 10);
        let (builder, _) = view(db, old);
        claim(db, old).unwrap();
        let take = |now| db.write(|tx| leases::take(tx, "other:2", now, NOW + 9000, 10));
        assert!(
            take(NOW + 1000).unwrap().is_empty(),
            "the lease lasts until NOW + 1000"
        );
        let new = Fence {
            builder: old.builder,
            epoch: old.epoch + 1,
        };
        assert_eq!(take(NOW + 1001).unwrap(), [new]);

        let before = db.read(everything).unwrap();
        let writes = writes(builder, queue);
        for (name, write) in &writes {
            assert!(!db.write(|tx| write(tx, old)).unwrap(), "{name}");
        }
        assert_eq!(db.read(everything).unwrap(), before);
        let renewed = db.write(|tx| leases::renew(tx, ME, NOW + 5000)).unwrap();
        assert!(renewed.is_empty(), "{renewed:?}");
        // The new holder's writes succeed; each is rolled back. The builder has its job already, so
        // a claim would not.
        for (name, write) in &writes[1..] {
            let done = db.write(|tx| {
                assert!(write(tx, new)?, "{name}");
                Err::<(), _>(Error::Refused("undo".to_owned()))
            });
            assert_eq!(done.unwrap_err().to_string(), "undo");
        }
    });
}
