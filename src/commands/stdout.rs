//! Writes lines to stdout, which carries results only. Everything else goes to stderr.

use std::fmt::Display;
use std::io::{self, Write as _};

pub(super) fn line(text: impl Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}
