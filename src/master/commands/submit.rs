//! `master submit`: submits a source package, and optionally waits for its builds.
//!
//! The hashes of all files are checked first. Then the files that the librarian lacks are uploaded,
//! and all rows are written in one transaction.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::lookup::{find_archive, find_build, find_series};
use super::open::Site;
use super::packages_file::component_of;
use super::screen::{Screen, stderr_line};
use super::series::PRIMARY;
use super::table::{Cell, Column, Table, column};
use super::words::one_of;
use super::{Error, status, units};
use crate::dpkg::dsc::SourceFile as Listed;
use crate::dpkg::source::Source as Package;
use crate::librarian::{self, Uploader};
use crate::master::model::{BuildState, Pocket, Urgency};
use crate::master::policy::arch_specific::ArchSpecific;
use crate::master::rows::builds::Build;
use crate::master::rows::sources::Source;
use crate::master::submit::{Outcome, SourceFile, Submission};
use crate::sys::clock::now_ms;
use crate::sys::digest::{Hashes, hashes_of};

/// Time between two polls while waiting for builds.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Examples:
  buildd-slave master submit hello_2.10-3.dsc --series hoary
  buildd-slave master submit hello_2.10-3.dsc --series hoary --pocket UPDATES --urgency HIGH --wait

Creates one build for each architecture that the source supports and that is enabled and has a
chroot. Submitting a source again creates only missing builds.

Exit code: 0 if the source is in the database, 1 if not, 2 for a wrong command line. With --wait, 0
if all builds succeed, else 1.";

/// Submit a source package, and create its builds
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The .dsc file of the source package; its other files must be in the same folder
    #[arg(value_name = "X.dsc")]
    dsc: PathBuf,
    /// Series to build for: NAME, or DISTRIBUTION/NAME
    #[arg(long)]
    series: String,
    /// Pocket to build for
    #[arg(long, default_value = "RELEASE", value_parser = one_of(Pocket::ALL))]
    pocket: Pocket,
    /// Archive of the series' distribution: NAME, or OWNER/NAME
    #[arg(long, default_value = PRIMARY)]
    archive: String,
    /// Archive component [default: from the section of the first binary package, else main]
    #[arg(long)]
    component: Option<String>,
    /// Urgency, which raises the queue score
    #[arg(long, default_value = "LOW", value_parser = one_of(Urgency::ALL))]
    urgency: Urgency,
    /// Packages-arch-specific file, which restricts packages to architectures
    #[arg(long, value_name = "FILE")]
    pas: Option<PathBuf>,
    /// Wait until all builds are finished
    #[arg(long)]
    wait: bool,
}

pub(super) fn run(args: Args, site: &Site, screen: Screen) -> Result<bool, Error> {
    let package = Package::find(&args.dsc)?;
    let files = parts(&package)?;
    let restrictions = args.pas.as_deref().map(read_restrictions).transpose()?;
    let (series, archive) = site.db.read(|tx| {
        let series = find_series(tx, &args.series)?;
        let archive = find_archive(tx, &series.distribution, &args.archive)?;
        Ok((series, archive))
    })?;
    let mut submission = Submission {
        source: source(&package, &args, archive.id),
        binaries: package.dsc.binaries.clone(),
        files,
        series,
        archive,
        pocket: args.pocket,
        restrictions,
    };
    let files = submission.files.clone();
    site.db.read(|tx| {
        submission.files.clone_from(&files);
        submission.check(tx)
    })?;
    upload_missing(&package, &mut submission, site)?;
    let operator = status::operator();
    let rules = site.rules();
    let outcome = site
        .db
        .write(|tx| submission.submit(tx, rules, &operator, now_ms()))?;
    if !args.wait {
        report(screen, &submission, &outcome, &outcome.builds)?;
        return Ok(true);
    }
    if !screen.json {
        report(screen, &submission, &outcome, &outcome.builds)?;
    }
    let ids = outcome.builds.iter().map(|build| build.id).collect();
    let finished = wait(site, screen, ids, &outcome.builds)?;
    if screen.json {
        report(screen, &submission, &outcome, &finished)?;
    }
    Ok(finished
        .iter()
        .all(|build| build.state == BuildState::FullyBuilt))
}

