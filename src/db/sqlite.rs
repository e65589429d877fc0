//! Opens SQLite, runs statements and translates errors. The only file that names `rusqlite`.
//!
//! It uses the write-ahead log, foreign keys and a busy timeout of ten seconds. A commit survives a
//! crash of any process. A power cut may lose the last commits, always in order.
//!
//! Nothing else in this program opens the database's files. By the rules of POSIX, closing any
//! descriptor of a file cancels all locks that the process holds on it. Without its locks, another
//! program takes the database for unused and deletes the write-ahead log.

use std::path::Path;
use std::time::Duration;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{ErrorCode, ToSql, params_from_iter};

use super::Error;
use super::new_file;
use super::value::{Row, Value};

const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// The number of prepared statements to cache.
const PREPARED: usize = 128;

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
