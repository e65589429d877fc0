//! Holds the builder's state, and carries out what a change of it asks for.
//!
//! The state is behind a lock that nobody holds across a disk, a process or a wait. Effects go
//! to one thread and are done in the order of the transitions: an abort never overtakes the
//! start it is meant for, a new build never the removal of the old one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::build::Stage;
use crate::build::leftovers;
use crate::build::rundir::{Ending, RunDir, Standing};
use crate::build::spec::{Settings, Spec};
use crate::filecache::Store;
use crate::protocol::{BuildId, BuildRequest};
use crate::sys;
use crate::sys::cgroup::Place;

use super::recover;
use super::state::{Effect, Event, Refused, Run, State};

/// Why a call that the wire allows was not carried out.
#[derive(Debug)]
pub(crate) enum Error {
    Refused(Refused),
    Failed(io::Error),
}

/// The builder.
#[derive(Debug)]
pub(crate) struct Daemon {
    state: Arc<Mutex<State>>,
    orders: Sender<Order>,
    numbers: AtomicU64,
    journal: PathBuf,
}

/// An effect to be carried out, with what it needs and who waits for it.
#[derive(Debug)]
struct Order {
    effect: Effect,
    request: Option<BuildRequest>,
    done: Sender<io::Result<()>>,
}

/// How much longer than its own bound a shim gets for an abort before it is killed itself.
const GRACE: Duration = Duration::from_secs(8);
/// How long a clean-up may go on after that; masters wait 180 s in all (slave spec §1.8).
const CLEANUP_GRACE: Duration = Duration::from_secs(120);

impl Daemon {
    /// Finds out how things stand and starts the thread of effects.
    pub(crate) fn start(
        settings: Settings,
        journal: PathBuf,
        store: Arc<Store>,
        place: Place,
    ) -> io::Result<Self> {
        let (state, running) = recover::recover(&journal)?;
        let deadline = match &state {
            State::Aborting(run) => Some((abort_deadline(&settings), run.clone())),
            State::Idle | State::Building(_) | State::Waiting(..) => None,
        };
        let state = Arc::new(Mutex::new(state));
        let (orders, received) = channel();
        let worker = Worker {
            state: Arc::clone(&state),
            settings,
            journal: journal.clone(),
            store,
            place,
            deadline,
            patient: false,
        };
        if let Some((run, dir)) = running {
            if let Some(bounds) = dir.bounds() {
                bounds.set();
            }
            worker.watch(run, dir, None)?;
        }
        thread::Builder::new()
            .name("effects".into())
            .spawn(move || worker.work(&received))?;
        Ok(Self {
            state,
            orders,
            numbers: AtomicU64::new(1),
            journal,
        })
    }

    /// Returns the state as it is now.
    pub(crate) fn state(&self) -> State {
        lock(&self.state).clone()
    }

    /// Returns the log of a build.
    pub(crate) fn log_of(&self, id: &BuildId) -> PathBuf {
        RunDir::existing(self.journal.join(id.as_str())).log()
    }

    /// Begins a build; when this returns well, it is in the journal and its shim runs.
    pub(crate) fn build(&self, request: BuildRequest) -> Result<(), Error> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (id, private) = (request.build_id.clone(), request.args.archive_private);
        let run = Run {
            number,
            id,
            private,
        };
        self.happen(Event::Build(run), Some(request), true)
    }

    /// Asks for an abort; does not wait for it.
    pub(crate) fn abort(&self) -> Result<(), Error> {
        self.happen(Event::Abort, None, false)
    }

    /// Forgets the build that waits, and removes its files.
    pub(crate) fn clean(&self) -> Result<(), Error> {
        self.happen(Event::Clean, None, true)
    }

    fn happen(&self, event: Event, request: Option<BuildRequest>, wait: bool) -> Result<(), Error> {
        let (done, outcome) = channel();
        {
            let mut state = lock(&self.state);
            let effect = state.apply(event).map_err(Error::Refused)?;
            let Some(effect) = effect else { return Ok(()) };
            log::info!("{} {effect}", state.builder_status());
            // Under the lock, so that effects stand in the queue as the transitions came.
            let order = Order {
                effect,
                request,
                done,
            };
            self.orders
                .send(order)
                .expect("the thread of effects never ends");
        }
        if !wait {
            return Ok(());
        }
        outcome
            .recv()
            .expect("every order is answered")
            .map_err(Error::Failed)
    }
}

/// When a shim that is told to abort now must have ended.
fn abort_deadline(settings: &Settings) -> Instant {
    Instant::now() + settings.clocks.abort + GRACE
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // `apply` does not panic half-way: it replaces the state in one move.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Display for Effect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Start(run) => write!(f, "build {} accepted", run.id),
            Self::Abort(run) => write!(f, "build {} to be aborted", run.id),
            Self::Purge(run, _) => write!(f, "build {} cleaned", run.id),
        }
    }
}

/// The thread of effects.
#[derive(Debug)]
struct Worker {
    state: Arc<Mutex<State>>,
    settings: Settings,
    journal: PathBuf,
    store: Arc<Store>,
    /// Where the groups that bound builds are made.
    place: Place,
    /// When a shim that was told to abort is killed.
    deadline: Option<(Instant, Run)>,
    /// Whether that has been put off for the clean-up.
    patient: bool,
}

