//! Runs a program without this process's terminal, through pipes.
//!
//! The program gets no descriptor of the terminal. On a terminal, its output passes the filter of
//! `sys::output`.

use std::io::{self, Read, Write};
use std::process::{Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};

use crate::sys::output;

use super::interrupts::Interrupts;

const CHUNK_BYTES: usize = 16 << 10;

/// The input of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Input {
    Empty,
    /// A copy of this process's stdin.
    Stdin,
}

/// Runs a command to its end; copies its output to stdout and stderr.
pub(super) fn run(
    mut command: Command,
    input: Input,
    interrupts: &Interrupts,
) -> io::Result<ExitStatus> {
    let mut child = command
        .stdin(match input {
            Input::Empty => Stdio::null(),
            Input::Stdin => Stdio::piped(),
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    interrupts.attend(&child);
    if let Some(mut stdin) = child.stdin.take() {
        // Never joined: it may wait for input that nobody will send.
        thread::spawn(move || copy(io::stdin(), &mut stdin));
    }
    let stdout = child.stdout.take().expect("stdout is piped");
    let stdout = thread::spawn(move || copy(stdout, &mut output::stdout()));
    let stderr = copy_to_stderr(child.stderr.take().expect("stderr is piped"));
    let status = interrupts.wait(&mut child);
    for thread in [stdout, stderr] {
        let _ = thread.join();
    }
    status
}

/// Copies `source` to stderr in a thread.
pub(super) fn copy_to_stderr(source: impl Read + Send + 'static) -> JoinHandle<()> {
    thread::spawn(move || copy(source, &mut output::stderr()))
}

/// Copies each piece as soon as it comes. Ends at an error: the program then gets SIGPIPE.
fn copy(mut source: impl Read, to: &mut dyn Write) {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let count = match source.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        let chunk = buffer.get(..count).unwrap_or_default();
        if to.write_all(chunk).and_then(|()| to.flush()).is_err() {
            return;
        }
    }
}
