//! `master show`: prints everything the database has about a build (docs/farm.md §7).

use serde_json::Value;

use super::lookup::find_build;
use super::open::Site;
use super::prospect::starts_at;
use super::screen::Screen;
use super::table::{Cell, Column, Sheet, Table, column, hidden, wrapping};
use super::{Error, status, units, upload};
use crate::db::{self, Tx};
use crate::librarian::alias_url;
use crate::master::model::{BuildState, JobStatus};
use crate::master::policy::{pockets, score, way_out};
use crate::master::rows::attempts::{self, Attempt};
use crate::master::rows::builds::Build;
use crate::master::rows::files::File;
use crate::master::rows::{events, registry, scores, sources};
use crate::sys::clock::now_ms;

/// Maximum number of events printed.
const EVENTS: i64 = 50;

pub(super) fn run(site: &Site, screen: Screen, id: i64) -> Result<(), Error> {
    let now = now_ms();
    let (build, files, attempts, events, start, next) = site.db.read(|tx| {
        let build = find_build(tx, id)?;
        let files = sources::files(tx, build.source)?;
        let attempts = attempts::of_build(tx, id)?;
        let events = events::of_build(tx, id, EVENTS)?;
        let start = starts_at(tx, &build, now)?;
        let next = next_line(tx, &build)?;
        Ok((build, files, attempts, events, start, next))
    })?;
    let base = &site.farm.librarian.url;
    let mut sheet = Sheet::default();
    identity_lines(&mut sheet, &build, next);
    time_lines(&mut sheet, &build, now);
    job_lines(&mut sheet, site, &build, start, now)?;
    let stages = attempts.last().and_then(|last| last.stages.as_ref());
    sheet.line_if_any("stages", "Stages", Cell::maybe(stages));
    let leaf = build.leaf.as_ref();
    let attempt = attempts.iter().find(|one| one.leaf.as_ref() == leaf);
    let host = attempt.and_then(|one| one.host.as_deref());
    result_lines(&mut sheet, site, &build, host);
    sheet.table("attempts", "Attempts", attempt_table(&attempts, base, now));
    sheet.table("source_files", "Source files", file_table(&files, base));
    sheet.table("events", "Events", status::events(&events, now));
    let job = build.job.as_ref().filter(|_| build.builder.is_some());
    if let Some(tail) = job.and_then(|job| job.logtail.as_ref()) {
        sheet.lines("logtail", "End of the log", tail);
    }
    screen.sheet(&sheet)
}

/// Adds the names of the build, its state and its builder.
fn identity_lines(sheet: &mut Sheet, build: &Build, next: String) {
    let name = &build.name;
    let builder = build.builder.as_ref().map(|(name, _)| name);
    sheet.line("id", "Build", Cell::number(build.id));
    sheet.line("title", "Title", Cell::text(name));
    let state = match (builder, build.state) {
        (Some(builder), BuildState::Building) => format!("{} on {builder}", build.state),
        _ => build.state.to_string(),
    };
    sheet.line("state", "State", Cell::new(state, build.state.word()));
    let missing = Cell::maybe(build.dependencies.as_ref());
    sheet.line_if_any("dependencies", "Missing", missing);
    let reason = build
        .reason
        .as_ref()
        .filter(|_| build.dependencies.is_none());
    sheet.line_if_any("reason", "Reason", Cell::maybe(reason));
    sheet.line("next", "Next", Cell::text(next));
    sheet.line("source", "Source", Cell::text(&name.source));
    sheet.line("version", "Version", Cell::text(&name.version));
    sheet.line("archive", "Archive", Cell::text(&build.archive_name));
    sheet.hidden("distribution", Cell::text(&name.distribution));
    sheet.line("series", "Series", Cell::text(&name.series));
    sheet.line("pocket", "Pocket", Cell::text(name.pocket));
    let component = build.component.as_deref();
    let shown = component.unwrap_or("no longer published");
    sheet.line("component", "Component", Cell::new(shown, component));
    sheet.line("arch", "Architecture", Cell::text(&name.arch_tag));
    sheet.line_if_any("arch_indep", "Builds all", Cell::flag(build.arch_indep));
    sheet.line("processor", "Processor", Cell::text(&build.processor_name));
    sheet.line("builder", "Builder", Cell::maybe(builder));
}

