//! The commands of an operator on one host: build, chroot, probe, check-config and doctor.
//!
//! Each file has the `Args` and the `run` of its command.

pub(crate) mod build;
pub(crate) mod check_config;
pub(crate) mod chroot;
pub(crate) mod doctor;
mod leftovers;
mod output;
pub(crate) mod probe;
mod site;
mod staging;
mod stdout;

use crate::sys::stderr;
use std::fmt::Display;
use std::process::ExitCode;

/// Returns the exit code of a command; prints its error to stderr.
pub(crate) fn exit_code(result: Result<ExitCode, impl Display>) -> ExitCode {
    result.unwrap_or_else(|error| {
        stderr::line(format_args!("buildd-slave: {error}"));
        ExitCode::FAILURE
    })
}
