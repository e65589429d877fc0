//! Removals of many rows block no writer for long.
//!
//! `BUILDD_GC_CANDIDATES` (default 3000) is the number of files and of rows to remove; with 100,000
//! the figures are those of docs/farm.md §3.12. They are printed, and checked loosely: the machine
//! of a test may be busy.

use std::fs;
use std::os::unix::fs::chown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::support::database::Database;
use super::support::farm::on_both_engines;
use super::support::{Engine, Farm, QUICK, from_env};
use crate::support::within;

on_both_engines! {
    many_files_and_rows_are_removed_without_blocking_writers
}

/// Far more than a writer waits on an idle machine.
const LONGEST_WAIT: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(600);

/// A recursive query that counts from 1 as `n.i`.
fn numbers(count: i64) -> String {
    format!("WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})")
}

/// The SHA-256 in the row `i`: not the hash of the bytes, which nobody reads.
fn sha256(i: i64) -> String {
    let scattered = i.wrapping_mul(2_654_435_761) & 0xffff_ffff;
    format!("{scattered:08x}{i:056x}")
}

/// Adds `count` old files that nothing refers to, and as many that sources refer to.
fn add_files(farm: &Farm, count: i64) {
    let root = farm.path("home/librarian");
    let owner = fs::metadata(&root).unwrap();
    let owner = {
        use std::os::unix::fs::MetadataExt as _;
        (owner.uid(), owner.gid())
    };
    let then = SystemTime::now() - Duration::from_secs(30 * 24 * 3600);
    let rows: Vec<i64> = (1..=2 * count).collect();
    for rows in rows.chunks(1000) {
        let mut values = Vec::new();
        for &i in rows {
            let hash = sha256(i);
            values.push(format!("({}, 4, 'sha1-{i}', '{hash}', '', 0)", i + 1000));
            let outer = root.join(&hash[..2]);
            let inner = outer.join(&hash[2..4]);
            if !inner.is_dir() {
                fs::create_dir_all(&inner).unwrap();
                chown(&outer, Some(owner.0), Some(owner.1)).unwrap();
                chown(&inner, Some(owner.0), Some(owner.1)).unwrap();
            }
            let path = inner.join(hash);
            let mut file = fs::File::create(path).unwrap();
            std::io::Write::write_all(&mut file, b"blob").unwrap();
            file.set_modified(then).unwrap();
        }
        farm.db.execute(&format!(
            "INSERT INTO library_content (id, size, sha1, sha256, md5, created_at) VALUES {}; \
             INSERT INTO library_alias (id, content_id, filename, mimetype, created_at) \
               SELECT id, id, 'file' || id, 'x/y', 0 FROM library_content \
               WHERE id BETWEEN {} AND {}",
            values.join(","),
            rows[0] + 1000,
            rows[rows.len() - 1] + 1000,
        ));
    }
    farm.db.execute(&format!(
        "{} INSERT INTO source (id, name, version, component, arch_hint, upload_archive_id, \
           created_at) SELECT i, 'kept' || i, '1', 'main', 'any', 1, 0 FROM n",
        numbers(count)
    ));
    farm.db.execute(&format!(
        "{} INSERT INTO source_file (source_id, alias_id, filetype) \
           SELECT i, 1000 + {count} + i, 3 FROM n",
        numbers(count)
    ));
}

/// Adds rows that retention removes: two fifths of `count` are attempts, two fifths events, and a
/// fifth the rows of sources.
fn add_rows(farm: &Farm, count: i64) {
    let first = 10_000_000;
    let (builds, events, sources) = (count / 5, count * 2 / 5, count / 25);
    for sql in [
        // Two attempts of five go.
        format!(
            "{} INSERT INTO build (id, source_id, arch_series_id, archive_id, processor_id, state, \
               created_at, finished_at) SELECT i, i, 1, 1, 1, 1, 0, 1 FROM n",
            numbers(builds)
        ),
        "INSERT INTO attempt (build_id, number, cookie, started_at, ended_at, verdict) \
           SELECT b.id, n.number, b.id || '-1.' || n.number, 0, 1, 1 FROM build b \
           CROSS JOIN (SELECT 1 AS number UNION SELECT 2 UNION SELECT 3 UNION SELECT 4 \
             UNION SELECT 5) n"
            .to_owned(),
        format!(
            "{} INSERT INTO event (at, level, kind, message) SELECT 1, 3, 'x', 'old' FROM n",
            numbers(events)
        ),
        // Three versions of a name stay, each fourth goes with its publication and build.
        format!(
            "{} INSERT INTO source (id, name, version, component, arch_hint, upload_archive_id, \
               created_at) SELECT {first} + i, 'old' || (i / 4), (i % 4) || '.0', 'main', 'any', \
               1, 0 FROM n",
            numbers(sources * 4)
        ),
        format!(
            "INSERT INTO publication (source_id, series_id, archive_id, pocket, component, status, \
               created_at) SELECT id, 1, 1, 0, 'main', 3, 0 FROM source WHERE id > {first}"
        ),
        format!(
            "INSERT INTO build (id, source_id, arch_series_id, archive_id, processor_id, state, \
               created_at, finished_at) SELECT id, id, 1, 1, 1, 5, 0, 1 FROM source \
               WHERE id > {first}"
        ),
        format!(
            "INSERT INTO event (at, level, kind, build_id, message) \
               SELECT 1, 3, 'ended', id, 'x' FROM build WHERE id > {first}"
        ),
    ] {
        farm.db.execute(&sql);
    }
}