/// Returns what happens next to the build, or what to do.
fn next_line(tx: &mut Tx<'_>, build: &Build) -> Result<String, db::Error> {
    let place = upload::place(tx, build)?;
    let host = place.as_ref().and_then(|place| place.host.as_deref());
    let host_is_alive = host.map_or(Ok(false), |host| status::is_host_alive(tx, host))?;
    let results = build.leaf.as_deref().map(|folder| way_out::Results {
        folder,
        host,
        host_is_alive,
        upload_started: place
            .as_ref()
            .is_some_and(|one| one.upload_started_at.is_some()),
    });
    let builder = match &build.builder {
        Some((name, _)) => Some((name, registry::is_in_use(tx, name)?)),
        None => None,
    };
    let archive = format!("{} {}", build.name.distribution, build.archive_name);
    Ok(way_out::next(&way_out::Facts {
        build: build.id,
        state: build.state,
        job: build.job.as_ref().map(|job| job.status),
        archive: &archive,
        archive_enabled: build.archive_enabled,
        series: &build.name.series,
        series_status: build.series_status,
        pocket: build.name.pocket,
        pocket_accepted: pockets::accepts(
            build.archive_purpose,
            build.series_status,
            build.name.pocket,
        ),
        arch_tag: &build.name.arch_tag,
        arch_enabled: build.arch_enabled,
        builder: builder.map(|(name, is_ok)| way_out::Worker { name, is_ok }),
        has_master: status::is_master_alive(tx)?,
        results,
    }))
}

/// Adds the times of the build and its failure count.
fn time_lines(sheet: &mut Sheet, build: &Build, now: i64) {
    let ago = |at: Option<i64>| match at {
        Some(at) => {
            let text = format!("{} ({} ago)", units::time(at), units::span(now - at));
            Cell::new(text, units::time(at))
        }
        None => Cell::none(),
    };
    sheet.line("created_at", "Created", ago(Some(build.created_at)));
    let first = ago(build.first_dispatched_at);
    sheet.line_if_any("first_dispatched_at", "First dispatched", first);
    sheet.line_if_any("started_at", "Started", ago(build.started_at));
    sheet.line_if_any("finished_at", "Finished", ago(build.finished_at));
    let took = match (build.started_at, build.finished_at) {
        (Some(start), Some(end)) => Some(end - start),
        _ => None,
    };
    sheet.line_if_any("duration_secs", "Took", Cell::span(took));
    sheet.line_if_any("failure_count", "Failures", count(build.failure_count));
}

/// A number; 0 is an empty cell in text.
fn count(number: i64) -> Cell {
    match number {
        0 => Cell::new("-", 0),
        number => Cell::number(number),
    }
}

/// Adds the logs, and the folder with the results on `host`.
fn result_lines(sheet: &mut Sheet, site: &Site, build: &Build, host: Option<&str>) {
    let link = |file: Option<&File>| match file {
        Some(file) => {
            let url = alias_url(&site.farm.librarian.url, file.alias, &file.name);
            let content = file.content.as_ref();
            let size = content.map(|content| units::size(content.size));
            let size = size.unwrap_or_else(|| "expired".to_owned());
            Cell::new(format!("{url} ({size})"), url)
        }
        None => Cell::none(),
    };
    sheet.line_if_any("log_url", "Log", link(build.log.as_ref()));
    let upload_log = link(build.upload_log.as_ref());
    sheet.line_if_any("upload_log_url", "Upload log", upload_log);
    let incoming = site.farm.master.results.join("incoming");
    let folder = build.leaf.as_ref().map(|leaf| incoming.join(leaf));
    let folder = folder.map(|path| path.display().to_string());
    let folder = match (folder, host) {
        (Some(path), Some(host)) => Cell::new(format!("{path} on {host}"), path),
        (path, _) => Cell::maybe(path),
    };
    sheet.line_if_any("results", "Results", folder);
}

