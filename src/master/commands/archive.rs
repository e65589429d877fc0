//! `master archive`: manages archives.
//!
//! The password of a private archive is read from a file and never printed.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::{Value, json};

use super::lookup::{find_archive, find_distribution, refuse};
use super::open::Site;
use super::screen::Screen;
use super::table::{Cell, Column, Sheet, Table, column, wrapping};
use super::words::{one_of, yes_or_no};
use super::{Error, names};
use crate::master::model::{Archive, ArchivePurpose, Retention};
use crate::master::rows::archives;
use crate::protocol::{BuildProfile, Invalid};

const EXAMPLES: &str = "\
Examples:
  buildd-slave master archive set ubuntu primary --url http://archive.example.org/ubuntu
  buildd-slave master archive add ubuntu tools --owner cprov --url http://ppa.example.org/cprov
  buildd-slave master archive add ubuntu embargo --private --secret-file secret --score 100
  buildd-slave master archive set ubuntu primary --debug-symbols yes --profiles nodoc,nocheck
  buildd-slave master archive set ubuntu primary --keep-versions 5 --keep-days 365
  buildd-slave master archive list
  buildd-slave master archive show ubuntu cprov/tools

The purpose of an archive decides which pockets and components its builds use. Each distribution
gets an archive `primary` with its first series. Builds for an archive without a URL use the apt
sources of their chroot. After --keep-days, a master removes old attempts of builds that have
ended, with logs and results, and versions that are neither published nor among the newest.";

#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(super) enum Verb {
    /// Add an archive to a distribution
    Add(Add),
    /// Change the settings of an archive
    Set(Set),
    /// List archives
    List,
    /// Show the settings of an archive
    Show(Show),
}

#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// Distribution of the archive
    distribution: String,
    /// Archive: NAME, or OWNER/NAME
    name: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct Add {
    /// Distribution of the archive
    distribution: String,
    /// Name of the new archive
    #[arg(value_parser = names::new_name)]
    name: String,
    /// Purpose, which decides the pockets and components that its builds use
    #[arg(long, default_value = "PPA", value_parser = one_of(ArchivePurpose::ALL))]
    purpose: ArchivePurpose,
    /// Owner, such as the user of a PPA [default: none]
    #[arg(long, default_value = "", hide_default_value = true)]
    owner: String,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Debug, clap::Args)]
pub(super) struct Set {
    /// Distribution of the archive
    distribution: String,
    /// Archive: NAME, or OWNER/NAME
    name: String,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Debug, clap::Args)]
struct Settings {
    /// Base URL for apt; empty to use the apt sources of the chroot
    #[arg(long)]
    url: Option<String>,
    /// Readers of the archive need a password (see --secret-file)
    #[arg(long)]
    private: bool,
    /// Readers of the archive need no password
    #[arg(long, conflicts_with = "private")]
    public: bool,
    /// File with one line: the password that builders use for the archive
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// Points added to the queue score of each build; may be negative
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    score: Option<i32>,
    /// Build for it on virtual builders only
    #[arg(long, value_name = "yes|no", value_parser = yes_or_no(), hide_possible_values = true)]
    virtualized: Option<bool>,
    /// Also make packages with debug symbols
    #[arg(long, value_name = "yes|no", value_parser = yes_or_no(), hide_possible_values = true)]
    debug_symbols: Option<bool>,
    /// Active build profiles, separated by commas; empty for none
    #[arg(long, value_name = "NAMES", value_parser = profiles)]
    profiles: Option<String>,
    /// Number of attempts to keep of a build that has ended, or `forever`
    #[arg(long, value_name = "N", value_parser = keep)]
    keep_attempts: Option<u32>,
    /// Number of days to keep everything, or `forever`
    #[arg(long, value_name = "N", value_parser = keep)]
    keep_days: Option<u32>,
    /// Number of versions to keep of each source and binary package, or `forever`
    #[arg(long, value_name = "N", value_parser = keep)]
    keep_versions: Option<u32>,
    /// Dispatch its builds; with `no`, they stay in the queue
    #[arg(long, value_name = "yes|no", value_parser = yes_or_no(), hide_possible_values = true)]
    enabled: Option<bool>,
}

/// Reads a number to keep; 0 keeps everything.
fn keep(text: &str) -> Result<u32, &'static str> {
    match (text, text.parse()) {
        ("forever", _) => Ok(0),
        (_, Ok(number @ 0..=100_000)) => Ok(number),
        _ => Err("write a number up to 100000, or forever"),
    }
}

/// Checks names of build profiles; returns them separated by one blank.
fn profiles(text: &str) -> Result<String, Invalid> {
    let names: Result<Vec<_>, _> = text
        .split([',', ' '])
        .filter(|name| !name.is_empty())
        .map(BuildProfile::parse)
        .collect();
    Ok(names?
        .iter()
        .map(BuildProfile::as_str)
        .collect::<Vec<_>>()
        .join(" "))
}

