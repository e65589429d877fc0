//! Hands looks at builders to threads, as many as run at once.
//!
//! One of the threads without a look waits for the next due time, the others for their turn.
//! The thread that takes a look passes the waiting on, to another thread or to a new one. A thread
//! that is not needed for [`SPARE_TIME`] ends. So the number of threads follows the looks that run
//! at once; builders out of service, and idle ones between two looks, need none.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::schedule::{After, Look, Schedule};
use crate::master::rows::leases::Fence;
use crate::master::scan::look::Memory;
use crate::sys::lock::lock;

/// How long a thread without a look is kept.
const SPARE_TIME: Duration = Duration::from_secs(10);
/// The longest wait for a due time, if nothing is scheduled.
const NOTHING_DUE: Duration = Duration::from_secs(60);

/// The schedule, and the threads that wait for looks.
pub(super) struct Looks {
    state: Mutex<State>,
    /// The thread that waits for the next due time.
    first: Condvar,
    /// The other threads without a look.
    spare: Condvar,
}

struct State {
    schedule: Schedule<Memory>,
    has_first: bool,
    spare: usize,
    stopping: bool,
}

/// A look for this thread.
pub(super) struct Taken {
    pub(super) look: Look<Memory>,
    /// No other thread waits for looks: the caller starts one.
    pub(super) needs_thread: bool,
}

impl Looks {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                schedule: Schedule::new(),
                has_first: false,
                spare: 0,
                stopping: false,
            }),
            first: Condvar::new(),
            spare: Condvar::new(),
        }
    }

    /// Reads or changes the schedule.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Schedule<Memory>) -> T) -> T {
        let result = work(&mut lock(&self.state).schedule);
        // There may be an earlier due time.
        self.first.notify_one();
        result
    }

    /// Asks all threads to end after their looks.
    pub(super) fn stop(&self) {
        lock(&self.state).stopping = true;
        self.first.notify_all();
        self.spare.notify_all();
    }

    /// Waits for a look. `None`: the thread is not needed any more.
    pub(super) fn take(&self) -> Option<Taken> {
        let mut state = lock(&self.state);
        while state.has_first && !state.stopping {
            state.spare += 1;
            let waited;
            (state, waited) = wait(&self.spare, state, SPARE_TIME);
            state.spare -= 1;
            if !waited && state.has_first {
                return None;
            }
        }
        state.has_first = true;
        let look = loop {
            let now = Instant::now();
            let found = match state.stopping {
                true => None,
                false => state.schedule.next(now),
            };
            if found.is_some() || state.stopping {
                break found;
            }
            let pause = state.schedule.pause(now).unwrap_or(NOTHING_DUE);
            state = wait(&self.first, state, pause.min(NOTHING_DUE)).0;
        };
        state.has_first = false;
        let needs_thread = state.spare == 0;
        self.spare.notify_one();
        look.map(|look| Taken { look, needs_thread })
    }

    /// Records the end of a look.
    pub(super) fn finish(&self, fence: Fence, memory: Memory, after: After) {
        self.with(|schedule| schedule.finish(fence, memory, after, Instant::now()));
    }
}

/// Waits for a signal; returns false if none came in time.
fn wait<'a>(
    signal: &Condvar,
    state: MutexGuard<'a, State>,
    time: Duration,
) -> (MutexGuard<'a, State>, bool) {
    let waited = signal.wait_timeout(state, time);
    let (state, result) = waited.unwrap_or_else(PoisonError::into_inner);
    (state, !result.timed_out())
}
