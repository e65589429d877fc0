//! `buildd-slave master run`: runs the farm until a signal stops it.
//!
//! Looks at builders run in threads of their own, as many as run at once (`looks`). Waking idle
//! builders, log tails, reports, chores, notifications, retention and uploads have one thread each.
//! Any number of processes share a database. A killed process leaves its work to the others, so a
//! stop waits only briefly for running looks.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::config;
use crate::config_file::{self, Reload};
use crate::db::{self, Db};
use crate::librarian;
use crate::server::{self, Events};
use crate::sys::service_manager::{self, Pulse};

use super::chores;
use super::notifications;
use super::retention;
use super::uploads;
use super::workers::{SOON, Workers};
use crate::master::farm::Farm;

/// Stack size of a thread for looks. Only touched pages use memory.
const STACK_BYTES: usize = 512 << 10;
/// Interval of the search for jobs for idle builders. After a search that took long, the pause is
/// [`WAKE_SHARE`] times as long as the search.
const WAKE_EVERY: Duration = Duration::from_millis(500);
const WAKE_SHARE: u32 = 40;
/// Interval of the reports on how late looks are.
const REPORT_EVERY: Duration = Duration::from_secs(60);
/// Longest wait of a stop for running looks.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time without a round of the main loop, beyond two waits for the database.
const STALL_TIMEOUT: Duration = Duration::from_secs(120);

/// An error that keeps a master from starting, or stops it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Db(#[from] db::Error),
    #[error(transparent)]
    Librarian(#[from] librarian::Error),
    #[error("cannot create {}, [master] results: {source}", path.display())]
    Results {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the librarian has stopped, so the master stops as well")]
    NoLibrarian,
    #[error("{0}")]
    System(#[from] std::io::Error),
}

/// Runs until SIGTERM or SIGINT; with `with_librarian`, runs the librarian in this process too.
/// A SIGHUP runs `reload`.
pub(crate) fn run(
    config: &config::Farm,
    db: Db,
    with_librarian: bool,
    reload: Reload,
) -> Result<(), Error> {
    raise_open_files();
    let path = &config.master.results;
    // An operator may open the folder to other users: the mode of an existing one stays.
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| Error::Results {
        path: path.clone(),
        source,
    })?;
    let library = with_librarian
        .then(|| librarian::bind(config))
        .transpose()?;
    let workers = Arc::new(Workers::start(Farm::new(db, config))?);
    handle_signals(&workers, reload)?;
    let library = library
        .map(|library| {
            let workers = Arc::clone(&workers);
            let (ready, is_ready) = channel();
            let thread = spawn("librarian", move || {
                let events = Events {
                    ready: Box::new(move |pulses| drop(ready.send(pulses))),
                    reload: Box::new(|| {}),
                    stop: Box::new(|| log::info!("the librarian stops")),
                };
                if let Err(error) = library.run_until_signal(events) {
                    log::error!("librarian: {error}");
                }
                // The librarian stops on the same signals. If there was none, it has failed.
                workers.librarian_ended();
            });
            thread.map(|_| is_ready)
        })
        .transpose()?;
    spawn_all(&workers)?;
    // Without a librarian that serves, the master is about to stop.
    let mut pulses: Vec<Pulse> = match &library {
        Some(is_ready) => is_ready.recv().unwrap_or_default(),
        None => Vec::new(),
    };
    let pulse = Pulse::new("main loop", config.database.patience * 2 + STALL_TIMEOUT);
    pulses.push(pulse.clone());
    if !workers.is_stopping() {
        server::report_ready(pulses);
    }
    let ended = run_builders(&workers, &pulse);
    stop(&workers)?;
    ended?;
    // After a signal, the librarian stops as well.
    match library {
        Some(_) if workers.has_lost_librarian() => Err(Error::NoLibrarian),
        _ => Ok(()),
    }
}

/// Starts all threads but those of looks.
fn spawn_all(workers: &Arc<Workers>) -> std::io::Result<()> {
    let shared = Arc::clone(workers);
    spawn("wake", move || wake_idle(&shared))?;
    let tails = |workers: &Workers| workers.farm.config().tail_interval;
    spawn_periodic(workers, "tails", tails, Workers::flush_tails)?;
    spawn_periodic(
        workers,
        "report",
        |_| REPORT_EVERY,
        Workers::report_lateness,
    )?;
    let shared = Arc::clone(workers);
    spawn("uploads", move || uploads::run(&shared))?;
    let shared = Arc::clone(workers);
    spawn("chores", move || chores::run(&shared))?;
    let shared = Arc::clone(workers);
    spawn("notifications", move || notifications::run(&shared))?;
    let shared = Arc::clone(workers);
    spawn("retention", move || retention::run(&shared))?;
    Ok(())
}

/// Waits briefly for running looks, and returns the leases.
fn stop(workers: &Workers) -> Result<(), Error> {
    service_manager::stopping();
    workers.stop();
    workers.looks.stop();
    let until = Instant::now() + STOP_TIMEOUT;
    while Instant::now() < until && workers.looks.with(|schedule| schedule.running()) > 0 {
        thread::sleep(WAKE_EVERY / 10);
    }
    workers.flush_tails();
    workers.release_leases()?;
    Ok(())
}

/// Raises the limit of open files as far as the system allows: each builder may need a connection.
fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // With a lower limit, looks at builders fail and are retried.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(work)
}