impl Worker {
    fn work(mut self, orders: &Receiver<Order>) {
        loop {
            let received = match &self.deadline {
                Some((at, _)) => orders.recv_timeout(at.saturating_duration_since(Instant::now())),
                None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match received {
                Ok(order) => {
                    let result = self.carry_out(order.effect, order.request);
                    // An abort has nobody waiting.
                    let _ = order.done.send(result);
                }
                Err(RecvTimeoutError::Timeout) => self.kill_overdue(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn carry_out(&mut self, effect: Effect, request: Option<BuildRequest>) -> io::Result<()> {
        match effect {
            Effect::Start(run) => {
                let request = request.expect("a start comes with its request");
                let result = self.start(&run, request);
                if let Err(error) = &result {
                    log::error!("build {} could not be started: {error}", run.id);
                    // Nobody may refuse this: the run is the present one.
                    let _ = lock(&self.state).apply(Event::NotStarted(run.number));
                }
                result
            }
            Effect::Abort(run) => {
                self.patient = false;
                self.deadline = Some((abort_deadline(&self.settings), run.clone()));
                let dir = self.dir(&run.id);
                dir.abort().or_else(|error| {
                    log::error!(
                        "build {}: cannot ask for an abort ({error}); killing it",
                        run.id
                    );
                    dir.signal(Signal::SIGKILL)
                })
            }
            Effect::Purge(run, ending) => self.purge(&run, &ending),
        }
    }

    fn dir(&self, id: &BuildId) -> RunDir {
        RunDir::existing(self.journal.join(id.as_str()))
    }

    fn start(&self, run: &Run, request: BuildRequest) -> io::Result<()> {
        let spec = Spec {
            request,
            settings: self.settings.clone(),
        };
        let (dir, child) = RunDir::start(&self.journal, &spec, &self.place)?;
        let watched = self.watch(run.clone(), dir.clone(), Some(child));
        if watched.is_err() {
            // A build that nobody watches must not be.
            leftovers::bury(&dir, "nobody could watch it");
            remove_entry(dir.path(), &self.journal.join(".old-unwatched"))?;
        }
        watched
    }

    /// Starts the thread that waits for the end of a shim, its parent or not.
    fn watch(&self, run: Run, dir: RunDir, child: Option<Child>) -> io::Result<()> {
        let state = Arc::clone(&self.state);
        let watch = move || {
            if let Err(error) = dir.wait() {
                log::error!("build {}: cannot wait for its shim: {error}", run.id);
            }
            if let Some(mut child) = child {
                // Dead already, as its lock is free: this only reaps.
                let _ = child.wait();
            }
            let ending = ending_of(&dir);
            log::info!(
                "build {} is over: {}: {}",
                run.id,
                ending.status,
                ending.reason
            );
            let _ = lock(&state).apply(Event::Over(run.number, ending));
        };
        thread::Builder::new()
            .name("watch".into())
            .spawn(watch)
            .map(drop)
    }

    /// The last resort when a shim does not end: whatever it waits for, it dies. A clean-up may
    /// take longer: nothing of the build runs by then.
    fn kill_overdue(&mut self) {
        let Some((_, run)) = self.deadline.take() else {
            return;
        };
        if *lock(&self.state) != State::Aborting(run.clone()) {
            return;
        }
        let dir = self.dir(&run.id);
        let in_cleanup = dir
            .stages()
            .last()
            .is_some_and(|(_, name)| name == Stage::Cleanup.name());
        if in_cleanup && !self.patient {
            self.patient = true;
            self.deadline = Some((Instant::now() + CLEANUP_GRACE, run));
            return;
        }
        log::error!(
            "build {}: its shim did not end after an abort; killing it",
            run.id
        );
        if let Err(error) = dir.signal(Signal::SIGKILL) {
            log::error!("build {}: {error}", run.id);
        }
    }

    /// Removes the results from the cache and the build from the journal. Inputs stay: they may
    /// be wanted again, even where a result has the same bytes.
    fn purge(&self, run: &Run, ending: &Ending) -> io::Result<()> {
        let dir = self.dir(&run.id);
        let inputs = dir
            .spec()
            .map(|spec| spec.request.files.to_vec())
            .unwrap_or_default();
        for (name, sum) in &ending.files {
            if inputs.iter().any(|(_, input)| input == sum) {
                continue;
            }
            if let Err(error) = self.store.remove(sum) {
                log::warn!(
                    "build {}: result {name} stays in the cache: {error}",
                    run.id
                );
            }
        }
        let old = self.journal.join(format!(".old-{}", run.number));
        remove_entry(dir.path(), &old)
    }
}

/// Takes a journal entry away in one move, then removes it.
pub(super) fn remove_entry(entry: &Path, old: &Path) -> io::Result<()> {
    sys::fs::remove_tree(old).map_err(io::Error::other)?;
    match fs::rename(entry, old) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    }
    sys::fs::remove_tree(old).map_err(io::Error::other)
}

/// Returns how a build whose shim has ended came out; a dead shim's verdict is given for it.
fn ending_of(dir: &RunDir) -> Ending {
    match dir.standing() {
        Ok(Standing::Ended(ending)) => ending,
        Ok(Standing::Dead | Standing::Running) => {
            leftovers::bury(dir, "the process that did the build died")
        }
        Err(error) => leftovers::bury(dir, &format!("the journal cannot be read: {error}")),
    }
}
