//! Lists of builds: what an operator asks for by state, source, series or architecture; and what
//! a job waits for.

use super::builds::{Build, select};
use super::numbers::{CANCELLING, RUNNING, WAITING};
use crate::db::{Error, Tx, Value, params};
use crate::master::model::BuildState;
use crate::master::policy::estimate::{QueuedJob, Running};

/// Which builds are wanted; what is none is not asked about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    pub(crate) state: Option<BuildState>,
    /// Part of the source's name.
    pub(crate) source: Option<String>,
    pub(crate) series: Option<i64>,
    pub(crate) arch_tag: Option<String>,
    /// Who builds or built it.
    pub(crate) builder: Option<i64>,
    pub(crate) limit: Option<i64>,
}

/// Returns the builds a filter leaves, in the order that is of use: waiting and running ones by
/// score, ended ones by their end, all by their beginning.
pub(crate) fn builds(tx: &mut Tx<'_>, filter: &Filter) -> Result<Vec<Build>, Error> {
    let mut params: Vec<Value> = Vec::new();
    let mut wanted: Vec<String> = Vec::new();
    let mut want = |condition: &str, value: Value| {
        params.push(value);
        wanted.push(condition.replace('?', &format!("${}", params.len())));
    };
    if let Some(state) = filter.state {
        want("b.state = ?", state.into());
    }
    if let Some(source) = &filter.source {
        want(
            "s.name LIKE ? ESCAPE '\\'",
            format!("%{}%", escape(source)).into(),
        );
    }
    if let Some(series) = filter.series {
        want("r.id = ?", series.into());
    }
    if let Some(tag) = &filter.arch_tag {
        want("t.arch_tag = ?", tag.into());
    }
    if let Some(builder) = filter.builder {
        want("b.builder_id = ?", builder.into());
    }
    let condition = match wanted.is_empty() {
        true => String::new(),
        false => format!("WHERE {}", wanted.join(" AND ")),
    };
    let order = match filter.state {
        Some(BuildState::NeedsBuild | BuildState::Building) => "q.lastscore DESC, b.id",
        None | Some(BuildState::Superseded) => "b.created_at DESC, b.id DESC",
        Some(_) => "b.finished_at DESC, b.id DESC",
    };
    let limit = match filter.limit {
        Some(limit) => format!("LIMIT {limit}"),
        None => String::new(),
    };
    select(
        tx,
        &format!("{condition} ORDER BY {order} {limit}"),
        &params,
    )
}

/// Takes the meaning from what `LIKE` would not take as it is.
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

/// Returns the builds that have a queue row: those that run, then those that wait in the order
/// they will be given out.
pub(crate) fn queue(tx: &mut Tx<'_>) -> Result<Vec<Build>, Error> {
    let rest = format!(
        "WHERE q.id IS NOT NULL
        ORDER BY CASE WHEN q.status IN ({RUNNING}, {CANCELLING}) THEN 0 ELSE 1 END,
            q.lastscore DESC, q.id"
    );
    select(tx, &rest, &[])
}

/// Returns the jobs that wait for the same builders, in the order they will be given out, each
/// with its build.
pub(crate) fn waiting_jobs(
    tx: &mut Tx<'_>,
    processor: i64,
    virtualized: bool,
) -> Result<Vec<(QueuedJob, i64)>, Error> {
    let sql = format!(
        "SELECT id, lastscore, estimated_ms, build_id FROM build_queue
        WHERE status = {WAITING} AND virtualized = $1 AND processor_id = $2
        ORDER BY lastscore DESC, id"
    );
    let rows = tx.query(&sql, &params![virtualized, processor])?;
    rows.iter()
        .map(|row| {
            let waiting = QueuedJob {
                id: row.get(0)?,
                score: row.get(1)?,
                estimated_ms: row.get(2)?,
                processor,
                virtualized,
            };
            Ok((waiting, row.get(3)?))
        })
        .collect()
}

/// Returns how long the jobs on builders are expected to take, by builder.
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
