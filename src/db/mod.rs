//! One small interface to SQLite, for farms on one host, and PostgreSQL, for larger ones.
//!
//! The same SQL runs on both: `$1`, `$2` are parameters, `{SKIP LOCKED}` skips rows that another
//! transaction has locked. A transaction is a closure. It may run again after the database was busy
//! or lost, so it must have no other side effects. This folder knows no table but `schema_version`.

mod backup;
mod connection;
mod migrate;
mod new_file;
mod pace;
#[cfg(debug_assertions)]
mod plan;
#[cfg(all(debug_assertions, not(test)))]
mod plan_log;
mod pool;
mod postgres;
mod sqlite;
#[cfg(test)]
pub(crate) mod tests;
mod tls;
mod tx;
mod url;
mod value;

pub(crate) use backup::{Content, compact_sqlite, load_sqlite};
pub(crate) use pace::Pace;
pub(crate) use pool::Db;
pub(crate) use tx::Tx;
pub(crate) use value::{Column, Row, Value, params};

/// The database engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Sqlite,
    Postgres,
}

/// Why a database operation failed. No message contains a password.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("not a database URL: {0:?}; write a path, or postgresql://USER@HOST/NAME")]
    Url(String),
    #[error("[database] url: {0}")]
    Tls(String),
    /// The database cannot be reached, or the connection broke.
    #[error("database {at}: {problem}{}", advice(problem))]
    Lost { at: String, problem: String },
    /// Other transactions held the locks, and every retry failed.
    #[error("the database is busy; gave up after retries: {0}")]
    Busy(String),
    /// The connection broke during a commit, so its outcome is unknown.
    #[error(
        "the connection to the database broke during a commit; it is unknown whether the changes \
         were saved: {0}"
    )]
    CommitUnknown(String),
    #[error(
        "database {at} is of a newer buildd-slave (schema {found}, this one knows {known}): \
         upgrade this program, or restore a backup from before the upgrade"
    )]
    Newer { at: String, found: i64, known: i64 },
    /// A constraint of the schema failed; for example, a name exists already.
    #[error("the database refused the change: {0}")]
    Constraint(String),
    #[error("database: {problem} in: {sql}")]
    Query { sql: String, problem: String },
    #[error("database: column {index} is {found}, not {expected}")]
    Column {
        index: usize,
        found: &'static str,
        expected: &'static str,
    },
    #[error("database: no row for: {0}")]
    NoRow(String),
    /// The caller's reason to roll the transaction back.
    #[error("{0}")]
    Refused(String),
}

/// Returns what to check if the database cannot be reached.
fn advice(problem: &str) -> &'static str {
    if problem.contains("unable to open database file") {
        ": does its folder exist, and may this user write there?"
    } else if problem.contains("refused") || problem.contains("No such file") {
        ": is PostgreSQL running there?"
    } else {
        ""
    }
}
