//! Where rows are kept: SQLite on one host, PostgreSQL for many, behind one small interface.
//!
//! The same SQL runs on both: `$1`, `$2` are the parameters, `{SKIP LOCKED}` takes rows that
//! nobody else has. Work is handed in as a closure and may be run again when the database was busy
//! or had gone, so nothing but rows is touched inside. Knows no table but its own version.

mod migrate;
mod pool;
mod postgres;
mod sqlite;
#[cfg(test)]
pub(crate) mod tests;
mod tx;
mod url;
mod value;

pub(crate) use pool::Db;
pub(crate) use tx::Tx;
pub(crate) use value::{Column, Row, Value, params};

/// Which program keeps the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Sqlite,
    Postgres,
}

/// What the database could not do. No message holds a password.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("not a database: {0:?}: write a path, or postgresql://USER@HOST/NAME")]
    Url(String),
    /// It cannot be reached, or was and is no more.
    #[error("database {at}: {problem}{}", advice(problem))]
    Lost { at: String, problem: String },
    /// Somebody else was quicker, over and over.
    #[error("the database is too busy: {0}")]
    Busy(String),
    /// The connection broke while the transaction was being committed.
    #[error(
        "the database was lost in the middle of a commit; whether it took location is not known: {0}"
    )]
    CommitUnknown(String),
    #[error(
        "database {at} is of a newer buildd-slave (schema {found}, this one knows {known}): upgrade this program"
    )]
    Newer { at: String, found: i64, known: i64 },
    /// A rule of the schema forbids it: a name that is there already, say.
    #[error("the database refuses it: {0}")]
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
    /// Not the database's word but the caller's: nothing is to be written, for this reason.
    #[error("{0}")]
    Refused(String),
}

/// Says what to do about a database that cannot be reached.
fn advice(problem: &str) -> &'static str {
    if problem.contains("unable to open database file") {
        ": does its folder exist, and may this user write there?"
    } else if problem.contains("refused") || problem.contains("No such file") {
        ": is PostgreSQL running there?"
    } else {
        ""
    }
}
