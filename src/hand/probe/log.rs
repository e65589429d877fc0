//! Prints a slave's build log: what there is, or what comes until the build is over.
//!
//! Bytes go out as they are. Following asks for the status and then for what is new in the log, so
//! that nothing is missed when the build ends in between.

use std::io::Write;
use std::thread;
use std::time::Duration;

use super::{Error, is_busy, patiently};
use crate::hand::client::Client;
use crate::hand::say;
use crate::protocol::{BuildId, StatusRecord};

const PATH: &str = "/filecache/buildlog";

/// Prints the log as it is now.
pub(super) fn print(client: &Client, out: &mut dyn Write) -> Result<(), Error> {
    match append(client, out, &mut 0) {
        Err(Error::Client(error)) if error.is_absence() => Err(Error::NoLog),
        other => other,
    }
}

/// Prints the log until the build whose it is has ended, or its log is gone.
pub(super) fn follow(client: &Client, out: &mut dyn Write, poll: Duration) -> Result<(), Error> {
    let mut printed = 0;
    let mut followed: Option<BuildId> = None;
    loop {
        let answer = patiently(poll, || Ok(client.call("status", &[])?))?;
        let record = StatusRecord::parse(&answer).map_err(Error::Status)?;
        let Some(id) = build_id(&record) else {
            break;
        };
        if followed.get_or_insert_with(|| id.clone()) != id {
            break;
        }
        let appended = patiently(poll, || append(client, out, &mut printed));
        match appended {
            // Not begun yet, or cleaned away: the next status tells.
            Err(Error::Client(error)) if error.is_absence() => {}
            other => other?,
        }
        if !is_busy(&record) {
            return Ok(());
        }
        thread::sleep(poll);
    }
    if followed.is_none() {
        return Err(Error::NoLog);
    }
    say::complaint("the build was cleaned before all of its log was seen");
    Ok(())
}

fn build_id(record: &StatusRecord) -> Option<&BuildId> {
    match record {
        StatusRecord::Idle => None,
        StatusRecord::Building { id, .. }
        | StatusRecord::Aborting { id }
        | StatusRecord::Waiting { id, .. } => Some(id),
    }
}

/// Prints what the log has beyond the first `printed` bytes, and counts it.
fn append(client: &Client, out: &mut dyn Write, printed: &mut u64) -> Result<(), Error> {
    let mut part = client.get(PATH, *printed)?;
    while let Some(chunk) = part.chunk()? {
        out.write_all(chunk).map_err(Error::Output)?;
        *printed += chunk.len() as u64;
    }
    out.flush().map_err(Error::Output)
}
