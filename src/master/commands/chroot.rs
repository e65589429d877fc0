//! `master chroot`: manages the chroot tarballs of architectures and pockets.
//!
//! A pocket without its own chroot uses the one of a pocket that it depends on, RELEASE last.

use std::path::Path;

use clap::Subcommand;
use serde_json::json;

use super::Error;
use super::lookup::{find_architecture, find_series, refuse};
use super::open::Site;
use super::screen::Screen;
use super::table::{Cell, Column, Table, column, wrapping};
use super::words::one_of;
use crate::librarian::{self, Uploader, alias_url};
use crate::master::model::Pocket;
use crate::master::rows::files::{self, Content, File};
use crate::master::rows::series;
use crate::sys::clock::now_ms;

const EXAMPLES: &str = "\
Examples:
  buildd-slave master chroot set hoary i386 chroot-hoary-i386.tar.gz
  buildd-slave master chroot set hoary i386 17                 # the librarian file with id 17
  buildd-slave master chroot set hoary i386 sec.tar.gz --pocket SECURITY
  buildd-slave master chroot remove hoary i386 --pocket SECURITY
  buildd-slave master chroot list

Without a chroot for its own pocket, a build uses that of an earlier pocket: UPDATES, SECURITY or
RELEASE, in this order. `buildd-slave chroot create` creates chroot tarballs.";

#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub(super) enum Verb {
    /// Add or replace the chroot of an architecture and pocket
    Set {
        /// Series: NAME, or DISTRIBUTION/NAME if NAME is ambiguous
        series: String,
        /// Architecture, such as i386
        arch: String,
        /// Tarball to upload, or the id of a file in the librarian
        #[arg(value_name = "TARBALL|ID")]
        tarball: String,
        /// Pocket that uses the chroot
        #[arg(long, default_value = "RELEASE", value_parser = one_of(Pocket::ALL))]
        pocket: Pocket,
    },
    /// Remove the chroot of an architecture and pocket
    Remove {
        /// Series: NAME, or DISTRIBUTION/NAME if NAME is ambiguous
        series: String,
        /// Architecture, such as i386
        arch: String,
        /// Pocket that uses the chroot
        #[arg(long, default_value = "RELEASE", value_parser = one_of(Pocket::ALL))]
        pocket: Pocket,
    },
    /// List chroots
    List {
        /// Only chroots of this series
        series: Option<String>,
    },
}

pub(super) fn run(verb: Verb, site: &Site, screen: Screen) -> Result<bool, Error> {
    match verb {
        Verb::Set {
            series,
            arch,
            tarball,
            pocket,
        } => set(site, screen, (&series, &arch), &tarball, pocket)?,
        Verb::Remove {
            series,
            arch,
            pocket,
        } => remove(site, screen, (&series, &arch), pocket)?,
        Verb::List { series } => list(site, screen, series.as_deref())?,
    }
    Ok(true)
}

fn remove(
    site: &Site,
    screen: Screen,
    (series, arch): (&str, &str),
    pocket: Pocket,
) -> Result<(), Error> {
    let full = site.db.write(|tx| {
        let series = find_series(tx, series)?;
        let found = find_architecture(tx, &series, arch)?;
        match series::remove_chroot(tx, found.id, pocket)? {
            true => Ok(series.full_name()),
            false => Err(refuse(format!(
                "no chroot is set for {} {arch} {pocket}",
                series.full_name()
            ))),
        }
    })?;
    let json = json!({"series": full, "arch": arch, "pocket": pocket.word()});
    let sentence = format!("removed the chroot of {full} {arch} {pocket}");
    screen.done(sentence, &json)
}

fn set(
    site: &Site,
    screen: Screen,
    (series, arch): (&str, &str),
    tarball: &str,
    pocket: Pocket,
) -> Result<(), Error> {
    // Refuse wrong names before uploading gigabytes.
    site.db.read(|tx| {
        let series = find_series(tx, series)?;
        find_architecture(tx, &series, arch)
    })?;
    let path = Path::new(tarball);
    let alias = match tarball.parse::<i64>() {
        Ok(id) if !path.exists() => id,
        _ => {
            let uploader = Uploader::new(&site.farm.librarian);
            librarian::upload(&uploader, path, None, None, None, false)?.id
        }
    };
    let (full, file) = site.db.write(|tx| {
        let series = find_series(tx, series)?;
        let found = find_architecture(tx, &series, arch)?;
        let file = usable(files::find(tx, alias)?, alias).map_err(refuse)?;
        series::set_chroot(tx, found.id, pocket, alias, now_ms())?;
        Ok((series.full_name(), file))
    })?;
    let Content { size, sha1 } = file.content.clone().unwrap_or_default();
    let url = alias_url(&site.farm.librarian.url, alias, &file.name);
    let json = json!({"series": full, "arch": arch, "pocket": pocket.word(), "alias": alias,
        "filename": &file.name, "sha1": sha1, "size": size, "url": url});
    let sentence = format!(
        "set the chroot of {full} {arch} {pocket} to {} (alias {alias}, SHA-1 {sha1})",
        file.name
    );
    screen.done(sentence, &json)
}

/// Returns the file, or an error if builders could not download it.
fn usable(file: Option<File>, alias: i64) -> Result<File, String> {
    match file {
        None => Err(format!(
            "no file {alias} in the librarian, and no local file of that name"
        )),
        Some(file) if file.content.is_none() => Err(format!(
            "file {alias}, {}, has expired: upload it again",
            file.name
        )),
        Some(file) => Ok(file),
    }
}

const COLUMNS: &[Column] = &[
    column("series", "SERIES"),
    column("arch", "ARCH"),
    column("pocket", "POCKET"),
    column("alias", "ALIAS"),
    wrapping("filename", "FILE"),
    column("size", "SIZE"),
    wrapping("sha1", "SHA-1"),
    column("updated_at", "AGE"),
];

fn list(site: &Site, screen: Screen, series: Option<&str>) -> Result<(), Error> {
    let mut table = Table::new(COLUMNS);
    let (all, architectures, chroots) = site.db.read(|tx| {
        let all = match series {
            Some(word) => vec![find_series(tx, word)?],
            None => series::all(tx)?,
        };
        Ok((all, series::architectures(tx)?, series::chroots(tx)?))
    })?;
    let now = now_ms();
    for series in &all {
        for arch in architectures
            .iter()
            .filter(|arch| arch.series_id == series.id)
        {
            for chroot in chroots.iter().filter(|one| one.arch_series_id == arch.id) {
                let content = chroot.file.content.as_ref();
                table.row(vec![
                    Cell::text(series.full_name()),
                    Cell::text(&arch.tag),
                    Cell::text(chroot.pocket),
                    Cell::number(chroot.file.alias),
                    Cell::text(&chroot.file.name),
                    Cell::size(content.map(|content| content.size)),
                    Cell::maybe(content.map(|content| &content.sha1)),
                    Cell::ago(Some(chroot.updated_at), now),
                ]);
            }
        }
    }
    let none = "no chroots yet; `buildd-slave master chroot set SERIES ARCH TARBALL` adds one";
    screen.table(&table, none)
}
