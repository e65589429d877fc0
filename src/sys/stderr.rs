//! Lines for stderr. A failed write is ignored: no other place is left to report it.

use std::fmt::Display;
use std::io::Write as _;

use nix::sys::stat::fstat;

use super::output;

/// Writes a line to stderr.
pub(crate) fn line(text: impl Display) {
    let _ = output::stderr().write_all(format!("{text}\n").as_bytes());
}

/// Returns whether stderr is the journal of systemd, which names its device and inode in
/// `$JOURNAL_STREAM`.
pub(crate) fn is_journal() -> bool {
    let named = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let found = fstat(std::io::stderr()).ok();
    found.is_some_and(|about| named == format!("{}:{}", about.st_dev, about.st_ino))
}
