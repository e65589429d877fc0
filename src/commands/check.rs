//! `check-config`: is this configuration good, and does the machine have what it names?
//!
//! Reads it by the same code as the daemon, and judges paths by the rights of the user that
//! builds: started as root, it becomes that user. Mends nothing.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::commands::say;
use crate::config::Warning;
use crate::config_file::{self, DEFAULT_PATH};
use crate::sys::user;

/// Tell whether a configuration is good
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints `FILE: ok`, or a line for every mistake; exits with 1 then. As root, paths are judged as the
user that builds ([slave] user).

Examples:
  buildd-slave check-config
  buildd-slave check-config /etc/buildd-slave/buildd-slave.conf")]
pub(crate) struct Args {
    /// Default: $BUILDD_SLAVE_CONFIG, else /etc/buildd-slave/buildd-slave.conf
    file: Option<PathBuf>,
}

/// Checks, and says what is wrong.
pub(crate) fn run(args: &Args) -> ExitCode {
    let named = std::env::var_os("BUILDD_SLAVE_CONFIG");
    match check(args.file.clone(), named) {
        Ok((warnings, problems)) => tell(args, &warnings, &problems),
        Err(error) => {
            say::complaint(error);
            ExitCode::FAILURE
        }
    }
}

/// Returns what has no effect, and what is wrong with paths and user.
fn check(
    given: Option<PathBuf>,
    named: Option<OsString>,
) -> Result<(Vec<Warning>, Vec<String>), config_file::Error> {
    let defaults = config_file::host_defaults();
    let (config, warnings) = config_file::load(given, named, &defaults)?;
    let problems = match judge_as(&config.slave.user) {
        Ok(()) => config_file::check_paths(&config),
        Err(stranger @ NotJudged::Stranger(_)) => {
            say::complaint(format_args!("paths are not checked: {stranger}"));
            Vec::new()
        }
        Err(other) => vec![format!("[slave] user: {other}")],
    };
    Ok((warnings, problems))
}

fn tell(args: &Args, warnings: &[Warning], problems: &[String]) -> ExitCode {
    let named = std::env::var_os("BUILDD_SLAVE_CONFIG");
    let (file, is_there) = match config_file::chosen(args.file.clone(), named) {
        Some(path) => (path, true),
        None => (DEFAULT_PATH.into(), PathBuf::from(DEFAULT_PATH).exists()),
    };
    let file = file.display();
    for warning in warnings {
        say::complaint(format_args!("warning: {warning}"));
    }
    for problem in problems {
        say::complaint(format_args!("{file}: {problem}"));
    }
    if !problems.is_empty() {
        return ExitCode::FAILURE;
    }
    let absent = if is_there {
        ""
    } else {
        " (absent: all is as by default)"
    };
    match say::line(format_args!("{file}: ok{absent}")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Why paths and rights cannot be judged as the slave's user.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotJudged {
    #[error(
        "no user {0} on this host; try: useradd --system --user-group --create-home --home-dir /var/lib/{0} {0}"
    )]
    NoUser(String),
    #[error("{0} is root, as whom nothing is built; name another in [slave] user")]
    Root(String),
    #[error("cannot become {0}: {1}")]
    Refused(String, io::Error),
    /// This process is neither root nor the slave's user: whom it runs as.
    #[error("{0} is neither root nor the user that builds; run this as root")]
    Stranger(String),
}

/// Sees to it that this process runs as `user`: root starts this command again as that user, and
/// does not return.
pub(crate) fn judge_as(user: &str) -> Result<(), NotJudged> {
    let name = || user.to_owned();
    let Some(found) = user::lookup(user) else {
        return Err(NotJudged::NoUser(name()));
    };
    if found.uid.is_root() {
        return Err(NotJudged::Root(name()));
    }
    if user::am_root() {
        let args: Vec<OsString> = std::env::args_os().skip(1).collect();
        return Err(NotJudged::Refused(name(), user::reexec_as(user, &args)));
    }
    match user::effective() {
        Some(me) if me.uid == found.uid => Ok(()),
        me => Err(NotJudged::Stranger(me.map_or_else(
            || "somebody without a name".to_owned(),
            |me| me.name,
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_and_strangers_are_no_users_to_build_as() {
        assert!(matches!(judge_as("root"), Err(NotJudged::Root(_))));
        let unknown = judge_as("no-such-user").unwrap_err().to_string();
        assert!(unknown.contains("useradd --system"), "{unknown}");
    }
}
