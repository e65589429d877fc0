//! Runs one command of a stage under its timeouts, and passes its output to a sink.
//!
//! This file kills no process, since a stage is more than one. On a timeout or an abort, the caller
//! kills the whole session and every other descendant.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::sys::pipe::pipe;

use super::verdict::Exit;

/// An event that the shim's main thread waits for.
#[derive(Debug)]
pub(crate) enum Event {
    Output(u32, Vec<u8>),
    /// The last process that held the output has closed it.
    Closed(u32),
    /// The command itself has exited.
    Exited(u32, Exit),
    /// A master asks for an abort.
    Abort,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CommandOutcome {
    Exited(Exit),
    Aborted,
    /// A timeout expired; the text continues a sentence that begins with the stage.
    TimedOut(String),
    Exceeded(Exceeded),
}

/// The limit that a build exceeded while a command ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Exceeded {
    /// The file system of this folder has too little space left.
    Disk(PathBuf),
    /// The file system of this folder has too few free inodes.
    Inodes(PathBuf),
    /// The files that sbuild copied out of the session have this many bytes.
    Results(u64),
    /// The processes use this many bytes.
    Memory(u64),
    /// The processes have this many threads.
    Processes(u64),
}

/// The limits on the time of one command.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    pub(crate) until: Instant,
    /// The longest time without output.
    pub(crate) silence: Duration,
}

/// The time for output after the command has exited: a daemon that it left may hold the pipe.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
const CHUNK_BYTES: usize = 64 << 10;
/// The time between two checks of the limits.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);

/// Returns the limit that the build exceeds, if any.
pub(crate) type Watch<'a> = dyn FnMut() -> Option<Exceeded> + 'a;

/// Receives the events of a shim.
#[derive(Debug)]
pub(crate) struct Mailbox {
    sender: SyncSender<Event>,
    receiver: Receiver<Event>,
    run: u32,
    aborted: bool,
}

impl Mailbox {
    pub(crate) fn new() -> Self {
        let (sender, receiver) = sync_channel(64);
        Self {
            sender,
            receiver,
            run: 0,
            aborted: false,
        }
    }

    /// The thread of the signal handler sends [`Event::Abort`] here.
    pub(crate) fn sender(&self) -> SyncSender<Event> {
        self.sender.clone()
    }

    /// True if an abort was requested. Drops all other waiting events.
    pub(crate) fn abort_requested(&mut self) -> bool {
        while let Ok(event) = self.receiver.try_recv() {
            self.aborted |= matches!(event, Event::Abort);
        }
        self.aborted
    }

    /// Runs `command` with an empty stdin and all output to `sink`, until it ends or `watch` finds
    /// an exceeded limit. With `abortable`, an abort request ends the wait as well, even an earlier
    /// one.
    pub(crate) fn run(
        &mut self,
        mut command: Command,
        deadlines: Deadlines,
        abortable: bool,
        watch: &mut Watch<'_>,
        sink: &mut dyn FnMut(&[u8]),
    ) -> io::Result<CommandOutcome> {
        if abortable && self.abort_requested() {
            return Ok(CommandOutcome::Aborted);
        }
        self.run += 1;
        let run = self.run;
        let (reader, writer) = pipe()?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .spawn()?;
        // The command holds copies of the pipe's writing end; only the child's may stay open.
        drop(command);
        let (output, ended) = (self.sender.clone(), self.sender.clone());
        thread::spawn(move || pump(reader, run, &output));
        thread::spawn(move || {
            let exit = child.wait().map_or(Exit::Code(125), Exit::from);
            let _ = ended.send(Event::Exited(run, exit));
        });
        Ok(self.follow(Running::new(run, deadlines), abortable, watch, sink))
    }

    fn follow(
        &mut self,
        mut running: Running,
        abortable: bool,
        watch: &mut Watch<'_>,
        sink: &mut dyn FnMut(&[u8]),
    ) -> CommandOutcome {
        loop {
            if let Some(outcome) = running.outcome(watch) {
                return outcome;
            }
            match self.receiver.recv_timeout(running.wait()) {
                Ok(Event::Abort) => {
                    self.aborted = true;
                    if abortable {
                        return CommandOutcome::Aborted;
                    }
                }
                Ok(event) => running.handle(event, sink),
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(outcome) = running.silence_outcome() {
                        return outcome;
                    }
                }
                Err(RecvTimeoutError::Disconnected) => unreachable!("the mailbox holds a sender"),
            }
        }
    }
}

/// A command that has been started.
struct Running {
    run: u32,
    deadlines: Deadlines,
    exit: Option<Exit>,
    closed: bool,
    /// When the command counts as silent, unless it prints before.
    silent_at: Instant,
    next_watch: Instant,
}

impl Running {
    fn new(run: u32, deadlines: Deadlines) -> Self {
        let now = Instant::now();
        Self {
            run,
            deadlines,
            exit: None,
            closed: false,
            silent_at: now + deadlines.silence,
            next_watch: now + WATCH_INTERVAL,
        }
    }

