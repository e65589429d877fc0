//! Lists of builds and jobs, filtered and ordered for an operator, in pages.
//!
//! A page is read in two steps. The first reads the ids of its rows in the order of an index, and
//! stops at the limit. The second reads the rows. So a list costs what its page costs, however many
//! builds there are.

use std::cmp::Reverse;

use super::builds::{self, Build};
use super::numbers::{CANCELLING, RUNNING, SUSPENDED, WAITING};
use super::{bulk, series};
use crate::db::{Error, Row, Tx, Value, params};
use crate::master::model::BuildState;
use crate::master::policy::estimate::Running;

/// Selects builds. A field that is `None` selects all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    pub(crate) state: Option<BuildState>,
    /// A part of the source's name.
    pub(crate) source: Option<String>,
    pub(crate) series: Option<i64>,
    pub(crate) arch_tag: Option<String>,
    /// The builder that builds or built it.
    pub(crate) builder: Option<i64>,
    /// The build before the page, which is the last one of the page before.
    pub(crate) after: Option<i64>,
    pub(crate) limit: Option<i64>,
}

/// If more sources match a name, builds are read in their order and compared with the name.
const FEW_SOURCES: i64 = 1000;
/// The limit of a list without one.
const ALL: i64 = i64::MAX;

/// The place of a build in a list: a time, and its id, which breaks a tie. The highest comes first.
type Place = (i64, i64);

/// Returns the builds that match a filter. Builds in NEEDSBUILD or BUILDING are ordered by
/// descending score. All states together are ordered by creation, newest first. Every other state
/// is ordered by the end, newest first.
///
/// # Errors
/// [`Filter::after`] is not in the list.
pub(crate) fn builds(tx: &mut Tx<'_>, filter: &Filter) -> Result<Vec<Build>, Error> {
    let ids = match filter.state {
        Some(BuildState::NeedsBuild) => by_score(tx, filter, [WAITING, SUSPENDED])?,
        Some(BuildState::Building) => by_score(tx, filter, [RUNNING, CANCELLING])?,
        _ => by_time(tx, filter)?,
    };
    builds::of_ids(tx, &ids)
}

/// The conditions of a query and its parameters.
#[derive(Clone, Default)]
struct Conditions {
    conditions: Vec<String>,
    params: Vec<Value>,
}

impl Conditions {
    /// Adds a condition; `?` in it are its parameters in order.
    fn and(&mut self, condition: &str, values: impl IntoIterator<Item = Value>) {
        let mut text = condition.to_owned();
        for value in values {
            self.params.push(value);
            text = text.replacen('?', &format!("${}", self.params.len()), 1);
        }
        self.conditions.push(text);
    }

    /// Adds the parts of a filter that no order depends on.
    fn and_filter(&mut self, filter: &Filter) {
        if let Some(builder) = filter.builder {
            self.and("b.builder_id = ?", [builder.into()]);
        }
    }

    fn and_name(&mut self, part: &str) {
        let pattern = format!("%{}%", escape(part));
        self.and("s.name LIKE ? ESCAPE '\\'", [pattern.into()]);
    }

    fn text(&self) -> String {
        match self.conditions.is_empty() {
            true => "TRUE".to_owned(),
            false => self.conditions.join(" AND "),
        }
    }
}

/// Returns the sources whose names contain `part`; `None` if they are many.
fn few_sources(tx: &mut Tx<'_>, part: &str) -> Result<Option<Vec<i64>>, Error> {
    let sql = "SELECT id FROM source WHERE name LIKE $1 ESCAPE '\\' LIMIT $2";
    let pattern = format!("%{}%", escape(part));
    let rows = tx.query(sql, &params![pattern, FEW_SOURCES + 1])?;
    let ids: Vec<i64> = rows
        .iter()
        .map(|row| row.get(0))
        .collect::<Result<_, _>>()?;
    let few = i64::try_from(ids.len()).is_ok_and(|count| count <= FEW_SOURCES);
    Ok(few.then_some(ids))
}