/// Starts a thread that calls `work` at each interval until the process stops, even after a panic.
fn spawn_periodic(
    workers: &Arc<Workers>,
    name: &str,
    interval: fn(&Workers) -> Duration,
    work: fn(&Workers),
) -> std::io::Result<()> {
    let workers = Arc::clone(workers);
    let again = move || {
        while !workers.wait_for_stop(interval(&workers)) {
            // The panic hook has logged it.
            let _ = catch_unwind(AssertUnwindSafe(|| work(&workers)));
        }
    };
    spawn(name, again).map(drop)
}

fn handle_signals(workers: &Arc<Workers>, reload: Reload) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let workers = Arc::clone(workers);
    let handle = move || {
        for signal in &mut signals {
            if signal == SIGHUP {
                reload.run(|text| {
                    let (new, warnings) = text.farm()?;
                    workers.farm.reload(&new.master);
                    Ok::<_, config_file::Error>(warnings)
                });
            } else {
                log::info!("stopping; the builders continue their builds");
                workers.stop();
            }
        }
    };
    spawn("signals", handle).map(drop)
}

/// Searches jobs for idle builders until the process stops, even after a panic.
fn wake_idle(workers: &Workers) {
    let mut pause = WAKE_EVERY;
    while !workers.wait_for_stop(pause) {
        let began = Instant::now();
        // The panic hook has logged it.
        let _ = catch_unwind(AssertUnwindSafe(|| workers.wake_idle()));
        pause = WAKE_EVERY.max(began.elapsed() * WAKE_SHARE);
    }
}

/// Renews the leases, and wakes builders that are in service again, until the process stops or a
/// newer program has upgraded the schema.
fn run_builders(workers: &Arc<Workers>, pulse: &Pulse) -> Result<(), Error> {
    let renewal = workers.farm.config().lease / 3;
    let mut renewed: Option<Instant> = None;
    spawn_looks(workers)?;
    loop {
        let due = renewed.is_none_or(|at| at.elapsed() >= renewal);
        if due || workers.has_free_builders() {
            renewed = Some(Instant::now());
            workers.renew_leases()?;
        }
        workers.wake_parked();
        pulse.beat();
        let round = SOON.min(renewal).min(workers.farm.config().scan_interval);
        if workers.wait_for_stop(round) {
            return Ok(());
        }
    }
}

/// Starts a thread that looks at builders. It starts another one when no thread is left that waits
/// for the next look.
fn spawn_looks(workers: &Arc<Workers>) -> std::io::Result<()> {
    let shared = Arc::clone(workers);
    let thread = thread::Builder::new().name("look".to_owned());
    let work = move || {
        while let Some(taken) = shared.looks.take() {
            if taken.needs_thread {
                spawn_looks(&shared).unwrap_or_else(|error| {
                    log::warn!("cannot start a thread: {error}; other builders wait for this look");
                });
            }
            shared.look(taken.look);
        }
    };
    thread.stack_size(STACK_BYTES).spawn(work).map(drop)
}
