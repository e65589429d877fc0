//! `master queue`: lists waiting and running builds. `queue why` explains why a build waits.

use clap::Subcommand;
use serde_json::json;

use super::lookup::find_build;
use super::open::Site;
use super::prospect::facts;
use super::screen::{Screen, stderr_line};
use super::table::{Cell, Column, Table, column, hidden, wrapping};
use super::{Error, units};
use crate::master::farm::millis;
use crate::master::model::JobStatus;
use crate::master::policy::why_waiting;
use crate::master::rows::builds::{Build, QueueEntry};
use crate::master::rows::lists;
use crate::sys::clock::now_ms;

const EXAMPLES: &str = "\
Examples:
  buildd-slave master queue
  buildd-slave master queue why 8";

/// Show the build queue
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List running builds, then waiting ones in queue order (the default)
    List,
    /// Explain why a build is not running
    Why {
        /// Build number, as listed by `master builds`
        build: i64,
    },
}

pub(super) fn run(args: Args, site: &Site, screen: Screen) -> Result<bool, Error> {
    match args.verb {
        None | Some(Verb::List) => list(site, screen)?,
        Some(Verb::Why { build }) => {
            let prefer_native = millis(site.farm.master.prefer_native);
            let facts = site.db.read(|tx| {
                let build = find_build(tx, build)?;
                facts(tx, &build, now_ms(), prefer_native)
            })?;
            let answer = why_waiting::why(&facts);
            let start = facts.starts_at.map(units::time);
            let json = json!({"build": build, "state": facts.state.word(),
                "why": &answer.sentence, "facts": &answer.facts, "score": facts.score,
                "ahead": facts.ahead, "estimated_start": start});
            screen.done(&answer, &json)?;
        }
    }
    Ok(true)
}

const COLUMNS: &[Column] = &[
    column("position", "POS"),
    column("build", "BUILD"),
    wrapping("title", "TITLE"),
    column("score", "SCORE"),
    wrapping("status", "STATUS"),
    column("queued_at", "AGE"),
    column("estimated_secs", "ESTIMATE"),
    column("processor", "PROCESSOR"),
    hidden("virtualized"),
    hidden("manual"),
    hidden("builder"),
    hidden("started_at"),
    hidden("not_before"),
    hidden("archive"),
    hidden("attempt"),
    hidden("job"),
];

fn list(site: &Site, screen: Screen) -> Result<(), Error> {
    let mut table = Table::new(COLUMNS);
    let now = now_ms();
    let builds = site.db.read(lists::queue)?;
    let (mut waiting, mut work_ms, mut running) = (0, 0, 0);
    for build in &builds {
        let Some(job) = &build.job else { continue };
        let position = match job.status {
            JobStatus::Waiting | JobStatus::Suspended => {
                waiting += 1;
                work_ms += job.estimated_ms;
                Cell::number(waiting)
            }
            JobStatus::Running | JobStatus::Cancelling => {
                running += 1;
                Cell::none()
            }
        };
        table.row(row(position, build, job, now));
    }
    screen.table(&table, "the queue is empty")?;
    if screen.is_terminal() && !table.is_empty() {
        let waiting = usize::try_from(waiting).unwrap_or_default();
        stderr_line(format_args!(
            "{running} running, {} waiting (estimated {}); *: score set by an operator",
            units::count(waiting, "job"),
            units::span(work_ms)
        ));
    }
    Ok(())
}

fn row(position: Cell, build: &Build, job: &QueueEntry, now: i64) -> Vec<Cell> {
    let processor = match job.virtualized {
        true => format!("{} (virtual)", build.processor_name),
        false => build.processor_name.clone(),
    };
    let manual_mark = if job.manual { "*" } else { "" };
    let (status, builder) = state(build, job, now);
    vec![
        position,
        Cell::number(build.id),
        Cell::text(&build.name),
        Cell::new(format!("{}{manual_mark}", job.score), job.score),
        Cell::new(status, job.status.word()),
        Cell::ago(Some(job.created_at), now),
        Cell::span(Some(job.estimated_ms)),
        Cell::new(processor, build.processor_name.as_str()),
        Cell::flag(job.virtualized),
        Cell::flag(job.manual),
        Cell::maybe(builder),
        Cell::ago(job.started_at, now),
        Cell::ago((job.not_before > 0).then_some(job.not_before), now),
        Cell::text(&build.archive_name),
        Cell::number(job.attempt),
        Cell::number(job.id),
    ]
}

/// Returns the status text of a job, and its builder if the job runs.
fn state<'a>(build: &'a Build, job: &QueueEntry, now: i64) -> (String, Option<&'a String>) {
    let builder = build.builder.as_ref().map(|(name, _)| name);
    let on_builder = |verb: &str| {
        let name = builder.map_or("a builder", String::as_str);
        let since = job.started_at.unwrap_or(now);
        format!("{verb} on {name} for {}", units::span(now - since))
    };
    let held_until = job.not_before;
    let text = match job.status {
        JobStatus::Running => on_builder("running"),
        JobStatus::Cancelling => on_builder("cancelling"),
        JobStatus::Suspended => "suspended".to_owned(),
        JobStatus::Waiting if held_until > now => {
            format!("held back for {}", units::span(held_until - now))
        }
        JobStatus::Waiting if !build.archive_enabled => "archive is disabled".to_owned(),
        JobStatus::Waiting if !build.arch_enabled => "architecture is disabled".to_owned(),
        JobStatus::Waiting => "waiting".to_owned(),
    };
    let runs = matches!(job.status, JobStatus::Running | JobStatus::Cancelling);
    (text, builder.filter(|_| runs))
}
