//! Waiting builds that can never be built: in the queue, or in a dep-wait.

use super::events::{self, NewEvent};
use super::numbers::{DEP_WAIT, NEEDS_BUILD, PENDING, PUBLISHED, SUSPENDED, WAITING};
use super::{NAME_COLUMNS, NAME_JOINS, build_name};
use crate::db::{Error, Row, Tx, params};
use crate::master::model::BuildName;
use crate::master::policy::unbuildable::{Ending, Waiting, ending};

/// Builds that one read transaction looks at.
const WINDOW: u32 = 2000;

/// A waiting build that can never be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unbuildable {
    pub(crate) build: i64,
    pub(crate) name: BuildName,
    pub(crate) ending: Ending,
}

/// The table that a search follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Queue,
    DepWaits,
}

/// The facts about build `b`; the query needs [`NAME_JOINS`] and an archive `x`.
fn facts() -> String {
    format!(
        "r.status, x.purpose, b.pocket,
         EXISTS (SELECT 1 FROM publication p
                 WHERE p.source_id = b.source_id AND p.series_id = t.series_id
                   AND p.archive_id = b.archive_id AND p.status IN ({PENDING}, {PUBLISHED})),
         b.id, {NAME_COLUMNS}"
    )
}

fn read(row: &Row) -> Result<Option<Unbuildable>, Error> {
    let waiting = Waiting {
        series: row.get(0)?,
        archive: row.get(1)?,
        pocket: row.get(2)?,
        is_published: row.get(3)?,
    };
    let Some(ending) = ending(waiting) else {
        return Ok(None);
    };
    Ok(Some(Unbuildable {
        build: row.get(4)?,
        name: build_name(row, 5)?,
        ending,
    }))
}

/// Returns the unbuildable builds of the next window, and the id to continue after; `None` at the
/// end.
pub(crate) fn window(
    tx: &mut Tx<'_>,
    place: Place,
    after: i64,
) -> Result<Option<(Vec<Unbuildable>, i64)>, Error> {
    let facts = facts();
    let sql = match place {
        Place::Queue => format!(
            // As in `scores`, the rows are chosen before the joins.
            "SELECT {facts}, q.id
             FROM (SELECT id, build_id FROM build_queue
                   WHERE id > $1 AND +status IN ({WAITING}, {SUSPENDED})
                   ORDER BY id LIMIT {WINDOW}) q
             JOIN build b ON b.id = q.build_id {NAME_JOINS}
             JOIN archive x ON x.id = b.archive_id
             ORDER BY q.id"
        ),
        Place::DepWaits => format!(
            "SELECT {facts}, b.id FROM build b {NAME_JOINS} JOIN archive x ON x.id = b.archive_id
             WHERE b.id > $1 AND b.state = {DEP_WAIT} ORDER BY b.id LIMIT {WINDOW}"
        ),
    };
    let rows = tx.query(&sql, &params![after])?;
    let Some(last) = rows.last() else {
        return Ok(None);
    };
    let last = last.get(11)?;
    let found: Result<Vec<Option<Unbuildable>>, Error> = rows.iter().map(read).collect();
    Ok(Some((found?.into_iter().flatten().collect(), last)))
}

/// Returns the unbuildable builds of a source in a series and an archive that wait.
pub(crate) fn of_source(
    tx: &mut Tx<'_>,
    source: i64,
    series: i64,
    archive: i64,
) -> Result<Vec<Unbuildable>, Error> {
    let sql = format!(
        "SELECT {} FROM build b {NAME_JOINS} JOIN archive x ON x.id = b.archive_id
         WHERE b.source_id = $1 AND t.series_id = $2 AND b.archive_id = $3
           AND b.state IN ({NEEDS_BUILD}, {DEP_WAIT})",
        facts()
    );
    let rows = tx.query(&sql, &params![source, series, archive])?;
    let found: Result<Vec<Option<Unbuildable>>, Error> = rows.iter().map(read).collect();
    Ok(found?.into_iter().flatten().collect())
}

/// Ends a build with an event, if it still waits and still cannot be built. False if not.
pub(crate) fn end(tx: &mut Tx<'_>, one: &Unbuildable, now: i64) -> Result<bool, Error> {
    let still = format!(
        "SELECT {} FROM build b {NAME_JOINS} JOIN archive x ON x.id = b.archive_id
         WHERE b.id = $1 AND b.state IN ({NEEDS_BUILD}, {DEP_WAIT})",
        facts()
    );
    let row = tx.query_opt(&still, &params![one.build])?;
    let Some(Unbuildable { build, ending, .. }) = row.as_ref().map(read).transpose()?.flatten()
    else {
        return Ok(false);
    };
    // The job first, as in a claim: it may have gone to a builder.
    let sql = format!(
        "DELETE FROM build_queue WHERE build_id = $1 AND status IN ({WAITING}, {SUSPENDED})"
    );
    tx.execute(&sql, &params![build])?;
    let (state, why) = ending;
    let sql = format!(
        "UPDATE build SET state = $2, finished_at = $3, reason = $4
         WHERE id = $1 AND state IN ({NEEDS_BUILD}, {DEP_WAIT})"
    );
    if tx.execute(&sql, &params![build, state, now, why])? == 0 {
        return Ok(false);
    }
    let message = format!("{state}: {why}");
    let event = NewEvent {
        level: log::Level::Warn,
        build: Some(build),
        ..NewEvent::info(now, "ended", &message)
    };
    events::add(tx, &event)?;
    Ok(true)
}
