//! Shows on a terminal how far a backup or a restore is. Elsewhere it prints nothing.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// Interval between two lines.
const EVERY: Duration = Duration::from_millis(200);

/// A line on stderr that is replaced until the end.
pub(crate) struct Progress {
    is_terminal: bool,
    drawn: Option<Instant>,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self {
            is_terminal: io::stderr().is_terminal(),
            drawn: None,
        }
    }

    /// Shows that `done` of `all` are done; without `all`, only how many.
    pub(super) fn show(&mut self, what: &str, done: u64, all: Option<u64>) {
        let is_due = self.drawn.is_none_or(|at| at.elapsed() >= EVERY);
        if !self.is_terminal || !is_due {
            return;
        }
        self.drawn = Some(Instant::now());
        let of = all.map_or_else(String::new, |all| format!(" of {all}"));
        // A failed write leaves only the line out.
        let _ = write!(io::stderr(), "\r\x1b[K{what}: {done}{of}");
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.drawn.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}
