//! `queue`: what waits and what runs, and why one build does not.

use clap::Subcommand;
use serde_json::json;

use super::screen::{Screen, note};
use super::site::Site;
use super::table::{Cell, Table, column, folding, hidden};
use super::{Error, builds, words};
use crate::db::{self, Tx};
use crate::master::model::{CleanStatus, JobStatus};
use crate::master::policy::estimate::{self, Running, Waiting};
use crate::master::policy::pockets;
use crate::master::policy::why_waiting::{self, Candidate, Doing, Facts};
use crate::master::rows::builders::{self, Builder, Job};
use crate::master::rows::builds::Build;
use crate::master::rows::{lists, series};
use crate::sys::clock::now_ms;

/// Jobs ahead that are named.
const NAMED: usize = 3;

const EXAMPLES: &str = "\
Examples:
  buildd-slave master queue
  buildd-slave master queue why 8";

/// What waits and what runs
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
                let build = builds::find(tx, build)?;
                facts(tx, &build, now_ms())
            })?;
            let answer = why_waiting::why(&facts);
            let start = facts.starts_at.map(words::time);
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
            words::count(waiting, "job"),
            words::span(work)
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
        format!("{word} on {name} {}", words::span(now - since))
    };
    let held = job.map_or(0, |job| job.not_before);
    let text = match status {
        JobStatus::Running => on("runs"),
        JobStatus::Cancelling => on("is cancelled"),
        JobStatus::Suspended => "suspended".to_owned(),
        JobStatus::Waiting if held > now => format!("held back {}", words::span(held - now)),
        JobStatus::Waiting if !build.archive_enabled => "its archive is disabled".to_owned(),
        JobStatus::Waiting if !build.arch_enabled => "its architecture is disabled".to_owned(),
        JobStatus::Waiting => "waits".to_owned(),
    };
    let has_it = matches!(status, JobStatus::Running | JobStatus::Cancelling);
    (text, builder.filter(|_| has_it))
}

/// Returns when a build that waits will start, if that can be said.
pub(super) fn starts_at(
    tx: &mut Tx<'_>,
    build: &Build,
    now: i64,
) -> Result<Option<i64>, db::Error> {
    match &build.job {
        Some(job) if job.status == JobStatus::Waiting => {
            Ok(Prospect::of(tx, build, now)?.starts_at)
        }
        _ => Ok(None),
    }
}

/// What a job has before it.
struct Prospect {
    builders: Vec<(Builder, Option<Job>)>,
    /// Builds that go first, best first.
    ahead: Vec<(i64, i64)>,
    starts_at: Option<i64>,
}

impl Prospect {
    fn of(tx: &mut Tx<'_>, build: &Build, now: i64) -> Result<Self, db::Error> {
        let virtualized = build.job.as_ref().is_some_and(|job| job.virtualized);
        let mut builders = builders::all(tx)?;
        builders.retain(|(builder, _)| {
            let runs_it = || {
                builder
                    .processors
                    .iter()
                    .any(|one| one.id == build.processor)
            };
            builder.active && builder.virtualized == virtualized && runs_it()
        });
        let Some(job) = &build.job else {
            return Ok(Self {
                builders,
                ahead: Vec::new(),
                starts_at: None,
            });
        };
        let me = Waiting {
            id: job.id,
            score: job.score,
            estimated_ms: job.estimated_ms,
            processor: build.processor,
            virtualized,
        };
        let rivals = lists::rivals(tx, build.processor, virtualized)?;
        let queue: Vec<Waiting> = rivals.iter().map(|(waiting, _)| *waiting).collect();
        let ahead = rivals
            .iter()
            .filter(|(waiting, _)| waiting.goes_before(&me));
        let ahead = ahead
            .map(|(waiting, build)| (*build, waiting.score))
            .collect();
        let pool = builders
            .iter()
            .filter(|(builder, _)| builder.ok && !builder.manual);
        let pool: Vec<i64> = pool.map(|(builder, _)| builder.id).collect();
        let running: Vec<Running> = lists::running(tx)?
            .into_iter()
            .filter(|(builder, _)| pool.contains(builder))
            .map(|(_, running)| running)
            .collect();
        let starts_at = estimate::starts_at(now, &me, &queue, &running, pool.len());
        Ok(Self {
            builders,
            ahead,
            starts_at: starts_at.map(|at| at.max(job.not_before)),
        })
    }
}

fn facts(tx: &mut Tx<'_>, build: &Build, now: i64) -> Result<Facts, db::Error> {
    let prospect = Prospect::of(tx, build, now)?;
    let mut best_ahead = Vec::new();
    for (id, score) in prospect.ahead.iter().take(NAMED) {
        best_ahead.push((builds::find(tx, *id)?.name.to_string(), *score));
    }
    let architectures = series::architectures(tx)?;
    let arch = architectures
        .iter()
        .find(|arch| arch.id == build.arch_series);
    let pocket = build.name.pocket;
    let has_chroot = arch.is_some_and(|arch| {
        pockets::chroot_pockets(pocket).any(|pocket| arch.chroots.contains(&pocket))
    });
    let job = build.job.as_ref();
    let builders = prospect.builders.iter().map(|(builder, job)| Candidate {
        name: builder.name.clone(),
        doing: doing(builder, job.as_ref()),
    });
    Ok(Facts {
        now,
        state: build.state,
        job: job.map(|job| job.status),
        builder: build.builder.as_ref().map(|(name, _)| name.clone()),
        not_before: job.map_or(0, |job| job.not_before),
        archive: build.archive_name.clone(),
        archive_enabled: build.archive_enabled,
        series: build.name.series.clone(),
        arch_tag: build.name.arch_tag.clone(),
        arch_enabled: build.arch_enabled,
        pocket,
        pocket_accepted: pockets::accepts(build.archive_purpose, build.series_status, pocket),
        has_chroot,
        published: build.component.is_some(),
        processor: build.processor_name.clone(),
        virtualized: job.is_some_and(|job| job.virtualized),
        builders: builders.collect(),
        score: job.map_or(0, |job| job.score),
        ahead: prospect.ahead.len(),
        best_ahead,
        starts_at: prospect.starts_at,
    })
}

fn doing(builder: &Builder, job: Option<&Job>) -> Doing {
    match job {
        _ if !builder.ok => Doing::Disabled(builder.failnotes.clone()),
        Some(job) => Doing::Building(job.name.to_string()),
        None if builder.manual => Doing::Manual,
        None if builder.clean != CleanStatus::Clean => Doing::Cleaning,
        None => Doing::Idle,
    }
}