/// Reads every file and compares its hashes with the .dsc.
fn parts(package: &Package) -> Result<Vec<SourceFile>, Error> {
    let mut parts = Vec::new();
    for (path, name, listed) in package.files() {
        let hashes = hashes_of(&path).map_err(Error::at(&path))?;
        if let Some(kind) = listed.and_then(|listed| difference(listed, &hashes)) {
            return Err(Error::Refused(format!(
                "{}: its {kind} is not the one that the .dsc lists; fetch the file again",
                path.display()
            )));
        }
        parts.push(SourceFile {
            name: name.as_str().to_owned(),
            sha1: hashes.sha1,
            size: i64::try_from(hashes.length).unwrap_or(i64::MAX),
            alias: None,
        });
    }
    Ok(parts)
}

/// Returns the hash in which a file differs from the .dsc.
fn difference(listed: &Listed, hashes: &Hashes) -> Option<&'static str> {
    let sha1 = listed.sha1.as_ref().map(|sha1| sha1.as_str());
    [
        ("SHA-256", listed.sha256.as_deref(), &hashes.sha256),
        ("SHA-1", sha1, &hashes.sha1),
        ("MD5", listed.md5.as_deref(), &hashes.md5),
    ]
    .into_iter()
    .find_map(|(kind, listed, hash)| listed.is_some_and(|listed| listed != hash).then_some(kind))
}

fn read_restrictions(path: &Path) -> Result<ArchSpecific, Error> {
    let text = fs::read_to_string(path).map_err(Error::at(path))?;
    ArchSpecific::parse(&text)
        .map_err(|error| Error::Refused(format!("{}: {error}", path.display())))
}

fn source(package: &Package, args: &Args, archive: i64) -> Source {
    let dsc = &package.dsc;
    let section = dsc.section.clone().unwrap_or_default();
    let component = args
        .component
        .as_deref()
        .unwrap_or_else(|| component_of(&section));
    Source {
        name: dsc.source.clone(),
        version: dsc.version.clone(),
        component: component.to_owned(),
        section: section.rsplit('/').next().unwrap_or_default().to_owned(),
        urgency: args.urgency,
        arch_hint: dsc.architecture.clone(),
        indep_hint: dsc.indep_architecture.clone(),
        archive,
        creator_email: dsc.maintainer.as_deref().and_then(address),
    }
}

/// Returns the address in `Name <address>`.
fn address(maintainer: &str) -> Option<String> {
    let (_, rest) = maintainer.split_once('<')?;
    let (address, _) = rest.split_once('>')?;
    address.contains('@').then(|| address.to_owned())
}

/// Uploads the files that the librarian lacks.
fn upload_missing(
    package: &Package,
    submission: &mut Submission,
    site: &Site,
) -> Result<(), Error> {
    let uploader = Uploader::new(&site.farm.librarian);
    let restricted = submission.archive.private;
    for (path, name, _) in package.files() {
        let part = submission
            .files
            .iter_mut()
            .find(|part| part.name == name.as_str());
        let Some(part) = part.filter(|part| part.alias.is_none()) else {
            continue;
        };
        let added = librarian::upload(
            &uploader,
            &path,
            Some(name.as_str()),
            None,
            None,
            restricted,
        )?;
        if added.sha1 != part.sha1 {
            return Err(Error::Refused(format!(
                "{}: the file changed during the upload; submit it again",
                path.display()
            )));
        }
        part.alias = Some(added.id);
    }
    Ok(())
}

const COLUMNS: &[Column] = &[
    column("id", "BUILD"),
    column("arch", "ARCH"),
    column("arch_indep", "ALL"),
    column("state", "STATE"),
    column("score", "SCORE"),
    column("new", "NEW"),
];

