//! Shows the progress of a build until it ends, and forwards Ctrl-C.
//!
//! Each stage is printed as a line. A terminal also has a status line, which is redrawn. The first
//! signal aborts the build, the second kills it. Either way, `follow` waits for the end.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::Child;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::pipeline::buildlog;
use crate::pipeline::journal::JournalEntry;
use crate::sys::{output, terminal_filter};

use super::progress::{Step, last_line, stage_line, status_line};

/// Interval at which the status line is redrawn.
const TICK: Duration = Duration::from_millis(250);
/// Bytes at the end of the log that are searched for its last line.
const TAIL_BYTES: usize = 2048;
/// The width of a terminal if $COLUMNS is not set.
const COLUMNS: usize = 80;

enum Event {
    Signal,
    Ended,
}

/// Catches the signals that end a build. Call it before the build starts.
pub(super) fn signals() -> io::Result<Signals> {
    Signals::new([SIGINT, SIGTERM, SIGHUP])
}

/// Follows the build in `run` until its process `shim` ends. `total` is the number of its stages.
pub(super) fn follow(run: &JournalEntry, mut shim: Child, total: usize, mut signals: Signals) {
    let (sender, events) = channel();
    let ended = sender.clone();
    thread::spawn(move || {
        // The journal entry has the verdict.
        let _ = shim.wait();
        let _ = ended.send(Event::Ended);
    });
    thread::spawn(move || {
        for _ in &mut signals {
            if sender.send(Event::Signal).is_err() {
                return;
            }
        }
    });
    let mut screen = Screen::new(total);
    let mut aborting = false;
    loop {
        match events.recv_timeout(TICK) {
            Ok(Event::Signal) => {
                let sent = if std::mem::replace(&mut aborting, true) {
                    screen.print("Killing the build.");
                    run.signal(Signal::SIGKILL)
                } else {
                    screen.print("Aborting the build; press Ctrl-C again to kill it.");
                    run.abort()
                };
                if let Err(error) = sent {
                    screen.print(&format!("cannot signal the build: {error}"));
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Ok(Event::Ended) | Err(RecvTimeoutError::Disconnected) => {
                screen.show(run);
                screen.clear();
                return;
            }
        }
        screen.show(run);
    }
}

/// Standard output while the build runs. Write errors are ignored: the build continues.
struct Screen {
    began: Instant,
    terminal: bool,
    width: usize,
    total: usize,
    /// Number of stages already printed.
    shown: usize,
}

impl Screen {
    fn new(total: usize) -> Self {
        let columns = std::env::var("COLUMNS").ok();
        Self {
            began: Instant::now(),
            terminal: io::stdout().is_terminal(),
            width: columns
                .and_then(|text| text.parse().ok())
                .unwrap_or(COLUMNS),
            total,
            shown: 0,
        }
    }

    /// Prints the new stages and redraws the status line.
    fn show(&mut self, run: &JournalEntry) {
        let stages = run.stages();
        let first = stages.first().map_or(0.0, |(time, _)| *time);
        let step = |number: usize| {
            let (time, name) = stages.get(number.checked_sub(1)?)?;
            let since = Duration::try_from_secs_f64(time - first).unwrap_or_default();
            let total = self.total;
            Some((
                since,
                Step {
                    name,
                    number,
                    total,
                },
            ))
        };
        let new: Vec<String> = (self.shown + 1..=stages.len())
            .filter_map(|number| step(number).map(|(since, step)| stage_line(since, step)))
            .collect();
        self.shown = stages.len();
        for line in new {
            self.print(&line);
        }
        if let Some((_, step)) = step(stages.len()).filter(|_| self.terminal) {
            let end = buildlog::tail(&run.log(), TAIL_BYTES, false).unwrap_or_default();
            let end = String::from_utf8_lossy(&end);
            // Some terminals wrap a line that fills the last column.
            let width = self.width.saturating_sub(1);
            let last = last_line(&end).replace(terminal_filter::is_control, " ");
            let line = status_line(self.began.elapsed(), step, &last, width);
            self.draw(&line);
        }
    }

    /// Prints a permanent line.
    fn print(&self, line: &str) {
        self.clear();
        let _ = writeln!(output::stdout(), "{line}");
    }

    /// Erases the status line.
    fn clear(&self) {
        if self.terminal {
            self.draw("");
        }
    }

    fn draw(&self, line: &str) {
        let mut out = io::stdout().lock();
        let _ = write!(out, "\r\x1b[K{line}");
        let _ = out.flush();
    }
}