pub(super) fn run(verb: Verb, site: &Site, screen: Screen) -> Result<bool, Error> {
    match verb {
        Verb::Add(args) => add(&args, site, screen)?,
        Verb::Set(args) => set(&args, site, screen)?,
        Verb::List => list(site, screen)?,
        Verb::Show(args) => show(&args, site, screen)?,
    }
    Ok(true)
}

fn add(args: &Add, site: &Site, screen: Screen) -> Result<(), Error> {
    let distribution = &args.distribution;
    let secret = args.settings.secret()?;
    let archive = site.db.write(|tx| {
        let mut archive = Archive {
            id: 0,
            distribution_id: find_distribution(tx, distribution)?,
            distribution: distribution.clone(),
            owner: args.owner.clone(),
            name: args.name.clone(),
            purpose: args.purpose,
            private: false,
            virtualized: false,
            enabled: true,
            relative_score: 0,
            base_url: String::new(),
            has_secret: secret.is_some(),
            debug_symbols: false,
            profiles: String::new(),
            retention: Retention::default(),
        };
        let name = archive.short_name();
        if archives::all(tx)?
            .iter()
            .any(|one| one.distribution == *distribution && one.short_name() == name)
        {
            return Err(refuse(format!(
                "{distribution} already has an archive {name}; `master archive set` changes it"
            )));
        }
        args.settings.apply(&mut archive).map_err(refuse)?;
        archive.id = archives::add(tx, &archive)?;
        if let Some(secret) = &secret {
            archives::set_secret(tx, archive.id, secret)?;
        }
        Ok(archive)
    })?;
    let sentence = format!("added archive {} to {distribution}", archive.short_name());
    screen.done(sentence, &object(&archive))
}

fn set(args: &Set, site: &Site, screen: Screen) -> Result<(), Error> {
    let distribution = &args.distribution;
    let secret = args.settings.secret()?;
    let archive = site.db.write(|tx| {
        find_distribution(tx, distribution)?;
        let mut archive = find_archive(tx, distribution, &args.name)?;
        archive.has_secret |= secret.is_some();
        args.settings.apply(&mut archive).map_err(refuse)?;
        archives::set(tx, &archive)?;
        if let Some(secret) = &secret {
            archives::set_secret(tx, archive.id, secret)?;
        }
        Ok(archive)
    })?;
    let sentence = format!("changed archive {} of {distribution}", archive.short_name());
    screen.done(sentence, &object(&archive))
}

impl Settings {
    /// Reads the password from `--secret-file`, if that is given.
    fn secret(&self) -> Result<Option<String>, Error> {
        self.secret_file.as_deref().map(read_secret).transpose()
    }

    fn apply(&self, archive: &mut Archive) -> Result<(), String> {
        if let Some(url) = &self.url {
            archive.base_url = base_url(url)?;
        }
        archive.private = (archive.private || self.private) && !self.public;
        archive.relative_score = self.score.map_or(archive.relative_score, i64::from);
        archive.virtualized = self.virtualized.unwrap_or(archive.virtualized);
        archive.debug_symbols = self.debug_symbols.unwrap_or(archive.debug_symbols);
        if let Some(profiles) = &self.profiles {
            archive.profiles.clone_from(profiles);
        }
        archive.enabled = self.enabled.unwrap_or(archive.enabled);
        let kept = &mut archive.retention;
        kept.attempts = self.keep_attempts.unwrap_or(kept.attempts);
        kept.days = self.keep_days.unwrap_or(kept.days);
        kept.versions = self.keep_versions.unwrap_or(kept.versions);
        if archive.private && !archive.base_url.is_empty() && !archive.has_secret {
            return Err(
                "builders need a password for a private archive: give --secret-file".to_owned(),
            );
        }
        Ok(())
    }
}

fn read_secret(path: &Path) -> Result<String, Error> {
    let text = fs::read_to_string(path).map_err(Error::at(path))?;
    let secret = text.trim_end_matches(['\r', '\n']);
    let is_good = !secret.is_empty() && !secret.contains(|c: char| c.is_control());
    match is_good {
        true => Ok(secret.to_owned()),
        false => Err(Error::Refused(format!(
            "{}: the password must be one line, and not empty",
            path.display()
        ))),
    }
}

