//! Estimates when a waiting build starts, and collects the facts for `queue why`.

use std::collections::HashSet;

use crate::db::{self, Tx};
use crate::master::model::{CleanStatus, JobStatus};
use crate::master::policy::estimate::{self, Running, WorkAhead};
use crate::master::policy::pockets;
use crate::master::policy::why_waiting::{Availability, BuildFacts, EligibleBuilder};
use crate::master::rows::attempts;
use crate::master::rows::builders::{self, Builder, Job};
use crate::master::rows::builds::Build;
use crate::master::rows::lists::{self, Ahead};
use crate::master::rows::series;

use super::lookup::find_build;

/// Maximum number of jobs ahead that are named.
const SHOWN_AHEAD: i64 = 3;

/// Returns the estimated start of a waiting build, in milliseconds; `None` if it is unknown.
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

/// The queue ahead of a job.
struct Prospect {
    /// Builders that can run it.
    builders: Vec<(Builder, Option<Job>)>,
    /// The jobs dispatched before it.
    ahead: Ahead,
    starts_at: Option<i64>,
}

impl Prospect {
    fn of(tx: &mut Tx<'_>, build: &Build, now: i64) -> Result<Self, db::Error> {
        let virtualized = build.job.as_ref().is_some_and(|job| job.virtualized);
        let builders = builders::for_jobs(tx, build.processor, virtualized)?;
        let Some(job) = &build.job else {
            return Ok(Self {
                builders,
                ahead: Ahead::default(),
                starts_at: None,
            });
        };
        let builders_of_job = (build.processor, virtualized);
        let ahead = lists::ahead(tx, builders_of_job, (job.score, job.id), SHOWN_AHEAD)?;
        let pool = builders
            .iter()
            .filter(|(builder, _)| builder.ok && !builder.manual);
        let pool: HashSet<i64> = pool.map(|(builder, _)| builder.id).collect();
        let running: Vec<Running> = lists::running(tx)?
            .into_iter()
            .filter(|(builder, _)| pool.contains(builder))
            .map(|(_, running)| running)
            .collect();
        let work = WorkAhead {
            jobs: ahead.jobs,
            work_ms: ahead.work_ms,
        };
        let starts_at = estimate::starts_at(now, work, &running, pool.len());
        Ok(Self {
            builders,
            ahead,
            starts_at: starts_at.map(|at| at.max(job.not_before)),
        })
    }
}

/// Gathers the facts about a build that `queue why` reports.
/// `prefer_native_ms` is `[master] prefer_native`.
pub(super) fn facts(
    tx: &mut Tx<'_>,
    build: &Build,
    now: i64,
    prefer_native_ms: i64,
) -> Result<BuildFacts, db::Error> {
    let prospect = Prospect::of(tx, build, now)?;
    let mut best_ahead = Vec::new();
    for (id, score) in &prospect.ahead.best {
        best_ahead.push((find_build(tx, *id)?.name.to_string(), *score));
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
    let failed_on = attempts::failed_on(tx, build.id)?;
    let has_failed = |builder: &Builder| failed_on.contains(&builder.name);
    let has_other = prospect
        .builders
        .iter()
        .any(|(builder, _)| builder.ok && !builder.manual && !has_failed(builder));
    let builders = prospect
        .builders
        .iter()
        .map(|(builder, job)| EligibleBuilder {
            name: builder.name.clone(),
            emulates: builder
                .processors
                .iter()
                .any(|one| one.id == build.processor && one.emulated),
            availability: match availability(builder, job.as_ref()) {
                Availability::Idle | Availability::Building(_) | Availability::Cleaning
                    if has_other && has_failed(builder) =>
                {
                    Availability::KeptOff
                }
                other => other,
            },
        });
    Ok(BuildFacts {
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
        emulate_at: job.map_or(0, |job| job.created_at.saturating_add(prefer_native_ms)),
        ahead: usize::try_from(prospect.ahead.jobs).unwrap_or(usize::MAX),
        best_ahead,
        starts_at: prospect.starts_at,
    })
}

fn availability(builder: &Builder, job: Option<&Job>) -> Availability {
    match job {
        _ if !builder.ok => Availability::Disabled(builder.failnotes.clone()),
        Some(job) if builder.manual => Availability::Draining(job.name.to_string()),
        Some(job) => Availability::Building(job.name.to_string()),
        None if builder.manual => Availability::Manual,
        None if builder.clean != CleanStatus::Clean => Availability::Cleaning,
        None => Availability::Idle,
    }
}
