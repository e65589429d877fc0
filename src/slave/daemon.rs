//! Performs the effects of state transitions: starts, aborts and removes builds.
//!
//! One thread performs all effects in the order of the transitions. So an abort never overtakes the
//! start of its build, and a new build never starts before the old one is removed. The lock of the
//! state is never held during disk access, process start or a wait.

use std::io;
use std::path::PathBuf;
use std::process::Child;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::filecache::Store;
use crate::metrics::metrics;
use crate::pipeline::Stage;
use crate::pipeline::buildlog::Tail;
use crate::pipeline::journal::{EntryState, JournalEntry, Outcome};
use crate::pipeline::leftovers;
use crate::pipeline::spec::{Settings, Spec};
use crate::protocol::{BuildId, BuildRequest};
use crate::sys::cgroup::ResourceControl;
use crate::sys::lock::lock;

use super::recover;
use super::shared_state::{SharedState, StageLogger};
use super::state::{Effect, Event, Refused, Run, State};

/// Why a valid call failed.
#[derive(Debug)]
pub(crate) enum Error {
    Refused(Refused),
    Failed(io::Error),
}

/// The builder.
#[derive(Debug)]
pub(crate) struct Daemon {
    shared: Arc<SharedState>,
    effects: Sender<QueuedEffect>,
    next_number: AtomicU64,
    journal: PathBuf,
    /// The settings of the next build.
    settings: Arc<Mutex<Settings>>,
}

/// An effect to perform, its input, and the channel for its result.
#[derive(Debug)]
struct QueuedEffect {
    effect: Effect,
    request: Option<BuildRequest>,
    done: Sender<io::Result<()>>,
}

/// The time beyond `abort_time` after which the daemon kills an aborted shim (docs/wire.md §3.9).
const GRACE: Duration = Duration::from_secs(8);
/// The time between two checks whether an interrupted build has ended.
const INTERRUPT_POLL: Duration = Duration::from_millis(50);
/// The extra time for a shim in CLEANUP. Masters wait 180 s in all (docs/wire.md §1.8).
const CLEANUP_GRACE: Duration = Duration::from_secs(120);

impl Daemon {
    /// Recovers the state from the journal and starts the thread of effects.
    pub(crate) fn start(
        settings: Settings,
        journal: PathBuf,
        store: Arc<Store>,
        resource_control: ResourceControl,
    ) -> io::Result<Self> {
        let (state, running) = recover::recover(&journal)?;
        leftovers::sweep(&settings, &journal, state.build_id());
        let deadline = match &state {
            State::Aborting(run) => Some((abort_deadline(&settings), run.clone())),
            State::Idle | State::Building(_) | State::Waiting(..) => None,
        };
        let shared = Arc::new(SharedState::new(state));
        let (effects, received) = channel();
        let settings = Arc::new(Mutex::new(settings));
        let worker = Worker {
            shared: Arc::clone(&shared),
            settings: Arc::clone(&settings),
            journal: journal.clone(),
            store,
            resource_control,
            deadline,
            cleanup_extended: false,
        };
        if let Some((run, entry)) = running {
            if let Some(limits) = entry.limits() {
                limits.apply();
            }
            worker.watch(run, entry, None)?;
        }
        thread::Builder::new()
            .name("effects".into())
            .spawn(move || worker.work(&received))?;
        Ok(Self {
            shared,
            effects,
            next_number: AtomicU64::new(1),
            journal,
            settings,
        })
    }

    /// Changes the settings of the next build.
    pub(crate) fn set_settings(&self, settings: Settings) {
        *lock(&self.settings) = settings;
    }

    pub(crate) fn state(&self) -> State {
        self.shared.state()
    }

    pub(crate) fn shared_state(&self) -> Arc<SharedState> {
        Arc::clone(&self.shared)
    }

    pub(crate) fn log_of(&self, id: &BuildId) -> PathBuf {
        JournalEntry::existing(self.journal.join(id.as_str())).log()
    }

    /// Opens the end of the log of a running build.
    pub(crate) fn open_tail(&self, id: &BuildId) -> io::Result<Tail> {
        let entry = JournalEntry::existing(self.journal.join(id.as_str()));
        // The shim may use the limit of an earlier configuration. An unknown limit counts as 0, so
        // that the files are opened again for each read.
        let limit = entry.spec().map_or(0, |spec| spec.settings.log_bytes);
        Tail::open(&entry.log(), limit)
    }

    /// Starts a build. On success, it is in the journal and its shim is running.
    pub(crate) fn build(&self, request: BuildRequest) -> Result<(), Error> {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let (id, private) = (request.build_id.clone(), request.args.archive_private);
        let run = Run {
            number,
            id,
            private,
        };
        self.apply(Event::Build(run), Some(request), true)
    }

