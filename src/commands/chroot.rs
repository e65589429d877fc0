//! `buildd-slave chroot`: creates a chroot tarball, updates it, or opens a shell in it.
//!
//! Does the tasks of the chroot tool of 2008 without root (docs/wire.md §4.5). Started as root, it
//! runs as the slave's user. A tarball is replaced atomically.

mod archives;
mod console;
mod create;
mod detached;
mod inside;
mod interrupts;
mod pack;

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use nix::unistd::User;

use crate::arch;
use crate::protocol::{Sha1Hex, Suite};
use crate::session;
use crate::sys::compression::Compression;
use crate::sys::{host, output};

use super::site::{self, Site};
use super::staging::{self, Staging};
use create::Recipe;

const EXAMPLES: &str = "\
Examples:
  buildd-slave chroot create bookworm.tar.zst
  buildd-slave chroot create --suite trixie --include eatmydata,ccache trixie.tar
  buildd-slave chroot update bookworm.tar.zst
  buildd-slave chroot shell bookworm.tar.zst --save
  echo 'apt-get -y install ccache' | buildd-slave chroot shell bookworm.tar.zst --save";

const CREATE_EXAMPLES: &str = "\
Examples:
  buildd-slave chroot create bookworm.tar.zst
  buildd-slave chroot create --suite trixie --include eatmydata,ccache trixie.tar
  buildd-slave chroot create --arch arm64 bookworm-arm64.tar.zst
  buildd-slave chroot create sid.tar --suite sid --archive 'deb http://HOST/debian sid main'";

const UPDATE_EXAMPLES: &str = "\
Examples:
  buildd-slave chroot update bookworm.tar.zst

TAR is replaced only if the upgrade succeeds.";

const SHELL_EXAMPLES: &str = "\
Examples:
  buildd-slave chroot shell bookworm.tar.zst
  buildd-slave chroot shell bookworm.tar.zst --save
  echo 'apt-get -y install ccache' | buildd-slave chroot shell bookworm.tar.zst --save

Exit code: 0 if the shell exits with 0 or its changes are saved, else 1; 2 for a wrong command line.";

/// The package with `groupadd` and `useradd`, which sbuild runs in the chroot. mmdebstrap's variant
/// for builds lacks it since Debian 13.
const NEEDED: &str = "passwd";

/// From this age on, `build` advises to update the default chroot.
const OLD: Duration = Duration::from_secs(30 * 24 * 3600);

/// Manage chroot tarballs
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Create a chroot tarball with mmdebstrap
    Create(CreateArgs),
    /// Upgrade the packages in a chroot tarball, and add what sbuild needs
    Update(UpdateArgs),
    /// Open a root shell in a chroot tarball
    Shell(ShellArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = CREATE_EXAMPLES)]
struct CreateArgs {
    /// Suite to install [default: the release of this host]
    #[arg(long, value_parser = Suite::parse)]
    suite: Option<Suite>,
    /// Architecture of the chroot, such as i386, or arm64 by emulation with qemu-user
    /// [default: that of this host's slave]
    #[arg(long, value_parser = architecture)]
    arch: Option<String>,
    /// Line of sources.list; can be repeated [default: this host's lines for the suite, else its
    /// archives with that suite, else the distribution's archive]
    #[arg(long, value_name = "LINE", value_parser = archive_line)]
    archive: Vec<String>,
    /// Additional packages to install, separated by commas
    #[arg(long, value_name = "PKG,…", value_delimiter = ',', value_parser = package)]
    include: Vec<String>,
    /// Overwrite OUT if it exists
    #[arg(long)]
    force: bool,
    /// Tarball to create; its name ends in .tar, .tar.gz, .tar.bz2, .tar.xz or .tar.zst
    #[arg(value_parser = tarball_path)]
    out: PathBuf,
    /// Path of the tarball in messages: root copies it there.
    #[arg(long, hide = true)]
    shown_as: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = UPDATE_EXAMPLES)]
