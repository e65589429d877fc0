//! `master arch`: manages the architectures of a series.
//!
//! Adding an architecture also adds its processor, if that is new. Architectures are never removed,
//! because builds refer to them.

use clap::Subcommand;
use serde_json::json;

use super::lookup::{find_architecture, find_series, refuse};
use super::open::Site;
use super::screen::{Screen, stderr_line};
use super::table::{Cell, Column, Table, column, wrapping};
use super::{Error, names};
use crate::db::{self, Tx};
use crate::master::model::Pocket;
use crate::master::rows::series::{self, ArchSeries, Series};

const EXAMPLES: &str = "\
Examples:
  buildd-slave master arch add hoary i386
  buildd-slave master arch add ubuntu/hoary powerpc --processor ppc --family powerpc
  buildd-slave master arch disable hoary i386
  buildd-slave master arch enable hoary i386
  buildd-slave master arch list

A builder can build for an architecture if it has that architecture's processor.";

#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(super) enum Verb {
    /// Add an architecture to a series; creates its processor if needed
    Add(Add),
    /// Dispatch the builds of an architecture again
    Enable {
        /// Series: NAME, or DISTRIBUTION/NAME if NAME is ambiguous
        series: String,
        /// Architecture, such as i386
        arch: String,
    },
    /// Stop dispatching the builds of an architecture; they stay in the queue
    Disable {
        /// Series: NAME, or DISTRIBUTION/NAME if NAME is ambiguous
        series: String,
        /// Architecture, such as i386
        arch: String,
    },
    /// List architectures
    List {
        /// Only architectures of this series
        series: Option<String>,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Add {
    /// Series: NAME, or DISTRIBUTION/NAME if NAME is ambiguous
    series: String,
    /// Architecture to add, as dpkg names it, such as i386
    #[arg(value_parser = names::new_name)]
    arch: String,
    /// Processor that a builder needs for it [default: ARCH]
    #[arg(long, value_name = "NAME", value_parser = names::new_name)]
    processor: Option<String>,
    /// Family of a new processor; logs group builders by it [default: the processor's name, or x86
    /// for i386, 386 and lpia]
    #[arg(long, value_name = "NAME", value_parser = names::new_name)]
    family: Option<String>,
    /// Accept builds for archives that require virtual builders
    #[arg(long)]
    virtualized: bool,
}

pub(super) fn run(verb: Verb, site: &Site, screen: Screen) -> Result<bool, Error> {
    match verb {
        Verb::Add(args) => add(&args, site, screen)?,
        Verb::Enable { series, arch } => enable(site, screen, &series, &arch, true)?,
        Verb::Disable { series, arch } => enable(site, screen, &series, &arch, false)?,
        Verb::List { series } => list(site, screen, series.as_deref())?,
    }
    Ok(true)
}

fn add(args: &Add, site: &Site, screen: Screen) -> Result<(), Error> {
    let arch = &args.arch;
    let processor = args.processor.as_ref().unwrap_or(arch);
    let (id, full, known) = site.db.write(|tx| {
        let series = find_series(tx, &args.series)?;
        let all = series::architectures(tx)?;
        if names::architecture(&all, &series, arch).is_ok() {
            return Err(refuse(format!(
                "{} already has architecture {arch}",
                series.full_name()
            )));
        }
        let processor = ensure_processor(tx, processor, args.family.as_deref())?;
        let id = series::add_architecture(tx, series.id, arch, processor, args.virtualized)?;
        let known = series.nominated.is_some();
        Ok((id, series.full_name(), known))
    })?;
    let next = format!("next: `buildd-slave master chroot set {full} {arch} TARBALL`");
    let json = json!({"id": id, "series": full, "arch": arch, "processor": processor});
    let sentence = format!("added {arch} to {full} (processor {processor}); {next}");
    screen.done(sentence, &json)?;
    if !known && !screen.json {
        stderr_line(format_args!(
            "{full} has no nominated architecture for `Architecture: all` packages; choose one \
             with `buildd-slave master series set {full} --nominated {arch}`"
        ));
    }
    Ok(())
}

fn ensure_processor(tx: &mut Tx<'_>, name: &str, family: Option<&str>) -> Result<i64, db::Error> {
    let known = series::processors(tx)?;
    if let Some((id, _, known_family)) = known.iter().find(|(_, one, _)| one == name) {
        return match family {
            Some(family) if family != known_family => Err(refuse(format!(
                "processor {name} has family {known_family}, not {family}"
            ))),
            _ => Ok(*id),
        };
    }
    let default = match name {
        "i386" | "386" | "lpia" => "x86",
        other => other,
    };
    series::add_processor(tx, name, family.unwrap_or(default))
}

fn enable(
    site: &Site,
    screen: Screen,
    series: &str,
    arch: &str,
    enabled: bool,
) -> Result<(), Error> {
    let full = site.db.write(|tx| {
        let series = find_series(tx, series)?;
        let found = find_architecture(tx, &series, arch)?;
        series::enable_architecture(tx, found.id, enabled)?;
        Ok(series.full_name())
    })?;
    let now = match enabled {
        true => "is enabled",
        false => "is disabled: its builds stay in the queue",
    };
    let json = json!({"series": full, "arch": arch, "enabled": enabled});
    screen.done(format_args!("{full} {arch} {now}"), &json)
}

const COLUMNS: &[Column] = &[
    column("series", "SERIES"),
    column("arch", "ARCH"),
    column("processor", "PROCESSOR"),
    column("family", "FAMILY"),
    column("enabled", "ENABLED"),
    column("virtualized", "VIRTUAL"),
    column("nominated", "NOMINATED"),
    wrapping("chroots", "CHROOTS"),
];

fn list(site: &Site, screen: Screen, series: Option<&str>) -> Result<(), Error> {
    let rows: Vec<(Series, ArchSeries)> = site.db.read(|tx| {
        let wanted = match series {
            Some(word) => vec![find_series(tx, word)?],
            None => series::all(tx)?,
        };
        let mut rows = Vec::new();
        for arch in series::architectures(tx)? {
            if let Some(series) = wanted.iter().find(|series| series.id == arch.series_id) {
                rows.push((series.clone(), arch));
            }
        }
        rows.sort_by_cached_key(|(series, arch)| (series.full_name(), arch.tag.clone()));
        Ok(rows)
    })?;
    let mut table = Table::new(COLUMNS);
    for (series, arch) in rows {
        table.row(vec![
            Cell::text(series.full_name()),
            Cell::text(&arch.tag),
            Cell::text(&arch.processor),
            Cell::text(&arch.family),
            Cell::flag(arch.enabled),
            Cell::flag(arch.virtualized),
            Cell::flag(series.nominated.as_ref() == Some(&arch.tag)),
            Cell::list(arch.chroots.iter().map(|pocket: &Pocket| pocket.word())),
        ]);
    }
    let none = "no architectures yet; `buildd-slave master arch add SERIES ARCH` adds one";
    screen.table(&table, none)
}