/// Adds the queue entry, if the build has one.
fn job_lines(
    sheet: &mut Sheet,
    site: &Site,
    build: &Build,
    start: Option<i64>,
    now: i64,
) -> Result<(), Error> {
    let Some(job) = &build.job else {
        return Ok(());
    };
    sheet.line(
        "job",
        "Job",
        Cell::new(format!("{} ({})", job.id, job.status), job.id),
    );
    sheet.hidden("job_status", Cell::text(job.status));
    let how = match job.manual {
        true => "set by an operator".to_owned(),
        false => {
            let scored = site.db.read(|tx| scores::of_build(tx, now, build.id))?;
            scored
                .and_then(|one| score::explain(site.rules(), &one.scored).ok())
                .unwrap_or_default()
        }
    };
    let text = match how.as_str() {
        "" => job.score.to_string(),
        how => format!("{} ({how})", job.score),
    };
    sheet.line("score", "Score", Cell::new(text, job.score));
    sheet.hidden("score_manual", Cell::flag(job.manual));
    sheet.line_if_any("attempt", "Attempts", count(job.attempt));
    sheet.line_if_any(
        "estimated_secs",
        "Estimated time",
        Cell::span(Some(job.estimated_ms)),
    );
    if job.status == JobStatus::Waiting {
        let start = match start {
            Some(at) => Cell::new(format!("in {}", units::span(at - now)), units::time(at)),
            None => Cell::new("unknown", Value::Null),
        };
        sheet.line("estimated_start", "Estimated start", start);
        let held = (job.not_before > now).then_some(job.not_before);
        let held = held.map_or_else(Cell::none, |at| {
            Cell::new(format!("for {}", units::span(at - now)), units::time(at))
        });
        sheet.line_if_any("not_before", "Held back", held);
    }
    Ok(())
}

const ATTEMPT_COLUMNS: &[Column] = &[
    column("attempt", "ATTEMPT"),
    column("builder", "BUILDER"),
    column("started_at", "STARTED"),
    column("duration_secs", "TOOK"),
    column("verdict", "VERDICT"),
    wrapping("reason", "REASON"),
    hidden("ended_at"),
    hidden("cookie"),
    hidden("host"),
    hidden("upload_started_at"),
    hidden("stages"),
    hidden("dependencies"),
    hidden("results"),
    hidden("counted"),
    hidden("log_url"),
    hidden("upload_log_url"),
];

fn attempt_table(attempts: &[Attempt], base: &str, now: i64) -> Table {
    let mut table = Table::new(ATTEMPT_COLUMNS);
    let url = |file: &Option<File>| {
        let file = file.as_ref().filter(|file| file.content.is_some());
        Cell::maybe(file.map(|file| alias_url(base, file.alias, &file.name)))
    };
    for one in attempts {
        let ended = one
            .ended_at
            .map_or_else(Cell::none, |at| Cell::text(units::time(at)));
        let verdict = match (one.verdict, one.ended_at) {
            (Some(verdict), _) => Cell::text(verdict),
            (None, None) => Cell::new("running", Value::Null),
            (None, Some(_)) => Cell::new("unknown", Value::Null),
        };
        let reason = one.reason.as_ref().or(one.dependencies.as_ref());
        let took = one.ended_at.unwrap_or(now) - one.started_at;
        table.row(vec![
            Cell::number(one.number),
            Cell::maybe(one.builder.as_ref()),
            Cell::text(units::time(one.started_at)),
            Cell::span(Some(took)),
            verdict,
            Cell::maybe(reason),
            ended,
            Cell::text(&one.cookie),
            Cell::maybe(one.host.as_ref()),
            Cell::maybe(one.upload_started_at.map(units::time)),
            Cell::maybe(one.stages.as_ref()),
            Cell::maybe(one.dependencies.as_ref()),
            Cell::maybe(one.leaf.as_ref()),
            Cell::flag(one.counted),
            url(&one.log),
            url(&one.upload_log),
        ]);
    }
    table
}

const FILE_COLUMNS: &[Column] = &[
    column("alias", "ALIAS"),
    wrapping("filename", "FILE"),
    column("size", "SIZE"),
    wrapping("sha1", "SHA-1"),
    hidden("url"),
];

fn file_table(files: &[File], base: &str) -> Table {
    let mut table = Table::new(FILE_COLUMNS);
    for file in files {
        let content = file.content.as_ref();
        table.row(vec![
            Cell::number(file.alias),
            Cell::text(&file.name),
            Cell::size(content.map(|content| content.size)),
            Cell::maybe(content.map(|content| &content.sha1)),
            Cell::text(alias_url(base, file.alias, &file.name)),
        ]);
    }
    table
}