/// Checks a URL for use in an apt sources line. It must not contain a password.
fn base_url(text: &str) -> Result<String, String> {
    let rest = ["http://", "https://", "file:/", "copy:/"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    let is_good = |rest: &str| {
        !rest.is_empty()
            && rest
                .chars()
                .all(|c| c.is_ascii_graphic() && !"@?#\"".contains(c))
    };
    match rest {
        _ if text.is_empty() => Ok(String::new()),
        Some(rest) if is_good(rest) => Ok(text.trim_end_matches('/').to_owned()),
        _ => Err(
            "invalid archive URL: write http://HOST/PATH, and put a password into --secret-file"
                .to_owned(),
        ),
    }
}

fn object(archive: &Archive) -> Value {
    json!({"id": archive.id, "distribution": &archive.distribution, "owner": &archive.owner,
        "name": &archive.name, "purpose": archive.purpose.word(), "private": archive.private,
        "virtualized": archive.virtualized, "enabled": archive.enabled,
        "debug_symbols": archive.debug_symbols, "profiles": &archive.profiles,
        "score": archive.relative_score, "url": &archive.base_url,
        "keep_attempts": archive.retention.attempts, "keep_days": archive.retention.days,
        "keep_versions": archive.retention.versions})
}

const COLUMNS: &[Column] = &[
    column("distribution", "DISTRIBUTION"),
    column("owner", "OWNER"),
    column("name", "NAME"),
    column("purpose", "PURPOSE"),
    column("private", "PRIVATE"),
    column("virtualized", "VIRTUAL"),
    column("enabled", "ENABLED"),
    column("debug_symbols", "DBGSYM"),
    column("profiles", "PROFILES"),
    column("score", "SCORE"),
    column("keep_attempts", "ATTEMPTS"),
    column("keep_days", "DAYS"),
    column("keep_versions", "VERSIONS"),
    wrapping("url", "URL"),
];

fn list(site: &Site, screen: Screen) -> Result<(), Error> {
    let mut table = Table::new(COLUMNS);
    for archive in site.db.read(archives::all)? {
        table.row(vec![
            Cell::text(&archive.distribution),
            Cell::text(&archive.owner),
            Cell::text(&archive.name),
            Cell::text(archive.purpose),
            Cell::flag(archive.private),
            Cell::flag(archive.virtualized),
            Cell::flag(archive.enabled),
            Cell::flag(archive.debug_symbols),
            Cell::text(&archive.profiles),
            Cell::number(archive.relative_score),
            kept(archive.retention.attempts),
            kept(archive.retention.days),
            kept(archive.retention.versions),
            Cell::text(&archive.base_url),
        ]);
    }
    let none =
        "no archives yet; `buildd-slave master series add` creates a distribution with its archive";
    screen.table(&table, none)
}

fn show(args: &Show, site: &Site, screen: Screen) -> Result<(), Error> {
    let distribution = &args.distribution;
    let archive = site.db.read(|tx| {
        find_distribution(tx, distribution)?;
        find_archive(tx, distribution, &args.name)
    })?;
    screen.sheet(&sheet(&archive))
}

fn sheet(archive: &Archive) -> Sheet {
    let mut sheet = Sheet::default();
    sheet.hidden("id", Cell::number(archive.id));
    for (key, label, cell) in [
        (
            "distribution",
            "distribution",
            Cell::text(&archive.distribution),
        ),
        ("owner", "owner", Cell::text(&archive.owner)),
        ("name", "name", Cell::text(&archive.name)),
        ("purpose", "purpose", Cell::text(archive.purpose)),
        ("private", "private", Cell::flag(archive.private)),
        (
            "virtualized",
            "virtualized",
            Cell::flag(archive.virtualized),
        ),
        ("enabled", "enabled", Cell::flag(archive.enabled)),
        (
            "debug_symbols",
            "debug symbols",
            Cell::flag(archive.debug_symbols),
        ),
        ("profiles", "profiles", Cell::text(&archive.profiles)),
        ("score", "score", Cell::number(archive.relative_score)),
        ("url", "url", Cell::text(&archive.base_url)),
        (
            "keep_attempts",
            "keep attempts",
            kept(archive.retention.attempts),
        ),
        ("keep_days", "keep days", kept(archive.retention.days)),
        (
            "keep_versions",
            "keep versions",
            kept(archive.retention.versions),
        ),
    ] {
        sheet.line(key, label, cell);
    }
    sheet
}

/// A number that is kept: `forever` in text and 0 in JSON if that is everything.
fn kept(number: u32) -> Cell {
    match number {
        0 => Cell::new("forever", 0),
        _ => Cell::number(i64::from(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_fit_for_apt_and_hold_no_password() {
        for (text, expect) in [
            ("", Some("")),
            ("http://a.b/ubuntu/", Some("http://a.b/ubuntu")),
            ("file:/srv/archive", Some("file:/srv/archive")),
            ("http://u:secret@a.b/", None),
            ("http://a.b/x y", None),
            ("ubuntu", None),
        ] {
            let read = base_url(text);
            assert_eq!(read.as_deref().ok(), expect, "{text}");
            assert!(read.err().is_none_or(|error| !error.contains("secret@")));
        }
    }
}
