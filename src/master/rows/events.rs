//! Events: the history of builders and builds.

use crate::db::{Error, Row, Tx, params};

/// An event of a builder or a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) at: i64,
    pub(crate) level: log::Level,
    /// A word that programs match, such as `dispatched`.
    pub(crate) kind: String,
    pub(crate) message: String,
}

/// An event to add.
pub(crate) struct NewEvent<'a> {
    pub(crate) at: i64,
    pub(crate) level: log::Level,
    /// A word that programs match, such as `dispatched`.
    pub(crate) kind: &'a str,
    pub(crate) builder: Option<i64>,
    pub(crate) build: Option<i64>,
    pub(crate) message: &'a str,
}

impl<'a> NewEvent<'a> {
    /// Makes an event of level info, without a builder or a build.
    pub(crate) fn info(at: i64, kind: &'a str, message: &'a str) -> Self {
        Self {
            at,
            level: log::Level::Info,
            kind,
            builder: None,
            build: None,
            message,
        }
    }
}

pub(crate) fn add(tx: &mut Tx<'_>, event: &NewEvent<'_>) -> Result<(), Error> {
    tx.execute(
        "INSERT INTO event (at, level, kind, builder_id, build_id, message)
         VALUES ($1, $2, $3, $4, $5, $6)",
        &params![
            event.at,
            number(event.level),
            event.kind,
            event.builder,
            event.build,
            event.message
        ],
    )?;
    Ok(())
}

/// Returns at most `limit` events of a builder, the newest first.
pub(crate) fn of_builder(tx: &mut Tx<'_>, id: i64, limit: i64) -> Result<Vec<Event>, Error> {
    select(tx, "builder_id", id, limit)
}

/// Returns at most `limit` events of a build, the newest first.
pub(crate) fn of_build(tx: &mut Tx<'_>, id: i64, limit: i64) -> Result<Vec<Event>, Error> {
    select(tx, "build_id", id, limit)
}

/// The number of events that [`before`] returns.
const WINDOW: i64 = 2000;

/// Returns the ids of some events before a time; empty if none is left.
pub(crate) fn before(tx: &mut Tx<'_>, time: i64) -> Result<Vec<i64>, Error> {
    let sql = "SELECT id FROM event WHERE at < $1 ORDER BY at LIMIT $2";
    let rows = tx.query(sql, &params![time, WINDOW])?;
    rows.iter().map(|row| row.get(0)).collect()
}

/// Deletes events and returns their number.
pub(crate) fn delete(tx: &mut Tx<'_>, ids: &[i64]) -> Result<u64, Error> {
    let mut count = 0;
    for id in ids {
        count += tx.execute("DELETE FROM event WHERE id = $1", &params![*id])?;
    }
    Ok(count)
}

fn select(tx: &mut Tx<'_>, column: &str, id: i64, limit: i64) -> Result<Vec<Event>, Error> {
    let sql = format!(
        "SELECT at, level, kind, message FROM event WHERE {column} = $1 ORDER BY id DESC LIMIT $2"
    );
    tx.query(&sql, &params![id, limit])?
        .iter()
        .map(event)
        .collect()
}

fn event(row: &Row) -> Result<Event, Error> {
    let number = row.get(1)?;
    Ok(Event {
        at: row.get(0)?,
        level: level(number),
        kind: row.get(2)?,
        message: row.get(3)?,
    })
}

fn number(level: log::Level) -> i64 {
    level as i64
}

fn level(number: i64) -> log::Level {
    let found = log::Level::iter().find(|&level| self::number(level) == number);
    found.unwrap_or(log::Level::Info)
}
