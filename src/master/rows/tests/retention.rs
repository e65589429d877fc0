//! Rows that the archives no longer keep.

use super::farm::{change, farm};
use crate::db::tests::both;
use crate::db::{Db, params};
use crate::master::policy::retention::Folder;
use crate::master::rows::retention::{self, BinaryName};

const DAY: i64 = 24 * 3600 * 1000;
/// The archive keeps three attempts, three versions, and everything for 90 days.
const NOW: i64 = 1000 * DAY;
const LONG_AGO: i64 = NOW - 91 * DAY;

/// Makes the build `name` FULLYBUILT with attempts that ended long ago; returns its id.
fn built(db: &Db, farm: &super::farm::Farm, name: &str, attempts: i64) -> i64 {
    let (build, queue) = farm.job(db, name, 0, 1);
    db.write(|tx| {
        let sql = "DELETE FROM build_queue WHERE id = $1";
        tx.execute(sql, &params![queue])?;
        let sql = "UPDATE build SET state = 1, finished_at = $2 WHERE id = $1";
        tx.execute(sql, &params![build, LONG_AGO])?;
        for number in 1..=attempts {
            let cookie = format!("{build}-{queue}.{number}");
            tx.execute(
                "INSERT INTO attempt
                     (build_id, number, cookie, leaf, host, started_at, ended_at, log_alias_id)
                 VALUES ($1, $2, $3, $3, 'here', 0, $4, $5)",
                &params![build, number, cookie, LONG_AGO, farm.alias],
            )?;
        }
        Ok(build)
    })
    .unwrap()
}

fn old_attempts(db: &Db) -> Vec<(i64, i64)> {
    let window = db.read(|tx| retention::attempts(tx, 0, NOW)).unwrap();
    window.map_or_else(Vec::new, |(found, _)| found)
}

fn count(db: &Db, table: &str) -> i64 {
    let sql = format!("SELECT COUNT(*) FROM {table}");
    let row = db.read(|tx| tx.query_one(&sql, &[])).unwrap();
    row.get(0).unwrap()
}

#[test]
fn old_attempts_of_an_ended_build_go_but_the_last_ones() {
    both(|db| {
        let farm = farm(db);
        let build = built(db, &farm, "hello", 5);
        let few = built(db, &farm, "few", 3);
        assert_eq!(old_attempts(db), [(build, 1), (build, 2)]);
        // Young, or counted for the limits of a build that waits, or kept by the archive.
        for (stays, undo) in [
            (
                "UPDATE attempt SET ended_at = ended_at + 172800000",
                "UPDATE attempt SET ended_at = ended_at - 172800000",
            ),
            ("UPDATE build SET state = 0", "UPDATE build SET state = 1"),
            ("UPDATE build SET state = 3", "UPDATE build SET state = 1"),
            ("UPDATE build SET state = 8", "UPDATE build SET state = 1"),
            (
                "UPDATE archive SET keep_attempts = 0",
                "UPDATE archive SET keep_attempts = 3",
            ),
            (
                "UPDATE archive SET keep_days = 0",
                "UPDATE archive SET keep_days = 90",
            ),
        ] {
            change(db, stays);
            assert_eq!(old_attempts(db), [], "{stays}");
            let deleted = db.write(|tx| retention::delete_attempt(tx, (build, 1), NOW));
            assert_eq!(deleted.unwrap(), 0, "{stays}");
            change(db, undo);
        }
        for attempt in old_attempts(db) {
            let deleted = db.write(|tx| retention::delete_attempt(tx, attempt, NOW));
            assert_eq!(deleted.unwrap(), 1);
        }
        assert_eq!(old_attempts(db), []);
        let sql = "SELECT number FROM attempt WHERE build_id = $1 ORDER BY number";
        let rows = db.read(|tx| tx.query(sql, &params![build])).unwrap();
        let numbers: Vec<i64> = rows.iter().map(|row| row.get(0).unwrap()).collect();
        assert_eq!(numbers, [3, 4, 5]);
        let deleted = db.write(|tx| retention::delete_attempt(tx, (few, 1), NOW));
        assert_eq!(deleted.unwrap(), 0);
    });
}

#[test]
fn a_source_goes_with_its_builds_when_nothing_needs_it() {
    both(|db| {
        let farm = farm(db);
        let build = built(db, &farm, "hello", 2);
        let kept = built(db, &farm, "kept", 1);
        db.write(|tx| {
            tx.execute(
                "INSERT INTO source_file (source_id, alias_id, filetype) VALUES (1, $1, 3)",
                &params![farm.alias],
            )?;
            for build in [build, kept] {
                let sql = "INSERT INTO event (at, level, kind, build_id, message)
                           VALUES (0, 3, 'ended', $1, '')";
                tx.execute(sql, &params![build])?;
                let sql = "INSERT INTO notification (build_id, created_at, document)
                           VALUES ($1, 0, '{}')";
                tx.execute(sql, &params![build])?;
            }
            Ok(())
        })
        .unwrap();
        let delete = || db.write(|tx| retention::delete_source(tx, 1, NOW)).unwrap();
        assert_eq!(delete(), 0, "published");
        change(
            db,
            "UPDATE publication SET status = 3, superseded_at = 0 WHERE source_id = 1",
        );
        let just_now = NOW - DAY;
        for (stays, undo) in [
            (
                format!("UPDATE publication SET superseded_at = {just_now} WHERE source_id = 1"),
                "UPDATE publication SET superseded_at = 0 WHERE source_id = 1",
            ),
            (
                format!("UPDATE source SET created_at = {just_now}"),
                "UPDATE source SET created_at = 0",
            ),
            (
                format!("UPDATE build SET finished_at = {just_now}"),
                "UPDATE build SET finished_at = 1",
            ),
            (
                "UPDATE build SET state = 6".to_owned(),
                "UPDATE build SET state = 2",
            ),
            (
                "UPDATE attempt SET ended_at = NULL".to_owned(),
                "UPDATE attempt SET ended_at = 1",
            ),
            (
                "UPDATE archive SET keep_versions = 0".to_owned(),
                "UPDATE archive SET keep_versions = 3",
            ),
        ] {
            change(db, &stays);
            assert_eq!(delete(), 0, "{stays}");
            change(db, undo);
        }
        assert_eq!(delete(), 1);
        for table in [
            "source",
            "publication",
            "build",
            "event",
            "notification",
            "attempt",
        ] {
            assert_eq!(count(db, table), 1, "{table}");
        }
        assert_eq!(count(db, "source_file"), 0);
        assert_eq!(delete(), 0, "gone");
        let sources = db.read(|tx| retention::sources(tx, "")).unwrap();
        let (versions, last) = sources.unwrap();
        assert_eq!((versions.len(), last.as_str()), (1, "kept"));
        assert_eq!((versions[0].version.as_str(), versions[0].keep), ("0.9", 3));
        assert_eq!(db.read(|tx| retention::sources(tx, &last)).unwrap(), None);
    });
}

