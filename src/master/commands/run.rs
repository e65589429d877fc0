//! `master scan` and `master run`: scan the builders once, or continuously.

use std::path::Path;

use crate::config::Daemon;
use crate::config_file::{ConfigText, Reload};
use crate::master::daemon::one_pass;
use crate::master::daemon::run;

use super::Error;
use super::open::Site;

/// Scan every builder once, then exit
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Probes the enabled builders, collects finished builds and dispatches waiting ones. Builders leased
by a running master are skipped. This command is for cron; `master run` scans continuously,
and all builders in parallel.

Examples:
  buildd-slave master scan
  RUST_LOG=debug buildd-slave master scan --config ./farm.conf")]
pub(super) struct ScanArgs {}

/// Run the master daemon in the foreground
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Scans all builders, dispatches builds to idle ones, collects results, runs the uploader, updates
queue scores and retries builds that waited for dependencies.

Several masters can share one database, on one host or several. They divide the builders by leases;
if one stops or dies, the others take over its builders. Builds continue while no master is running,
and the next master collects them. Started as root, the master switches to the user in [slave] user.

Examples:
  buildd-slave master run
  buildd-slave master run --with-librarian      # master and librarian

Exit code: 0 after SIGTERM or SIGINT, 1 if it cannot start, 2 for a wrong command line.")]
pub(super) struct RunArgs {
    /// Run the librarian in the same process
    #[arg(long)]
    with_librarian: bool,
}

pub(super) fn scan(site: Site) -> Result<bool, Error> {
    one_pass::run(&site.farm, site.db)?;
    Ok(true)
}

pub(super) fn run(args: &RunArgs, file: Option<&Path>) -> Result<bool, Error> {
    let reload = Reload::new(Daemon::Master, file, ConfigText::read(file)?);
    let site = Site::open_and_wait(file)?;
    run::run(&site.farm, site.db, args.with_librarian, reload)?;
    Ok(true)
}
