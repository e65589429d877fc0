//! How does a command talk to the person who typed it?
//!
//! Results go to stdout, everything else to stderr. Called by all commands for the hand.

use std::fmt::Display;
use std::io::{self, Write as _};

/// Writes a line to stdout.
pub(super) fn line(text: impl Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}

/// Writes a line to stderr; nothing is to be done when that fails.
pub(super) fn complaint(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
