//! Results that wait for the uploader.

use super::farm::{BUILT, NOW, claim_best, farm, state};
use crate::db::tests::both;
use crate::dpkg::packages::Package;
use crate::master::model::BuildState;
use crate::master::rows::attempts::AttemptEnd;
use crate::master::rows::candidate::candidate;
use crate::master::rows::published::{self, Binary, Existing, List};
use crate::master::rows::{builders, queue, uploads};

#[test]
fn an_upload_has_one_outcome() {
    both(|db| {
        let farm = farm(db);
        let bob = farm.builders(db, 1)[0];
        let (build, queue) = farm.job(db, "hello", 0, 5);
        let waiting_at = |host| db.read(|tx| uploads::waiting(tx, host)).unwrap();
        let waiting = || waiting_at("upload1");
        db.write(|tx| {
            let (builder, _) = builders::view(tx, bob.builder)?.unwrap();
            claim_best(tx, bob, &builder, NOW, 0)?.unwrap();
            let end = queue::End {
                state: BuildState::Uploading,
                attempt: AttemptEnd {
                    leaf: Some("1-1.1"),
                    host: Some("upload1"),
                    ..BUILT.attempt
                },
            };
            queue::finish(tx, bob, queue, &end)
        })
        .unwrap();
        let [upload] = &waiting()[..] else { panic!() };
        assert!(waiting_at("upload2").is_empty());
        let claim = |host| {
            db.write(|tx| uploads::claim(tx, upload, host, NOW))
                .unwrap()
        };
        assert!(!claim("upload2") && claim("upload1"));
        assert_eq!(waiting()[0].upload_started_at, Some(NOW));
        assert_eq!((upload.build, upload.leaf.as_str()), (build, "1-1.1"));
        assert_eq!((upload.builder.as_str(), upload.started_at), ("bob1", NOW));
        assert_eq!(upload.name.source, "hello");
        let done = |state| {
            db.write(|tx| uploads::done(tx, upload, state, Some(farm.alias), Some("refused")))
        };
        let has_binaries = || {
            let found = db.read(|tx| candidate(tx, build));
            found.unwrap().archive.has_binaries
        };
        assert!(!has_binaries());
        for _ in 0..2 {
            let hello = [Binary {
                package: Package {
                    name: "hello".to_owned(),
                    version: "0.9".to_owned(),
                    ..Package::default()
                },
                component: upload.component.clone(),
                source: upload.name.source.clone(),
            }];
            let list = List {
                arch_series: upload.arch_series,
                archive: upload.archive,
            };
            db.write(|tx| published::publish(tx, list, &hello, Existing::Keep, NOW))
                .unwrap();
        }
        assert!(has_binaries());
        assert!(done(BuildState::FullyBuilt).unwrap());
        assert!(
            !done(BuildState::FailedToUpload).unwrap(),
            "another process has stored one"
        );
        assert_eq!(state(db, build), BuildState::FullyBuilt);
        assert!(waiting().is_empty());
        assert!(!claim("upload1"), "the build has ended");
    });
}
