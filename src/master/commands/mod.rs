//! `buildd-slave master`: the operator's commands for the farm.
//!
//! Each noun has a file with its arguments and its `run`. `lookup` finds rows by name, `screen`
//! prints results, `open` opens the configuration and the database. The commands only write rows;
//! running masters see them at the next scan.

mod arch;
mod archive;
mod backup;
mod build;
mod build_log;
mod build_show;
mod builder;
mod builder_show;
mod builds;
mod chroot;
mod lookup;
mod names;
mod open;
mod packages_file;
mod page;
mod prospect;
mod published;
mod queue;
mod run;
mod screen;
mod series;
mod status;
mod submit;
mod table;
mod units;
mod upload;
mod words;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;

use crate::client;
use crate::config_file::{self, ConfigOption};
use crate::db;
use crate::dpkg;
use crate::librarian;
use crate::privileges;
use crate::sys::user;
use screen::Screen;

const EXAMPLES: &str = "\
Examples, which set up a farm and build a package:
  buildd-slave master series add ubuntu hoary
  buildd-slave master arch add hoary i386
  buildd-slave master chroot set hoary i386 chroot-hoary-i386.tar.gz
  buildd-slave master builder add bob http://bob:8221 --processor i386
  buildd-slave master run --with-librarian &
  buildd-slave master submit hello_2.10-3.dsc --series hoary --wait

SERIES is the name of a series, or DISTRIBUTION/SERIES if that name is ambiguous.";

/// Manage the build farm
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigOption,
    /// Print JSON instead of text
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Manage distributions and their series
    #[command(subcommand)]
    Series(series::Verb),
    /// Manage the architectures of a series
    #[command(subcommand)]
    Arch(arch::Verb),
    /// Manage chroot tarballs
    #[command(subcommand)]
    Chroot(chroot::Verb),
    /// Manage archives
    #[command(subcommand)]
    Archive(archive::Verb),
    /// Manage builders
    #[command(subcommand)]
    Builder(builder::Verb),
    /// Submit a source package, and create its builds
    Submit(submit::Args),
    /// Show the build queue
    Queue(queue::Args),
    /// List builds
    Builds(builds::Args),
    #[command(flatten)]
    Build(build::Verb),
    /// Manage the record of binary packages in archives
    #[command(subcommand)]
    Published(published::Verb),
    /// Retry builds whose missing dependencies are now published
    RetryDepwait(published::RetryArgs),
    /// Back up the whole farm while it runs
    Backup(backup::BackupArgs),
    /// Restore a backup into an empty farm, or verify it
    Restore(backup::RestoreArgs),
    /// Scan every builder once, then exit
    Scan(run::ScanArgs),
    /// Run the master daemon in the foreground
    Run(run::RunArgs),
}

impl Args {
    /// Returns whether the command creates files that must belong to the farm's user.
    fn owns_files(&self) -> bool {
        match &self.command {
            Command::Scan(_) | Command::Run(_) | Command::Backup(_) => true,
            Command::Restore(args) => args.writes(),
            _ => false,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Privileges(#[from] privileges::Error),
    #[error(transparent)]
    Config(#[from] config_file::Error),
    #[error("{0}; check [database] url in the configuration, and that this user may access it")]
    NoDatabase(String),
    #[error(transparent)]
    Db(#[from] db::Error),
    #[error(transparent)]
    Librarian(#[from] librarian::Error),
    #[error(transparent)]
    Run(#[from] crate::master::daemon::run::Error),
    #[error(transparent)]
    Source(#[from] dpkg::Error),
    #[error(transparent)]
    Log(#[from] client::LogError),
    #[error(transparent)]
    Backup(#[from] crate::master::backup::Error),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("cannot write to stdout: {0}")]
    Output(io::Error),
    #[error("{0}")]
    Refused(String),
}

impl Error {
    /// Adds the path to an I/O error.
    fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }
}

/// Runs the command, and prints its error to stderr.
pub(crate) fn run(args: Args) -> ExitCode {
    match dispatch(args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        // The reader of stdout, such as `head`, has closed it.
        Err(Error::Output(error) | Error::Log(client::LogError::Output(error)))
            if error.kind() == io::ErrorKind::BrokenPipe =>
        {
            ExitCode::SUCCESS
        }
        Err(error) => {
            screen::stderr_line(format_args!("buildd-slave: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Returns false for exit code 1 without an error message, such as a failed build of `submit`.
fn dispatch(args: Args) -> Result<bool, Error> {
    let screen = Screen::new(args.json);
    if args.owns_files() && user::am_root() {
        let (farm, _) = config_file::load_farm(args.config.file.as_deref())?;
        privileges::become_builder(&farm.user)?;
    }
    let file = args.config.file.as_deref();
    let open = || open::Site::open(file);
    match args.command {
        Command::Series(verb) => series::run(verb, &open()?, screen),
        Command::Arch(verb) => arch::run(verb, &open()?, screen),
        Command::Chroot(verb) => chroot::run(verb, &open()?, screen),
        Command::Archive(verb) => archive::run(verb, &open()?, screen),
        Command::Builder(verb) => builder::run(verb, &open()?, screen),
        Command::Submit(args) => submit::run(args, &open()?, screen),
        Command::Queue(args) => queue::run(args, &open()?, screen),
        Command::Builds(args) => builds::run(&args, &open()?, screen),
        Command::Build(verb) => build::run(verb, &open()?, screen),
        Command::Published(verb) => published::run(verb, &open()?, screen),
        Command::RetryDepwait(args) => published::run_retry(&args, &open()?, screen),
        Command::Backup(args) => backup::run(&args, file, &open()?, screen),
        Command::Restore(args) => backup::run_restore(&args, file, screen),
        Command::Scan(_) => run::scan(open()?),
        Command::Run(args) => run::run(&args, file),
    }
}
