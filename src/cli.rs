//! Parses the command line and runs the command.

mod examples;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::commands::{build, check_config, chroot, doctor, exit_code, probe};
use crate::librarian;
use crate::logger;
use crate::master::commands as master;
use crate::slave::{self, Serve};
use crate::sys::exe;

/// A Debian package build farm: slave, librarian and master in one program
#[derive(Debug, Parser)]
#[command(
    name = "buildd-slave",
    version,
    after_help = "\
Examples:
  buildd-slave serve                         # run the slave daemon
  buildd-slave build hello_2.10-3.dsc        # build one package, without a daemon
  buildd-slave chroot create bookworm.tar    # create a chroot tarball
  buildd-slave probe localhost:8221 status   # print the status of a slave
  buildd-slave librarian serve               # run the file store
  buildd-slave master --help                 # list the commands that manage the farm
  buildd-slave doctor                        # check this host and print the commands that fix it

The slave builds packages, the librarian stores files, and the master decides which slave builds
what. Without a command, buildd-slave runs `serve`.

Exit code: 0 for success, 1 for a failure, 2 for a wrong command line."
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the slave daemon in the foreground
    Serve(Serve),
    /// Build one source package
    Build(build::Args),
    /// Manage chroot tarballs
    Chroot(chroot::Args),
    /// Call a slave's XML-RPC methods
    Probe(probe::Args),
    /// Manage the farm's file store
    Librarian(librarian::Args),
    /// Manage the build farm
    Master(master::Args),
    /// Check a configuration file
    CheckConfig(check_config::Args),
    /// Check whether this host can build
    Doctor(doctor::Args),
}

/// Returns the command line as `--help` shows it.
pub(crate) fn command() -> clap::Command {
    examples::inherit(Cli::command())
}

/// Parses the command line and runs the command.
pub(crate) fn run() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    exe::close_inherited_except(&args);
    logger::start();
    let matches = command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match cli.command.unwrap_or_default() {
        Command::Serve(args) => slave::run(&args),
        Command::Build(args) => exit_code(build::run(args)),
        Command::Chroot(args) => exit_code(chroot::run(args)),
        Command::Probe(args) => probe::run(&args),
        Command::Librarian(args) => exit_code(librarian::run(args)),
        Command::Master(args) => master::run(args),
        Command::CheckConfig(args) => check_config::run(&args),
        Command::Doctor(args) => doctor::run(&args),
    }
}

impl Default for Command {
    fn default() -> Self {
        Self::Serve(Serve::default())
    }
}
