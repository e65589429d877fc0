//! Opens SQLite, runs statements and translates errors. The only file that names `rusqlite`.
//!
//! It uses the write-ahead log, foreign keys and a busy timeout of ten seconds. A commit survives a
//! crash of any process. A power cut may lose the last commits, always in order.
//!
//! Nothing else in this program opens the database's files. By the rules of POSIX, closing any
//! descriptor of a file cancels all locks that the process holds on it. Without its locks, another
//! program takes the database for unused and deletes the write-ahead log.

use std::path::Path;
use std::thread;
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{ErrorCode, ToSql, params_from_iter};

use super::Error;
use super::new_file;
use super::value::{Row, Value};

const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// The number of prepared statements to cache.
const PREPARED: usize = 128;
/// Pages of a step of a copy, and the pause after it, which leaves the disk to the writers.
const STEP_PAGES: i32 = 512;
const STEP_PAUSE: Duration = Duration::from_millis(2);

pub(super) struct Connection {
    connection: rusqlite::Connection,
    at: String,
}

impl Connection {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let at = path.display().to_string();
        let wrap = |error| wrap(&at, "opening", error);
        if !path.exists() {
            // If the file cannot be created, SQLite reports the error.
            let _ = new_file::create(path, None);
        }
        let connection = rusqlite::Connection::open(path).map_err(wrap)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(wrap)?;
        connection.set_prepared_statement_cache_capacity(PREPARED);
        connection
            .execute_batch(
                "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON;",
            )
            .map_err(wrap)?;
        Ok(Self { connection, at })
    }

    pub(super) fn batch(&mut self, sql: &str) -> Result<(), Error> {
        let done = self.connection.execute_batch(sql);
        done.map_err(|error| wrap(&self.at, sql, error))
    }

    pub(super) fn query(&mut self, sql: &str, params: &[Value]) -> Result<Vec<Row>, Error> {
        let translated = translate(sql);
        let run = || {
            let mut statement = self.connection.prepare_cached(&translated)?;
            let columns = statement.column_count();
            let mut rows = statement.query(params_from_iter(params))?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                let values = (0..columns).map(|index| row.get_ref(index).map(read));
                found.push(Row(values.collect::<Result<_, _>>()?));
            }
            Ok(found)
        };
        run().map_err(|error| wrap(&self.at, sql, error))
    }

    pub(super) fn execute(&mut self, sql: &str, params: &[Value]) -> Result<u64, Error> {
        let translated = translate(sql);
        let run = || {
            let mut statement = self.connection.prepare_cached(&translated)?;
            statement.execute(params_from_iter(params))
        };
        run()
            .map(|count| count as u64)
            .map_err(|error| wrap(&self.at, sql, error))
    }

    /// Returns whether a transaction is open; a failed statement may have ended it.
    pub(super) fn in_transaction(&self) -> bool {
        !self.connection.is_autocommit()
    }

    /// Copies the database to the new file `to`, in steps. The copy is one state of the database:
    /// a read transaction is open from the first step to the last, so that a write by others does
    /// not start the copy again. `progress` gets the pages copied and the pages in all.
    pub(super) fn copy_to(
        &mut self,
        to: &Path,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(), Error> {
        self.batch("BEGIN")?;
        self.query("SELECT COUNT(*) FROM sqlite_master", &[])?;
        let copied = copy(&self.connection, to, STEP_PAGES, STEP_PAUSE, progress);
        self.batch("ROLLBACK")?;
        copied
    }
}

/// Replaces the content of the database `to` by that of the database `from`, in one transaction.
/// The file `to` is created if it is absent.
pub(super) fn load(from: &Path, to: &Path) -> Result<(), Error> {
    drop(Connection::open(to)?);
    let source = open_plain(from)?;
    copy(&source, to, -1, Duration::ZERO, &mut |_, _| {})
}

/// Leaves a database that no other process uses in one file, without a trace of deleted values.
pub(super) fn compact(path: &Path) -> Result<(), Error> {
    let sql = "PRAGMA journal_mode=DELETE; VACUUM";
    let done = open_plain(path)?.execute_batch(sql);
    done.map_err(|error| wrap(&path.display().to_string(), sql, error))
}

fn open_plain(path: &Path) -> Result<rusqlite::Connection, Error> {
    let wrap = |error| wrap(&path.display().to_string(), "opening", error);
    let connection = rusqlite::Connection::open(path).map_err(wrap)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(wrap)?;
    Ok(connection)
}

/// Copies a database into the file `to`, with a pause after each step.
fn copy(
    from: &rusqlite::Connection,
    to: &Path,
    pages: i32,
    pause: Duration,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<(), Error> {
    let at = to.display().to_string();
    let wrap = |error| wrap(&at, "copying", error);
    let mut target = open_plain(to)?;
    let backup = Backup::new(from, &mut target).map_err(wrap)?;
    loop {
        match backup.step(pages).map_err(wrap)? {
            StepResult::Done => return Ok(()),
            StepResult::More => {}
            // Another process has locked one of the files.
            _ => return Err(Error::Busy(format!("{at} is locked"))),
        }
        let steps = backup.progress();
        let count = |pages: i32| u64::try_from(pages).unwrap_or(0);
        let all = count(steps.pagecount);
        progress(all - count(steps.remaining).min(all), all);
        thread::sleep(pause);
    }
}

/// Replaces `$1` by `?1`, because `$1` is a named parameter in SQLite. Removes `{SKIP LOCKED}`:
/// with one writer there are no row locks.
fn translate(sql: &str) -> String {
    sql.replace('$', "?").replace("{SKIP LOCKED}", "")
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Int(number) => ValueRef::Integer(*number),
            Self::Bool(flag) => ValueRef::Integer(i64::from(*flag)),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
        }))
    }
}

/// Converts a column. The schema has neither fractions nor blobs.
fn read(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Null,
        ValueRef::Integer(number) => Value::Int(number),
        ValueRef::Real(number) => Value::Text(number.to_string()),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
            Value::Text(String::from_utf8_lossy(bytes).into_owned())
        }
    }
}

fn wrap(at: &str, sql: &str, error: rusqlite::Error) -> Error {
    let problem = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::Busy(problem),
        Some(ErrorCode::ConstraintViolation) => Error::Constraint(problem),
        Some(
            ErrorCode::CannotOpen
            | ErrorCode::DiskFull
            | ErrorCode::ReadOnly
            | ErrorCode::SystemIoFailure
            | ErrorCode::NotADatabase
            | ErrorCode::DatabaseCorrupt
            | ErrorCode::PermissionDenied,
        ) => Error::Lost {
            at: at.to_owned(),
            problem,
        },
        _ => Error::Query {
            sql: sql.to_owned(),
            problem,
        },
    }
}
