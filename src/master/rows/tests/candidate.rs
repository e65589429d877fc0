//! The facts that dispatch reads about a build.

use super::farm::{Farm, change, farm};
use crate::db::tests::both;
use crate::db::{Db, params};
use crate::master::model::{Pocket, SeriesStatus};
use crate::master::rows::candidate::candidate;
use crate::master::rows::files::{Content, File};

fn publish(db: &Db, farm: &Farm) {
    db.write(|tx| {
        tx.execute(
            "INSERT INTO published_binary
                 (arch_series_id, archive_id, name, version, component, source_name, published_at)
             VALUES ($1, $2, 'hello', '1', 'main', 'hello', 0)",
            &params![farm.arch_series[0], farm.archive],
        )
    })
    .unwrap();
}

#[test]
fn a_candidate_has_all_that_dispatch_needs() {
    both(|db| {
        let farm = farm(db);
        let (build, _) = farm.job(db, "hello", 0, 5);
        let read = || db.read(|tx| candidate(tx, build)).unwrap();
        let bare = read();
        assert!(bare.chroots.is_empty() && bare.files.is_empty());
        db.write(|tx| {
            for pocket in [Pocket::Updates, Pocket::Release] {
                tx.execute(
                    "INSERT INTO chroot (arch_series_id, pocket, alias_id, updated_at)
                     VALUES ($1, $2, $3, 0)",
                    &params![farm.arch_series[0], pocket, farm.alias],
                )?;
            }
            tx.execute(
                "INSERT INTO chroot (arch_series_id, pocket, alias_id, updated_at)
                 VALUES ($1, 10, NULL, 0)",
                &params![farm.arch_series[0]],
            )?;
            tx.execute(
                "INSERT INTO source_file (source_id, alias_id, filetype)
                 SELECT source_id, $2, 3 FROM build WHERE id = $1",
                &params![build, farm.alias],
            )
        })
        .unwrap();
        change(
            db,
            "UPDATE archive SET buildd_secret = 'topsecret', base_url = 'http://a/'",
        );
        change(db, "UPDATE build SET arch_indep = TRUE");
        let found = read();
        let file = File {
            alias: farm.alias,
            name: "hoary.tar.gz".to_owned(),
            restricted: false,
            content: Some(Content {
                size: 3,
                sha1: "sha1-of-it".to_owned(),
            }),
        };
        let chroots = [
            (Pocket::Release, file.clone()),
            (Pocket::Updates, file.clone()),
        ];
        assert_eq!(found.chroots, chroots);
        assert_eq!(found.files, [file]);
        assert!(found.arch_indep);
        assert_eq!(found.series_status, SeriesStatus::Development);
        assert_eq!(
            found.component.as_deref(),
            Some("universe"),
            "of the publication"
        );
        assert_eq!(found.archive.secret.as_deref(), Some("topsecret"));
        assert!(!format!("{found:?}").contains("topsecret"));
        assert!(found.published_in_private);
        assert!(
            found.primary.is_none() && !found.archive.has_binaries,
            "it is the primary one"
        );

        // The newest publication in force counts, whichever pocket it is in.
        change(
            db,
            "INSERT INTO publication
                 (source_id, series_id, archive_id, pocket, component, status, created_at)
             SELECT source_id, series_id, archive_id, 20, 'main', 1, 0 FROM publication",
        );
        assert_eq!(read().component.as_deref(), Some("main"));
        change(db, "UPDATE publication SET status = 3 WHERE status = 2");
        let pending = read();
        assert_eq!(
            (pending.component.as_deref(), pending.published_in_private),
            (Some("main"), false)
        );
        change(db, "UPDATE publication SET status = 4");
        assert_eq!(read().component, None);
        // A PPA beside it, which has binaries; the primary one still has none.
        change(db, "UPDATE archive SET purpose = 2");
        change(
            db,
            "INSERT INTO archive (distribution_id, name, purpose)
             SELECT distribution_id, 'another', 1 FROM archive",
        );
        publish(db, &farm);
        let ppa = read();
        let primary = ppa.primary.unwrap();
        assert_eq!(
            (primary.archive.name.as_str(), primary.has_binaries),
            ("another", false)
        );
        assert!(ppa.archive.has_binaries);
        // A tarball that has expired is no chroot.
        change(db, "UPDATE library_alias SET content_id = NULL");
        assert!(read().chroots.is_empty());
        assert!(db.read(|tx| candidate(tx, 99)).is_err());
    });
}