/// Prints the submission and its builds; `builds` has their current state.
fn report(
    screen: Screen,
    submission: &Submission,
    outcome: &Outcome,
    builds: &[Build],
) -> Result<(), Error> {
    let mut table = Table::new(COLUMNS);
    for build in builds {
        let score = build.job.as_ref().map(|job| job.score);
        table.row(vec![
            Cell::number(build.id),
            Cell::text(&build.name.arch_tag),
            Cell::flag(build.arch_indep),
            Cell::text(build.state),
            score.map_or_else(Cell::none, Cell::number),
            Cell::flag(outcome.new.contains(&build.id)),
        ]);
    }
    match screen.json {
        true => screen.done("", &json_report(submission, outcome, &table)),
        false => text_report(screen, submission, outcome, &table),
    }
}

fn json_report(submission: &Submission, outcome: &Outcome, builds: &Table) -> Value {
    let source = &submission.source;
    let left_out = outcome.left_out.iter();
    let left_out: Value = left_out
        .map(|one| json!({"arch": &one.tag, "reason": &one.reason}))
        .collect();
    json!({"source": &source.name, "version": &source.version,
        "series": submission.series.full_name(), "pocket": submission.pocket.word(),
        "archive": submission.archive.short_name(), "component": &source.component,
        "known": outcome.known, "superseded": &outcome.superseded,
        "builds": builds.json(), "left_out": left_out})
}

fn text_report(
    screen: Screen,
    submission: &Submission,
    outcome: &Outcome,
    builds: &Table,
) -> Result<(), Error> {
    let source = &submission.source;
    let known = match (outcome.known, outcome.new.len()) {
        (false, _) => String::new(),
        (true, 0) => "; already submitted, nothing added".to_owned(),
        (true, new) => format!("; already submitted, {} added", units::count(new, "build")),
    };
    let place = format!(
        "{} {} ({}, {})",
        submission.series.full_name(),
        submission.pocket,
        submission.archive.short_name(),
        source.component
    );
    screen.line(format_args!(
        "{} {} for {place}{known}",
        source.name, source.version
    ))?;
    if !outcome.superseded.is_empty() {
        let versions = outcome.superseded.join(", ");
        screen.line(format_args!("supersedes {versions}"))?;
    }
    screen.table(builds, "no builds")?;
    for one in &outcome.left_out {
        screen.line(format_args!("no build for {}: {}", one.tag, one.reason))?;
    }
    Ok(())
}

/// Waits until all builds are finished, and prints a line for each change of state. Returns the
/// finished builds.
fn wait(site: &Site, screen: Screen, ids: Vec<i64>, from: &[Build]) -> Result<Vec<Build>, Error> {
    let mut seen: Vec<BuildState> = from.iter().map(|build| build.state).collect();
    let mut warned = false;
    loop {
        let (builds, is_master_alive) = site.db.read(|tx| {
            let builds: Result<Vec<Build>, _> = ids.iter().map(|&id| find_build(tx, id)).collect();
            Ok((builds?, status::is_master_alive(tx)?))
        })?;
        for (build, seen) in builds.iter().zip(&mut seen) {
            if *seen != build.state {
                *seen = build.state;
                let on = build
                    .builder
                    .as_ref()
                    .map(|(name, _)| format!(" on {name}"));
                let on = on.unwrap_or_default();
                let (id, tag) = (build.id, &build.name.arch_tag);
                screen.line(format_args!("{id} {tag} {}{on}", build.state))?;
            }
        }
        if builds.iter().all(|build| is_finished(build.state)) {
            return Ok(builds);
        }
        if !is_master_alive && !warned {
            warned = true;
            stderr_line(status::NO_MASTER);
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// Returns whether a build is finished. MANUALDEPWAIT counts, although the farm may retry it later.
fn is_finished(state: BuildState) -> bool {
    match state {
        BuildState::NeedsBuild
        | BuildState::Building
        | BuildState::Uploading
        | BuildState::Cancelling
        | BuildState::Gathering => false,
        BuildState::FullyBuilt
        | BuildState::FailedToBuild
        | BuildState::ManualDepWait
        | BuildState::ChrootWait
        | BuildState::Superseded
        | BuildState::FailedToUpload
        | BuildState::Cancelled => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_from_maintainers() {
        for (maintainer, expect) in [
            ("A B <a@b.c>", Some("a@b.c")),
            ("a@b.c", None),
            ("A <nobody>", None),
            ("<", None),
        ] {
            assert_eq!(address(maintainer).as_deref(), expect);
        }
    }
}
