//! Holds the builder's state, and tells the daemon's log how it goes: a line for each change of
//! state and each stage of a build.

use std::sync::Mutex;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::metrics::metrics;
use crate::pipeline::journal::JournalEntry;
use crate::protocol::{BuildId, BuilderStatus};
use crate::sys::lock::lock;

use super::state::{Effect, Event, Refused, State};

/// Between two looks at the stages of a build.
const LOOK: Duration = Duration::from_millis(500);

/// The state of the builder as it is now. Nobody holds its lock across a disk, a process or a wait.
#[derive(Debug)]
pub(crate) struct SharedState(Mutex<Now>);

#[derive(Debug)]
struct Now {
    state: State,
    /// When the abort under way was asked for.
    abort_requested: Option<Instant>,
}

impl SharedState {
    pub(super) fn new(state: State) -> Self {
        Self(Mutex::new(Now {
            state,
            abort_requested: None,
        }))
    }

    /// Returns the state.
    pub(super) fn state(&self) -> State {
        lock(&self.0).state.clone()
    }

    /// Says whether the build of that number is not over yet.
    pub(super) fn runs(&self, number: u64) -> bool {
        matches!(&lock(&self.0).state, State::Building(run) | State::Aborting(run) if run.number == number)
    }

    /// Lets `event` happen; what has to be done for it goes to `order` before anything else can
    /// happen. Tells whether there was any.
    pub(super) fn apply(&self, event: Event, order: impl FnOnce(Effect)) -> Result<bool, Refused> {
        let mut now = lock(&self.0);
        let before = now.state.builder_status();
        let told = description(&now.state, &event);
        let effect = now.state.apply(event)?;
        let after = now.state.builder_status();
        if after != before {
            log::info!("{before} to {after}: {told}");
            now.time_abort(after);
        }
        let ordered = effect.map(order).is_some();
        Ok(ordered)
    }
}

impl Now {
    /// Measures the time from the request for an abort until the build is gone.
    fn time_abort(&mut self, entered: BuilderStatus) {
        let asked = self.abort_requested.take();
        if entered == BuilderStatus::Aborting {
            metrics().aborts.inc();
            self.abort_requested = Some(Instant::now());
        } else if let Some(asked) = asked {
            metrics()
                .abort_seconds
                .observe(asked.elapsed().as_secs_f64());
        }
    }
}

/// Says in a few words what happens to which build. Names and verdicts only: there is nothing
/// secret in those.
fn description(state: &State, event: &Event) -> String {
    let id = match (state, event) {
        (_, Event::Build(run) | Event::NotCleaned(run, _)) => &run.id,
        (State::Building(run) | State::Aborting(run) | State::Waiting(run, _), _) => &run.id,
        (State::Idle, _) => return String::new(),
    };
    match event {
        Event::Build(_) => format!("build {id} begins"),
        Event::Abort => format!("build {id} is to be aborted"),
        Event::Clean => format!("build {id} is cleaned"),
        Event::NotCleaned(..) => format!("build {id} could not be cleaned"),
        Event::NotStarted(_) => format!("build {id} could not be started"),
        Event::Finished(_, outcome) => {
            format!("build {id} is over: {}: {}", outcome.status, outcome.reason)
        }
    }
}

/// Tells of the stages of one build until it is dropped.
#[derive(Debug)]
pub(super) struct StageLogger {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl StageLogger {
    /// Begins to tell; `fresh` says that the build has just begun, so that no stage of it has been
    /// told of yet.
    pub(super) fn start(id: &BuildId, entry: JournalEntry, fresh: bool) -> Self {
        let (end, ended) = channel();
        let id = id.clone();
        let mut told = if fresh { 0 } else { entry.stages().len() };
        let tell = move || {
            loop {
                let ended = ended.recv_timeout(LOOK) != Err(RecvTimeoutError::Timeout);
                for (_, name) in entry.stages().iter().skip(told) {
                    log::info!("build {id}: {name}");
                    told += 1;
                }
                if ended {
                    return;
                }
            }
        };
        // Without it nobody is told; the build is none the worse.
        let thread = thread::Builder::new().name("stages".into()).spawn(tell);
        Self {
            end: Some(end),
            thread: thread.ok(),
        }
    }
}

impl Drop for StageLogger {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // A panic in there was logged.
            let _ = thread.join();
        }
    }
}
