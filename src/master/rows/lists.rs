//! Lists of builds and jobs, filtered and ordered for an operator.

use super::builds::{Build, select};
use super::numbers::{CANCELLING, RUNNING, WAITING};
use crate::db::{Error, Tx, Value, params};
use crate::master::model::BuildState;
use crate::master::policy::estimate::{QueuedJob, Running};

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
    pub(crate) limit: Option<i64>,
}

/// Returns the builds that match a filter. Builds in NEEDSBUILD or BUILDING are ordered by
/// descending score. SUPERSEDED builds and all states together are ordered by creation, newest
/// first. Every other state is ordered by the end, newest first.
pub(crate) fn builds(tx: &mut Tx<'_>, filter: &Filter) -> Result<Vec<Build>, Error> {
    let mut params: Vec<Value> = Vec::new();
    let mut conditions: Vec<String> = Vec::new();
    let mut require = |condition: &str, value: Value| {
        params.push(value);
        conditions.push(condition.replace('?', &format!("${}", params.len())));
    };
    if let Some(state) = filter.state {
        require("b.state = ?", state.into());
    }
    if let Some(source) = &filter.source {
        require(
            "s.name LIKE ? ESCAPE '\\'",
            format!("%{}%", escape(source)).into(),
        );
    }
    if let Some(series) = filter.series {
        require("r.id = ?", series.into());
    }
    if let Some(tag) = &filter.arch_tag {
        require("t.arch_tag = ?", tag.into());
    }
    if let Some(builder) = filter.builder {
        require("b.builder_id = ?", builder.into());
    }
    let condition = match conditions.is_empty() {
        true => String::new(),
        false => format!("WHERE {}", conditions.join(" AND ")),
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

/// Returns the builds that have a queue row: first those on builders, then the others. Both are
/// ordered by descending score, then by id: the order of dispatch.
pub(crate) fn queue(tx: &mut Tx<'_>) -> Result<Vec<Build>, Error> {
    let rest = format!(
        "WHERE q.id IS NOT NULL
        ORDER BY CASE WHEN q.status IN ({RUNNING}, {CANCELLING}) THEN 0 ELSE 1 END,
            q.lastscore DESC, q.id"
    );
    select(tx, &rest, &[])
}

/// Returns the waiting jobs of a processor in the order of dispatch, each with the id of its build.
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
