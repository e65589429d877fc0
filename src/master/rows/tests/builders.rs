//! The list of builders, and the fenced writes about one.

use super::farm::{change, claim, farm};
use crate::db::Db;
use crate::db::tests::both;
use crate::master::model::{CleanStatus, ResetProtocol};
use crate::master::rows::builders;
use crate::protocol::StatusForm;

/// Makes `bob1` with two processors and a job, a virtual `bob2`, and `bob3` without a processor.
fn three_builders(db: &Db) {
    let farm = farm(db);
    let fences = farm.builders(db, 3);
    db.write(|tx| farm.can_run(tx, fences[0].builder, 1))
        .unwrap();
    change(
        db,
        "UPDATE builder SET virtualized = TRUE, vm_host = 'vm', vm_reset_protocol = 20,
             failnotes = 'old', clean_status = 2 WHERE name = 'bob2'",
    );
    change(db, "DELETE FROM builder_processor WHERE builder_id = 3");
    db.write(|tx| {
        builders::set_form(tx, fences[0], StatusForm::Tuple, None)?;
        builders::set_form(tx, fences[1], StatusForm::Dict, Some("1.2"))?;
        builders::fail(tx, fences[2], "no route")
    })
    .unwrap();
    farm.job(db, "hello", 1, 5);
    claim(db, fences[0]).unwrap();
}

#[test]
fn builders_are_listed_by_family_and_virtual_ones_last() {
    both(|db| {
        three_builders(db);
        let all = db.read(builders::all).unwrap();
        let names: Vec<&str> = all
            .iter()
            .map(|(builder, _)| builder.name.as_str())
            .collect();
        // bob3 has no processor, so it has no family.
        assert_eq!(names, ["bob3", "bob1", "bob2"]);
        let [(bob3, none), (bob1, job), (bob2, _)] = &all[..] else {
            panic!()
        };
        assert_eq!(
            (bob3.ok, bob3.failnotes.as_deref()),
            (false, Some("no route"))
        );
        assert!(none.is_none() && bob3.processors.is_empty());
        let processors: Vec<&str> = bob1
            .processors
            .iter()
            .map(|one| one.name.as_str())
            .collect();
        assert_eq!(processors, ["386", "amd64"]);
        assert_eq!(job.as_ref().unwrap().name.arch_tag, "amd64");
        assert_eq!((bob1.form, &bob1.version), (Some(StatusForm::Tuple), &None));
        assert_eq!(
            (bob2.form, bob2.version.as_deref()),
            (Some(StatusForm::Dict), Some("1.2"))
        );
        assert_eq!(
            (bob2.vm_host.as_deref(), bob2.clean),
            (Some("vm"), CleanStatus::Cleaning)
        );
        assert_eq!(bob2.reset, Some(ResetProtocol::Asynchronous));
        assert!(bob2.virtualized && bob2.ok && bob3.form.is_none());
        assert!(db.read(|tx| builders::view(tx, 99)).unwrap().is_none());
    });
}

#[test]
fn a_builder_with_a_job_stays_dirty() {
    both(|db| {
        let farm = farm(db);
        let bob = farm.builders(db, 1)[0];
        farm.job(db, "hello", 0, 5);
        claim(db, bob).unwrap();
        assert!(
            !db.write(|tx| builders::set_clean(tx, bob, CleanStatus::Clean, 0))
                .unwrap()
        );
        assert!(
            db.write(|tx| builders::set_clean(tx, bob, CleanStatus::Dirty, 0))
                .unwrap()
        );
    });
}
