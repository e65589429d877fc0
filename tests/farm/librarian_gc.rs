//! Garbage collection: what `librarian gc` removes and what it keeps (docs/farm.md §4.5, §8 item
//! 11).

use std::time::{Duration, Instant};

use super::support::librarian::{Librarian, on_both};
use super::support::postgres::database;
use crate::support::until;

const HOUR: Duration = Duration::from_secs(3600);

/// A librarian whose files a test can make a month old.
struct Old {
    librarian: Librarian,
}

impl Old {
    fn start(database: Option<String>) -> Self {
        Self {
            librarian: Librarian::start(database, ""),
        }
    }

    fn age(&self) {
        let made = "UPDATE library_alias SET created_at = created_at - 2592000000; \
                    UPDATE library_content SET created_at = created_at - 2592000000";
        self.librarian.db.execute(made);
        self.librarian.age_blobs(30 * 24 * HOUR);
    }

    fn gc(&self) -> String {
        let (code, said) = self.librarian.run(&["gc"]);
        assert_eq!(code, Some(0), "{said}");
        said
    }

    fn is_there(&self, id: i64, name: &str) -> bool {
        self.librarian.get(&format!("/{id}/{name}")).status == 200
    }

    /// The numbers of aliases, contents and blobs.
    fn left(&self) -> (i64, i64, usize) {
        let count = |table| self.librarian.count(table);
        let rows = (count("library_alias"), count("library_content"));
        (rows.0, rows.1, self.librarian.blobs().len())
    }
}

#[test]
fn unreferenced_files_are_removed_after_a_week() {
    on_both(|database| {
        let old = Old::start(database);
        let librarian = &old.librarian;
        librarian.add("gone", b"gone");
        let shared = librarian.add("gone-too", b"shared");
        old.age();
        // These two are young; the first has the content of an old file.
        let kept = librarian.add("kept", b"shared");
        let young = librarian.add("young", b"young");
        let (code, said) = librarian.run(&["gc", "--dry-run"]);
        assert_eq!(code, Some(0));
        assert!(
            said.contains("2 files that nothing refers to would be removed"),
            "{said}"
        );
        assert!(
            said.contains("1 contents without a file would be removed"),
            "{said}"
        );
        assert!(
            said.contains("1 blobs (4 bytes) would be removed"),
            "{said}"
        );
        assert_eq!(old.left(), (4, 3, 3), "a dry run");
        let said = old.gc();
        assert!(
            said.contains("2 files that nothing refers to were removed"),
            "{said}"
        );
        assert!(said.contains("1 blobs (4 bytes) were removed"), "{said}");
        assert_eq!(old.left(), (2, 2, 2));
        assert!(!old.is_there(shared, "gone-too"));
        assert!(old.is_there(kept, "kept") && old.is_there(young, "young"));
        assert!(old.gc().contains("0 blobs"));
        assert_eq!(old.left(), (2, 2, 2));
    });
}

#[test]
fn expired_files_are_removed_a_week_after_their_date() {
    on_both(|database| {
        let old = Old::start(database);
        let librarian = &old.librarian;
        let mut ids = Vec::new();
        // The expiry dates, from now.
        for (name, expires) in [
            ("never", "2145916800000"),
            ("tomorrow", "{now} + 86400000"),
            ("yesterday", "{now} - 86400000"),
            ("last-week", "{now} - 8 * 86400000"),
        ] {
            let id = librarian.add(name, name.as_bytes());
            let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
            let expires = expires.replace("{now}", &now.to_string());
            let date = format!("UPDATE library_alias SET expires_at = {expires} WHERE id = {id}");
            librarian.db.execute(&date);
            ids.push((id, name));
        }
        refer(&old, ids[3].0);
        old.age();
        let said = old.gc();
        assert!(said.contains("1 files were expired"), "{said}");
        let there: Vec<bool> = ids
            .iter()
            .map(|(id, name)| old.is_there(*id, name))
            .collect();
        assert_eq!(there, [true, true, true, false]);
        // The referenced file keeps its row and loses its bytes.
        assert_eq!(old.left(), (4, 3, 3));
    });
}

/// Rows that other rows refer to.
const BASE: &str = "\
    INSERT INTO processor (id, name, family) VALUES (1, '386', 'x86'); \
    INSERT INTO distribution (id, name) VALUES (1, 'ubuntu'); \
    INSERT INTO series (id, distribution_id, name, status) VALUES (1, 1, 'hoary', 1); \
    INSERT INTO arch_series (id, series_id, arch_tag, processor_id) VALUES (1, 1, 'i386', 1); \
    INSERT INTO archive (id, distribution_id, name, purpose) VALUES (1, 1, 'primary', 1); \
    INSERT INTO source (id, name, version, component, arch_hint, upload_archive_id, created_at) \
      VALUES (1, 'hello', '1', 'main', 'any', 1, 0); \
    INSERT INTO build (id, source_id, arch_series_id, archive_id, processor_id, created_at) \
      VALUES (1, 1, 1, 1, 1, 0); ";

