//! Connects this process's terminal to a command with a terminal of its own.
//!
//! The terminal is in raw mode meanwhile: Ctrl-C and Ctrl-Z go to the command as bytes, and its own
//! terminal turns them into signals. The bytes of the command pass unchanged, because an editor
//! needs all of a terminal.

use std::io::{self, IsTerminal as _, Read as _, Stdin, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitStatus, Stdio};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};
use signal_hook::consts::{SIGCONT, SIGWINCH};
use signal_hook::low_level::{pipe, unregister};

use crate::session::terminal;

use super::detached::copy_to_stderr;
use super::interrupts::Interrupts;

const CHUNK_BYTES: usize = 16 << 10;
/// No more input is read while this many bytes wait for the command.
const MAX_WAITING_BYTES: usize = 64 << 10;

/// Returns whether a person sits at stdin.
pub(super) fn is_present() -> bool {
    io::stdin().is_terminal()
}

/// Runs a command made by `enter::detached` with a new terminal, to its end.
pub(super) fn run(mut command: Command, interrupts: &Interrupts) -> io::Result<ExitStatus> {
    let (socket, theirs) = UnixStream::pair()?;
    let mut child = command
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    // The command has a copy of their end of the socket, which would hide its end.
    drop(command);
    interrupts.attend(&child);
    let messages = copy_to_stderr(child.stderr.take().expect("stderr is piped"));
    let connected = terminal::receive(&socket).and_then(|master| match master {
        Some(master) => Console::open(&master)?.connect(&master, socket),
        // Its message and its exit code say why.
        None => Ok(()),
    });
    if connected.is_err() {
        // Fails if it has ended already.
        let _ = child.kill();
    }
    let status = interrupts.wait(&mut child);
    let _ = messages.join();
    connected.and(status)
}

/// The terminal of this process in raw mode; dropping it restores the former mode.
struct Console {
    stdin: Stdin,
    before: Termios,
    /// Readable after the terminal has changed, or this process was stopped.
    changes: UnixStream,
    handlers: Vec<signal_hook::SigId>,
}

impl Console {
    /// Gives the command's terminal the settings of this one.
    fn open(master: &OwnedFd) -> io::Result<Self> {
        let stdin = io::stdin();
        let before = tcgetattr(&stdin)?;
        tcsetattr(master, OptionalActions::Now, &before)?;
        let (changes, sender) = UnixStream::pair()?;
        changes.set_nonblocking(true)?;
        let mut console = Self {
            stdin,
            before,
            changes,
            handlers: Vec::new(),
        };
        for signal in [SIGWINCH, SIGCONT] {
            let handler = pipe::register(signal, sender.try_clone()?)?;
            console.handlers.push(handler);
        }
        console.adopt(master)?;
        Ok(console)
    }

    /// Switches to raw mode and passes on the size of the window.
    fn adopt(&self, master: &OwnedFd) -> io::Result<()> {
        tcsetwinsize(master, tcgetwinsize(&self.stdin)?)?;
        let mut raw = self.before.clone();
        raw.make_raw();
        Ok(tcsetattr(&self.stdin, OptionalActions::Now, &raw)?)
    }

    /// Copies between both terminals until the command's is closed.
    fn connect(mut self, master: &OwnedFd, socket: UnixStream) -> io::Result<()> {
        fcntl(master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        terminal::start(socket)?;
        let (mut waiting, mut has_input) = (Vec::new(), true);
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let listens = has_input && waiting.len() < MAX_WAITING_BYTES;
            let [keys, output, changed] = self.wait(master, listens, !waiting.is_empty())?;
            if changed {
                while self.changes.read(&mut buffer).is_ok_and(|count| count > 0) {}
                self.adopt(master)?;
            }
            if keys {
                let count = read(&self.stdin, &mut buffer)?.unwrap_or(0);
                waiting.extend_from_slice(buffer.get(..count).unwrap_or_default());
                // Raw input ends only when the terminal is gone.
                has_input = count > 0;
            }
            if !waiting.is_empty() {
                let written = match rustix::io::write(master, &waiting) {
                    Err(Errno::AGAIN | Errno::INTR | Errno::IO) => 0,
                    other => other?,
                };
                waiting.drain(..written);
            }
            if output {
                let Some(count) = read(master, &mut buffer)? else {
                    return Ok(());
                };
                let mut out = io::stdout().lock();
                out.write_all(buffer.get(..count).unwrap_or_default())?;
                out.flush()?;
            }
        }
    }

    /// Waits for input of the person, for output of the command, or for a change.
    fn wait(&self, master: &OwnedFd, listens: bool, writes: bool) -> io::Result<[bool; 3]> {
        let mut of_master = PollFlags::IN;
        of_master.set(PollFlags::OUT, writes);
        let mut ready = vec![
            PollFd::new(master, of_master),
            PollFd::new(&self.changes, PollFlags::IN),
        ];
        if listens {
            ready.push(PollFd::new(&self.stdin, PollFlags::IN));
        }
        match poll(&mut ready, None) {
            Err(Errno::INTR) => return Ok([false; 3]),
            other => other?,
        };
        let any = |at: usize, flags| {
            let found = ready.get(at).map(PollFd::revents);
            found.is_some_and(|found| found.intersects(flags))
        };
        let readable = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
        Ok([any(2, readable), any(0, readable), any(1, PollFlags::IN)])
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        for handler in self.handlers.drain(..) {
            unregister(handler);
        }
        // Discards input that has not been read: it may be the terminal's answer to a question of
        // the command, and must not be typed into the next program.
        let _ = tcsetattr(&self.stdin, OptionalActions::Flush, &self.before);
    }
}

/// Reads what is there. `None` if the terminal is closed, 0 if nothing is there.
fn read(from: impl std::os::fd::AsFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    match rustix::io::read(from.as_fd(), buffer) {
        Ok(0) | Err(Errno::IO) => Ok(None),
        Err(Errno::AGAIN | Errno::INTR) => Ok(Some(0)),
        other => Ok(Some(other?)),
    }
}
