//! Upgrades the database of every earlier version, as its program left it.
//!
//! `tests/fixtures/schema/` has a dump of each version and engine. CONTRIBUTING.md, "Add a
//! migration", says how to make the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::super::connection::Connection;
use super::super::migrate::{MIGRATIONS, upgrade};
use super::super::url::Location;
use super::super::{postgres, sqlite};
use super::{both_at, server};
use crate::db::{Db, Engine, Error, Row, Tx, Value};

/// Columns that a migration changes in existing rows: its number, the table and the column. `*` is
/// every column, for a migration that removes or adds rows.
const CHANGED: &[(usize, &str, &str)] = &[];

fn fixture(version: usize, engine: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join(format!("tests/fixtures/schema/{version:04}.{engine}.sql"))
}

fn read_fixture(version: usize, engine: &str) -> String {
    let path = fixture(version, engine);
    fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!(
            "{}: {error}; CONTRIBUTING.md, \"Add a migration\", says how to make it",
            path.display()
        )
    })
}

/// Loads the fixture of a version into the empty database at `url`.
fn load(url: &str, version: usize) {
    match Location::parse(url).unwrap() {
        Location::Sqlite(path) => {
            let mut connection = sqlite::Connection::open(&path).unwrap();
            connection.batch(&read_fixture(version, "sqlite")).unwrap();
        }
        Location::Postgres(server) => {
            let mut connection = postgres::Connection::open(&server).unwrap();
            connection
                .batch(&read_fixture(version, "postgresql"))
                .unwrap();
        }
    }
}

