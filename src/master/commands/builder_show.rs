//! `master builder list` and `master builder show`: print builders with their status.
//!
//! The data is that of the last scan. No slave is contacted.

use super::lookup::find_builder;
use super::open::Site;
use super::page::Page;
use super::screen::Screen;
use super::table::{Cell, Column, Sheet, Table, column, hidden, wrapping};
use super::{Error, builds, status, units};
use crate::client::shown_url;
use crate::master::model::JobStatus;
use crate::master::rows::builders::{self, Builder, Job};
use crate::master::rows::events;
use crate::master::rows::lists::{self, Filter};
use crate::sys::clock::now_ms;

/// Maximum number of past builds and of events printed.
const RECENT: i64 = 10;

const COLUMNS: &[Column] = &[
    column("name", "NAME"),
    wrapping("status", "STATUS"),
    column("processors", "PROCESSORS"),
    column("virtualized", "VIRTUAL"),
    wrapping("url", "URL"),
    wrapping("scanned_by", "SCANNED BY"),
    hidden("title"),
    hidden("ok"),
    hidden("manual"),
    hidden("active"),
    hidden("failnotes"),
    hidden("failure_count"),
    hidden("clean_status"),
    hidden("version"),
    hidden("build"),
    hidden("emulated"),
];

#[derive(Debug, clap::Args)]
pub(super) struct List {
    /// Include removed builders
    #[arg(long)]
    all: bool,
    /// List at most N builders; 0 lists all
    #[arg(long, value_name = "N", default_value_t = 200)]
    limit: u32,
    /// List the builders that follow this one
    #[arg(long, value_name = "NAME")]
    after: Option<String>,
}

/// Lists a page of builders.
pub(super) fn list(site: &Site, screen: Screen, args: &List) -> Result<(), Error> {
    let mut table = Table::new(COLUMNS);
    let now = now_ms();
    let page = Page::new(args.limit);
    let (lease_clock, mut found) = site.db.read(|tx| {
        if let Some(name) = &args.after {
            find_builder(tx, name)?;
        }
        let found = builders::page(tx, args.all, args.after.as_deref(), page.to_read())?;
        Ok((tx.now()?, found))
    })?;
    let more = page.cut(&mut found);
    let last = found.last().map(|(builder, _)| builder.name.clone());
    for (builder, job) in found {
        table.row(vec![
            Cell::text(&builder.name),
            Cell::text(status::line(&builder, job.as_ref(), now)),
            processors(&builder),
            Cell::flag(builder.virtualized),
            Cell::text(shown_url(&builder.url)),
            Cell::maybe(scanned_by(&builder, lease_clock)),
            Cell::text(&builder.title),
            Cell::flag(builder.ok),
            Cell::flag(builder.manual),
            Cell::flag(builder.active),
            Cell::maybe(builder.failnotes.as_ref()),
            Cell::number(builder.failure_count),
            Cell::text(builder.clean),
            Cell::maybe(builder.version.as_ref()),
            job.map_or_else(Cell::none, |job| Cell::number(job.build)),
            Cell::list(builder.processor_names(true)),
        ]);
    }
    let none = "no builders yet; `buildd-slave master builder add NAME URL` adds one";
    screen.table(&table, none)?;
    if let (true, Some(last)) = (more, last) {
        page.hint("builders", &last);
    }
    Ok(())
}

/// Returns the processors of a builder; for people, with those that it emulates.
fn processors(builder: &Builder) -> Cell {
    match builder.processors.is_empty() {
        true => Cell::list::<&str>([]),
        false => Cell::new(builder.shown_processors(), builder.processor_names(false)),
    }
}

/// Returns the name of the master that holds the lease of a builder. `lease_clock` is the time by
/// the clock of the database.
fn scanned_by(builder: &Builder, lease_clock: i64) -> Option<&String> {
    builder
        .lease_owner
        .as_ref()
        .filter(|_| builder.lease_until > lease_clock)
}

/// Prints everything the database has about a builder.
pub(super) fn show(site: &Site, screen: Screen, name: &str) -> Result<(), Error> {
    let (builder, job, past, events, lease_clock) = site.db.read(|tx| {
        let (builder, job) = find_builder(tx, name)?;
        let filter = Filter {
            builder: Some(builder.id),
            limit: Some(RECENT),
            ..Filter::default()
        };
        let past = lists::builds(tx, &filter)?;
        let events = events::of_builder(tx, builder.id, RECENT)?;
        Ok((builder, job, past, events, tx.now()?))
    })?;
    let now = now_ms();
    let mut sheet = Sheet::default();
    builder_lines(&mut sheet, &builder, job.as_ref(), now);
    let owner = Cell::maybe(scanned_by(&builder, lease_clock));
    sheet.line("scanned_by", "Scanned by", owner);
    if let Some(job) = &job {
        job_lines(&mut sheet, job, now);
    }
    sheet.table("builds", "Latest builds", builds::table(&past, now));
    sheet.table("events", "Latest events", status::events(&events, now));
    if let Some(tail) = job.and_then(|job| job.logtail) {
        sheet.lines("logtail", "End of the log", &tail);
    }
    screen.sheet(&sheet)
}

fn builder_lines(sheet: &mut Sheet, builder: &Builder, job: Option<&Job>, now: i64) {
    sheet.line("name", "Name", Cell::text(&builder.name));
    sheet.line_if_any("title", "Title", Cell::text(&builder.title));
    let line = status::line(builder, job, now);
    sheet.line("status", "Status", Cell::text(line));
    sheet.line("url", "URL", Cell::text(shown_url(&builder.url)));
    sheet.line("processors", "Processors", processors(builder));
    sheet.hidden("emulated", Cell::list(builder.processor_names(true)));
    let mode = if builder.manual {
        "manual"
    } else {
        "automatic"
    };
    sheet.line("manual", "Mode", Cell::new(mode, builder.manual));
    sheet.hidden("ok", Cell::flag(builder.ok));
    sheet.line_if_any("virtualized", "Virtual", Cell::flag(builder.virtualized));
    sheet.line_if_any("vm_host", "VM host", Cell::maybe(builder.vm_host.as_ref()));
    sheet.line_if_any("reset", "Reset", Cell::maybe(builder.reset));
    sheet.line_if_any("version", "Version", Cell::maybe(builder.version.as_ref()));
    let notes = Cell::maybe(builder.failnotes.as_ref());
    sheet.line_if_any("failnotes", "Notes", notes);
    let failures = Cell::number(builder.failure_count);
    sheet.line("failure_count", "Failures", failures);
    let age = units::span(now - builder.clean_changed_at);
    let clean = Cell::new(format!("{} for {age}", builder.clean), builder.clean.word());
    sheet.line("clean_status", "Clean status", clean);
}

fn job_lines(sheet: &mut Sheet, job: &Job, now: i64) {
    sheet.line("build", "Build", Cell::number(job.build));
    sheet.line("build_title", "Build title", Cell::text(&job.name));
    sheet.line("cookie", "Cookie", Cell::text(job.cookie()));
    let started = Cell::ago(Some(job.started_at), now);
    sheet.line("started_at", "Started", started);
    let cancelling = job.status == JobStatus::Cancelling;
    sheet.line_if_any("cancelling", "Cancelling", Cell::flag(cancelling));
}
