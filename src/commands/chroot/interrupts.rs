//! Forwards signals to the program that a chroot command runs, so that the command can clean up.
//!
//! The program runs in a login session of its own, so Ctrl-C does not reach it from the terminal.

use std::io;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex};
use std::thread;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use rustix::process::{WaitId, WaitIdOptions, waitid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

use crate::sys::lock::lock;

use super::Error;

/// Catches the signals that end this process, until dropped.
#[derive(Debug)]
pub(super) struct Interrupts {
    state: Arc<Mutex<State>>,
    handle: Handle,
}

#[derive(Debug, Default)]
struct State {
    program: Option<Pid>,
    /// The signal after which nothing more may start.
    stopped: Option<Signal>,
}

impl Interrupts {
    pub(super) fn catch() -> io::Result<Self> {
        let mut signals = Signals::new([SIGINT, SIGQUIT, SIGTERM, SIGHUP])?;
        let handle = signals.handle();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for signal in &mut signals {
                if let Ok(signal) = Signal::try_from(signal) {
                    lock(&shared).receive(signal);
                }
            }
        });
        Ok(Self { state, handle })
    }

    /// Forwards the signals to `child` until [`Interrupts::wait`] has returned.
    pub(super) fn attend(&self, child: &Child) {
        lock(&self.state).program = child.id().try_into().ok().map(Pid::from_raw);
    }

    /// Waits for the end of the program.
    pub(super) fn wait(&self, child: &mut Child) -> io::Result<ExitStatus> {
        let pid = child
            .id()
            .try_into()
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            // Its number stays taken until it is forgotten here.
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            rustix::io::retry_on_intr(|| waitid(WaitId::Pid(pid), options))?;
        }
        lock(&self.state).program = None;
        child.wait()
    }

    /// Ends a program that is no longer needed.
    pub(super) fn end(&self, child: &mut Child) {
        if let Ok(pid) = child.id().try_into() {
            // Fails if the program has ended.
            let _ = killpg(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.wait(child);
    }

    /// Fails if a signal has asked for the end of the command.
    pub(super) fn check(&self) -> Result<(), Error> {
        match lock(&self.state).stopped {
            Some(signal) => Err(Error::Stopped(signal)),
            None => Ok(()),
        }
    }
}

impl Drop for Interrupts {
    fn drop(&mut self) {
        self.handle.close();
    }
}

impl State {
    fn receive(&mut self, signal: Signal) {
        self.stopped.get_or_insert(signal);
        if let Some(pid) = self.program {
            // A program that has just started may not lead its group yet. Both calls fail if it
            // has just ended.
            let _ = killpg(pid, signal).or_else(|_| kill(pid, signal));
        }
    }
}
