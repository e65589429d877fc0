//! `master published`: records which binaries an archive has. `master retry-depwait`: retries the
//! builds that waited for them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use clap::Subcommand;
use serde_json::{Value, json};

use super::lookup::{find_architecture, find_archive, find_series};
use super::open::Site;
use super::packages_file::{self, PackagesFile};
use super::screen::{Screen, stderr_line};
use super::series::PRIMARY;
use super::table::{Cell, Column, Table, column};
use super::{Error, units};
use crate::db::Tx;
use crate::master::queue;
use crate::master::rows::published::{self, Binary, Existing, Key, List};
use crate::master::rows::{archives, series};
use crate::sys::clock::now_ms;

/// The rows that one transaction writes, except that it writes one binary at least. More would
/// keep SQLite's lock for longer than 0.1 s.
const ROWS: usize = 1000;
/// The binaries that one transaction reads.
const PAGE: i64 = 2000;

const EXAMPLES: &str = "\
Examples:
  buildd-slave master published set hoary i386 binary-i386/Packages.xz
  curl -sf https://example.org/dists/hoary/main/binary-i386/Packages.gz |
    buildd-slave master published set hoary i386 --component main
  buildd-slave master published add hoary i386 --archive bob/ppa Packages
  buildd-slave master published remove hoary libfoo-dev 1.2-1
  buildd-slave master published list

`set` replaces a list, so that builds wait for what is gone. `add` never removes earlier records.
`master retry-depwait` then retries the builds that waited for these packages; a running master does
so every [master] depwait_interval.";

#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(super) enum Verb {
    /// Record the packages of a Packages file as published in an archive
    Add(Add),
    /// Replace the recorded packages of an archive by those of a Packages file
    Set(Set),
    /// Remove the record of a package
    Remove(Remove),
    /// Count the recorded packages by archive, architecture and component
    List,
}

