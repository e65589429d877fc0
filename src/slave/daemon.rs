//! Holds the builder's state, and carries out what a change of it asks for.
//!
//! The state is behind a lock that nobody holds across a disk, a process or a wait. Effects go
//! to one thread and are done in the order of the transitions: an abort never overtakes the
//! start it is meant for, a new build never the removal of the old one.

use std::io;
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
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

use super::recover;
use super::shared_state::{SharedState, StageLogger};
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
    shared: Arc<SharedState>,
    effects: Sender<QueuedEffect>,
    next_number: AtomicU64,
    journal: PathBuf,
}

/// An effect to be carried out, with what it needs and who waits for it.
#[derive(Debug)]
struct QueuedEffect {
    effect: Effect,
    request: Option<BuildRequest>,
    done: Sender<io::Result<()>>,
}

/// How much longer than its own bound a shim gets for an abort before it is killed itself.
const GRACE: Duration = Duration::from_secs(8);
/// How long a clean-up may go on after that; masters wait 180 s in all (docs/wire.md §1.8).
const CLEANUP_GRACE: Duration = Duration::from_secs(120);

impl Daemon {
    /// Finds out how things stand and starts the thread of effects.
    pub(crate) fn start(
        settings: Settings,
        journal: PathBuf,
        store: Arc<Store>,
        place: ResourceControl,
    ) -> io::Result<Self> {
        let (state, running) = recover::recover(&journal)?;
        leftovers::sweep(&settings, &journal, state.build_id());
        let deadline = match &state {
            State::Aborting(run) => Some((abort_deadline(&settings), run.clone())),
            State::Idle | State::Building(_) | State::Waiting(..) => None,
        };
        let shared = Arc::new(SharedState::new(state));
        let (effects, received) = channel();
        let worker = Worker {
            shared: Arc::clone(&shared),
            settings,
            journal: journal.clone(),
            store,
            place,
            deadline,
            cleanup_extended: false,
        };
        if let Some((run, entry)) = running {
            if let Some(bounds) = entry.cgroups() {
                bounds.apply();
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
        })
    }

    /// Returns the state as it is now.
    pub(crate) fn state(&self) -> State {
        self.shared.state()
    }

    /// Returns what tells the state from now on.
    pub(crate) fn shared_state(&self) -> Arc<SharedState> {
        Arc::clone(&self.shared)
    }

    /// Returns the log of a build.
    pub(crate) fn log_of(&self, id: &BuildId) -> PathBuf {
        JournalEntry::existing(self.journal.join(id.as_str())).log()
    }

    /// Opens the end of the log of a build that runs.
    pub(crate) fn open_tail(&self, id: &BuildId) -> io::Result<Tail> {
        let entry = JournalEntry::existing(self.journal.join(id.as_str()));
        // What its shim goes by may be of an earlier configuration. One that cannot be told is
        // looked for anew each time.
        let limit = entry.spec().map_or(0, |spec| spec.settings.log_bytes);
        Tail::open(&entry.log(), limit)
    }

    /// Begins a build; when this returns well, it is in the journal and its shim runs.
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

    /// Asks for an abort; does not wait for it.
    pub(crate) fn abort(&self) -> Result<(), Error> {
        self.apply(Event::Abort, None, false)
    }

    /// Forgets the build that waits, and removes its files.
    pub(crate) fn clean(&self) -> Result<(), Error> {
        self.apply(Event::Clean, None, true)
    }