    /// Returns the outcome if the command is over, or out of space or time.
    ///
    /// Called before each event: a command that never stops printing never lets a wait time out.
    fn outcome(&mut self, watch: &mut Watch<'_>) -> Option<CommandOutcome> {
        if let (Some(exit), true) = (self.exit, self.closed) {
            return Some(CommandOutcome::Exited(exit));
        }
        let now = Instant::now();
        if now >= self.next_watch {
            if let Some(found) = watch() {
                return Some(CommandOutcome::Exceeded(found));
            }
            self.next_watch = now + WATCH_INTERVAL;
        }
        (now >= self.deadlines.until).then(|| match self.exit {
            Some(exit) => CommandOutcome::Exited(exit),
            None => CommandOutcome::TimedOut("took longer than it may".into()),
        })
    }

    /// Returns when the silence timeout ends the command; an exited command may be silent.
    fn silence_deadline(&self) -> Instant {
        match self.exit {
            None => self.silent_at,
            Some(_) => self.deadlines.until,
        }
    }

    /// Returns how long to wait for an event.
    fn wait(&self) -> Duration {
        let next = self.silence_deadline().min(self.next_watch);
        let next = next.min(self.deadlines.until);
        next.saturating_duration_since(Instant::now())
    }

    /// Returns the outcome if the command has been silent for too long, after a wait without event.
    fn silence_outcome(&self) -> Option<CommandOutcome> {
        let silent = self.silence_deadline();
        (Instant::now() >= silent && silent < self.deadlines.until).then(|| {
            let seconds = self.deadlines.silence.as_secs();
            CommandOutcome::TimedOut(format!("printed nothing for {seconds} s"))
        })
    }

    fn handle(&mut self, event: Event, sink: &mut dyn FnMut(&[u8])) {
        match event {
            Event::Output(run, bytes) if run == self.run => {
                self.silent_at = Instant::now() + self.deadlines.silence;
                sink(&bytes);
            }
            Event::Closed(run) if run == self.run => self.closed = true,
            Event::Exited(run, exit) if run == self.run => {
                self.exit = Some(exit);
                let drained = Instant::now() + DRAIN_TIMEOUT;
                self.deadlines.until = self.deadlines.until.min(drained);
            }
            // Late events of an earlier command.
            Event::Output(..) | Event::Closed(_) | Event::Exited(..) | Event::Abort => {}
        }
    }
}

fn pump(mut reader: File, run: u32, output: &SyncSender<Event>) {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                let bytes = buffer.get(..count).unwrap_or_default().to_vec();
                if output.send(Event::Output(run, bytes)).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    let _ = output.send(Event::Closed(run));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, deadlines: Deadlines, before: &[Event]) -> (CommandOutcome, String) {
        let mut mailbox = Mailbox::new();
        for event in before {
            assert!(matches!(event, Event::Abort));
            mailbox.sender().send(Event::Abort).unwrap();
        }
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let mut seen = Vec::new();
        let end = mailbox
            .run(command, deadlines, true, &mut || None, &mut |bytes| {
                seen.extend_from_slice(bytes)
            })
            .unwrap();
        (end, String::from_utf8(seen).unwrap())
    }

    fn hours() -> Deadlines {
        let hour = Duration::from_secs(3600);
        Deadlines {
            until: Instant::now() + hour,
            silence: hour,
        }
    }

    #[test]
    fn exit_codes_signals_and_both_output_streams_are_reported() {
        let (end, seen) = shell("echo out; echo err >&2; exit 3", hours(), &[]);
        assert_eq!(end, CommandOutcome::Exited(Exit::Code(3)));
        assert!(seen.contains("out\n") && seen.contains("err\n"));
        assert_eq!(
            shell("kill -9 $$", hours(), &[]).0,
            CommandOutcome::Exited(Exit::Signal(9))
        );
    }

    #[test]
    fn timeouts_aborts_and_full_disks_end_the_wait() {
        let brief = Duration::from_millis(50);
        let silent = Deadlines {
            silence: brief,
            ..hours()
        };
        let end = shell("exec sleep 5", silent, &[]).0;
        assert!(matches!(end, CommandOutcome::TimedOut(why) if why.contains("printed nothing")));
        let short = Deadlines {
            until: Instant::now() + brief,
            ..hours()
        };
        // Never silent; the second one prints without any pause.
        for chatter in [
            "for i in $(seq 500); do echo .; sleep 0.01; done",
            "exec yes",
        ] {
            let end = shell(chatter, short, &[]).0;
            assert!(matches!(end, CommandOutcome::TimedOut(why) if why.contains("longer")));
        }
        assert_eq!(
            shell("exec sleep 5", hours(), &[Event::Abort]).0,
            CommandOutcome::Aborted
        );
        let full = Exceeded::Results(7);
        let end = Mailbox::new().run(
            Command::new("yes"),
            hours(),
            true,
            &mut || Some(full.clone()),
            &mut |_| {},
        );
        assert_eq!(end.unwrap(), CommandOutcome::Exceeded(full.clone()));
    }

    #[test]
    fn a_daemon_that_holds_the_output_open_does_not_delay_the_end() {
        let begun = Instant::now();
        let (end, _) = shell("sleep 30 & exit 0", hours(), &[]);
        assert_eq!(end, CommandOutcome::Exited(Exit::Code(0)));
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
}
