//! `master builds`: lists builds.

use super::lookup::find_series;
use super::open::Site;
use super::page::Page;
use super::screen::Screen;
use super::table::{Cell, Column, Table, column, hidden, wrapping};
use super::words::one_of;
use super::{Error, units};
use crate::master::model::BuildState;
use crate::master::rows::builds::Build;
use crate::master::rows::lists::{self, Filter};
use crate::sys::clock::now_ms;

const EXAMPLES: &str = "\
Examples:
  buildd-slave master builds --state FAILEDTOBUILD --series hoary
  buildd-slave master builds --source firefox --json

The commands `show`, `log`, `retry`, `rescore`, `cancel` and `queue why` take the number of a build.";

/// List builds
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Only builds in this state
    #[arg(long, value_parser = one_of(BuildState::ALL))]
    state: Option<BuildState>,
    /// Only builds whose source name contains NAME
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Only builds for this series
    #[arg(long)]
    series: Option<String>,
    /// Only builds for this architecture
    #[arg(long)]
    arch: Option<String>,
    /// List at most N builds; 0 lists all
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: u32,
    /// List the builds that follow this one
    #[arg(long, value_name = "BUILD")]
    after: Option<i64>,
}

pub(super) fn run(args: &Args, site: &Site, screen: Screen) -> Result<bool, Error> {
    list(site, screen, args).map(|()| true)
}

fn list(site: &Site, screen: Screen, wanted: &Args) -> Result<(), Error> {
    let page = Page::new(wanted.limit);
    let mut found = site.db.read(|tx| {
        let series = match &wanted.series {
            Some(word) => Some(find_series(tx, word)?.id),
            None => None,
        };
        let filter = Filter {
            state: wanted.state,
            source: wanted.source.clone(),
            series,
            arch_tag: wanted.arch.clone(),
            builder: None,
            after: wanted.after,
            limit: page.rows(),
        };
        lists::builds(tx, &filter)
    })?;
    let more = page.cut(&mut found);
    screen.table(&table(&found, now_ms()), "no builds match")?;
    if let (true, Some(last)) = (more, found.last()) {
        page.hint("builds", last.id);
    }
    Ok(())
}

const COLUMNS: &[Column] = &[
    column("id", "BUILD"),
    column("state", "STATE"),
    column("arch", "ARCH"),
    wrapping("source", "SOURCE"),
    wrapping("version", "VERSION"),
    wrapping("suite", "SUITE"),
    wrapping("about", "DETAILS"),
    column("changed_at", "AGO"),
    hidden("title"),
    hidden("distribution"),
    hidden("series"),
    hidden("pocket"),
    hidden("archive"),
    hidden("arch_indep"),
    hidden("builder"),
    hidden("score"),
    hidden("dependencies"),
    hidden("created_at"),
    hidden("started_at"),
    hidden("finished_at"),
];

pub(super) fn table(builds: &[Build], now: i64) -> Table {
    let mut table = Table::new(COLUMNS);
    for build in builds {
        let name = &build.name;
        let changed = build
            .finished_at
            .or(build.started_at)
            .unwrap_or(build.created_at);
        table.row(vec![
            Cell::number(build.id),
            Cell::text(build.state),
            Cell::text(&name.arch_tag),
            Cell::text(&name.source),
            Cell::text(&name.version),
            Cell::text(name.suite()),
            Cell::text(about(build)),
            Cell::ago(Some(changed), now),
            Cell::text(name),
            Cell::text(&name.distribution),
            Cell::text(&name.series),
            Cell::text(name.pocket),
            Cell::text(&build.archive_name),
            Cell::flag(build.arch_indep),
            Cell::maybe(build.builder.as_ref().map(|(name, _)| name)),
            build
                .job
                .as_ref()
                .map_or_else(Cell::none, |job| Cell::number(job.score)),
            Cell::maybe(build.dependencies.as_ref()),
            Cell::ago(Some(build.created_at), now),
            Cell::ago(build.started_at, now),
            Cell::ago(build.finished_at, now),
        ]);
    }
    table
}

/// Returns the detail that matters in the build's state: missing dependencies, score, or builder
/// and duration.
fn about(build: &Build) -> String {
    if let Some(missing) = &build.dependencies {
        return format!("missing {missing}");
    }
    let on = build.builder.as_ref().map(|(name, _)| format!("on {name}"));
    let took = match (build.started_at, build.finished_at) {
        (Some(start), Some(end)) => Some(format!("took {}", units::span(end - start))),
        _ => None,
    };
    match (&build.job, on, took) {
        (Some(job), None, _) => format!("score {}", job.score),
        (_, Some(on), Some(took)) => format!("{on}, {took}"),
        (_, on, took) => on.or(took).unwrap_or_default(),
    }
}
