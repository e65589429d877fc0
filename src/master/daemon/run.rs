//! `buildd-slave master run`: looks after the farm until it is told to stop.
//!
//! One thread for each builder whose lease this process has, so that none waits for another; and
//! one for each of the rest: leases, jobs for idle builders, log tails, chores, uploads. Any number
//! of processes share a database. Killed at any moment it leaves nothing that the others do not
//! find, so that a stop waits only a little for what is under way.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::config;
use crate::db::{self, Db};
use crate::librarian;

use super::chores;
use super::uploads;
use super::workers::{SOON, Workers};
use crate::master::farm::Farm;
use crate::master::scan::download_results;

/// Stack of a builder's thread; only what is touched takes memory.
const STACK_BYTES: usize = 512 << 10;
/// Between two looks for jobs that idle builders could have.
const WAKE_EVERY: Duration = Duration::from_millis(500);
/// Between two looks for results to be taken on.
const UPLOAD_EVERY: Duration = Duration::from_secs(1);
/// Between two reports of how scanning goes.
const REPORT_EVERY: Duration = Duration::from_secs(60);
/// How long looks at builders may take to their end when the process is to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a master does not run, or no longer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Db(#[from] db::Error),
    #[error(transparent)]
    Librarian(#[from] librarian::Error),
    #[error("cannot make {}: {source}: results are to go there ([master] results)", path.display())]
    Results {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the librarian has ended, and the master with it")]
    NoLibrarian,
    #[error("{0}")]
    System(#[from] std::io::Error),
}

/// Runs until a signal says stop; serves the librarian's files as well, if that is wanted.
pub(crate) fn run(config: &config::Farm, db: Db, with_librarian: bool) -> Result<(), Error> {
    raise_open_files();
    let path = &config.master.results;
    let made = std::fs::create_dir_all(path);
    made.map_err(|source| Error::Results {
        path: path.clone(),
        source,
    })?;
    download_results::remove_stale(path);
    let library = with_librarian
        .then(|| librarian::bind(config))
        .transpose()?;
    let workers = Arc::new(Workers::start(Farm::new(db, config))?);
    handle_signals(&workers)?;
    let library = library
        .map(|library| {
            let workers = Arc::clone(&workers);
            start("librarian", move || {
                if let Err(error) = library.run_until_signal("the librarian stops") {
                    log::error!("librarian: {error}");
                }
                // It hears the same signals; without one, something is wrong.
                workers.librarian_ended();
            })
        })
        .transpose()?;
    every(&workers, "wake", WAKE_EVERY, Workers::wake_idle)?;
    every(
        &workers,
        "tails",
        workers.farm.config.tail_interval,
        Workers::flush_tails,
    )?;
    every(&workers, "report", REPORT_EVERY, Workers::report_lateness)?;
    every(&workers, "uploads", UPLOAD_EVERY, |workers| {
        uploads::run_once(&workers.farm);
    })?;
    let shared = Arc::clone(&workers);
    start("chores", move || chores::run(&shared))?;
    let builders = run_builders(&workers);
    workers.stop_builders();
    let until = Instant::now() + STOP_TIMEOUT;
    while Instant::now() < until && builders.iter().any(|thread| !thread.is_finished()) {
        thread::sleep(WAKE_EVERY / 10);
    }
    workers.flush_tails();
    workers.release_leases()?;
    // Otherwise it would have been told to stop just now.
    match library {
        Some(_) if workers.has_lost_librarian() => Err(Error::NoLibrarian),
        _ => Ok(()),
    }
}

/// A connection for each builder, at the worst: as many files as the system lets us have.
fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // With fewer, looks at builders fail and are repeated.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

fn start(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(work)
}

/// Does something over and over, whatever becomes of it, until the process is to end.
fn every(
    workers: &Arc<Workers>,
    name: &str,
    interval: Duration,
    work: fn(&Workers),
) -> std::io::Result<()> {
    let workers = Arc::clone(workers);
    let again = move || {
        while !workers.wait_for_stop(interval) {
            // The panic has been told; the next time may be better.
            let _ = catch_unwind(AssertUnwindSafe(|| work(&workers)));
        }
    };
    start(name, again).map(drop)
}

fn handle_signals(workers: &Arc<Workers>) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let workers = Arc::clone(workers);
    let hear = move || {
        for signal in &mut signals {
            if signal == SIGHUP {
                log::info!("hang-up ignored: the configuration is read at start");
            } else {
                log::info!("stopping; builds go on");
                workers.stop();
            }
        }
    };
    start("signals", hear).map(drop)
}

/// Keeps a thread for each builder whose lease this process has, until the process is to end;
/// returns those that are left.
fn run_builders(workers: &Arc<Workers>) -> Vec<JoinHandle<()>> {
    let renewal = workers.farm.config.lease / 3;
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    let mut renewed: Option<Instant> = None;
    loop {
        let due = renewed.is_none_or(|at| at.elapsed() >= renewal);
        if due || workers.has_free_builders() {
            renewed = Some(Instant::now());
            for fence in workers.renew_leases() {
                let worker = workers.add(fence);
                let shared = Arc::clone(workers);
                let name = format!("builder-{}", fence.builder);
                let thread = thread::Builder::new().name(name).stack_size(STACK_BYTES);
                match thread.spawn(move || shared.scan_builder(&worker)) {
                    Ok(started) => threads.push(started),
                    Err(error) => {
                        let builder = fence.builder;
                        log::warn!("no thread for builder {builder}: {error}; trying again");
                        workers.remove(fence);
                    }
                }
            }
        }
        threads.retain(|thread| !thread.is_finished());
        if workers.wait_for_stop(SOON.min(renewal)) {
            return threads;
        }
    }
}
