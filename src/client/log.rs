//! Prints or follows a slave's build log.
//!
//! Bytes are copied unchanged. Following asks for the status first and the new part of the log
//! second, so that nothing is missed if the build ends in between. Used by `probe` and the master's
//! commands.

use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use super::Client;
use crate::protocol::{self, BuildId, StatusRecord};

const PATH: &str = "/filecache/buildlog";
/// How long requests are retried while the slave is unreachable: the time of a restart.
const RESTART_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a log could not be printed to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    #[error(transparent)]
    Client(#[from] super::Error),
    #[error("the slave has no build log: no build has begun since the last clean")]
    None,
    /// The slave has been cleaned, or runs another build.
    #[error("the slave was cleaned before its whole log was read")]
    Gone,
    #[error("the slave's status is malformed: {0}")]
    Status(protocol::Error),
    #[error("cannot write the log: {0}")]
    Output(io::Error),
}

/// Writes the present log.
pub(crate) fn print_log(client: &Client, out: &mut dyn Write) -> Result<(), LogError> {
    match append(client, out, &mut 0) {
        Err(LogError::Client(error)) if error.is_absence() => Err(LogError::None),
        other => other,
    }
}

/// Writes the log of `build`, or of the slave's present build, until the build ends.
pub(crate) fn follow_log(
    client: &Client,
    build: Option<&str>,
    out: &mut dyn Write,
    poll: Duration,
) -> Result<(), LogError> {
    let mut printed = 0;
    let mut followed: Option<BuildId> = None;
    loop {
        let answer = retry_transient(poll, is_transient, || Ok(client.call("status", &[])?))?;
        let record = StatusRecord::parse(&answer).map_err(LogError::Status)?;
        let Some(id) = record.build_id() else {
            break;
        };
        if build.is_some_and(|build| build != id.as_str())
            || followed.get_or_insert_with(|| id.clone()) != id
        {
            break;
        }
        let appended = retry_transient(poll, is_transient, || append(client, out, &mut printed));
        match appended {
            // The build has not begun, or the slave was cleaned: the next status shows which.
            Err(LogError::Client(error)) if error.is_absence() => {}
            other => other?,
        }
        if !record.is_busy() {
            return Ok(());
        }
        thread::sleep(poll);
    }
    Err(match followed {
        Some(_) => LogError::Gone,
        None => LogError::None,
    })
}

fn is_transient(error: &LogError) -> bool {
    matches!(error, LogError::Client(error) if error.is_transient())
}

/// Retries `ask` every `pause` on transient errors, for up to [`RESTART_TIMEOUT`].
pub(crate) fn retry_transient<T, E>(
    pause: Duration,
    is_transient: impl Fn(&E) -> bool,
    mut ask: impl FnMut() -> Result<T, E>,
) -> Result<T, E> {
    let deadline = Instant::now() + RESTART_TIMEOUT;
    loop {
        match ask() {
            Err(error) if is_transient(&error) && Instant::now() < deadline => thread::sleep(pause),
            other => return other,
        }
    }
}

/// Writes the log from byte `printed` on, and adds the number of bytes to `printed`.
fn append(client: &Client, out: &mut dyn Write, printed: &mut u64) -> Result<(), LogError> {
    let mut part = client.get(PATH, *printed)?;
    while let Some(chunk) = part.chunk()? {
        out.write_all(chunk).map_err(LogError::Output)?;
        *printed += chunk.len() as u64;
    }
    out.flush().map_err(LogError::Output)
}