/// Returns the architectures of series that a filter selects; `None` if it selects all.
fn arch_series(tx: &mut Tx<'_>, filter: &Filter) -> Result<Option<Vec<i64>>, Error> {
    if filter.series.is_none() && filter.arch_tag.is_none() {
        return Ok(None);
    }
    let selected = |arch: &series::ArchSeries| {
        filter.series.is_none_or(|series| arch.series_id == series)
            && filter.arch_tag.as_ref().is_none_or(|tag| arch.tag == *tag)
    };
    let all = series::architectures(tx)?;
    let ids = all.iter().filter(|arch| selected(arch)).map(|arch| arch.id);
    Ok(Some(ids.collect()))
}

/// Reads the places of builds, as (id, time).
fn places(rows: &[Row]) -> Result<Vec<Place>, Error> {
    let place = |row: &Row| Ok((row.get(1)?, row.get(0)?));
    rows.iter().map(place).collect()
}

/// Sorts the places that several queries found, and returns the ids of the first ones.
fn first(mut places: Vec<Place>, limit: Option<i64>) -> Vec<i64> {
    places.sort_unstable_by_key(|&place| Reverse(place));
    let limit = limit.and_then(|limit| usize::try_from(limit).ok());
    let ids = places.into_iter().map(|(_, id)| id);
    ids.take(limit.unwrap_or(usize::MAX)).collect()
}

/// Reads the page of a list that is ordered by time: of the end if it is of one state, else of the
/// creation.
fn by_time(tx: &mut Tx<'_>, filter: &Filter) -> Result<Vec<i64>, Error> {
    let order = match filter.state {
        Some(_) => "COALESCE(b.finished_at, 0)",
        None => "b.created_at",
    };
    let mut all = Conditions::default();
    all.and_filter(filter);
    if let Some(state) = filter.state {
        all.and("b.state = ?", [state.into()]);
    }
    if let Some(after) = filter.after {
        let sql = format!("SELECT {order} FROM build b WHERE b.id = $1");
        let row = tx.query_opt(&sql, &params![after])?;
        let at: i64 = row.ok_or_else(|| not_listed(after))?.get(0)?;
        all.and(
            &format!("({order}, b.id) < (?, ?)"),
            [at.into(), after.into()],
        );
    }
    let arch_series = arch_series(tx, filter)?;
    let mut found = Vec::new();
    if let Some(part) = &filter.source {
        if let Some(sources) = few_sources(tx, part)? {
            found = of_sources(tx, &sources, order, &all, arch_series.as_deref())?;
            return Ok(first(found, filter.limit));
        }
        all.and_name(part);
    }
    let mut walk = |conditions: &mut Conditions| {
        let joined = match filter.source {
            Some(_) => "JOIN source s ON s.id = b.source_id",
            None => "",
        };
        let text = conditions.text();
        conditions.params.push(filter.limit.unwrap_or(ALL).into());
        let sql = format!(
            "SELECT b.id, {order} FROM build b {joined} WHERE {text}
            ORDER BY {order} DESC, b.id DESC LIMIT ${}",
            conditions.params.len()
        );
        found.extend(places(&tx.query(&sql, &conditions.params)?)?);
        Ok::<(), Error>(())
    };
    match arch_series {
        None => walk(&mut all)?,
        // An index has the order for one architecture of a series.
        Some(ids) => {
            for id in ids {
                let mut one = all.clone();
                one.and("b.arch_series_id = ?", [id.into()]);
                walk(&mut one)?;
            }
        }
    }
    Ok(first(found, filter.limit))
}

/// Reads the places of all builds of some sources that match the conditions.
fn of_sources(
    tx: &mut Tx<'_>,
    sources: &[i64],
    order: &str,
    conditions: &Conditions,
    arch_series: Option<&[i64]>,
) -> Result<Vec<Place>, Error> {
    // SQLite keeps the order of a CROSS JOIN. Else it might read all builds for each source.
    let sql = format!(
        "WITH given (source) AS ({{VALUES}})
        SELECT b.id, {order}, b.arch_series_id FROM given g CROSS JOIN build b
        WHERE b.source_id = g.source AND {}",
        conditions.text()
    );
    let given = sources.iter().map(|&source| [Value::Int(source)]);
    let mut rows = bulk::query(tx, &sql, ["BIGINT"], &conditions.params, given)?;
    if let Some(wanted) = arch_series {
        rows.retain(|row| row.get(2).is_ok_and(|id: i64| wanted.contains(&id)));
    }
    places(&rows)
}

fn not_listed(build: i64) -> Error {
    Error::Refused(format!(
        "build {build} is no longer in this list; list again without --after"
    ))
}

