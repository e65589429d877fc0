//! `master series`: manages distributions and their series.
//!
//! Adding a series also adds its distribution, with a primary archive, if that is new. Series are
//! never removed, because builds refer to them.

use clap::Subcommand;
use serde_json::json;

use super::lookup::{find_architecture, find_series, refuse};
use super::open::Site;
use super::screen::Screen;
use super::table::{Cell, Column, Table, column, wrapping};
use super::words::one_of;
use super::{Error, names};
use crate::db::{self, Tx};
use crate::master::model::{Archive, ArchivePurpose, Retention, SeriesStatus};
use crate::master::rows::archives;
use crate::master::rows::series::{self, Series};

/// Name of the archive that each distribution has.
pub(super) const PRIMARY: &str = "primary";

const EXAMPLES: &str = "\
Examples:
  buildd-slave master series add ubuntu hoary --version 5.04 --nominated i386
  buildd-slave master series set hoary --status CURRENT
  buildd-slave master series list

STATUS decides which pockets of the primary archive accept builds:
  EXPERIMENTAL, DEVELOPMENT    RELEASE only
  FROZEN                       all pockets
  CURRENT, SUPPORTED           all but RELEASE
  OBSOLETE                     none: no builds are dispatched

The nominated architecture builds the packages with `Architecture: all`.";

#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(super) enum Verb {
    /// Add a series; creates its distribution if needed
    Add {
        /// Name of the distribution, such as ubuntu
        #[arg(value_parser = names::new_name)]
        distribution: String,
        /// Name of the new series, such as hoary
        #[arg(value_parser = names::new_name)]
        series: String,
        /// Status, which decides what is built; see `series --help`
        #[arg(long, default_value = "DEVELOPMENT", value_parser = one_of(SeriesStatus::ALL))]
        status: SeriesStatus,
        /// Version number, such as 5.04
        #[arg(long, default_value = "", hide_default_value = true)]
        version: String,
        /// Architecture that builds the `Architecture: all` packages
        #[arg(long, value_name = "ARCH")]
        nominated: Option<String>,
    },
    /// Change the status, version or nominated architecture of a series
    Set(Set),
    /// List series
    List,
}

#[derive(Debug, clap::Args)]
pub(super) struct Set {
    /// Series: NAME, or DISTRIBUTION/NAME if NAME is ambiguous
    series: String,
    /// New status, which decides what is built; see `series --help`
    #[arg(long, value_parser = one_of(SeriesStatus::ALL))]
    status: Option<SeriesStatus>,
    /// New version number
    #[arg(long)]
    version: Option<String>,
    /// New architecture that builds the `Architecture: all` packages
    #[arg(long, value_name = "ARCH")]
    nominated: Option<String>,
}

pub(super) fn run(verb: Verb, site: &Site, screen: Screen) -> Result<bool, Error> {
    match verb {
        Verb::Add {
            distribution,
            series: name,
            status,
            version,
            nominated,
        } => {
            let series = Series {
                id: 0,
                distribution_id: 0,
                distribution,
                name,
                version,
                status,
                nominated,
            };
            let added = site.db.write(|tx| add(tx, &series))?;
            let full = added.full_name();
            let next = format!("next: `buildd-slave master arch add {full} ARCH`");
            let json = json!({"id": added.id, "series": full, "status": status.word()});
            screen.done(
                format_args!("added series {full} ({status}); {next}"),
                &json,
            )?;
        }
        Verb::Set(args) => set(&args, site, screen)?,
        Verb::List => list(site, screen)?,
    }
    Ok(true)
}

fn set(args: &Set, site: &Site, screen: Screen) -> Result<(), Error> {
    let changed = site.db.write(|tx| {
        let mut series = find_series(tx, &args.series)?;
        if let Some(tag) = &args.nominated {
            series.nominated = Some(find_architecture(tx, &series, tag)?.tag);
        }
        series.status = args.status.unwrap_or(series.status);
        series.version = args.version.clone().unwrap_or(series.version);
        series::set(tx, &series)?;
        Ok(series)
    })?;
    let json = json!({"id": changed.id, "series": changed.full_name(),
        "status": changed.status.word(), "version": &changed.version,
        "nominated": &changed.nominated});
    let nominated = changed.nominated.as_deref().unwrap_or("none");
    let sentence = format!(
        "{} is {}; nominated architecture: {nominated}",
        changed.full_name(),
        changed.status
    );
    screen.done(sentence, &json)
}

fn add(tx: &mut Tx<'_>, series: &Series) -> Result<Series, db::Error> {
    let distribution_id = series::ensure_distribution(tx, &series.distribution)?;
    let all = series::all(tx)?;
    if all.iter().any(|one| one.full_name() == series.full_name()) {
        let full = series.full_name();
        return Err(refuse(format!(
            "{full} already exists; `master series set {full}` changes it"
        )));
    }
    let archives = archives::all(tx)?;
    if !archives
        .iter()
        .any(|one| one.distribution_id == distribution_id && one.short_name() == PRIMARY)
    {
        archives::add(
            tx,
            &Archive {
                id: 0,
                distribution_id,
                distribution: series.distribution.clone(),
                owner: String::new(),
                name: PRIMARY.to_owned(),
                purpose: ArchivePurpose::Primary,
                private: false,
                virtualized: false,
                enabled: true,
                relative_score: 0,
                base_url: String::new(),
                has_secret: false,
                debug_symbols: false,
                profiles: String::new(),
                retention: Retention::default(),
            },
        )?;
    }
    let mut series = Series {
        distribution_id,
        ..series.clone()
    };
    series.id = series::add(tx, &series)?;
    Ok(series)
}

const COLUMNS: &[Column] = &[
    column("distribution", "DISTRIBUTION"),
    column("series", "SERIES"),
    column("version", "VERSION"),
    column("status", "STATUS"),
    column("nominated", "NOMINATED"),
    wrapping("architectures", "ARCHITECTURES"),
];

fn list(site: &Site, screen: Screen) -> Result<(), Error> {
    let (all, architectures) = site
        .db
        .read(|tx| Ok((series::all(tx)?, series::architectures(tx)?)))?;
    let mut table = Table::new(COLUMNS);
    for series in all {
        let tags = architectures
            .iter()
            .filter(|arch| arch.series_id == series.id);
        table.row(vec![
            Cell::text(&series.distribution),
            Cell::text(&series.name),
            Cell::text(&series.version),
            Cell::text(series.status),
            Cell::maybe(series.nominated.as_ref()),
            Cell::list(tags.map(|arch| &arch.tag)),
        ]);
    }
    let none = "no series yet; `buildd-slave master series add DISTRIBUTION SERIES` adds one";
    screen.table(&table, none)
}
