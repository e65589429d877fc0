//! How is a slave's build log read: what there is, or what comes until the build is over?
//!
//! Bytes go out as they are. Following asks for the status and then for what is new in the log, so
//! that nothing is missed when the build ends in between. Called by `probe` and the master's
//! commands.

use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use super::Client;
use crate::protocol::{self, BuildId, StatusRecord};

const PATH: &str = "/filecache/buildlog";
/// How long a slave may be away while it is watched: as long as a restart takes.
const RESTART_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a log could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    #[error(transparent)]
    Client(#[from] super::Error),
    #[error("the slave has no build log: no build has begun since the last clean")]
    None,
    /// The slave was cleaned, or builds something else.
    #[error("the build was cleaned before all of its log was seen")]
    Gone,
    #[error("the slave's status makes no sense: {0}")]
    Status(protocol::Error),
    #[error("cannot write: {0}")]
    Output(io::Error),
}

/// Writes the log as it is now.
pub(crate) fn print_log(client: &Client, out: &mut dyn Write) -> Result<(), LogError> {
    match append(client, out, &mut 0) {
        Err(LogError::Client(error)) if error.is_absence() => Err(LogError::None),
        other => other,
    }
}

/// Writes the log of `build`, or of the build that is there, until it has ended.
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
            // Not begun yet, or cleaned away: the next status tells.
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

/// Asks again while the slave cannot be reached, for as long as a restart may take.
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

/// Writes what the log has beyond the first `printed` bytes, and counts it.
fn append(client: &Client, out: &mut dyn Write, printed: &mut u64) -> Result<(), LogError> {
    let mut part = client.get(PATH, *printed)?;
    while let Some(chunk) = part.chunk()? {
        out.write_all(chunk).map_err(LogError::Output)?;
        *printed += chunk.len() as u64;
    }
    out.flush().map_err(LogError::Output)
}
