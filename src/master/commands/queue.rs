//! `queue`: what waits and what runs, and why one build does not.

use clap::Subcommand;
use serde_json::json;

use super::lookup::find_build;
use super::open::Site;
use super::prospect::facts;
use super::screen::{Screen, note};
use super::table::{Cell, Table, column, folding, hidden};
use super::{Error, units};
use crate::master::model::JobStatus;
use crate::master::policy::why_waiting;
use crate::master::rows::builds::Build;
use crate::master::rows::lists;
use crate::sys::clock::now_ms;

const EXAMPLES: &str = "\
Examples:
  buildd-slave master queue
  buildd-slave master queue why 8";

/// Show the queue
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the queue: what runs, then what waits in its order
    List,
    /// Say why a build is not running
    Why { build: i64 },
}

pub(super) fn run(args: Args, site: &Site, screen: Screen) -> Result<bool, Error> {
    match args.verb {
        None | Some(Verb::List) => list(site, screen)?,
        Some(Verb::Why { build }) => {
            let facts = site.db.read(|tx| {
                let build = find_build(tx, build)?;
                facts(tx, &build, now_ms())
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

fn list(site: &Site, screen: Screen) -> Result<(), Error> {
    let mut table = Table::new(&[
        column("position", "POS"),
        column("build", "BUILD"),
        folding("title", "TITLE"),
        column("score", "SCORE"),
        folding("status", "STATUS"),
        column("queued_at", "AGE"),
        column("estimated_secs", "TAKES"),
        column("processor", "FOR"),
        hidden("virtualized"),
        hidden("manual"),
        hidden("builder"),
        hidden("started_at"),
        hidden("not_before"),
        hidden("archive"),
        hidden("attempt"),
        hidden("job"),
    ]);
    let now = now_ms();
    let found = site.db.read(lists::queue)?;
    let (mut position, mut work, mut running) = (0, 0, 0);
    for build in &found {
        let Some(job) = &build.job else { continue };
        let waits = matches!(job.status, JobStatus::Waiting | JobStatus::Suspended);
        if waits {
            position += 1;
            work += job.estimated_ms;
        } else {
            running += 1;
        }
        let processor = match job.virtualized {
            true => format!("{} (virtual)", build.processor_name),
            false => build.processor_name.clone(),
        };
        let by_hand = if job.manual { "*" } else { "" };
        let (status, builder) = state(build, job.status, now);
        table.row(vec![
            if waits {
                Cell::number(position)
            } else {
                Cell::none()
            },
            Cell::number(build.id),
            Cell::text(&build.name),
            Cell::new(format!("{}{by_hand}", job.score), job.score),
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
        ]);
    }
    screen.table(&table, "the queue is empty")?;
    if screen.is_terminal() && !table.is_empty() {
        let waiting = usize::try_from(position).unwrap_or_default();
        note(format_args!(
            "{running} running, {} waiting ({} of work); * scored by hand",
            units::count(waiting, "job"),
            units::span(work)
        ));
    }
    Ok(())
}

/// Returns what a job is doing, and on whom.
fn state(build: &Build, status: JobStatus, now: i64) -> (String, Option<&String>) {
    let builder = build.builder.as_ref().map(|(name, _)| name);
    let job = build.job.as_ref();
    let on = |word: &str| {
        let name = builder.map_or("a builder", String::as_str);
        let since = job.and_then(|job| job.started_at).unwrap_or(now);
        format!("{word} on {name} {}", units::span(now - since))
    };
    let held = job.map_or(0, |job| job.not_before);
    let text = match status {
        JobStatus::Running => on("runs"),
        JobStatus::Cancelling => on("is cancelled"),
        JobStatus::Suspended => "suspended".to_owned(),
        JobStatus::Waiting if held > now => format!("held back {}", units::span(held - now)),
        JobStatus::Waiting if !build.archive_enabled => "its archive is disabled".to_owned(),
        JobStatus::Waiting if !build.arch_enabled => "its architecture is disabled".to_owned(),
        JobStatus::Waiting => "waits".to_owned(),
    };
    let has_it = matches!(status, JobStatus::Running | JobStatus::Cancelling);
    (text, builder.filter(|_| has_it))
}