    fn apply(&self, event: Event, request: Option<BuildRequest>, wait: bool) -> Result<(), Error> {
        let (done, outcome) = channel();
        // Under the lock, so that effects stand in the queue as the transitions came.
        let ordered = self.shared.apply(event, |effect| {
            let queued = QueuedEffect {
                effect,
                request,
                done,
            };
            self.effects
                .send(queued)
                .expect("the thread of effects never ends");
        });
        if !ordered.map_err(Error::Refused)? || !wait {
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
    Instant::now() + settings.timeouts.abort + GRACE
}

/// The thread of effects.
struct Worker {
    shared: Arc<SharedState>,
    settings: Settings,
    journal: PathBuf,
    store: Arc<Store>,
    /// Where the groups that bound builds are made.
    place: ResourceControl,
    /// When a shim that was told to abort is killed.
    deadline: Option<(Instant, Run)>,
    /// Whether that has been put off for the clean-up.
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
                    // An abort has nobody waiting.
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
                    log::error!("build {} could not be started: {error}", run.id);
                    // Nobody may refuse this: the run is the present one.
                    let _ = self.shared.apply(Event::NotStarted(run.number), drop);
                }
                result
            }
            Effect::Abort(run) => {
                self.cleanup_extended = false;
                self.deadline = Some((abort_deadline(&self.settings), run.clone()));
                let entry = self.entry(&run.id);
                entry.abort().or_else(|error| {
                    log::error!(
                        "build {}: cannot ask for an abort ({error}); killing it",
                        run.id
                    );
                    entry.signal(Signal::SIGKILL)
                })
            }
            Effect::Purge(run, outcome) => {
                let result = self.purge(&run, &outcome);
                if let Err(error) = &result {
                    log::error!("build {} cannot be cleaned: {error}", run.id);
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
            settings: self.settings.clone(),
        };
        recover::clear(&self.journal)?;
        let (entry, child) = JournalEntry::start(&self.journal, &spec, &self.place)?;
        let watched = self.watch(run.clone(), entry.clone(), Some(child));
        if watched.is_err() {
            // A build that nobody watches must not be.
            leftovers::finish_dead(&entry, "nobody could watch it");
            recover::remove_entry(entry.path())?;
        }
        // What it needs is in the journal now; the rest was for this build too, or for none.
        self.store.release();
        watched
    }

    /// Starts the thread that waits for the end of a shim, its parent or not.
    fn watch(&self, run: Run, entry: JournalEntry, child: Option<Child>) -> io::Result<()> {
        let (shared, store) = (Arc::clone(&self.shared), Arc::clone(&self.store));
        let watch = move || {
            let stages = StageLogger::start(&run.id, entry.clone(), child.is_some());
            if let Err(error) = entry.wait() {
                log::error!("build {}: cannot wait for its shim: {error}", run.id);
            }
            if let Some(mut child) = child {
                // Dead already, as its lock is free: this only reaps.
                let _ = child.wait();
            }
            let outcome = outcome_of(&entry);
            drop(stages);
            for (_, sum) in &outcome.files {
                store.trust(sum);
            }
            count(&outcome, &entry);
            let _ = shared.apply(Event::Finished(run.number, outcome), drop);
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

    /// Removes the build from the journal and its results from the cache. Inputs stay: they may be
    /// wanted again, even where a result has the same bytes.
    fn purge(&self, run: &Run, outcome: &Outcome) -> io::Result<()> {
        let entry = self.entry(&run.id);
        let (spec, has_work_tree) = (entry.spec().ok(), entry.has_work_tree());
        // What a shim that died had gathered is no more than noted.
        let mut results = entry.recorded_results().unwrap_or_default();
        results.extend(outcome.files.iter().map(|(_, sum)| sum.clone()));
        // First: once the entry is gone, whatever else fails, the build is forgotten.
        recover::remove_entry(entry.path())?;
        // Nothing any more, unless CLEANUP failed.
        let problems = spec
            .iter()
            .map(|spec| leftovers::remove_all(spec, has_work_tree));
        for problem in problems.flatten() {
            log::warn!("build {}: {problem}", run.id);
        }
        let inputs = spec.map_or_else(Vec::new, |spec| spec.request.files.to_vec());
        for sum in results {
            if inputs.iter().any(|(_, input)| *input == sum) {
                continue;
            }
            if let Err(error) = self.store.remove(&sum) {
                log::warn!("build {}: a result stays in the cache: {error}", run.id);
            }
        }
        Ok(())
    }
}

/// Enters the end of a build in the numbers that are shown.
fn count(outcome: &Outcome, entry: &JournalEntry) {
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

/// Returns how a build whose shim has ended came out; a dead shim's verdict is given for it.
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