/// Runs `work` in a transaction without an upgrade of the schema.
fn in_transaction<T>(url: &str, work: impl FnOnce(&mut Tx<'_>) -> Result<T, Error>) -> T {
    let mut connection = match Location::parse(url).unwrap() {
        Location::Sqlite(path) => Connection::Sqlite(sqlite::Connection::open(&path).unwrap()),
        Location::Postgres(server) => {
            Connection::Postgres(Box::new(postgres::Connection::open(&server).unwrap()))
        }
    };
    let mut tx = Tx {
        connection: &mut connection,
        failed: false,
    };
    tx.batch("BEGIN").unwrap();
    let done = work(&mut tx).unwrap();
    tx.batch("COMMIT").unwrap();
    done
}

/// The definitions of all tables, columns, constraints and indexes.
fn catalog(tx: &mut Tx<'_>) -> Result<Vec<Row>, Error> {
    let sql = match tx.engine() {
        Engine::Sqlite => {
            "SELECT type, name, tbl_name, sql FROM sqlite_master
             WHERE name NOT LIKE 'sqlite_%' ORDER BY type, name"
        }
        Engine::Postgres => {
            "SELECT 'column' AS kind, CAST(table_name AS TEXT) AS name,
                concat_ws(' ', column_name, data_type, is_nullable, column_default, is_identity,
                    identity_generation) AS definition
             FROM information_schema.columns WHERE table_schema = 'public'
             UNION ALL SELECT 'constraint', CAST(conrelid AS REGCLASS) || ' ' || conname,
                pg_get_constraintdef(oid)
             FROM pg_constraint WHERE connamespace = CAST('public' AS REGNAMESPACE)
             UNION ALL SELECT 'index', CAST(tablename AS TEXT), indexdef
             FROM pg_indexes WHERE schemaname = 'public'
             ORDER BY kind, name, definition"
        }
    };
    tx.query(sql, &[])
}

/// The columns of each table, without the tables of the engine and `schema_version`.
type Columns = BTreeMap<String, BTreeSet<String>>;

fn columns(tx: &mut Tx<'_>) -> Result<Columns, Error> {
    let sql = match tx.engine() {
        Engine::Sqlite => {
            "SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c
             WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite_%'"
        }
        Engine::Postgres => {
            "SELECT CAST(table_name AS TEXT), CAST(column_name AS TEXT)
             FROM information_schema.columns WHERE table_schema = 'public'"
        }
    };
    let mut found = Columns::new();
    for row in tx.query(sql, &[])? {
        let columns = found.entry(row.get(0)?).or_default();
        columns.insert(row.get(1)?);
    }
    found.remove("schema_version");
    Ok(found)
}

/// The rows of some columns of a table, in the same order whenever they are the same.
fn rows(tx: &mut Tx<'_>, table: &str, columns: &BTreeSet<String>) -> Result<Vec<String>, Error> {
    let list: Vec<&str> = columns.iter().map(String::as_str).collect();
    let found = tx.query(&format!("SELECT {} FROM {table}", list.join(", ")), &[])?;
    let mut rows: Vec<String> = found.iter().map(|row| format!("{row:?}")).collect();
    rows.sort();
    Ok(rows)
}

/// Returns the columns that are in both, except those that a migration after `version` changes.
fn kept(before: &Columns, after: &Columns, version: usize) -> Columns {
    let is_changed = |table: &str, column: &str| {
        let mut changes = CHANGED.iter();
        changes.any(|(at, t, c)| *at > version && *t == table && [column, "*"].contains(c))
    };
    let of = |(table, columns): (&String, &BTreeSet<String>)| {
        let now = after.get(table)?;
        let both = columns.intersection(now);
        let both = both.filter(|column| !is_changed(table, column)).cloned();
        Some((table.clone(), both.collect::<BTreeSet<String>>()))
    };
    let tables = before.iter().filter_map(of);
    tables.filter(|(_, columns)| !columns.is_empty()).collect()
}

fn all_rows(tx: &mut Tx<'_>, columns: &Columns) -> Result<Vec<(String, Vec<String>)>, Error> {
    let of = |(table, columns): (&String, &BTreeSet<String>)| {
        Ok((table.clone(), rows(tx, table, columns)?))
    };
    columns.iter().map(of).collect()
}

/// Returns the `url` of an empty database for each use.
fn another(url: &str) -> String {
    match Location::parse(url).unwrap() {
        Location::Sqlite(path) => {
            let other = path.with_extension("other");
            let _ = fs::remove_file(&other);
            other.display().to_string()
        }
        Location::Postgres(_) => server::database().unwrap(),
    }
}

#[test]
fn every_earlier_version_is_upgraded_and_keeps_its_rows() {
    for version in 1..MIGRATIONS.len() {
        both_at(|url| {
            load(url, version);
            let before = in_transaction(url, columns);
            let states = in_transaction(url, |tx| {
                tx.query_one("SELECT COUNT(DISTINCT state) FROM build", &[])
            });
            assert_eq!(states.get::<i64>(0).unwrap(), 12, "{version}");

            let fresh = another(url);
            let fresh = Db::open(&fresh).unwrap();
            // What the upgrade keeps is read before and after it.
            let new = fresh.read(columns).unwrap();
            let kept = kept(&before, &new, version);
            let old_rows = in_transaction(url, |tx| all_rows(tx, &kept));
            let db = Db::open(url).unwrap();
            assert_eq!(
                db.read(catalog).unwrap(),
                fresh.read(catalog).unwrap(),
                "{version}"
            );
            let new_rows = db.read(|tx| all_rows(tx, &kept)).unwrap();
            for ((table, old), (_, new)) in old_rows.iter().zip(&new_rows) {
                assert!(!old.is_empty(), "{version}: {table} is empty");
                assert_eq!(old, new, "{version}: {table}");
            }
            let sql = "PRAGMA foreign_key_check";
            let broken = |tx: &mut Tx<'_>| match tx.engine() {
                Engine::Sqlite => tx.query(sql, &[]),
                Engine::Postgres => Ok(Vec::new()),
            };
            assert_eq!(db.read(broken).unwrap(), [], "{version}");
            let version = db.read(|tx| tx.query("SELECT version FROM schema_version", &[]));
            let known = i64::try_from(MIGRATIONS.len()).unwrap();
            assert_eq!(version.unwrap(), [Row(vec![Value::Int(known)])]);
        });
    }
}

