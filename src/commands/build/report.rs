//! Copies the results of a build to the output folder and prints the verdict.

use std::io::{self, Read, Write as _};
use std::path::Path;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::commands::output::Output;
use crate::filecache::{Rules, Store};
use crate::pipeline::buildlog;
use crate::pipeline::journal::Outcome;
use crate::protocol::BuildStatus;
use crate::sys::digest::hex;
use crate::sys::{output, terminal_filter};

use super::Error;
use super::failure::failure_lines;
use super::progress::clock;

/// Bytes at the end of the log that are searched for the cause of a failure.
const LOG_BYTES: usize = 1 << 20;

/// A result in the output folder.
pub(super) struct ResultFile {
    name: String,
    size: u64,
    sha256: String,
}

/// Copies the results of `ending` from the cache to `output`.
pub(super) fn copy_results(
    cache: &Path,
    ending: &Outcome,
    output: &Path,
) -> Result<Vec<ResultFile>, Error> {
    let store = Store::open(cache, Rules::none())?;
    let mut results = Vec::new();
    for (name, sha1) in &ending.files {
        let missing = || Error::at(&cache.join(sha1.as_str()))(io::ErrorKind::NotFound.into());
        store.trust(sha1);
        let mut entry = store.entry(sha1)?.ok_or_else(missing)?;
        let (size, sha256) = copy(&mut entry.file, &output.join(name.as_str()))?;
        let name = name.to_string();
        results.push(ResultFile { name, size, sha256 });
    }
    Ok(results)
}

/// Copies all of `source` to the file `to`; returns size and SHA-256.
pub(super) fn copy(source: &mut dyn Read, to: &Path) -> Result<(u64, String), Error> {
    let (mut hash, mut size) = (Sha256::new(), 0);
    let mut output = Output::create(to)?;
    output.append(source, &mut |chunk| {
        hash.update(chunk);
        size += chunk.len() as u64;
    })?;
    output.finish()?;
    Ok((size, hex(&hash.finalize())))
}

/// Prints the likely cause of a failure, the verdict, one line per result, and the path of the log.
/// `folder` is the output folder in messages.
pub(super) fn print(
    ending: &Outcome,
    results: &[ResultFile],
    folder: &Path,
    log: &Path,
    took: Duration,
) -> io::Result<()> {
    let mut out = output::stdout();
    if !matches!(ending.status, BuildStatus::Ok | BuildStatus::Aborted) {
        let text = buildlog::tail(log, LOG_BYTES, false)?;
        let text = String::from_utf8_lossy(&text);
        for line in failure_lines(&text) {
            writeln!(
                out,
                "  | {}",
                line.replace(terminal_filter::is_control, " ")
            )?;
        }
    }
    let Outcome { status, reason, .. } = ending;
    writeln!(out, "{status}: {reason} ({})", clock(took))?;
    for ResultFile { name, size, sha256 } in results {
        let path = folder.join(name);
        writeln!(out, "{sha256} {size:>10} {}", path.display())?;
    }
    let name = log.file_name().unwrap_or_default();
    writeln!(out, "Log: {}", folder.join(name).display())
}