#[derive(Debug, clap::Args)]
pub(super) struct Add {
    #[command(flatten)]
    place: Place,
    /// Packages file, plain or compressed by gzip or xz; - reads standard input
    packages: PathBuf,
    /// Component of all packages [default: from the section of each, else main]
    #[arg(long)]
    component: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Set {
    #[command(flatten)]
    place: Place,
    /// Packages file, plain or compressed by gzip or xz; - reads standard input
    #[arg(default_value = "-")]
    packages: PathBuf,
    /// Replace only the packages of this component, to which all packages of the file belong
    #[arg(long)]
    component: Option<String>,
    /// Accept a file without packages, which removes all
    #[arg(long)]
    allow_empty: bool,
}

#[derive(Debug, clap::Args)]
struct Place {
    /// Series: NAME, or DISTRIBUTION/NAME if NAME is ambiguous
    series: String,
    /// Architecture, such as i386; packages of other architectures are skipped
    arch: String,
    /// Archive of the series' distribution: NAME, or OWNER/NAME
    #[arg(long, default_value = PRIMARY)]
    archive: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct Remove {
    /// Series: NAME, or DISTRIBUTION/NAME if NAME is ambiguous
    series: String,
    /// Binary package
    name: String,
    /// Its version [default: all versions]
    version: Option<String>,
    /// Only this architecture of the series
    #[arg(long)]
    arch: Option<String>,
    /// Archive of the series' distribution: NAME, or OWNER/NAME
    #[arg(long, default_value = PRIMARY)]
    archive: String,
}

pub(super) fn run(verb: Verb, site: &Site, screen: Screen) -> Result<bool, Error> {
    match verb {
        Verb::Add(args) => add(&args, site, screen)?,
        Verb::Set(args) => set(&args, site, screen)?,
        Verb::Remove(args) => remove(&args, site, screen)?,
        Verb::List => list(site, screen)?,
    }
    Ok(true)
}

/// A [`Place`] with the names to print.
struct Found {
    list: List,
    series: String,
    archive: String,
}

fn find(place: &Place, site: &Site) -> Result<Found, Error> {
    let found = site.db.read(|tx| {
        let series = find_series(tx, &place.series)?;
        let arch = find_architecture(tx, &series, &place.arch)?;
        let archive = find_archive(tx, &series.distribution, &place.archive)?;
        Ok(Found {
            list: List {
                arch_series: arch.id,
                archive: archive.id,
            },
            series: series.full_name(),
            archive: archive.short_name(),
        })
    })?;
    Ok(found)
}

fn add(args: &Add, site: &Site, screen: Screen) -> Result<(), Error> {
    let arch = &args.place.arch;
    let found = find(&args.place, site)?;
    let file = packages_file::read(&args.packages, arch, args.component.as_deref())?;
    let binaries: Vec<Binary> = file.binaries.into_values().collect();
    publish(site, found.list, &binaries)?;
    say_skipped(file.skipped);
    let Found {
        series, archive, ..
    } = found;
    let count = units::count(binaries.len(), "package");
    let json = json!({"series": series, "arch": arch, "archive": archive,
        "packages": binaries.len(), "passed_over": file.skipped});
    let sentence = format!("recorded {count} in {archive} for {series} {arch}");
    screen.done(sentence, &json)
}

fn say_skipped(skipped: usize) {
    if skipped > 0 {
        stderr_line(format_args!(
            "skipped {} of other architectures",
            units::count(skipped, "package")
        ));
    }
}

/// Replaces a list in steps: new and changed packages first, so that an interrupted run leaves
/// none out. The next run removes the rest.
fn set(args: &Set, site: &Site, screen: Screen) -> Result<(), Error> {
    let arch = &args.place.arch;
    let component = args.component.as_deref();
    let found = find(&args.place, site)?;
    let PackagesFile { binaries, skipped } = packages_file::read(&args.packages, arch, component)?;
    if binaries.is_empty() && !args.allow_empty {
        return Err(Error::Refused(format!(
            "{}: no packages for {arch}; --allow-empty removes all that are recorded",
            args.packages.display()
        )));
    }
    let packages = binaries.len();
    let changes = changes(site, found.list, binaries, component)?;
    publish(site, found.list, &changes.written)?;
    in_steps(site, changes.gone.chunks(ROWS), |tx, keys| {
        published::retract(tx, found.list, keys).map(drop)
    })?;
    say_skipped(skipped);
    let Found {
        series, archive, ..
    } = found;
    let (changed, removed) = (changes.changed, changes.gone.len());
    let added = changes.written.len() - changed;
    let json = json!({"series": series, "arch": arch, "archive": archive, "packages": packages,
        "added": added, "changed": changed, "removed": removed, "passed_over": skipped});
    let count = units::count(packages, "package");
    let sentence = format!(
        "{archive} has {count} for {series} {arch}: {added} added, {changed} changed, {removed} \
         removed"
    );
    screen.done(sentence, &json)
}

/// The differences of a list from a Packages file.
#[derive(Debug, Default)]
struct Changes {
    /// The binaries to write: new and changed ones.
    written: Vec<Binary>,
    /// The number of changed ones.
    changed: usize,
    gone: Vec<Key>,
}

/// Compares the recorded binaries, of one component or all, with those `wanted`.
fn changes(
    site: &Site,
    list: List,
    mut wanted: BTreeMap<Key, Binary>,
    component: Option<&str>,
) -> Result<Changes, Error> {
    let mut changes = Changes::default();
    let mut after = Key::default();
    loop {
        let page = site.db.read(|tx| published::page(tx, list, &after, PAGE))?;
        let Some(last) = page.last() else { break };
        after = last.key();
        for binary in page {
            let key = binary.key();
            match wanted.get(&key) {
                Some(same) if *same == binary => drop(wanted.remove(&key)),
                Some(_) => changes.changed += 1,
                None if component.is_none_or(|only| binary.component == only) => {
                    changes.gone.push(key);
                }
                None => {}
            }
        }
    }
    changes.written = wanted.into_values().collect();
    Ok(changes)
}

/// Records binaries in steps.
fn publish(site: &Site, list: List, binaries: &[Binary]) -> Result<(), Error> {
    let now = now_ms();
    in_steps(site, steps(binaries), |tx, step| {
        published::publish(tx, list, step, Existing::Update, now)
    })
}

/// Divides binaries by the number of their rows, at most [`ROWS`] a step.
fn steps(binaries: &[Binary]) -> impl Iterator<Item = &[Binary]> {
    let mut rows = 0;
    binaries.chunk_by(move |binary, next| {
        rows += binary.rows();
        let same_step = rows + next.rows() <= ROWS;
        if !same_step {
            rows = 0;
        }
        same_step
    })
}

/// Writes each step in a transaction, and leaves the database to others for as long in between.
fn in_steps<'a, T: 'a>(
    site: &Site,
    steps: impl Iterator<Item = &'a [T]>,
    write: impl Fn(&mut Tx<'_>, &[T]) -> Result<(), crate::db::Error>,
) -> Result<(), Error> {
    for step in steps {
        let began = Instant::now();
        site.db.write(|tx| write(tx, step))?;
        thread::sleep(began.elapsed());
    }
    Ok(())
}

fn remove(args: &Remove, site: &Site, screen: Screen) -> Result<(), Error> {
    let (name, series) = (&args.name, &args.series);
    let (removed, archive, full) = site.db.write(|tx| {
        let series = find_series(tx, series)?;
        let archive = find_archive(tx, &series.distribution, &args.archive)?;
        let architectures = match &args.arch {
            Some(arch) => vec![find_architecture(tx, &series, arch)?],
            None => series::architectures(tx)?
                .into_iter()
                .filter(|arch| arch.series_id == series.id)
                .collect(),
        };
        let mut removed = Vec::new();
        for arch in architectures {
            let list = List {
                arch_series: arch.id,
                archive: archive.id,
            };
            let mut versions = published::versions(tx, list, name)?;
            versions.retain(|one| args.version.as_ref().is_none_or(|only| one == only));
            let keys: Vec<Key> = versions
                .into_iter()
                .map(|one| (name.clone(), one))
                .collect();
            published::retract(tx, list, &keys)?;
            removed.extend(
                keys.into_iter()
                    .map(|(_, version)| (arch.tag.clone(), version)),
            );
        }
        Ok((removed, archive.short_name(), series.full_name()))
    })?;
    let version = args.version.iter().map(|version| format!(" {version}"));
    let what = format!("{name}{}", version.collect::<String>());
    if removed.is_empty() {
        return Err(Error::Refused(format!(
            "no {what} is recorded in {archive} for {full}; `buildd-slave master published list` \
             counts what is"
        )));
    }
    let rows: Value = removed
        .iter()
        .map(|(arch, version)| json!({"arch": arch, "version": version}))
        .collect();
    let json = json!({"series": full, "archive": archive, "name": name, "removed": rows});
    let all: Vec<String> = removed
        .iter()
        .map(|(arch, version)| format!("{version} ({arch})"))
        .collect();
    let sentence = format!(
        "removed {name} from {archive} for {full}: {}",
        all.join(", ")
    );
    screen.done(sentence, &json)
}

const COLUMNS: &[Column] = &[
    column("archive", "ARCHIVE"),
    column("series", "SERIES"),
    column("arch", "ARCH"),
    column("component", "COMPONENT"),
    column("packages", "PACKAGES"),
    column("updated_at", "AGE"),
];

fn list(site: &Site, screen: Screen) -> Result<(), Error> {
    let (counts, all, architectures, archives) = site.db.read(|tx| {
        Ok((
            published::counts(tx)?,
            series::all(tx)?,
            series::architectures(tx)?,
            archives::all(tx)?,
        ))
    })?;
    let mut table = Table::new(COLUMNS);
    let now = now_ms();
    for one in counts {
        let arch = architectures
            .iter()
            .find(|arch| arch.id == one.arch_series_id);
        let series = arch.and_then(|arch| all.iter().find(|series| series.id == arch.series_id));
        let archive = archives.iter().find(|archive| archive.id == one.archive_id);
        table.row(vec![
            Cell::maybe(archive.map(|archive| archive.short_name())),
            Cell::maybe(series.map(|series| series.full_name())),
            Cell::maybe(arch.map(|arch| &arch.tag)),
            Cell::text(&one.component),
            Cell::number(one.binaries),
            Cell::ago(Some(one.updated_at), now),
        ]);
    }
    screen.table(
        &table,
        "no packages recorded yet; `buildd-slave master published set` records them",
    )
}

/// Retry builds whose missing dependencies are now published
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Checks the packages that `master published` or a successful uploader recorded.

Examples:
  buildd-slave master retry-depwait --dry-run
  buildd-slave master retry-depwait")]
pub(super) struct RetryArgs {
    /// List the builds without retrying them
    #[arg(short = 'n', long)]
    dry_run: bool,
}

pub(super) fn run_retry(args: &RetryArgs, site: &Site, screen: Screen) -> Result<bool, Error> {
    let report = match args.dry_run {
        true => queue::preview_depwaits(&site.db, now_ms())?,
        false => queue::retry_depwaits(&site.db, site.rules(), now_ms())?,
    };
    for freed in &report.retried {
        screen.line(format_args!(
            "{} {}: {}",
            freed.build, freed.title, freed.met
        ))?;
    }
    if !screen.json {
        let retried = match args.dry_run {
            true => "would be retried",
            false => "retried",
        };
        stderr_line(format_args!(
            "{} {retried}, {} still waiting",
            units::count(report.retried.len(), "build"),
            report.still
        ));
        for build in &report.unreadable {
            stderr_line(format_args!(
                "build {build}: cannot parse its missing dependencies; `master retry {build}` \
                 retries it"
            ));
        }
        for build in &report.fruitless {
            stderr_line(format_args!(
                "build {build}: retried too often without success; `master retry {build}` retries it"
            ));
        }
        return Ok(true);
    }
    let retried = report.retried.iter();
    let retried: Value = retried
        .map(|freed| json!({"build": freed.build, "title": freed.title, "met": freed.met}))
        .collect();
    let json = json!({"dry_run": args.dry_run, "retried": retried, "still_waiting": report.still,
        "unreadable": report.unreadable, "fruitless": report.fruitless});
    screen.done("", &json)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dpkg::packages::Package;
    use crate::dpkg::relations::Provided;

    #[test]
    fn a_step_writes_a_limited_number_of_rows() {
        let binary = |provides: usize| {
            let entry = |number| Provided::of(&format!("p{number}"), "", String::new());
            Binary {
                package: Package {
                    provides: (0..provides).map(entry).collect(),
                    ..Package::default()
                },
                component: String::new(),
                source: String::new(),
            }
        };
        let rows = |provides: &[usize]| {
            let binaries: Vec<Binary> = provides.iter().map(|count| binary(*count)).collect();
            let steps = steps(&binaries);
            let rows = steps.map(|step| step.iter().map(Binary::rows).sum::<usize>());
            rows.collect::<Vec<_>>()
        };
        assert_eq!(rows(&[]), [0; 0]);
        assert_eq!(rows(&[0; 2500]), [1000, 1000, 500]);
        assert_eq!(rows(&[499, 499, 0, 998, 0]), [1000, 1000, 1]);
        // A package with its Provides is never divided.
        assert_eq!(rows(&[0, 5000, 0]), [1, 5001, 1]);
    }
}
