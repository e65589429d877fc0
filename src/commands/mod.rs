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
mod site;
mod staging;
mod stdout;

use crate::sys::stderr;
use std::fmt::Display;
use std::process::ExitCode;

/// Returns the exit code of a command; an error goes to stderr.
pub(crate) fn exit_code(result: Result<ExitCode, impl Display>) -> ExitCode {
    result.unwrap_or_else(|error| {
        stderr::line(format_args!("buildd-slave: {error}"));
        ExitCode::FAILURE
    })
}
