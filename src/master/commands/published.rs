//! `master published`: records which binaries an archive has. `master retry-depwait`: retries the
//! builds that waited for them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::{Value, json};

use super::lookup::{find_architecture, find_archive, find_series};
use super::open::Site;
use super::screen::{Screen, stderr_line};
use super::series::PRIMARY;
use super::table::{Cell, Column, Table, column};
use super::{Error, units};
use crate::dpkg::control::Paragraph;
use crate::master::queue;
use crate::master::rows::archives::{self, Binary, Existing};
use crate::master::rows::series;
use crate::sys::clock::now_ms;

/// Binaries recorded in one transaction.
const BATCH: usize = 2000;

const EXAMPLES: &str = "\
Examples:
  xzcat binary-i386/Packages.xz | buildd-slave master published add hoary i386 -
  buildd-slave master published add hoary i386 --component universe Packages
  buildd-slave master published list

`add` never removes earlier records. `master retry-depwait` then retries the builds that waited for
these packages; a running master does so every [master] depwait_interval.";

#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(super) enum Verb {
    /// Record the packages of a Packages file as published in an archive
    Add(Add),
    /// Count the recorded packages by archive, architecture and component
    List,
}

#[derive(Debug, clap::Args)]
pub(super) struct Add {
    /// Series: NAME, or DISTRIBUTION/NAME if NAME is ambiguous
    series: String,
    /// Architecture, such as i386; packages of other architectures are skipped
    arch: String,
    /// Uncompressed Packages file; - reads standard input
    packages: PathBuf,
    /// Archive of the series' distribution: NAME, or OWNER/NAME
    #[arg(long, default_value = PRIMARY)]
    archive: String,
    /// Component of all packages [default: from the section of each, else main]
    #[arg(long)]
    component: Option<String>,
}

pub(super) fn run(verb: Verb, site: &Site, screen: Screen) -> Result<bool, Error> {
    match verb {
        Verb::Add(args) => add(&args, site, screen)?,
        Verb::List => list(site, screen)?,
    }
    Ok(true)
}

fn add(args: &Add, site: &Site, screen: Screen) -> Result<(), Error> {
    let arch = &args.arch;
    let (full, arch_series, archive) = site.db.read(|tx| {
        let series = find_series(tx, &args.series)?;
        let found = find_architecture(tx, &series, arch)?;
        let archive = find_archive(tx, &series.distribution, &args.archive)?;
        Ok((series.full_name(), found.id, archive))
    })?;
    let text = read(&args.packages)?;
    let (binaries, skipped) = parse(&text, arch, args.component.as_deref())
        .map_err(|error| Error::Refused(format!("{}: {error}", args.packages.display())))?;
    let now = now_ms();
    for batch in binaries.chunks(BATCH) {
        site.db.write(|tx| {
            archives::publish(tx, arch_series, archive.id, batch, Existing::Update, now)
        })?;
    }
    if skipped > 0 {
        stderr_line(format_args!(
            "skipped {} of other architectures",
            units::count(skipped, "package")
        ));
    }
    let name = archive.short_name();
    let count = units::count(binaries.len(), "package");
    let json = json!({"series": full, "arch": arch, "archive": name,
        "packages": binaries.len(), "passed_over": skipped});
    let sentence = format!("recorded {count} in {name} for {full} {arch}");
    screen.done(sentence, &json)
}