/// Upgrades the fixtures of versions 1 to `last`, and calls `check` with a query for one number.
fn upgraded(last: usize, check: impl Fn(usize, &dyn Fn(&str) -> i64)) {
    for version in 1..=last {
        both_at(|url| {
            load(url, version);
            let db = Db::open(url).unwrap();
            let ask = |sql: &str| {
                let row = db.read(|tx| tx.query_one(sql, &[])).unwrap();
                row.get(0).unwrap()
            };
            check(version, &ask);
        });
    }
}

#[test]
fn rows_of_older_versions_have_the_defaults_of_new_columns() {
    upgraded(3, |version, ask| {
        let emulated = "SELECT COUNT(*) FROM builder_processor WHERE emulated";
        assert_eq!(ask(emulated), 0, "{version}");
    });
    upgraded(1, |_, ask| {
        let asked =
            "SELECT COUNT(*) FROM archive WHERE build_debug_symbols OR build_profiles <> ''";
        assert_eq!(ask(asked), 0);
        assert_eq!(
            ask("SELECT COUNT(*) FROM build_queue WHERE nonce IS NOT NULL"),
            0
        );
    });
}

#[test]
fn builds_of_older_versions_have_their_last_attempt() {
    upgraded(4, |version, ask| {
        let running = "FROM attempt a JOIN build_queue q ON q.build_id = a.build_id
            WHERE a.builder_id = q.builder_id AND a.ended_at IS NULL AND a.verdict IS NULL";
        let jobs = ask("SELECT COUNT(*) FROM build_queue WHERE builder_id IS NOT NULL");
        assert!(jobs >= 3, "{version}");
        let attempts = ask(&format!("SELECT COUNT(*) {running}"));
        assert_eq!(attempts, jobs, "{version}");
        let without_end = ask("SELECT COUNT(*) FROM attempt WHERE ended_at IS NULL");
        assert_eq!(without_end, jobs, "{version}");
        // The states and the verdicts that they mean.
        for (state, verdict) in [(1, 0), (2, 1), (3, 2), (4, 3), (7, 0), (8, 0)] {
            let of_state = format!(
                "FROM attempt a JOIN build b ON b.id = a.build_id
                WHERE b.state = {state} AND a.number = 1 AND a.ended_at = b.finished_at"
            );
            assert_eq!(
                ask(&format!("SELECT COUNT(*) {of_state}")),
                1,
                "{version}: {state}"
            );
            assert_eq!(ask(&format!("SELECT verdict {of_state}")), verdict);
            let logs = format!("SELECT COUNT(*) {of_state} AND a.log_alias_id = b.log_alias_id");
            assert_eq!(ask(&logs), 1, "{version}: {state}");
        }
        // The cookie of a build that was running is the one that its slave knows.
        let cookies = "SELECT COUNT(*) FROM attempt a JOIN build_queue q ON q.build_id = a.build_id
            WHERE q.builder_id IS NOT NULL AND a.cookie LIKE
                CAST(q.build_id AS TEXT) || '-' || CAST(q.id AS TEXT) || '.' ||
                CAST(q.attempt AS TEXT) ||
                CASE WHEN q.nonce IS NULL THEN '' ELSE '-' || q.nonce END";
        assert_eq!(ask(cookies), jobs, "{version}");
    });
}

/// A fixture has the schema that its version made, and the hash of its migration.
#[test]
fn a_landed_migration_never_changes() {
    for version in 1..MIGRATIONS.len() {
        let sum = Sha256::digest(MIGRATIONS[version - 1]);
        let sum: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
        let header = format!("-- SHA-256 of migration {version:04}: {sum}\n");
        for engine in ["sqlite", "postgresql"] {
            let text = read_fixture(version, engine);
            let found = text.split_inclusive('\n').next().unwrap_or_default();
            assert_eq!(found, header, "{}", fixture(version, engine).display());
        }
        both_at(|url| {
            load(url, version);
            let fresh = another(url);
            in_transaction(&fresh, |tx| upgrade(tx, "", &MIGRATIONS[..version]));
            let (found, expected) = (
                in_transaction(url, catalog),
                in_transaction(&fresh, catalog),
            );
            assert_eq!(found, expected, "{version}");
        });
    }
}