/// Makes a chroot refer to an alias.
fn refer(old: &Old, alias: i64) {
    old.librarian.db.execute(&format!(
        "{BASE} INSERT INTO chroot (arch_series_id, alias_id, updated_at) VALUES (1, {alias}, 0)"
    ));
}

#[test]
fn a_file_that_any_column_references_is_kept() {
    on_both(|database| {
        let old = Old::start(database);
        let librarian = &old.librarian;
        let mut insert = BASE.to_owned();
        let mut ids = Vec::new();
        for (name, statement) in [
            (
                "chroot",
                "INSERT INTO chroot (arch_series_id, alias_id, updated_at) VALUES (1, {}, 0)",
            ),
            (
                "source",
                "INSERT INTO source_file (source_id, alias_id, filetype) VALUES (1, {}, 1)",
            ),
            ("log", "UPDATE build SET log_alias_id = {}"),
            ("upload-log", "UPDATE build SET upload_log_alias_id = {}"),
            (
                "attempt-log",
                "INSERT INTO attempt (build_id, number, cookie, started_at, log_alias_id) \
                 VALUES (1, 1, '1-1.1', 0, {})",
            ),
            (
                "attempt-upload-log",
                "UPDATE attempt SET upload_log_alias_id = {}",
            ),
            // A table that a later version may add.
            (
                "new",
                "CREATE TABLE \"New one\" (\"a file\" BIGINT REFERENCES library_alias(id)); \
                 INSERT INTO \"New one\" VALUES ({})",
            ),
        ] {
            let id = librarian.add(name, name.as_bytes());
            insert += &statement.replace("{}", &id.to_string());
            insert += "; ";
            ids.push((id, name));
        }
        librarian.add("gone", b"gone");
        librarian.db.execute(&insert);
        old.age();
        let said = old.gc();
        assert!(
            said.contains("1 files that nothing refers to were removed"),
            "{said}"
        );
        for (id, name) in ids {
            assert!(old.is_there(id, name), "{name}");
        }
    });
}

#[test]
fn duplicate_contents_are_merged() {
    on_both(|database| {
        let old = Old::start(database);
        let librarian = &old.librarian;
        let first = librarian.add("first", b"hello");
        // Two simultaneous uploads leave rows like these.
        librarian.db.execute(
            "INSERT INTO library_content (id, size, sha1, sha256, md5, created_at) \
               SELECT 77, size, sha1, sha256, md5, created_at FROM library_content; \
             INSERT INTO library_content (id, size, sha1, sha256, md5, created_at) \
               SELECT 78, size, 'another', sha256, md5, created_at FROM library_content \
               WHERE id = 77; \
             INSERT INTO library_alias (id, content_id, filename, mimetype, created_at) \
               SELECT 177, 77, 'second', 'x/y', created_at FROM library_alias; \
             INSERT INTO library_alias (id, content_id, filename, mimetype, created_at) \
               SELECT 178, 78, 'odd', 'x/y', created_at FROM library_alias WHERE id = 177",
        );
        let said = old.gc();
        assert!(said.contains("1 contents were merged"), "{said}");
        assert_eq!(old.left(), (3, 2, 1));
        assert!(old.is_there(first, "first") && old.is_there(177, "second"));
        let same = "SELECT COUNT(DISTINCT content_id) FROM library_alias WHERE id <> 178";
        assert_eq!(librarian.number(same), 1);
    });
}

#[test]
fn blobs_without_rows_are_removed_after_a_day() {
    let old = Old::start(None);
    let librarian = &old.librarian;
    librarian.add("orphan", b"orphan");
    let kept = librarian.add("kept", b"kept");
    librarian
        .db
        .execute("DELETE FROM library_alias WHERE filename = 'orphan'");
    librarian.age_blobs(23 * HOUR);
    assert!(old.gc().contains("1 contents without a file were removed"));
    assert_eq!(old.left(), (1, 1, 2), "the blob is not a day old");
    librarian.age_blobs(25 * HOUR);
    let (_, said) = librarian.run(&["gc", "--dry-run"]);
    assert!(
        said.contains("1 blobs (6 bytes) would be removed"),
        "{said}"
    );
    assert!(old.gc().contains("1 blobs (6 bytes) were removed"));
    assert_eq!(old.left(), (1, 1, 1));
    assert!(old.is_there(kept, "kept"));
}

#[test]
fn tokens_are_removed_after_a_day() {
    let old = Old::start(None);
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
    old.librarian.db.execute(&format!(
        "INSERT INTO library_token (alias_id, token_sha256, created_at) \
         VALUES (1, 'young', {now}), (1, 'old', {now} - 90000000)"
    ));
    old.gc();
    assert_eq!(old.librarian.count("library_token"), 1);
}

#[test]
fn a_running_librarian_collects_garbage_by_itself() {
    on_both(|database| {
        let mut librarian = Librarian::start(database, "");
        librarian.add("gone", b"gone");
        librarian
            .db
            .execute("UPDATE library_alias SET created_at = 0");
        librarian.age_blobs(30 * 24 * HOUR);
        let kept = librarian.add("kept", b"kept");
        librarian.stop();
        librarian.set("gc_interval = 1");
        librarian.restart();
        until("one file that is left", || {
            let rows = librarian.count("library_alias") + librarian.count("library_content");
            (rows == 2 && librarian.blobs().len() == 1).then_some(())
        });
        assert_eq!(librarian.get(&format!("/{kept}/kept")).status, 200);
        let said = librarian.said();
        assert!(said.contains("1 blobs (4 bytes) were removed"), "{said}");
    });
}