    /// Requests an abort, and does not wait for it.
    pub(crate) fn abort(&self) -> Result<(), Error> {
        self.apply(Event::Abort, None, false)
    }

    /// Removes the waiting build and its files.
    pub(crate) fn clean(&self) -> Result<(), Error> {
        self.apply(Event::Clean, None, true)
    }

    /// Ends the running build without an abort, so that its shim gives the build back. Returns
    /// whether the build has ended within `limit`.
    pub(crate) fn interrupt(&self, limit: Duration) -> bool {
        let state = self.shared.state();
        let Some(id) = state.running() else {
            return true;
        };
        let entry = JournalEntry::existing(self.journal.join(id.as_str()));
        if let Err(error) = entry.signal(Signal::SIGTERM) {
            log::error!("build {id}: cannot end it: {error}");
            return false;
        }
        let ended = || !matches!(entry.state(), Ok(EntryState::Running));
        let until = Instant::now() + limit;
        while !ended() && Instant::now() < until {
            thread::sleep(INTERRUPT_POLL);
        }
        ended()
    }

    fn apply(&self, event: Event, request: Option<BuildRequest>, wait: bool) -> Result<(), Error> {
        let (done, outcome) = channel();
        // Queued under the lock, so that effects keep the order of the transitions.
        let has_effect = self.shared.apply(event, |effect| {
            let queued = QueuedEffect {
                effect,
                request,
                done,
            };
            self.effects
                .send(queued)
                .expect("the thread of effects never ends");
        });
        if !has_effect.map_err(Error::Refused)? || !wait {
            return Ok(());
        }
        outcome
            .recv()
            .expect("every effect is answered")
            .map_err(Error::Failed)
    }
}

/// Returns the time by which a shim must end if it is asked to abort now.
fn abort_deadline(settings: &Settings) -> Instant {
    Instant::now() + settings.timeouts.abort + GRACE
}

/// The thread of effects.
struct Worker {
    shared: Arc<SharedState>,
    settings: Arc<Mutex<Settings>>,
    journal: PathBuf,
    store: Arc<Store>,
    resource_control: ResourceControl,
    /// When the aborted shim is killed.
    deadline: Option<(Instant, Run)>,
    /// True if the deadline was extended for CLEANUP.
    cleanup_extended: bool,
}

