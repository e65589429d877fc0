//! `buildd-slave doctor`: checks whether this host can build, and mends what it can.
//!
//! `collect` finds facts and starts real sessions, as the user that builds: root starts a process
//! of that user. `checks` grades the facts and chooses mends. `fix` carries them out.

mod change;
mod checks;
mod collect;
mod daemon;
mod facts;
mod finding;
mod fix;
mod mend;
mod plan;
mod trial;

use std::process::ExitCode;

use crate::commands::stdout;
use crate::config_file::ConfigOption;
use crate::sys::{stderr, user};
use facts::Builder;
use finding::{Finding, Grade};
use mend::Mend;

/// Check whether this host can build
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints one line per check: ok, warn or FAIL, the finding, and what mends it. Started as root, it
checks as the user that builds ([slave] user). Without --fix it changes nothing.

With --fix, it shows the commands and the changes of files that mend each problem, and asks before
it makes them. It shows each command again when it runs it, stops at the first that fails, and
checks again at the end. Most mends need root. Some problems only you can mend: it says which.

Exit code: 0 if no check FAILs (with --fix: any more), 1 if one does, a mend failed, or --fix could
not ask; 2 for a wrong command line.

Examples:
  buildd-slave doctor
  buildd-slave doctor --config try.conf | grep -v ^ok
  sudo buildd-slave doctor --fix          # asks before each mend
  sudo buildd-slave doctor --fix --yes    # for scripts: asks nothing")]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigOption,
    /// Mend what can be mended; ask first
    #[arg(long)]
    fix: bool,
    /// With --fix: answer every question with yes
    #[arg(long, requires = "fix")]
    yes: bool,
    /// Print the facts that only the user that builds sees; root's process starts this one
    #[arg(long, hide = true)]
    collect: bool,
}

/// Runs all checks and prints the findings; with `--fix`, mends them.
pub(crate) fn run(args: &Args) -> ExitCode {
    if args.collect {
        return match collect::print(&args.config).map(stdout::line) {
            Ok(Ok(())) => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        };
    }
    if args.fix {
        return fix::run(&args.config, args.yes);
    }
    let findings = check(&args.config);
    let printed = print(&findings);
    let planned = plan::plan(&findings, &[], None);
    if !planned.proposals.is_empty() {
        stderr::line("`buildd-slave doctor --fix`, as root, asks and then mends what it can.");
    }
    exit_code(&findings, printed)
}

fn exit_code(findings: &[Finding], is_complete: bool) -> ExitCode {
    match findings.iter().map(|finding| finding.grade).max() {
        Some(Grade::Fail) => ExitCode::FAILURE,
        _ if is_complete => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Prints findings; returns false if stdout is closed.
fn print(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| stdout::line(finding).is_ok())
}

/// Collects and grades all facts.
fn check(option: &ConfigOption) -> Vec<Finding> {
    let config = match collect::load(option) {
        Ok(config) => config,
        Err(error) => {
            let advice = "correct the file; buildd-slave check-config checks it";
            let fail = |line| Finding::fail("configuration", line).mend(Mend::operator(advice));
            return error.to_string().lines().map(fail).collect();
        }
    };
    let host = collect::host(&config);
    let seen = match (&host.builder, user::lookup(&config.slave.user)) {
        (Builder::Known(_), Some(builder)) if user::am_root() => {
            collect::seen_by(&builder, option).map_err(Some)
        }
        (Builder::Known(_), _) => Ok(collect::seen(&config, true)),
        (Builder::NotMe(_), _) => Ok(collect::seen(&config, false)),
        (Builder::Missing(_) | Builder::Wrong(_), _) => Err(None),
    };
    let seen = match &seen {
        Ok(seen) => Ok(seen),
        Err(finding) => Err(finding.clone()),
    };
    checks::all(&config, &host, seen)
}
