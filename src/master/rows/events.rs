//! What happened to a builder or a build, for whoever asks later?

use crate::db::{Error, Row, Tx, params};

/// One line of its history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) at: i64,
    pub(crate) level: log::Level,
    /// A word for programs, `dispatched`.
    pub(crate) kind: String,
    pub(crate) message: String,
}

/// Notes what happened.
pub(crate) fn note(
    tx: &mut Tx<'_>,
    now: i64,
    level: log::Level,
    kind: &str,
    builder: Option<i64>,
    build: Option<i64>,
    message: &str,
) -> Result<(), Error> {
    tx.execute(
        "INSERT INTO event (at, level, kind, builder_id, build_id, message)
         VALUES ($1, $2, $3, $4, $5, $6)",
        &params![now, number(level), kind, builder, build, message],
    )?;
    Ok(())
}

/// Returns the newest events of a builder, the newest first.
pub(crate) fn of_builder(tx: &mut Tx<'_>, id: i64, limit: i64) -> Result<Vec<Event>, Error> {
    select(tx, "builder_id", id, limit)
}

/// Returns the newest events of a build, the newest first.
pub(crate) fn of_build(tx: &mut Tx<'_>, id: i64, limit: i64) -> Result<Vec<Event>, Error> {
    select(tx, "build_id", id, limit)
}

/// Forgets what happened before.
pub(crate) fn prune(tx: &mut Tx<'_>, before: i64) -> Result<u64, Error> {
    tx.execute("DELETE FROM event WHERE at < $1", &params![before])
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