fn read(path: &Path) -> Result<String, Error> {
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        let read = io::stdin().lock().read_to_end(&mut bytes);
        read.map_err(Error::at(path))?;
    } else {
        bytes = fs::read(path).map_err(Error::at(path))?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Parses a Packages file. Returns each binary once, and the number of packages skipped because of
/// their architecture.
fn parse(text: &str, arch: &str, component: Option<&str>) -> Result<(Vec<Binary>, usize), String> {
    let mut binaries = BTreeMap::new();
    let mut skipped = 0;
    for (number, one) in text.split("\n\n").enumerate() {
        if one.trim().is_empty() {
            continue;
        }
        let in_paragraph = |problem: String| format!("paragraph {}: {problem}", number + 1);
        let paragraph = Paragraph::parse(one).map_err(|error| in_paragraph(error.to_string()))?;
        let field = |name| paragraph.get(name).map(|field| field.lines.concat());
        let (Some(name), Some(version)) = (field("Package"), field("Version")) else {
            return Err(in_paragraph(
                "no Package and Version: is this an uncompressed Packages file?".to_owned(),
            ));
        };
        if field("Architecture").is_some_and(|of| of != arch && of != "all") {
            skipped += 1;
            continue;
        }
        let section = field("Section").unwrap_or_default();
        let binary = Binary {
            component: component
                .unwrap_or_else(|| component_of(&section))
                .to_owned(),
            source: field("Source")
                .and_then(|source| source.split(' ').next().map(str::to_owned))
                .unwrap_or_else(|| name.clone()),
            name: name.clone(),
            version: version.clone(),
        };
        binaries.insert((name, version), binary);
    }
    Ok((binaries.into_values().collect(), skipped))
}

/// Returns the component in a section: `contrib` for `contrib/utils`, `main` for `utils`.
pub(super) fn component_of(section: &str) -> &str {
    match section.split_once('/') {
        Some((component, _)) => component,
        None => "main",
    }
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
    let (published, all, architectures, archives) = site.db.read(|tx| {
        Ok((
            archives::published(tx)?,
            series::all(tx)?,
            series::architectures(tx)?,
            archives::all(tx)?,
        ))
    })?;
    let mut table = Table::new(COLUMNS);
    let now = now_ms();
    for one in published {
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
        "no packages recorded yet; `buildd-slave master published add` records them",
    )
}

/// Retry builds whose missing dependencies are now published
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Checks the packages that `master published add` or a successful uploader recorded.

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
        true => queue::preview_depwaits(&site.db)?,
        false => queue::retry_depwaits(&site.db, site.rules(), now_ms())?,
    };
    for (build, title) in &report.retried {
        screen.line(format_args!("{build} {title}"))?;
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
        return Ok(true);
    }
    let retried = report.retried.iter();
    let retried: Value = retried
        .map(|(build, title)| json!({"build": build, "title": title}))
        .collect();
    let json = json!({"dry_run": args.dry_run, "retried": retried, "still_waiting": report.still,
        "unreadable": report.unreadable});
    screen.done("", &json)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packages_file_is_parsed_for_one_architecture() {
        let text = "Package: libfoo\nVersion: 1-1\nArchitecture: i386\nSource: foo (1)\n\
                    Section: contrib/libs\n\nPackage: foo-doc\nArchitecture: all\nVersion: 2\n\
                    Description: x\n y\n\nPackage: libfoo\nVersion: 1-1\nArchitecture: i386\n\n\
                    Package: other\nVersion: 1\nArchitecture: hppa\n\n";
        let (binaries, skipped) = parse(text, "i386", None).unwrap();
        let shown: Vec<String> = binaries
            .iter()
            .map(|one| {
                format!(
                    "{}={}/{} {}",
                    one.name, one.version, one.component, one.source
                )
            })
            .collect();
        assert_eq!(shown, ["foo-doc=2/main foo-doc", "libfoo=1-1/main libfoo"]);
        assert_eq!(skipped, 1);
        let (binaries, _) = parse(text, "i386", Some("universe")).unwrap();
        assert!(binaries.iter().all(|one| one.component == "universe"));
        let wrong = parse("\u{1f}\u{8b}junk: x", "i386", None).unwrap_err();
        assert!(wrong.contains("paragraph 1: no Package"), "{wrong}");
        assert_eq!(parse("", "i386", None).unwrap(), (Vec::new(), 0));
    }
}
