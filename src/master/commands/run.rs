//! `master scan` and `master run`: what looks after the builders, once or for ever.

use crate::master::daemon::one_pass;
use crate::master::daemon::run;

use super::Error;
use super::open::Site;

/// Scan every builder once
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Probes every builder, collects what it has finished, gives it something to do. For cron;
`master run` does so for ever, and at all builders at once. Builders that a running master looks
after are left to it.

Examples:
  buildd-slave master scan
  RUST_LOG=debug buildd-slave master scan --config ./farm.conf")]
pub(super) struct ScanArgs {}

/// Run the master
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Looks at every builder at its own turn, gives idle ones jobs, collects what is finished, scores
the queue, retries what waited for dependencies, and hands results on. Several may run on one
database, on one host or many: each takes its share of the builders, and all of them when it is
the last. Stop it at any time: builds go on, and the next one collects them. Started as root it
becomes [slave] user.

Examples:
  buildd-slave master run
  buildd-slave master run --with-librarian      both, on one host")]
pub(super) struct RunArgs {
    /// Be the librarian too
    #[arg(long)]
    with_librarian: bool,
}

pub(super) fn scan(site: Site) -> Result<bool, Error> {
    one_pass::run(&site.farm, site.db)?;
    Ok(true)
}

pub(super) fn run(args: &RunArgs, site: Site) -> Result<bool, Error> {
    run::run(&site.farm, site.db, args.with_librarian)?;
    Ok(true)
}
