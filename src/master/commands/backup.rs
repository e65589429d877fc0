//! `master backup` and `master restore`.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::open::Site;
use super::screen::{Screen, stderr_line};
use super::{Error, units};
use crate::config_file;
use crate::master::backup::{self, Backups, Made, Plan, Restored, Target, Use};
use crate::sys::host;

/// Back up the whole farm while it runs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
DIR gets a folder for each backup, named by its time, and the folder `files`, which all backups
share: a later backup copies only new files. On the file system of the librarian, files are
hard-linked; a backup on another disk survives the loss of this one. A backup has:
  - the database, from one moment
  - the librarian's files that the database names, and the results of this host
  - the configuration; passwords only with --with-keys

Builds continue meanwhile. Garbage collection deletes no file until the backup has it. Started as
root, the command switches to [slave] user, which must be able to write DIR. The exit code is 1 if
the farm itself lacks files; the backup is complete apart from these. PostgreSQL needs `pg_dump`.

Examples:
  buildd-slave master backup /var/backups/farm --keep 14
  buildd-slave master backup /mnt/safe/farm --with-keys
  buildd-slave master restore /var/backups/farm --verify")]
pub(super) struct BackupArgs {
    /// Folder of the backups; created if it is absent
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Include passwords: of archives, of builders and of the configuration
    #[arg(long)]
    with_keys: bool,
    /// List the files with their sums, and copy none
    #[arg(long)]
    no_files: bool,
    /// Number of backups to keep; older ones are removed [default: all]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,
}

/// Restore a backup into an empty farm, or verify it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Write the configuration first: [database] url names an empty database of the same kind, [librarian]
root and [master] results the folders of the files. No master or librarian may run. Files come
first, each with its SHA-256 checked, and the database last. After an interruption, run the command
again. Then it prints what you have to do, and `master run` starts the farm; it upgrades the
database of an older version.

--verify reads the whole backup, as a restore does, and writes nothing. It needs neither a
configuration nor a database. It names each damaged or missing file. The exit code is 1 if there is
any.

Examples:
  buildd-slave master restore /var/backups/farm --verify
  buildd-slave master restore /var/backups/farm
  buildd-slave master restore /var/backups/farm --backup 2026-11-28T094107Z")]
pub(super) struct RestoreArgs {
    /// Folder of the backups
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Name of the backup, a folder in DIR [default: the newest]
    #[arg(long, value_name = "NAME")]
    backup: Option<String>,
    /// Check every file and its sum, and restore nothing
    #[arg(long)]
    verify: bool,
}

impl RestoreArgs {
    /// Returns whether the command writes the farm's files.
    pub(super) fn writes(&self) -> bool {
        !self.verify
    }
}

/// Returns false if the farm lacks files.
pub(super) fn run(
    args: &BackupArgs,
    config: Option<&Path>,
    site: &Site,
    screen: Screen,
) -> Result<bool, Error> {
    let backups = Backups::open(&args.dir, Use::Write)?;
    let chosen = config_file::chosen(config);
    let plan = Plan {
        farm: &site.farm,
        db: &site.db,
        host: host_of(&site.farm.master),
        config: chosen.unwrap_or_else(|| config_file::DEFAULT_PATH.into()),
        with_keys: args.with_keys,
        with_files: !args.no_files,
        keep: args.keep.map(|keep| keep as usize),
    };
    let made = backup::create(&backups, &plan)?;
    for problem in &made.problems {
        stderr_line(problem);
    }
    let problems = made.manifest.problems;
    if problems > 0 {
        stderr_line(format_args!(
            "the farm lacks {problems} files; the backup is complete apart from these"
        ));
    }
    for key in &made.manifest.without_keys {
        stderr_line(format_args!("without --with-keys, the backup lacks {key}"));
    }
    screen.done(sentence(&args.dir, &made), &summary(&args.dir, &made))?;
    Ok(problems == 0)
}

