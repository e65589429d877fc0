//! `buildd-slave build`: builds one source package through the daemon's pipeline.
//!
//! Checks the source files, creates a chroot if none exists, starts a shim and follows the build.
//! Each build has its own temporary file cache, so it does not touch the daemon's.

mod failure;
mod follow;
mod progress;
mod report;
mod work;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::unistd::{AccessFlags, User, eaccess};

use crate::config_file::ConfigOption;
use crate::dpkg::{self, source::Source};
use crate::filecache;
use crate::protocol::{BuildProfile, Suite};
use crate::session;
use crate::sys;

use super::chroot;
use super::site::{self, Site};
use super::staging::{self, Staging};

const EXAMPLES: &str = "\
Examples:
  buildd-slave build hello_2.10-3.dsc
  buildd-slave build hello_2.10-3.dsc --suite trixie --output ../results
  buildd-slave build hello_2.10-3.dsc --chroot bookworm.tar.zst --arch-all
  buildd-slave build hello_2.10-3.dsc --debug-symbols --profile nodoc --profile nocheck
  buildd-slave build hello_2.10-3.dsc --archive 'deb http://deb.example.org/debian sid main'

Exit code: 0 if the package was built, 1 if not, 2 for a wrong command line.";

/// Build one source package
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The .dsc file of the source package; its other files must be in the same folder
    #[arg(value_name = "X.dsc", value_parser = dsc_path)]
    dsc: PathBuf,
    /// Suite to build for [default: the release of this host]
    #[arg(long, value_parser = Suite::parse)]
    suite: Option<Suite>,
    /// Chroot tarball [default: one created on first use and kept]
    #[arg(long, value_name = "TAR")]
    chroot: Option<PathBuf>,
    /// Folder for the results and the log
    #[arg(long, value_name = "DIR", default_value = ".")]
    output: PathBuf,
    /// Also build the architecture-independent packages
    #[arg(long)]
    arch_all: bool,
    /// Also make packages with debug symbols (NAME-dbgsym)
    #[arg(long)]
    debug_symbols: bool,
    /// Build profile, such as nodoc or nocheck; can be repeated
    #[arg(long, value_name = "NAME", value_parser = BuildProfile::parse)]
    profile: Vec<BuildProfile>,
    /// Line of sources.list that replaces those of the chroot; can be repeated
    #[arg(long, value_name = "LINE", value_parser = chroot::archive_line)]
    archive: Vec<String>,
    /// OpenPGP key that apt trusts; can be repeated
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
    #[command(flatten)]
    config: ConfigOption,
    /// Path of the output folder in messages: root copies the output there.
    #[arg(long, hide = true)]
    shown_as: Option<PathBuf>,
}

fn dsc_path(text: &str) -> Result<PathBuf, &'static str> {
    let is_dsc = text.ends_with(".dsc");
    is_dsc.then(|| text.into()).ok_or("not a .dsc file")
}

/// An error that keeps a build from starting or finishing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Site(#[from] site::Error),
    #[error(transparent)]
    Build(#[from] dpkg::Error),
    #[error(transparent)]
    Cache(#[from] filecache::Error),
    #[error(transparent)]
    Chroot(#[from] chroot::Error),
    #[error(transparent)]
    Session(#[from] session::Error),
    #[error(transparent)]
    Disk(#[from] sys::fs::Error),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// The source package is unusable.
    #[error("{}: {problem}", path.display())]
    Source { path: PathBuf, problem: String },
}

impl Error {
    /// Adds the path to an I/O error.
    fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    fn source(path: &Path, problem: impl ToString) -> Self {
        Self::Source {
            path: path.to_owned(),
            problem: problem.to_string(),
        }
    }
}

/// Builds; returns success only for the verdict OK.
pub(crate) fn run(args: Args) -> Result<ExitCode, Error> {
    let site = Site::find(args.config.file.as_deref())?;
    let _staging = match &args.shown_as {
        Some(_) => staging::hold_current()?,
        None => None,
    };
    let source = Source::find(&args.dsc)?;
    fs::create_dir_all(&args.output).map_err(Error::at(&args.output))?;
    eaccess(&args.output, AccessFlags::W_OK | AccessFlags::X_OK)
        .map_err(|errno| Error::at(&args.output)(errno.into()))?;
    match site.run_as.clone() {
        Some(user) => as_user(user, &site, &source, &args),
        None => work::build(&site, &source, &args),
    }
}

/// Runs the build as the slave's user, on copies of root's files.
fn as_user(user: User, site: &Site, source: &Source, args: &Args) -> Result<ExitCode, Error> {
    sys::cgroup::delegate(&user);
    let staging = Staging::make(&site.config.slave.home, user)?;
    for (path, name, _) in source.files() {
        staging.copy_in(&path, name.as_str().as_ref())?;
    }
    let place = args.shown_as.as_ref().unwrap_or(&args.output);
    let mut command = staging.command(&["build"]);
    command
        .arg(staging.path(source.name.as_str()))
        .arg("--output=out")
        .arg("--shown-as")
        .arg(place);
    if let Some(suite) = &args.suite {
        command.arg(format!("--suite={suite}"));
    }
    if let Some(tarball) = &args.chroot {
        let copy = staging.copy_in(tarball, "chroot.tar".as_ref())?;
        command.arg("--chroot").arg(copy);
    }
    if args.arch_all {
        command.arg("--arch-all");
    }
    if args.debug_symbols {
        command.arg("--debug-symbols");
    }
    for profile in &args.profile {
        command.arg("--profile").arg(profile.as_str());
    }
    for line in &args.archive {
        command.arg("--archive").arg(line);
    }
    for (number, key) in args.key.iter().enumerate() {
        let copy = staging.copy_in(key, format!("key-{number}").as_ref())?;
        command.arg("--key").arg(copy);
    }
    if let Some(config) = &args.config.file {
        let path = std::path::absolute(config).map_err(Error::at(config))?;
        command.arg("--config").arg(path);
    }
    let code = staging.run(command)?;
    for name in staging.names("out")? {
        staging.copy_out(&Path::new("out").join(&name), &args.output.join(&name))?;
    }
    Ok(code)
}
