//! Lines for stdout, which carries results only. Everything else goes to stderr.

use std::fmt::Display;
use std::io::{self, Write as _};

/// Writes a line to stdout.
pub(super) fn line(text: impl Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}