#[test]
fn published_binaries_are_read_by_name_and_deleted_when_old() {
    both(|db| {
        let farm = farm(db);
        let (arch, archive) = (farm.arch_series[0], farm.archive);
        db.write(|tx| {
            for (name, version, at) in [("a", "1", LONG_AGO), ("a", "2", NOW), ("b", "1", LONG_AGO)]
            {
                tx.execute(
                    "INSERT INTO published_binary (arch_series_id, archive_id, name, version,
                         component, source_name, published_at)
                     VALUES ($1, $2, $3, $4, 'main', 'x', $5)",
                    &params![arch, archive, name, version, at],
                )?;
            }
            Ok(())
        })
        .unwrap();
        let read = |after: &BinaryName| db.read(|tx| retention::binaries(tx, after)).unwrap();
        let (found, last) = read(&BinaryName::default()).unwrap();
        let names = found.iter().map(|one| (one.name.name.as_str(), one.keep));
        assert_eq!(names.collect::<Vec<_>>(), [("a", 3), ("a", 3), ("b", 3)]);
        assert_eq!(last.name, "b");
        assert_eq!(read(&last), None);
        let delete = |at: usize| {
            let one = &found[at];
            db.write(|tx| retention::delete_binary(tx, &one.name, &one.version, NOW))
                .unwrap()
        };
        let versions: Vec<&str> = found.iter().map(|one| one.version.as_str()).collect();
        for (at, version) in versions.iter().enumerate().take(2) {
            assert_eq!(delete(at), u64::from(*version == "1"), "{version}");
        }
        change(db, "UPDATE archive SET keep_versions = 0");
        assert_eq!(delete(2), 0);
        assert_eq!(count(db, "published_binary"), 2);
    });
}

#[test]
fn a_removed_builder_goes_when_nothing_refers_to_it() {
    both(|db| {
        let farm = farm(db);
        let fences = farm.builders(db, 3);
        let [in_service, builds, unused] = [0, 1, 2].map(|at| fences[at].builder);
        let build = built(db, &farm, "hello", 1);
        db.write(|tx| {
            let sql = "UPDATE builder SET active = FALSE WHERE id <> $1";
            tx.execute(sql, &params![in_service])?;
            let sql = "UPDATE attempt SET builder_id = $1 WHERE build_id = $2";
            tx.execute(sql, &params![builds, build])
        })
        .unwrap();
        assert_eq!(db.read(retention::builders).unwrap(), [unused]);
        let delete = |builder| {
            db.write(|tx| retention::delete_builder(tx, builder))
                .unwrap()
        };
        assert_eq!(
            [in_service, builds, unused, unused].map(delete),
            [0, 0, 1, 0]
        );
        assert_eq!(count(db, "builder"), 2);
        assert_eq!(count(db, "builder_processor"), 2);
    });
}

#[test]
fn a_folder_is_in_use_while_an_attempt_of_this_host_names_it() {
    both(|db| {
        let farm = farm(db);
        let build = built(db, &farm, "hello", 1);
        let sql = "SELECT cookie FROM attempt";
        let row = db.read(|tx| tx.query_one(sql, &[])).unwrap();
        let cookie: String = row.get(0).unwrap();
        let in_use = |folder, host: &str| {
            db.read(|tx| retention::is_in_use(tx, folder, (build, &cookie), host))
                .unwrap()
        };
        assert!(in_use(Folder::Incoming, "here"));
        assert!(!in_use(Folder::Incoming, "elsewhere"));
        assert!(!in_use(Folder::Grabbing, "here"));
        assert!(!in_use(Folder::Uploading, "here"));
        change(db, "UPDATE attempt SET host = NULL");
        assert!(in_use(Folder::Incoming, "elsewhere"), "of an older version");
        // It runs: the results may be on the way.
        change(db, "UPDATE attempt SET ended_at = NULL, leaf = NULL");
        for folder in Folder::ALL {
            assert!(in_use(folder, "anywhere"));
        }
        change(db, "UPDATE attempt SET ended_at = 1");
        change(db, "UPDATE build SET leaf = (SELECT cookie FROM attempt)");
        assert!(in_use(Folder::Incoming, "here"), "only the build names it");
        assert!(!in_use(Folder::Uploading, "here"));
        change(db, "UPDATE build SET state = 8");
        assert!(in_use(Folder::Uploading, "here"));
        change(db, "UPDATE build SET leaf = NULL");
        for folder in Folder::ALL {
            assert!(!in_use(folder, "here"));
        }
    });
}