/// The order of dispatch of queue rows `q`, before their id. It is that of an index.
const ORDER: &str = "-CAST(q.lastscore AS BIGINT)";

/// A place in the order of dispatch: score and queue row.
type Turn = (i64, i64);

/// Reads the page of a list that is ordered by score: the builds whose jobs have one of two
/// statuses.
fn by_score(tx: &mut Tx<'_>, filter: &Filter, statuses: [i64; 2]) -> Result<Vec<i64>, Error> {
    let after = filter.after.map(|build| turn_of(tx, build)).transpose()?;
    let arch_series = arch_series(tx, filter)?;
    let mut conditions = Conditions::default();
    conditions.and_filter(filter);
    if let Some(state) = filter.state {
        conditions.and("b.state = ?", [state.into()]);
    }
    if let Some(ids) = &arch_series {
        let marks = vec!["?"; ids.len()].join(", ");
        let condition = match ids.is_empty() {
            true => "1 = 0".to_owned(),
            false => format!("b.arch_series_id IN ({marks})"),
        };
        conditions.and(&condition, ids.iter().map(|&id| id.into()));
    }
    if let Some(part) = &filter.source {
        conditions.and_name(part);
    }
    let jobs = jobs(tx, statuses, after, filter.limit, &conditions)?;
    Ok(jobs.into_iter().map(|job| job.build).collect())
}

/// Returns the turn of a build's job.
fn turn_of(tx: &mut Tx<'_>, build: i64) -> Result<Turn, Error> {
    let sql = "SELECT lastscore, id FROM build_queue WHERE build_id = $1";
    let row = tx.query_opt(sql, &params![build])?;
    let row = row.ok_or_else(|| not_listed(build))?;
    Ok((row.get(0)?, row.get(1)?))
}

/// A job in the order of dispatch.
struct Job {
    build: i64,
    turn: Turn,
}

/// Reads the first jobs of two statuses after a turn, in the order of dispatch. In the conditions,
/// `q` is the job, `b` its build, `s` its source.
fn jobs(
    tx: &mut Tx<'_>,
    statuses: [i64; 2],
    after: Option<Turn>,
    limit: Option<i64>,
    conditions: &Conditions,
) -> Result<Vec<Job>, Error> {
    let mut found = Vec::new();
    for status in statuses {
        let mut all = conditions.clone();
        if let Some((score, id)) = after {
            let later = format!("({ORDER}, q.id) > (?, ?)");
            all.and(&later, [(-score).into(), id.into()]);
        }
        let text = all.text();
        all.params.push(limit.unwrap_or(ALL).into());
        let sql = format!(
            "SELECT q.build_id, q.lastscore, q.id FROM build_queue q
            JOIN build b ON b.id = q.build_id JOIN source s ON s.id = b.source_id
            WHERE q.status = {status} AND {text}
            ORDER BY {ORDER}, q.id LIMIT ${}",
            all.params.len()
        );
        for row in tx.query(&sql, &all.params)? {
            found.push(Job {
                build: row.get(0)?,
                turn: (row.get(1)?, row.get(2)?),
            });
        }
    }
    found.sort_unstable_by_key(|job| (Reverse(job.turn.0), job.turn.1));
    found.truncate(
        limit
            .and_then(|limit| usize::try_from(limit).ok())
            .unwrap_or(usize::MAX),
    );
    Ok(found)
}

/// Escapes `%`, `_` and `\` for a `LIKE` pattern.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        if matches!(c, '\\' | '%' | '_') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

/// A page of the queue. Both lists are ordered by descending score, then by id.
#[derive(Debug)]
pub(crate) struct QueuePage {
    /// Builds on builders; none on a page that follows another one.
    pub(crate) running: Vec<Build>,
    /// Builds that wait for a builder, or are suspended: the order of dispatch.
    pub(crate) waiting: Vec<Build>,
    /// The number of waiting builds before the page.
    pub(crate) before: i64,
}

