//! Holds the builder's state, and logs each change of it and each stage of a build.

use std::sync::Mutex;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::metrics::metrics;
use crate::pipeline::journal::JournalEntry;
use crate::protocol::{BuildId, BuilderStatus};
use crate::sys::lock::lock;
use crate::sys::service_manager;

use super::state::{Effect, Event, Refused, State};

/// The time between two reads of the stages of a build.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The current state of the builder. Its lock is never held during disk access or a wait.
#[derive(Debug)]
pub(crate) struct SharedState(Mutex<Now>);

#[derive(Debug)]
struct Now {
    state: State,
    /// When the current abort was requested.
    abort_requested: Option<Instant>,
}

impl SharedState {
    pub(super) fn new(state: State) -> Self {
        report(&state);
        Self(Mutex::new(Now {
            state,
            abort_requested: None,
        }))
    }

    pub(super) fn state(&self) -> State {
        lock(&self.0).state.clone()
    }

    /// True while the run of that number is building or aborting.
    pub(super) fn is_running(&self, number: u64) -> bool {
        match &lock(&self.0).state {
            State::Building(run) | State::Aborting(run) => run.number == number,
            State::Idle | State::Waiting(..) => false,
        }
    }

    /// Applies `event`. `queue` gets its effect, if any, before another event can be applied.
    /// Returns whether there is an effect.
    pub(super) fn apply(&self, event: Event, queue: impl FnOnce(Effect)) -> Result<bool, Refused> {
        let mut now = lock(&self.0);
        let before = now.state.builder_status();
        let description = describe(&now.state, &event);
        let effect = now.state.apply(event)?;
        let after = now.state.builder_status();
        if after != before {
            log::info!("{before} to {after}: {description}");
            report(&now.state);
            now.time_abort(after);
        }
        let has_effect = effect.map(queue).is_some();
        Ok(has_effect)
    }
}

impl Now {
    /// Measures the time from the request of an abort until its end.
    fn time_abort(&mut self, entered: BuilderStatus) {
        let requested = self.abort_requested.take();
        if entered == BuilderStatus::Aborting {
            metrics().aborts.inc();
            self.abort_requested = Some(Instant::now());
        } else if let Some(requested) = requested {
            metrics()
                .abort_seconds
                .observe(requested.elapsed().as_secs_f64());
        }
    }
}

/// Shows the state in `systemctl status`.
fn report(state: &State) {
    let status = state.builder_status();
    service_manager::status(&match state.build_id() {
        Some(id) => format!("{status}: build {id}"),
        None => status.to_string(),
    });
}

/// Describes an event in a few words. Ids and verdicts contain no secrets.
fn describe(state: &State, event: &Event) -> String {
    let id = match (state, event) {
        (_, Event::Build(run) | Event::NotCleaned(run, _)) => &run.id,
        (State::Building(run) | State::Aborting(run) | State::Waiting(run, _), _) => &run.id,
        (State::Idle, _) => return String::new(),
    };
    match event {
        Event::Build(_) => format!("build {id} begins"),
        Event::Abort => format!("build {id} is being aborted"),
        Event::Clean => format!("build {id} is cleaned"),
        Event::NotCleaned(..) => format!("cannot clean build {id}"),
        Event::NotStarted(_) => format!("cannot start build {id}"),
        Event::Finished(_, outcome) => {
            format!(
                "build {id} has ended: {}: {}",
                outcome.status, outcome.reason
            )
        }
    }
}

/// Logs the stages of one build until it is dropped.
#[derive(Debug)]
pub(super) struct StageLogger {
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl StageLogger {
    /// Starts the thread that logs. Unless the build is `fresh`, an earlier daemon has logged the
    /// stages so far.
    pub(super) fn start(id: &BuildId, entry: JournalEntry, fresh: bool) -> Self {
        let (end, ended) = channel();
        let id = id.clone();
        let mut logged = if fresh { 0 } else { entry.stages().len() };
        let log_stages = move || {
            loop {
                let ended = ended.recv_timeout(POLL_INTERVAL) != Err(RecvTimeoutError::Timeout);
                for (_, name) in entry.stages().iter().skip(logged) {
                    log::info!("build {id}: {name}");
                    logged += 1;
                }
                if ended {
                    return;
                }
            }
        };
        // Without the thread, only the log lines are missing.
        let thread = thread::Builder::new()
            .name("stages".into())
            .spawn(log_stages);
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
            // A panic of the thread was logged.
            let _ = thread.join();
        }
    }
}
