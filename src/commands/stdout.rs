//! Writes lines to stdout, which carries results only. Everything else goes to stderr.

use std::fmt::Display;
use std::io::{self, Write as _};

use crate::sys::output;

pub(super) fn line(text: impl Display) -> io::Result<()> {
    let mut out = output::stdout();
    writeln!(out, "{text}")?;
    out.flush()
}