fn size(bytes: u64) -> String {
    units::size(i64::try_from(bytes).unwrap_or(i64::MAX))
}

fn host_of(master: &crate::config::Master) -> String {
    master.host.clone().unwrap_or_else(host::name)
}

fn sentence(dir: &Path, made: &Made) -> String {
    let (manifest, copied) = (&made.manifest, &made.copied);
    let path = dir.join(&made.name);
    let bytes = size(manifest.blob_bytes + manifest.result_bytes);
    let files = match manifest.has_files {
        true => format!(
            "{} new, {} of earlier backups",
            copied.copied + copied.linked,
            copied.kept
        ),
        false => "listed only".to_owned(),
    };
    let removed = match made.removed.backups {
        0 => String::new(),
        count => format!("; removed {count} older backups"),
    };
    format!(
        "{}: {} database, {} files ({files}), {} results, {bytes}{removed}",
        path.display(),
        manifest.engine.name(),
        manifest.blobs,
        manifest.results,
    )
}

fn summary(dir: &Path, made: &Made) -> serde_json::Value {
    let (copied, removed) = (&made.copied, &made.removed);
    json!({"backup": &made.name, "path": dir.join(&made.name), "manifest": &made.manifest,
        "files_kept": copied.kept, "files_linked": copied.linked, "files_copied": copied.copied,
        "removed_backups": removed.backups, "removed_files": removed.files,
        "removed_bytes": removed.bytes, "problems": &made.problems})
}

/// Returns false if a file of the backup is damaged or missing.
pub(super) fn run_restore(
    args: &RestoreArgs,
    config: Option<&Path>,
    screen: Screen,
) -> Result<bool, Error> {
    let backups = Backups::open(&args.dir, Use::Read)?;
    let (path, manifest) = backups.choose(args.backup.as_deref())?;
    let shown = path.display();
    let mut tell = |sentence: &str| {
        stderr_line(sentence);
        Ok(())
    };
    if args.verify {
        let report = backup::verify(&path, &manifest, &mut tell)?;
        let (files, wrong, known) = (report.files, report.wrong, report.known);
        let known_too = match known {
            0 => String::new(),
            known => format!("; {known} files were missing in the farm already"),
        };
        let verdict = match wrong {
            0 => "all sums are right".to_owned(),
            wrong => format!("{wrong} files are damaged or missing"),
        };
        let bytes = size(report.bytes);
        let text = format!("{shown}: {verdict}; {files} files read, {bytes}{known_too}");
        let json = json!({"path": &path, "files": files, "bytes": report.bytes, "wrong": wrong,
            "known": known, "manifest": &manifest});
        screen.done(text, &json)?;
        return Ok(wrong == 0);
    }
    let (farm, _) = config_file::load_farm(config)?;
    let host = host_of(&farm.master);
    let target = Target { farm: &farm, host };
    let done = backup::restore(&path, &manifest, &target, &mut tell)?;
    print(&path, &done, screen)?;
    Ok(done.wrong == 0)
}

fn print(path: &Path, done: &Restored, screen: Screen) -> Result<(), Error> {
    let shown = path.display();
    let what = match done.was_restored {
        true => "the database was restored before",
        false => "the database is restored",
    };
    let wrong = match done.wrong {
        0 => String::new(),
        wrong => format!("; {wrong} files are damaged or missing"),
    };
    let known = match done.known {
        0 => String::new(),
        known => format!("; {known} files were missing in the farm already"),
    };
    let (placed, present) = (done.placed, done.present);
    let mut text = format!(
        "{shown}: {what}; {placed} files put in place, {present} were there{wrong}{known}\nNow:"
    );
    for step in &done.next {
        text.push_str(&format!("\n  - {step}"));
    }
    let json = json!({"path": path, "placed": placed, "present": present, "wrong": done.wrong,
        "known": done.known, "was_restored": done.was_restored, "next": &done.next});
    screen.done(text, &json)
}
