//! Records the statements that scan a whole large table, in builds for tests.
//!
//! If the environment variable [`FILE`] is set, each statement is explained before it first runs in
//! this process. A full scan becomes a line in the file. Released programs do not have this code.

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::sync::{LazyLock, Mutex, PoisonError};

use super::connection::Connection;
use super::value::{Row, Value};
use super::{Engine, Error, plan};

/// The variable with the path of the file.
const FILE: &str = "BUILDD_FULL_SCANS";

/// The plans that PostgreSQL may not choose while it is asked. An empty table is cheaper to scan,
/// but the plan must show that an index serves the statement.
///
/// Tables of tests have few pages, which make a whole index as cheap as a few searches in it. So
/// pages cost nothing, and rows do.
const SETTINGS: [(&str, &str); 6] = [
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("random_page_cost", "0"),
    ("seq_page_cost", "0"),
    ("cpu_index_tuple_cost", "1"),
];

/// Explains a statement, unless this process has done so.
pub(super) fn record(connection: &mut Connection, sql: &str, params: &[Value]) {
    static SEEN: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);
    let Some(file) = std::env::var_os(FILE) else {
        return;
    };
    let is_new = SEEN
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(sql.to_owned());
    if !is_new || sql.contains("CREATE ") {
        return;
    }
    let (engine, lines) = match explain(connection, sql, params) {
        Ok(plan) => plan,
        // The statement itself will report its problem.
        Err(error) => return log::debug!("cannot explain {sql}: {error}"),
    };
    let Some(scan) = plan::full_scan(engine, sql, &lines).filter(|_| is_filled(connection)) else {
        return;
    };
    // A list of values may be long.
    let tail = sql.char_indices().rev().nth(2000).map_or(0, |(at, _)| at);
    let sql = sql.get(tail..).unwrap_or(sql);
    let text = format!("{engine:?}: {scan}\n{sql}\n{}\n\n", lines.join("\n"));
    let opened = OpenOptions::new().append(true).create(true).open(file);
    if let Err(error) = opened.and_then(|mut file| file.write_all(text.as_bytes())) {
        log::error!("cannot record a full scan: {error}: {text}");
    }
}

/// Returns whether the plans of this farm mean something. PostgreSQL guesses the size of tables
/// that it has not analyzed, and finds a scan of a small one cheap. SQLite's plans need no rows.
fn is_filled(connection: &mut Connection) -> bool {
    let Connection::Postgres(connection) = connection else {
        return true;
    };
    let sql = "SELECT 1 FROM pg_class WHERE relname = 'build' AND reltuples >= 1000";
    connection
        .query(sql, &[])
        .is_ok_and(|rows| !rows.is_empty())
}

/// Returns the lines of a statement's plan.
fn explain(
    connection: &mut Connection,
    sql: &str,
    params: &[Value],
) -> Result<(Engine, Vec<String>), Error> {
    let text = |column: usize| move |row: &Row| row.get::<String>(column);
    match connection {
        Connection::Sqlite(connection) => {
            let rows = connection.query(&format!("EXPLAIN QUERY PLAN {sql}"), params)?;
            let lines: Result<_, Error> = rows.iter().map(text(3)).collect();
            Ok((Engine::Sqlite, lines?))
        }
        Connection::Postgres(connection) => {
            let set = SETTINGS.map(|(key, value)| format!("SET LOCAL {key} = {value};"));
            let reset = SETTINGS.map(|(key, _)| format!("SET LOCAL {key} TO DEFAULT;"));
            connection.batch(&set.concat())?;
            let rows = connection.query(&format!("EXPLAIN {sql}"), params)?;
            connection.batch(&reset.concat())?;
            let lines: Result<_, Error> = rows.iter().map(text(0)).collect();
            Ok((Engine::Postgres, lines?))
        }
    }
}
