//! The facts that dispatch reads about a build.

use super::farm::{Farm, change, farm};
use crate::db::tests::both;
use crate::db::{Db, params};
use crate::master::model::{Pocket, SeriesStatus};
use crate::master::rows::candidate::{Candidate, candidate};
use crate::master::rows::files::{Content, File};

/// A farm with one waiting build for its first architecture.
struct Fixture<'a> {
    db: &'a Db,
    farm: Farm,
    build: i64,
}

impl<'a> Fixture<'a> {
    fn new(db: &'a Db) -> Self {
        let farm = farm(db);
        let (build, _) = farm.job(db, "hello", 0, 5);
        Self { db, farm, build }
    }

    fn read(&self) -> Candidate {
        self.db.read(|tx| candidate(tx, self.build)).unwrap()
    }

    /// Adds chroots for two pockets, a chroot row without a tarball, and a source file.
    fn add_files(&self) {
        let (arch, alias) = (self.farm.arch_series[0], self.farm.alias);
        self.db
            .write(|tx| {
                let sql = "INSERT INTO chroot (arch_series_id, pocket, alias_id, updated_at)
                     VALUES ($1, $2, $3, 0)";
                for pocket in [Pocket::Updates, Pocket::Release] {
                    tx.execute(sql, &params![arch, pocket, alias])?;
                }
                tx.execute(sql, &params![arch, Pocket::Security, None::<i64>])?;
                tx.execute(
                    "INSERT INTO source_file (source_id, alias_id, filetype)
                     SELECT source_id, $2, 3 FROM build WHERE id = $1",
                    &params![self.build, alias],
                )
            })
            .unwrap();
    }

    fn publish_binary(&self) {
        let sql = "INSERT INTO published_binary
                 (arch_series_id, archive_id, name, version, component, source_name, published_at)
             VALUES ($1, $2, 'hello', '1', 'main', 'hello', 0)";
        let params = params![self.farm.arch_series[0], self.farm.archive];
        self.db.write(|tx| tx.execute(sql, &params)).unwrap();
    }
}

#[test]
fn a_candidate_has_its_chroots_and_files() {
    both(|db| {
        let fixture = Fixture::new(db);
        let bare = fixture.read();
        assert!(bare.chroots.is_empty() && bare.files.is_empty());
        fixture.add_files();
        let found = fixture.read();
        let file = File {
            alias: fixture.farm.alias,
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
        // An expired tarball is no chroot.
        change(db, "UPDATE library_alias SET content_id = NULL");
        assert!(fixture.read().chroots.is_empty());
    });
}

#[test]
fn the_newest_publication_in_force_decides_the_component() {
    both(|db| {
        let fixture = Fixture::new(db);
        let found = fixture.read();
        assert_eq!(
            found.component.as_deref(),
            Some("universe"),
            "of the publication"
        );
        assert!(found.published_in_private);
        // The pocket of the publication does not matter.
        change(
            db,
            "INSERT INTO publication
                 (source_id, series_id, archive_id, pocket, component, status, created_at)
             SELECT source_id, series_id, archive_id, 20, 'main', 1, 0 FROM publication",
        );
        assert_eq!(fixture.read().component.as_deref(), Some("main"));
        change(db, "UPDATE publication SET status = 3 WHERE status = 2");
        let pending = fixture.read();
        assert_eq!(
            (pending.component.as_deref(), pending.published_in_private),
            (Some("main"), false)
        );
        change(db, "UPDATE publication SET status = 4");
        assert_eq!(fixture.read().component, None);
    });
}

#[test]
fn a_candidate_has_its_archive_and_the_primary_one() {
    both(|db| {
        let fixture = Fixture::new(db);
        change(
            db,
            "UPDATE archive SET buildd_secret = 'topsecret', base_url = 'http://a/'",
        );
        change(db, "UPDATE build SET arch_indep = TRUE");
        let found = fixture.read();
        assert!(found.arch_indep);
        assert_eq!(found.series_status, SeriesStatus::Development);
        assert_eq!(found.archive.secret.as_deref(), Some("topsecret"));
        assert!(!format!("{found:?}").contains("topsecret"));
        assert!(
            found.primary.is_none() && !found.archive.has_binaries,
            "it is the primary one"
        );
        // The archive becomes a PPA with binaries; the new primary archive has none.
        change(db, "UPDATE archive SET purpose = 2");
        change(
            db,
            "INSERT INTO archive (distribution_id, name, purpose)
             SELECT distribution_id, 'another', 1 FROM archive",
        );
        fixture.publish_binary();
        let ppa = fixture.read();
        let primary = ppa.primary.unwrap();
        assert_eq!(
            (primary.archive.name.as_str(), primary.has_binaries),
            ("another", false)
        );
        assert!(ppa.archive.has_binaries);
        assert!(db.read(|tx| candidate(tx, 99)).is_err());
    });
}