struct UpdateArgs {
    /// Chroot tarball to update
    tar: PathBuf,
    /// Path of the tarball in messages: root copies it there.
    #[arg(long, hide = true)]
    shown_as: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
#[command(after_help = SHELL_EXAMPLES)]
struct ShellArgs {
    /// Chroot tarball to open
    tar: PathBuf,
    /// Save the changes to TAR if the shell exits with 0; on a terminal, ask instead
    #[arg(long)]
    save: bool,
    /// Path of the tarball in messages: root copies it there.
    #[arg(long, hide = true)]
    shown_as: Option<PathBuf>,
}

/// An error of a chroot command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Site(#[from] site::Error),
    #[error(transparent)]
    Session(#[from] session::Error),
    #[error("{} exists; --force replaces it", .0.display())]
    Exists(PathBuf),
    #[error("/etc/os-release has no VERSION_CODENAME; give --suite")]
    NoRelease,
    #[error("cannot run {program}: {source}; try: apt install {package}")]
    NoProgram {
        program: &'static str,
        package: &'static str,
        source: io::Error,
    },
    #[error(
        "mmdebstrap failed ({status}){output}\nCheck the suite's name and whether its archive is \
         reachable; --archive names another one. `buildd-slave doctor` checks this host"
    )]
    Mmdebstrap { status: String, output: String },
    #[error("stopped by {0}; nothing was saved")]
    Stopped(Signal),
    #[error("{program} failed ({status}); {} is unchanged", tar.display())]
    Program {
        program: String,
        status: String,
        tar: PathBuf,
    },
}

/// Checks that the name of a tarball has a known extension.
fn tarball_path(text: &str) -> Result<PathBuf, &'static str> {
    let known = Compression::by_name(text).is_some();
    known
        .then(|| text.into())
        .ok_or("does not end in .tar, .tar.gz, .tar.bz2, .tar.xz or .tar.zst")
}

/// Checks that the text is one line of sources.list.
pub(super) fn archive_line(text: &str) -> Result<String, &'static str> {
    let good = text.starts_with("deb") && !text.contains(|c: char| c.is_control() && c != '\t');
    good.then(|| text.to_owned())
        .ok_or("not a line of sources.list, such as: deb http://deb.example.org/debian sid main")
}

/// Checks that this host runs programs of the architecture, itself or by emulation.
fn architecture(text: &str) -> Result<String, String> {
    let runs = arch::is_native(host::debian_arch(), text) || arch::emulator_of(text).is_some();
    runs.then(|| text.to_owned()).ok_or_else(|| {
        format!(
            "this host cannot run it: neither {} does, nor is it one of {}, which qemu emulates",
            host::debian_arch(),
            arch::emulated()
        )
    })
}

/// Checks the form of a package name, so that mmdebstrap cannot take it for an option.
fn package(text: &str) -> Result<String, &'static str> {
    let good = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"+-.:".contains(&b));
    good.then(|| text.to_owned()).ok_or("not a package's name")
}

pub(crate) fn run(args: Args) -> Result<ExitCode, Error> {
    let site = Site::find(None)?;
    let _staging = match &args.command {
        Command::Create(CreateArgs { shown_as, .. })
        | Command::Update(UpdateArgs { shown_as, .. })
        | Command::Shell(ShellArgs { shown_as, .. })
            if shown_as.is_some() =>
        {
            staging::hold_current()?
        }
        _ => None,
    };
    match (args.command, site.run_as.clone()) {
        (Command::Create(args), user) => create(&site, user, &args),
        (Command::Update(args), None) => {
            let shown = args.shown_as.as_ref().unwrap_or(&args.tar);
            inside::update(&site, &args.tar, shown)
        }
        (Command::Shell(args), None) => {
            let shown = args.shown_as.as_ref().unwrap_or(&args.tar);
            inside::shell(&site, &args.tar, shown, args.save)
        }
        (Command::Update(args), Some(user)) => as_user(&site, user, &args.tar, &["update"]),
        (Command::Shell(args), Some(user)) if args.save => {
            as_user(&site, user, &args.tar, &["shell", "--save"])
        }
        (Command::Shell(args), Some(user)) => as_user(&site, user, &args.tar, &["shell"]),
    }
}

