//! Lines for stderr. A failed write is ignored: no other place is left to report it.

use std::fmt::Display;
use std::io::Write as _;

use super::output;

/// Writes a line to stderr.
pub(crate) fn line(text: impl Display) {
    let _ = output::stderr().write_all(format!("{text}\n").as_bytes());
}