impl Worker {
    fn work(mut self, effects: &Receiver<QueuedEffect>) {
        loop {
            let received = match &self.deadline {
                Some((at, _)) => effects.recv_timeout(at.saturating_duration_since(Instant::now())),
                None => effects.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match received {
                Ok(queued) => {
                    let result = self.perform(queued.effect, queued.request);
                    // The caller of an abort does not wait.
                    let _ = queued.done.send(result);
                }
                Err(RecvTimeoutError::Timeout) => self.kill_overdue(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn perform(&mut self, effect: Effect, request: Option<BuildRequest>) -> io::Result<()> {
        match effect {
            Effect::Start(run) => {
                let request = request.expect("a start comes with its request");
                let result = self.start(&run, request);
                if let Err(error) = &result {
                    log::error!("cannot start build {}: {error}", run.id);
                    // Never refused: the run is the current one.
                    let _ = self.shared.apply(Event::NotStarted(run.number), drop);
                }
                result
            }
            Effect::Abort(run) => {
                self.cleanup_extended = false;
                self.deadline = Some((abort_deadline(&lock(&self.settings)), run.clone()));
                let entry = self.entry(&run.id);
                entry.abort().or_else(|error| {
                    log::error!(
                        "build {}: cannot request an abort ({error}); killing its shim",
                        run.id
                    );
                    entry.signal(Signal::SIGKILL)
                })
            }
            Effect::Purge(run, outcome) => {
                let result = self.purge(&run, &outcome);
                if let Err(error) = &result {
                    log::error!("cannot clean build {}: {error}", run.id);
                    let _ = self.shared.apply(Event::NotCleaned(run, outcome), drop);
                }
                result
            }
        }
    }

    fn entry(&self, id: &BuildId) -> JournalEntry {
        JournalEntry::existing(self.journal.join(id.as_str()))
    }

    fn start(&self, run: &Run, request: BuildRequest) -> io::Result<()> {
        let spec = Spec {
            request,
            settings: lock(&self.settings).clone(),
        };
        recover::clear(&self.journal)?;
        let (entry, child) = JournalEntry::start(&self.journal, &spec, &self.resource_control)?;
        let watched = self.watch(run.clone(), entry.clone(), Some(child));
        if watched.is_err() {
            // Without the thread that waits for its end, a build must not run.
            leftovers::finish_dead(&entry, "the daemon could not start a thread for it");
            recover::remove_entry(entry.path())?;
        }
        // The journal pins the files of this build now; no other build needs held files.
        self.store.release();
        watched
    }

    /// Starts the thread that waits for the end of a shim; `child` if this daemon started it.
    fn watch(&self, run: Run, entry: JournalEntry, child: Option<Child>) -> io::Result<()> {
        let (shared, store) = (Arc::clone(&self.shared), Arc::clone(&self.store));
        let watch = move || {
            let stages = StageLogger::start(&run.id, entry.clone(), child.is_some());
            if let Err(error) = entry.wait() {
                log::error!("build {}: cannot wait for its shim: {error}", run.id);
            }
            if let Some(mut child) = child {
                // The lock is free, so the shim is dead: this only reaps it.
                let _ = child.wait();
            }
            let outcome = outcome_of(&entry);
            drop(stages);
            for (_, sha1) in &outcome.files {
                store.trust(sha1);
            }
            record_metrics(&outcome, &entry);
            let _ = shared.apply(Event::Finished(run.number, outcome), drop);
        };
        thread::Builder::new()
            .name("watch".into())
            .spawn(watch)
            .map(drop)
    }

    /// Kills a shim that did not end in time after an abort. CLEANUP gets an extension once: no
    /// process of the build runs then.
    fn kill_overdue(&mut self) {
        let Some((_, run)) = self.deadline.take() else {
            return;
        };
        if self.shared.state() != State::Aborting(run.clone()) {
            return;
        }
        let entry = self.entry(&run.id);
        let in_cleanup = entry
            .stages()
            .last()
            .is_some_and(|(_, name)| name == Stage::Cleanup.name());
        if in_cleanup && !self.cleanup_extended {
            self.cleanup_extended = true;
            self.deadline = Some((Instant::now() + CLEANUP_GRACE, run));
            return;
        }
        log::error!(
            "build {}: its shim did not end after an abort; killing it",
            run.id
        );
        if let Err(error) = entry.signal(Signal::SIGKILL) {
            log::error!("build {}: {error}", run.id);
        }
    }

    /// Removes the build from the journal and its results from the cache. Inputs stay cached, even
    /// if a result has the same bytes.
    fn purge(&self, run: &Run, outcome: &Outcome) -> io::Result<()> {
        let entry = self.entry(&run.id);
        let (spec, has_work_tree) = (entry.spec().ok(), entry.has_work_tree());
        // A shim that died has recorded its results, but no verdict names them.
        let mut results = entry.recorded_results().unwrap_or_default();
        results.extend(outcome.files.iter().map(|(_, sha1)| sha1.clone()));
        // The entry goes first: without it the build is gone, even if a later step fails.
        recover::remove_entry(entry.path())?;
        // There are leftovers only if CLEANUP failed.
        let errors = spec
            .iter()
            .map(|spec| leftovers::remove_all(spec, has_work_tree));
        for error in errors.flatten() {
            log::warn!("build {}: {error}", run.id);
        }
        let inputs = spec.map_or_else(Vec::new, |spec| spec.request.files.to_vec());
        for sha1 in results {
            if inputs.iter().any(|(_, input)| *input == sha1) {
                continue;
            }
            if let Err(error) = self.store.remove(&sha1) {
                log::warn!(
                    "build {}: cannot remove a result from the cache: {error}",
                    run.id
                );
            }
        }
        Ok(())
    }
}

/// Updates the metrics with the outcome of a build.
fn record_metrics(outcome: &Outcome, entry: &JournalEntry) {
    let verdict = outcome.status.to_string();
    metrics().builds.with_label_values(&[&verdict]).inc();
    for (stage, seconds) in &outcome.stages {
        let of_stage = metrics().stage_seconds.with_label_values(&[stage.name()]);
        of_stage.observe(*seconds);
    }
    for (store, count) in entry.evictions() {
        metrics()
            .evictions
            .with_label_values(&[store])
            .inc_by(count);
    }
}

/// Returns the outcome of a build whose shim has ended; writes it if the shim died without one.
fn outcome_of(entry: &JournalEntry) -> Outcome {
    match entry.state() {
        Ok(EntryState::Finished(outcome)) => outcome,
        Ok(EntryState::Dead | EntryState::Running) => {
            leftovers::finish_dead(entry, "the process that did the build died")
        }
        Err(error) => {
            leftovers::finish_dead(entry, &format!("the journal cannot be read: {error}"))
        }
    }
}