/// Returns at most `limit` running builds, and as many waiting ones that follow the build `after`.
///
/// # Errors
/// `after` is not in the queue.
pub(crate) fn queue(
    tx: &mut Tx<'_>,
    after: Option<i64>,
    limit: Option<i64>,
) -> Result<QueuePage, Error> {
    let all = Conditions::default();
    let after = after.map(|build| turn_of(tx, build)).transpose()?;
    let running = match after {
        None => jobs(tx, [RUNNING, CANCELLING], None, limit, &all)?,
        Some(_) => Vec::new(),
    };
    let waiting = jobs(tx, [WAITING, SUSPENDED], after, limit, &all)?;
    let mut before = 0;
    if let Some((score, id)) = after {
        for status in [WAITING, SUSPENDED] {
            let sql = format!(
                "SELECT count(*) FROM build_queue q
                WHERE q.status = {status} AND ({ORDER}, q.id) <= ($1, $2)"
            );
            before += tx.query_one(&sql, &params![-score, id])?.get::<i64>(0)?;
        }
    }
    let ids = |jobs: Vec<Job>| jobs.into_iter().map(|job| job.build).collect::<Vec<i64>>();
    Ok(QueuePage {
        running: builds::of_ids(tx, &ids(running))?,
        waiting: builds::of_ids(tx, &ids(waiting))?,
        before,
    })
}

/// The number of jobs in the whole queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueueSize {
    pub(crate) running: i64,
    /// With suspended jobs.
    pub(crate) waiting: i64,
    /// The sum of the estimated times of the waiting jobs, in milliseconds.
    pub(crate) work_ms: i64,
}

/// Counts the jobs in the queue, from an index alone.
pub(crate) fn queue_size(tx: &mut Tx<'_>) -> Result<QueueSize, Error> {
    let mut size = QueueSize::default();
    for status in [RUNNING, CANCELLING, WAITING, SUSPENDED] {
        let sql = format!(
            "SELECT count(*), CAST(COALESCE(SUM(estimated_ms), 0) AS BIGINT) FROM build_queue
            WHERE status = {status}"
        );
        let row = tx.query_one(&sql, &[])?;
        let count: i64 = row.get(0)?;
        if [WAITING, SUSPENDED].contains(&status) {
            size.waiting += count;
            size.work_ms = size.work_ms.saturating_add(row.get(1)?);
        } else {
            size.running += count;
        }
    }
    Ok(size)
}

/// The jobs that are dispatched before another one to the same builders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ahead {
    pub(crate) jobs: i64,
    /// The sum of their estimated times, in milliseconds.
    pub(crate) work_ms: i64,
    /// Build and score of the first ones, best first.
    pub(crate) best: Vec<(i64, i64)>,
}

/// Returns the waiting jobs of a processor ahead of the job with this score and queue row, and the
/// `named` best ones.
pub(crate) fn ahead(
    tx: &mut Tx<'_>,
    (processor, virtualized): (i64, bool),
    (score, queue): (i64, i64),
    named: i64,
) -> Result<Ahead, Error> {
    let which = format!(
        "FROM build_queue WHERE status = {WAITING} AND virtualized = $1 AND processor_id = $2
            AND lastscore >= $3 AND (lastscore > $3 OR id < $4)"
    );
    let sums = format!("SELECT count(*), CAST(COALESCE(SUM(estimated_ms), 0) AS BIGINT) {which}");
    let best = format!("SELECT build_id, lastscore {which} ORDER BY lastscore DESC, id LIMIT $5");
    let params = params![virtualized, processor, score, queue];
    let row = tx.query_one(&sums, &params)?;
    let best = tx.query(&best, &[&params[..], &[named.into()]].concat())?;
    Ok(Ahead {
        jobs: row.get(0)?,
        work_ms: row.get(1)?,
        best: best
            .iter()
            .map(|row| Ok((row.get(0)?, row.get(1)?)))
            .collect::<Result<_, Error>>()?,
    })
}

/// Returns the builder id, start and expected duration of every job on a builder, in no particular
/// order.
pub(crate) fn running(tx: &mut Tx<'_>) -> Result<Vec<(i64, Running)>, Error> {
    let sql = "
        SELECT builder_id, COALESCE(buildstart, 0), estimated_ms FROM build_queue
        WHERE builder_id IS NOT NULL";
    let rows = tx.query(sql, &[])?;
    rows.iter()
        .map(|row| {
            let running = Running {
                started_at: row.get(1)?,
                estimated_ms: row.get(2)?,
            };
            Ok((row.get(0)?, running))
        })
        .collect()
}