#[test]
fn a_dry_run_only_reads() {
    on_both(|database| {
        let old = Old::start(database);
        old.librarian.add("gone", b"gone");
        old.age();
        // It would wait for this lock, and give up.
        let held = old.librarian.db.hold();
        let began = Instant::now();
        let (code, said) = old.librarian.run(&["gc", "--dry-run"]);
        let took = began.elapsed();
        drop(held);
        assert_eq!(code, Some(0), "{said}");
        assert!(
            said.contains("1 blobs (4 bytes) would be removed"),
            "{said}"
        );
        assert!(took < Duration::from_secs(5), "{took:?}");
    });
}

#[test]
fn a_dry_run_counts_what_a_collection_removes() {
    on_both(|database| {
        let old = Old::start(database);
        let librarian = &old.librarian;
        for name in ["gone", "expired", "kept"] {
            librarian.add(name, name.as_bytes());
        }
        librarian.db.execute(
            "UPDATE library_alias SET expires_at = 1 WHERE filename = 'expired'; \
             INSERT INTO library_content (id, size, sha1, sha256, md5, created_at) \
               SELECT id + 70, size, sha1, sha256, md5, created_at FROM library_content; \
             UPDATE library_content SET sha256 = '' WHERE id IN (71, 72)",
        );
        refer(&old, 3);
        old.age();
        let (_, counted) = librarian.run(&["gc", "--dry-run"]);
        let removed = old.gc();
        assert_eq!(counted.replace("would be", "were"), removed);
        assert!(removed.contains("1 contents were merged"), "{removed}");
        assert!(removed.contains("4 contents without a file"), "{removed}");
        assert_eq!(old.left(), (1, 1, 1));
    });
}

#[test]
fn gc_removes_nothing_from_an_unknown_schema() {
    let old = Old::start(None);
    old.librarian.add("a", b"a");
    old.librarian.db.execute("DROP TABLE source_file");
    old.age();
    let (code, said) = old.librarian.run(&["gc"]);
    assert_eq!(code, Some(1));
    assert!(
        said.contains("only 5 columns") && said.contains("nothing is removed"),
        "{said}"
    );
    assert_eq!(old.left(), (1, 1, 1));
}

#[test]
fn an_upload_of_bytes_that_gc_is_removing_is_kept() {
    on_both(|database| {
        let old = Old::start(database);
        let librarian = &old.librarian;
        let body = b"the same again";
        for round in 0..4 {
            librarian.add("before", body);
            old.age();
            let name = format!("round-{round}");
            let ids: Vec<i64> = std::thread::scope(|scope| {
                let gc = scope.spawn(|| old.gc());
                let uploads = (0..6).map(|_| librarian.add(&name, body)).collect();
                gc.join().unwrap();
                uploads
            });
            for id in ids {
                let file = librarian.get(&format!("/{id}/{name}"));
                assert_eq!(
                    (file.status, file.body.as_slice()),
                    (200, body.as_slice()),
                    "{round}"
                );
            }
        }
    });
}

/// The same race step by step, with row locks.
#[test]
fn an_upload_and_gc_wait_for_each_other_on_postgresql() {
    let Some(url) = database() else {
        return;
    };
    let old = Old::start(Some(url.clone()));
    let librarian = &old.librarian;
    librarian.add("before", b"hello");
    librarian.db.execute("DELETE FROM library_alias");
    let mut other = postgres::Client::connect(&url, postgres::NoTls).unwrap();

    // An upload has found the content and has no alias yet: gc keeps the content.
    let mut upload = other.transaction().unwrap();
    let hold = "SELECT id FROM library_content FOR KEY SHARE";
    let content: i64 = upload.query_one(hold, &[]).unwrap().get(0);
    assert!(old.gc().contains("0 contents without a file"));
    let alias = format!(
        "INSERT INTO library_alias (content_id, filename, mimetype, created_at) \
         VALUES ({content}, 'held', 'x/y', 0)"
    );
    upload.batch_execute(&alias).unwrap();
    upload.commit().unwrap();
    assert_eq!(librarian.count("library_content"), 1);

    // gc has deleted the content and not committed: an upload waits and stores the content again.
    let mut gc = other.transaction().unwrap();
    gc.batch_execute("DELETE FROM library_alias; DELETE FROM library_content")
        .unwrap();
    let id = std::thread::scope(|scope| {
        let upload = scope.spawn(|| librarian.add("after", b"hello"));
        let waiting = "SELECT COUNT(*) FROM pg_stat_activity \
                       WHERE wait_event_type = 'Lock' AND datname = current_database()";
        until("an upload that waits", || {
            (librarian.number(waiting) == 1).then_some(())
        });
        gc.commit().unwrap();
        upload.join().unwrap()
    });
    assert!(old.is_there(id, "after"));
}
