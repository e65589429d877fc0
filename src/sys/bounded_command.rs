//! Runs a site program with a timeout, optional stdin and captured output.
//!
//! The program runs in a new process group, which is killed at its end or at the timeout. If the
//! program fails, the error holds a part of its output. Used for resets, uploads and notifications.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// How much of each output stream is kept, in bytes.
const OUTPUT_BYTES: u64 = 64 << 10;
/// How much of the kept output goes into an error, in bytes.
const SHOWN_BYTES: usize = 1000;
/// How long to wait for the end of an output stream once the command has ended.
const OUTPUT_WAIT: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(20);

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{command}: {source}")]
    Start { command: String, source: io::Error },
    #[error("{command}: timed out after {} s", limit.as_secs())]
    Timeout { command: String, limit: Duration },
    #[error("{command}: {status}: {output}")]
    Failed {
        command: String,
        status: ExitStatus,
        /// stdout and stderr.
        output: String,
    },
}

/// The stdin of a command.
pub(crate) enum Input<'a> {
    Text(&'a str),
    /// An open file; it stays open until the last process of the command ends.
    File(File),
}

/// Runs the command line `words` to its end, then kills the rest of its process group.
pub(crate) fn run(words: &[String], input: Input<'_>, limit: Duration) -> Result<(), Error> {
    let Some((program, arguments)) = words.split_first() else {
        return Ok(());
    };
    let start = |source| Error::Start {
        command: program.clone(),
        source,
    };
    let (stdin, text) = match input {
        Input::Text(text) => (Stdio::piped(), text.to_owned()),
        Input::File(file) => (Stdio::from(file), String::new()),
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(start)?;
    // Each stream has a thread, and waiting for it has a timeout: a process that left the group may
    // hold the pipe open.
    let out = collect_output(child.stdout.take());
    let err = collect_output(child.stderr.take());
    let feeding = child.stdin.take().map(|mut stdin| {
        thread::Builder::new()
            .name("stdin".into())
            // The command may end without reading its stdin.
            .spawn(move || drop(stdin.write_all(text.as_bytes())))
    });
    drop(feeding);
    let status = wait(&mut child, limit).map_err(start)?;
    let output = format!("{} {}", collected(&out), collected(&err));
    match status {
        None => Err(Error::Timeout {
            command: program.clone(),
            limit,
        }),
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(Error::Failed {
            command: program.clone(),
            status,
            output: end_of(output.trim()).to_owned(),
        }),
    }
}

/// Waits until the command ends or `limit` passes, then kills its process group. Returns `None`
/// on timeout.
fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if started.elapsed() > limit {
            break None;
        }
        thread::sleep(POLL);
    };
    let pid = i32::try_from(child.id()).expect("a pid is a positive int");
    // The group may be empty already.
    let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    if status.is_none() {
        child.wait()?;
    }
    Ok(status)
}

/// Starts a thread that reads a stream to its end. Without a thread there is no output.
fn collect_output(stream: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    let read = move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            let _ = stream.by_ref().take(OUTPUT_BYTES).read_to_end(&mut bytes);
            let _ = io::copy(&mut stream, &mut io::sink());
        }
        let _ = sender.send(String::from_utf8_lossy(&bytes).trim().to_owned());
    };
    let _ = thread::Builder::new().name("output".into()).spawn(read);
    receiver
}

fn collected(stream: &Receiver<String>) -> String {
    stream.recv_timeout(OUTPUT_WAIT).unwrap_or_default()
}

/// Returns the last [`SHOWN_BYTES`] of the output, where the reason for a failure is.
fn end_of(output: &str) -> &str {
    let mut start = output.len().saturating_sub(SHOWN_BYTES);
    while !output.is_char_boundary(start) {
        start += 1;
    }
    &output[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, input: &str, secs: u64) -> Result<(), String> {
        let words = ["sh", "-c", script].map(str::to_owned);
        run(&words, Input::Text(input), Duration::from_secs(secs))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_failure_holds_the_output_and_a_timeout_ends_the_program() {
        assert_eq!(sh("test \"$(cat)\" = hello", "hello", 60), Ok(()));
        assert_eq!(sh("exit 0", &"x".repeat(1 << 20), 60), Ok(()));
        let failed = sh("echo a; echo b >&2; exit 3", "", 60).unwrap_err();
        assert_eq!(failed, "sh: exit status: 3: a b");
        let overdue = sh("sleep 100 & sleep 100", "", 0).unwrap_err();
        assert_eq!(overdue, "sh: timed out after 0 s");
        // A process that left the group holds stdout open; run() does not wait for it.
        assert_eq!(sh("setsid sleep 100 & exit 0", "", 60), Ok(()));
        let words = ["/nonexistent".to_owned()];
        let absent = run(&words, Input::Text(""), Duration::ZERO)
            .unwrap_err()
            .to_string();
        assert!(absent.starts_with("/nonexistent: "), "{absent}");
    }
}