fn create(site: &Site, user: Option<User>, args: &CreateArgs) -> Result<ExitCode, Error> {
    if fs::symlink_metadata(&args.out).is_ok() && !args.force {
        return Err(Error::Exists(args.out.clone()));
    }
    let suite = match &args.suite {
        Some(suite) => suite.clone(),
        None => running_release()?,
    };
    let arch = match &args.arch {
        Some(arch) => arch,
        None => &site.config.slave.architecturetag,
    };
    let shown = args.shown_as.as_ref().unwrap_or(&args.out);
    let Some(user) = user else {
        site.make_folders()?;
        let recipe = Recipe {
            suite,
            arch: arch.clone(),
            archives: args.archive.clone(),
            include: args.include.clone(),
        };
        create::create(recipe, &args.out, shown)?;
        return Ok(ExitCode::SUCCESS);
    };
    let staging = Staging::make(&site.config.slave.home, user)?;
    let name = args.out.file_name().unwrap_or_default();
    let mut command = staging.command(&["chroot", "create"]);
    command.arg("--suite").arg(suite.as_str());
    command.arg("--arch").arg(arch);
    for line in &args.archive {
        command.arg("--archive").arg(line);
    }
    for package in &args.include {
        command.arg("--include").arg(package);
    }
    command.arg("--shown-as").arg(shown).arg(staging.path(name));
    let code = staging.run(command)?;
    if code == ExitCode::SUCCESS {
        staging.copy_out(Path::new(name), &args.out)?;
    }
    Ok(code)
}

/// Runs the command as the slave's user on a copy of `tar`. If the copy was replaced, replaces
/// `tar`.
fn as_user(site: &Site, user: User, tar: &Path, words: &[&str]) -> Result<ExitCode, Error> {
    let staging = Staging::make(&site.config.slave.home, user)?;
    let name = Path::new("chroot.tar");
    let copy = staging.copy_in(tar, name.as_os_str())?;
    let before = staging.inode(name)?;
    let mut command = staging.command(&["chroot"]);
    command.args(words).arg("--shown-as").arg(tar).arg(&copy);
    let code = staging.run(command)?;
    if staging.inode(name)? != before {
        staging.copy_out(name, tar)?;
    }
    Ok(code)
}

/// Returns the code name of this host's release.
pub(super) fn running_release() -> Result<Suite, Error> {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let name = name.map(|name| name.trim_matches('"'));
    name.and_then(|name| Suite::parse(name).ok())
        .ok_or(Error::NoRelease)
}

/// Returns the SHA-1 of a tarball.
pub(super) fn sha1(tar: &Path) -> Result<Sha1Hex, Error> {
    Ok(pack::sha1(tar)?)
}

/// Returns the architecture of a tarball's chroot, which is that of its dpkg; `None` without dpkg.
pub(super) fn architecture_of(tar: &Path) -> Result<Option<String>, Error> {
    let status = pack::status(tar)?.unwrap_or_default();
    Ok(arch::of_status(&status).map(str::to_owned))
}

/// Returns the default chroot tarball of `suite`; creates it if absent.
pub(super) fn find_or_create(site: &Site, suite: &Suite) -> Result<PathBuf, Error> {
    let tar = site.default_chroot(suite.as_str());
    let mut out = output::stdout();
    if let Ok(found) = fs::metadata(&tar) {
        let age = found
            .modified()
            .ok()
            .and_then(|time| SystemTime::now().duration_since(time).ok());
        if let Some(age) = age.filter(|age| *age > OLD) {
            let days = age.as_secs() / (24 * 3600);
            let tar = tar.display();
            let _ = writeln!(
                out,
                "The chroot is {days} days old; to update it: buildd-slave chroot update {tar}"
            );
        }
        return Ok(tar);
    }
    let _ = writeln!(
        out,
        "There is no chroot for {suite} yet. Creating {}, which takes a minute or two:",
        tar.display()
    );
    drop(out);
    let recipe = Recipe {
        suite: suite.clone(),
        arch: site.config.slave.architecturetag.clone(),
        archives: Vec::new(),
        include: Vec::new(),
    };
    create::create(recipe, &tar, &tar)?;
    Ok(tar)
}
