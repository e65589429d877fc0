//! Lines for stderr. A failed write is ignored: no other place is left to report it.

use std::fmt::Display;
use std::io::{self, Write as _};

/// Writes a line to stderr.
pub(crate) fn line(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
