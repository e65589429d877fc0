//! Runs statements inside a transaction, on either engine.

use super::connection::Connection;
use super::value::{Row, Value};
use super::{Engine, Error};

/// A transaction in progress.
pub(crate) struct Tx<'a> {
    pub(super) connection: &'a mut Connection,
    /// A statement failed. PostgreSQL refuses to commit after that, so SQLite does the same.
    pub(super) failed: bool,
}

impl Tx<'_> {
    /// Returns the engine, for SQL that differs between engines.
    pub(crate) fn engine(&self) -> Engine {
        self.connection.engine()
    }

    /// Returns the time by the database's clock, in milliseconds since 1970. All processes of a
    /// farm share this clock: the server's, or that of the only host of an SQLite database.
    pub(crate) fn now(&mut self) -> Result<i64, Error> {
        let sql = match self.engine() {
            Engine::Sqlite => "SELECT CAST(round(unixepoch('now', 'subsec') * 1000) AS INTEGER)",
            Engine::Postgres => {
                "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)"
            }
        };
        self.query_one(sql, &[])?.get(0)
    }

    /// Runs a statement and returns all rows of its result.
    pub(crate) fn query(&mut self, sql: &str, params: &[Value]) -> Result<Vec<Row>, Error> {
        #[cfg(all(debug_assertions, not(test)))]
        super::plan_log::record(self.connection, sql, params);
        let result = self.connection.query(sql, params);
        self.failed |= result.is_err();
        result
    }

    /// Like [`Tx::query`], but returns only the first row, if any.
    pub(crate) fn query_opt(&mut self, sql: &str, params: &[Value]) -> Result<Option<Row>, Error> {
        Ok(self.query(sql, params)?.into_iter().next())
    }

    /// Like [`Tx::query`], but returns only the first row; no row is an error.
    pub(crate) fn query_one(&mut self, sql: &str, params: &[Value]) -> Result<Row, Error> {
        let row = self.query_opt(sql, params)?;
        row.ok_or_else(|| Error::NoRow(sql.to_owned()))
    }

    /// Runs a statement and returns the number of rows it changed.
    pub(crate) fn execute(&mut self, sql: &str, params: &[Value]) -> Result<u64, Error> {
        #[cfg(all(debug_assertions, not(test)))]
        super::plan_log::record(self.connection, sql, params);
        let result = self.connection.execute(sql, params);
        self.failed |= result.is_err();
        result
    }

    /// Runs several statements without parameters.
    pub(super) fn batch(&mut self, sql: &str) -> Result<(), Error> {
        self.connection.batch(sql)
    }
}
