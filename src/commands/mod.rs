//! The commands for the hand: what a person types to ask a slave, or to ask what is wrong here.
//!
//! Each command's file has its `Args` and its `run`; [`report`] is how a check is told.

pub(crate) mod build;
pub(crate) mod check;
pub(crate) mod chroot;
pub(crate) mod doctor;
mod output;
pub(crate) mod probe;
mod report;
mod say;
mod site;
mod staging;

use std::fmt::Display;
use std::process::ExitCode;

/// Turns what a command came to into its exit code; an error is told on stderr.
pub(crate) fn told(result: Result<ExitCode, impl Display>) -> ExitCode {
    result.unwrap_or_else(|error| {
        say::complaint(format_args!("buildd-slave: {error}"));
        ExitCode::FAILURE
    })
}
