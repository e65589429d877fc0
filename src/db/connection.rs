//! A connection to either engine.

use super::postgres;
use super::sqlite;

/// An open connection.
pub(super) enum Connection {
    Sqlite(sqlite::Connection),
    Postgres(Box<postgres::Connection>),
}
