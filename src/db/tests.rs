//! Runs the same tests on both engines.

#[path = "../../tests/farm/support/postgres.rs"]
#[allow(clippy::print_stderr)]
mod server;

mod lost;
mod upgrade;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::thread;

use super::*;

/// A database in a temporary folder.
pub(crate) struct Scratch {
    pub(crate) db: Db,
    pub(crate) dir: tempfile::TempDir,
}

/// Makes an empty SQLite database.
pub(crate) fn scratch() -> Scratch {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(dir.path().join("farm.db").to_str().unwrap()).unwrap();
    Scratch { db, dir }
}

/// Runs a test on an empty database of each engine, except PostgreSQL if it is not installed.
pub(crate) fn both(test: impl Fn(&Db)) {
    both_at(|url| test(&Db::open(url).unwrap()));
}

/// Like [`both`], for tests that open the database more than once, as several processes would. It
/// does not exist yet.
pub(crate) fn both_at(test: impl Fn(&str)) {
    let dir = tempfile::tempdir().unwrap();
    test(dir.path().join("farm.db").to_str().unwrap());
    if let Some(url) = server::database() {
        test(&url);
    }
}

fn add(tx: &mut Tx<'_>, name: &str) -> Result<i64, Error> {
    let sql = "INSERT INTO processor (name, family) VALUES ($1, $2) RETURNING id";
    tx.query_one(sql, &params![name, "x86"])?.get(0)
}

#[test]
fn writes_are_read_back_and_failed_ones_are_rolled_back() {
    both(|db| {
        let id = db.write(|tx| add(tx, "386")).unwrap();
        let refused = db.write(|tx| {
            add(tx, "amd64")?;
            Err::<(), _>(Error::Refused("no".to_owned()))
        });
        assert_eq!(refused.unwrap_err().to_string(), "no");
        let again = db.write(|tx| add(tx, "386"));
        assert!(matches!(again, Err(Error::Constraint(_))), "{again:?}");
        let rows = db.read(|tx| tx.query("SELECT id, name, family FROM processor", &[]));
        let rows = rows.unwrap();
        let [row] = &rows[..] else { panic!("{rows:?}") };
        assert_eq!(
            (row.get(0).unwrap(), row.get(1).unwrap()),
            (id, "386".to_owned())
        );
        assert!(matches!(row.get::<i64>(1), Err(Error::Column { .. })));
    });
}

#[test]
fn concurrent_writers_lose_no_rows() {
    both(|db| {
        thread::scope(|scope| {
            for writer in 0..8 {
                scope.spawn(move || {
                    for n in 0..20 {
                        db.write(|tx| add(tx, &format!("{writer}-{n}"))).unwrap();
                    }
                });
            }
        });
        let count = db.read(|tx| tx.query_one("SELECT count(*) FROM processor", &[]));
        assert_eq!(count.unwrap().get::<i64>(0).unwrap(), 160);
    });
}

#[test]
fn a_newer_database_is_refused() {
    both_at(|url| {
        let newer = |tx: &mut Tx<'_>| tx.execute("UPDATE schema_version SET version = 99", &[]);
        Db::open(url).unwrap().write(newer).unwrap();
        let error = Db::open(url).err().unwrap().to_string();
        assert!(
            error.contains("of a newer buildd-slave (schema 99, this one knows"),
            "{error}"
        );
    });
}

#[test]
fn processes_that_start_together_migrate_once() {
    both_at(|url| {
        thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| Db::open(url).unwrap());
            }
        });
        let db = Db::open(url).unwrap();
        let versions = db.read(|tx| tx.query("SELECT version FROM schema_version", &[]));
        assert_eq!(versions.unwrap().len(), 1);
    });
}

#[test]
fn only_the_owner_may_read_a_new_sqlite_database() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("farm.db");
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| Db::open(path.to_str().unwrap()).unwrap());
        }
        let db = Db::open(path.to_str().unwrap()).unwrap();
        db.write(|tx| add(tx, "386")).unwrap();
        let mut found: Vec<(String, u32)> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| !entry.file_name().to_string_lossy().contains(".new-"))
            .map(|entry| {
                let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
                (entry.file_name().into_string().unwrap(), mode)
            })
            .collect();
        found.sort();
        let expected = ["farm.db", "farm.db-shm", "farm.db-wal"];
        assert_eq!(found, expected.map(|name| (name.to_owned(), 0o600)));
    });
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn an_existing_sqlite_file_keeps_its_mode() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("farm.db");
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    Db::create_file(path.to_str().unwrap(), (0, 0)).unwrap();
    drop(Db::open(path.to_str().unwrap()).unwrap());
    let mode = path.metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
}

#[test]
fn the_clock_of_the_database_counts_milliseconds_since_1970() {
    both(|db| {
        let host = || {
            let now = std::time::SystemTime::now();
            let since = now.duration_since(std::time::UNIX_EPOCH).unwrap();
            i64::try_from(since.as_millis()).unwrap()
        };
        let before = host();
        let [first, second] = db.write(|tx| Ok([tx.now()?, tx.now()?])).unwrap();
        // Rounded by at most a millisecond.
        assert!(before - 1 <= first && first <= second && second <= host() + 1);
    });
}

#[test]
fn an_unreachable_database_is_named_without_its_password() {
    let error = Db::open("/nonexistent/farm.db").err().unwrap().to_string();
    assert!(error.contains("does its folder exist"), "{error}");
    let error = Db::open("postgresql://u:secret@127.0.0.1:1/farm")
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("farm at 127.0.0.1") && error.contains("is PostgreSQL running there?"),
        "{error}"
    );
    assert!(!error.contains("secret"), "{error}");
}