/// Ends a writer when dropped.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A writer with its own connection: a short transaction every few milliseconds.
struct Writer {
    /// The longest times of a transaction, the longest first.
    waits: Vec<Duration>,
}

impl Writer {
    /// Writes as long as `work` takes.
    fn beside<T>(db: &Database, work: impl FnOnce() -> T) -> (T, Self) {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut write = connection(db);
                let mut waits = Vec::new();
                while !done.load(Ordering::SeqCst) {
                    let began = Instant::now();
                    write();
                    waits.push(began.elapsed());
                    thread::sleep(Duration::from_millis(3));
                }
                waits.sort_unstable();
                waits.reverse();
                Self { waits }
            });
            // The writer also ends if `work` panics.
            let end = End(&done);
            let result = work();
            drop(end);
            (result, writer.join().unwrap())
        })
    }

    fn report(&self, what: &str, took: Duration) {
        eprintln!(
            "{what}: {took:.1?}; {} transactions of another writer, the longest {:.0?}, 99 % {:.0?}",
            self.waits.len(),
            self.waits[0],
            self.waits[self.waits.len() / 100],
        );
        assert!(self.waits[0] < LONGEST_WAIT, "{:?}", self.waits[0]);
    }
}

/// Returns a function that writes one row in a transaction.
fn connection(db: &Database) -> Box<dyn FnMut()> {
    let sql = "UPDATE builder SET failure_count = failure_count + 1 WHERE id = 1";
    match db {
        Database::Sqlite(path) => {
            let connection = rusqlite::Connection::open(path).unwrap();
            connection.busy_timeout(Duration::from_secs(60)).unwrap();
            let normal = "PRAGMA synchronous=NORMAL";
            connection.execute_batch(normal).unwrap();
            Box::new(move || {
                connection.execute(sql, []).unwrap();
            })
        }
        Database::Postgres(url) => {
            let mut client = postgres::Client::connect(url, postgres::NoTls).unwrap();
            Box::new(move || {
                client.execute(sql, &[]).unwrap();
            })
        }
    }
}

fn many_files_and_rows_are_removed_without_blocking_writers(engine: Engine) {
    let count: i64 = from_env("BUILDD_GC_CANDIDATES", 3000);
    let farm = Farm::new(engine, "");
    farm.configure(&format!("{QUICK}retention_interval = 1\n"));
    farm.furnish();
    farm.db.execute(
        "INSERT INTO builder (id, name, url, created_at) VALUES (1, 'bob', 'http://bob/', 0)",
    );
    // Migration 7 makes these.
    farm.db.execute(
        "CREATE INDEX IF NOT EXISTS source_file_alias ON source_file (alias_id); \
         CREATE INDEX IF NOT EXISTS chroot_alias ON chroot (alias_id); \
         CREATE INDEX IF NOT EXISTS build_log ON build (log_alias_id) \
           WHERE log_alias_id IS NOT NULL; \
         CREATE INDEX IF NOT EXISTS build_upload_log ON build (upload_log_alias_id) \
           WHERE upload_log_alias_id IS NOT NULL; \
         CREATE INDEX IF NOT EXISTS build_source ON build (source_id, archive_id); \
         CREATE INDEX IF NOT EXISTS event_at ON event (at); \
         CREATE INDEX IF NOT EXISTS notification_build ON notification (build_id); \
         CREATE INDEX IF NOT EXISTS library_token_created ON library_token (created_at)",
    );
    add_files(&farm, count);
    let began = Instant::now();
    let (said, writer) = Writer::beside(&farm.db, || {
        let output = farm.farm_command(&["librarian", "gc"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    });
    writer.report(&format!("gc of {count} files"), began.elapsed());
    // One more is of `furnish`.
    let expect = format!("{} files that nothing refers to were removed", count + 1);
    assert!(said.contains(&expect), "{said}");
    assert!(said.contains(&format!("{count} blobs")), "{said}");

    add_rows(&farm, count);
    let (took, writer) = Writer::beside(&farm.db, || {
        let began = Instant::now();
        let master = farm.master("master");
        within(LIMIT, "the end of a pass", || {
            let said = master.said().0;
            said.contains("removed what the archives no longer keep")
                .then_some(())
        });
        let took = began.elapsed();
        master.stop();
        took
    });
    writer.report(&format!("retention of {count} rows"), took);
    for (table, expect) in [
        ("attempt", count / 5 * 3),
        ("event", 0),
        ("source", count + count / 25 * 3),
    ] {
        let sql = format!("SELECT COUNT(*) FROM {table}");
        let left = farm.db.number(&sql);
        // A name at either end of the numbers has fewer versions.
        assert!((left - expect).abs() <= 6, "{table}: {left}, not {expect}");
    }
}
