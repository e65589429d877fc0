//! `master show`: all that is known of a build (docs/farm.md §7).

use serde_json::Value;

use super::lookup::find_build;
use super::open::Site;
use super::prospect::starts_at;
use super::screen::Screen;
use super::table::{Cell, Sheet, Table, column, folding, hidden};
use super::{Error, status, units};
use crate::librarian::alias_url;
use crate::master::model::{BuildState, JobStatus};
use crate::master::policy::score;
use crate::master::rows::builds::Build;
use crate::master::rows::files::File;
use crate::master::rows::{events, scores, sources};
use crate::sys::clock::now_ms;

/// How many events are shown.
const EVENTS: i64 = 50;

/// Shows a build.
pub(super) fn run(site: &Site, screen: Screen, id: i64) -> Result<(), Error> {
    let now = now_ms();
    let (build, files, events, start) = site.db.read(|tx| {
        let build = find_build(tx, id)?;
        let files = sources::files(tx, build.source)?;
        let events = events::of_build(tx, id, EVENTS)?;
        let start = starts_at(tx, &build, now)?;
        Ok((build, files, events, start))
    })?;
    let name = &build.name;
    let base = &site.farm.librarian.url;
    let mut sheet = Sheet::default();
    sheet.line("id", "Build", Cell::number(build.id));
    sheet.line("title", "Title", Cell::text(name));
    let on = match (&build.builder, build.state) {
        (Some((builder, _)), BuildState::Building) => format!("{} on {builder}", build.state),
        _ => build.state.to_string(),
    };
    sheet.line("state", "State", Cell::new(on, build.state.word()));
    sheet.line_if_any(
        "dependencies",
        "Lacks",
        Cell::maybe(build.dependencies.as_ref()),
    );
    sheet.line("source", "Source", Cell::text(&name.source));
    sheet.line("version", "Version", Cell::text(&name.version));
    sheet.line("archive", "Archive", Cell::text(&build.archive_name));
    sheet.hidden("distribution", Cell::text(&name.distribution));
    sheet.line("series", "Series", Cell::text(&name.series));
    sheet.line("pocket", "Pocket", Cell::text(name.pocket));
    let component = build.component.as_deref();
    let shown = component.unwrap_or("published no more");
    sheet.line("component", "Component", Cell::new(shown, component));
    sheet.line("arch", "Architecture", Cell::text(&name.arch_tag));
    sheet.line_if_any("arch_indep", "And all", Cell::flag(build.arch_indep));
    sheet.line("processor", "Processor", Cell::text(&build.processor_name));
    sheet.line(
        "builder",
        "Builder",
        Cell::maybe(build.builder.as_ref().map(|(name, _)| name)),
    );
    let ago = |at: Option<i64>| match at {
        Some(at) => {
            let text = format!("{} ({} ago)", units::time(at), units::span(now - at));
            Cell::new(text, units::time(at))
        }
        None => Cell::none(),
    };
    sheet.line("created_at", "Created", ago(Some(build.created_at)));
    sheet.line_if_any(
        "first_dispatched_at",
        "First tried",
        ago(build.first_dispatched_at),
    );
    sheet.line_if_any("started_at", "Started", ago(build.started_at));
    sheet.line_if_any("finished_at", "Finished", ago(build.finished_at));
    let took = match (build.started_at, build.finished_at) {
        (Some(start), Some(end)) => Some(end - start),
        _ => None,
    };
    sheet.line_if_any("duration_secs", "Took", Cell::span(took));
    let failures = (build.failure_count > 0).then_some(build.failure_count);
    let failures = failures.map_or_else(|| Cell::new("-", 0), Cell::number);
    sheet.line_if_any("failure_count", "Failures", failures);
    job_lines(&mut sheet, site, &build, start, now)?;
    let log = build.log.as_ref();
    let link = |file: Option<&File>| match file {
        Some(file) => {
            let url = alias_url(base, file.alias, &file.name);
            let size = file
                .content
                .as_ref()
                .map(|content| units::size(content.size));
            let size = size.unwrap_or_else(|| "expired".to_owned());
            Cell::new(format!("{url} ({size})"), url)
        }
        None => Cell::none(),
    };
    sheet.line_if_any("log_url", "Log", link(log));
    sheet.line_if_any(
        "upload_log_url",
        "Upload log",
        link(build.upload_log.as_ref()),
    );
    let leaf = build
        .leaf
        .as_ref()
        .map(|leaf| site.farm.master.results.join("incoming").join(leaf));
    sheet.line_if_any(
        "results",
        "Results in",
        Cell::maybe(leaf.map(|path| path.display().to_string())),
    );
    sheet.table("source_files", "Source files", file_table(&files, base));
    sheet.table("events", "Events", status::events(&events, now));
    let running = build.builder.is_some() && build.job.is_some();
    if let Some(tail) = build
        .job
        .as_ref()
        .and_then(|job| job.logtail.as_ref())
        .filter(|_| running)
    {
        sheet.lines("logtail", "End of the log", tail);
    }
    screen.sheet(&sheet)
}

/// Adds what is known of the queue row.
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
        true => "by hand".to_owned(),
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
    sheet.line_if_any(
        "attempt",
        "Tries",
        match job.attempt {
            0 => Cell::new("-", 0),
            tries => Cell::number(tries),
        },
    );
    sheet.line_if_any(
        "estimated_secs",
        "Expected to take",
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

fn file_table(files: &[File], base: &str) -> Table {
    let mut table = Table::new(&[
        column("alias", "ALIAS"),
        folding("filename", "FILE"),
        column("size", "SIZE"),
        folding("sha1", "SHA-1"),
        hidden("url"),
    ]);
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
