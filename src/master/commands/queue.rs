//! `master queue`: lists waiting and running builds. `queue why` explains why a build waits.

use clap::Subcommand;
use serde_json::json;

use super::lookup::find_build;
use super::open::Site;
use super::page::Page;
use super::prospect::facts;
use super::screen::{Screen, stderr_line};
use super::table::{Cell, Column, Table, column, hidden, wrapping};
use super::{Error, units};
use crate::master::farm::millis;
use crate::master::model::JobStatus;
use crate::master::policy::why_waiting;
use crate::master::rows::builds::{Build, QueueEntry};
use crate::master::rows::lists::{self, QueuePage};
use crate::sys::clock::now_ms;

const EXAMPLES: &str = "\
Examples:
  buildd-slave master queue
  buildd-slave master queue list --limit 20
  buildd-slave master queue why 8";

/// Show the build queue
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    list: List,
}

#[derive(Debug, clap::Args)]
struct List {
    /// List at most N running and N waiting builds; 0 lists all
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: u32,
    /// List the waiting builds that follow this one
    #[arg(long, value_name = "BUILD")]
    after: Option<i64>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List running builds, then waiting ones in queue order (the default)
    List(List),
    /// Explain why a build is not running
    Why {
        /// Build number, as listed by `master builds`
        build: i64,
    },
}

pub(super) fn run(args: Args, site: &Site, screen: Screen) -> Result<bool, Error> {
    match args.verb {
        None => list(site, screen, &args.list)?,
        Some(Verb::List(wanted)) => list(site, screen, &wanted)?,
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

fn list(site: &Site, screen: Screen, wanted: &List) -> Result<(), Error> {
    let now = now_ms();
    let page = Page::new(wanted.limit);
    let (
        QueuePage {
            mut running,
            mut waiting,
            before,
        },
        size,
    ) = site.db.read(|tx| {
        let queue = lists::queue(tx, wanted.after, page.rows())?;
        let size = screen.is_terminal().then(|| lists::queue_size(tx));
        Ok((queue, size.transpose()?))
    })?;
    let more_run = page.cut(&mut running);
    let more_wait = page.cut(&mut waiting);
    let table = table(&running, &waiting, before, now);
    screen.table(&table, "the queue is empty")?;
    if more_run {
        stderr_line("more builds are running; --limit 0 lists all");
    }
    if let (true, Some(last)) = (more_wait, waiting.last()) {
        page.hint("builds", last.id);
    }
    if let Some(size) = size.filter(|_| !table.is_empty()) {
        let waiting = usize::try_from(size.waiting).unwrap_or_default();
        stderr_line(format_args!(
            "{} running, {} waiting (estimated {}); *: score set by an operator",
            size.running,
            units::count(waiting, "job"),
            units::span(size.work_ms)
        ));
    }
    Ok(())
}

/// Makes the table; `before` is the number of waiting builds that precede it.
fn table(running: &[Build], waiting: &[Build], before: i64, now: i64) -> Table {
    let mut table = Table::new(COLUMNS);
    let mut position = before;
    for build in running.iter().chain(waiting) {
        let Some(job) = &build.job else { continue };
        let cell = match job.status {
            JobStatus::Waiting | JobStatus::Suspended => {
                position += 1;
                Cell::number(position)
            }
            JobStatus::Running | JobStatus::Cancelling => Cell::none(),
        };
        table.row(row(cell, build, job, now));
    }
    table
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
