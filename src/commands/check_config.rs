//! `buildd-slave check-config`: checks a configuration file and the paths in it.
//!
//! Parses the file like the daemon. Checks paths as the user that builds; root becomes that
//! user. Repairs nothing.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::commands::stdout;
use crate::config::Warning;
use crate::config_file::{self, DEFAULT_PATH};
use crate::privileges;
use crate::sys::stderr;

/// Check a configuration file
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints `FILE: ok`, or one line per error. Started as root, it checks the paths with the
permissions of the user that builds ([slave] user).

Examples:
  buildd-slave check-config
  buildd-slave check-config /etc/buildd-slave/buildd-slave.conf

Exit code: 0 if there are no errors, 1 if there are, 2 for a wrong command line.")]
pub(crate) struct Args {
    /// Configuration file [default: $BUILDD_SLAVE_CONFIG, else
    /// /etc/buildd-slave/buildd-slave.conf]
    file: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> ExitCode {
    match check(args.file.as_deref()) {
        Ok((warnings, problems)) => print(args, &warnings, &problems),
        Err(error) => {
            stderr::line(error);
            ExitCode::FAILURE
        }
    }
}

/// Returns the warnings of the parser, and the problems with paths and user.
fn check(given: Option<&Path>) -> Result<(Vec<Warning>, Vec<String>), config_file::Error> {
    let defaults = config_file::host_defaults();
    let (config, warnings) = config_file::load(given, &defaults)?;
    let problems = match privileges::become_builder(&config.slave.user) {
        Ok(()) => config_file::check_paths(&config)
            .iter()
            .map(ToString::to_string)
            .collect(),
        Err(error @ privileges::Error::OtherUser(_)) => {
            stderr::line(format_args!("paths are not checked: {error}"));
            Vec::new()
        }
        Err(error) => vec![format!("[slave] user: {error}")],
    };
    Ok((warnings, problems))
}

fn print(args: &Args, warnings: &[Warning], problems: &[String]) -> ExitCode {
    let (file, exists) = match config_file::chosen(args.file.as_deref()) {
        Some(path) => (path, true),
        None => (DEFAULT_PATH.into(), PathBuf::from(DEFAULT_PATH).exists()),
    };
    let file = file.display();
    for warning in warnings {
        stderr::line(format_args!("warning: {warning}"));
    }
    for problem in problems {
        stderr::line(format_args!("{file}: {problem}"));
    }
    if !problems.is_empty() {
        return ExitCode::FAILURE;
    }
    let absent = if exists {
        ""
    } else {
        " (file absent: all keys have their defaults)"
    };
    match stdout::line(format_args!("{file}: ok{absent}")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
