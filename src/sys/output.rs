//! Standard output and error, made safe where they are a terminal.
//!
//! On a terminal, text passes the [`Filter`], so that a package, a chroot or a slave cannot control
//! the terminal. In a file or a pipe, bytes pass unchanged.

use std::io::{self, IsTerminal, Stderr, Stdout, Write};

use super::terminal_filter::Filter;

/// A writer with a [`Filter`] if it writes to a terminal. Dropping it resets the colours.
#[derive(Debug)]
pub(crate) struct Output<W: Write> {
    to: W,
    filter: Option<Filter>,
}

/// Returns stdout, locked only during each write.
pub(crate) fn stdout() -> Output<Stdout> {
    Output::new(io::stdout())
}

/// Returns stderr, locked only during each write.
pub(crate) fn stderr() -> Output<Stderr> {
    Output::new(io::stderr())
}

impl<W: Write + IsTerminal> Output<W> {
    fn new(to: W) -> Self {
        let filter = to.is_terminal().then(Filter::default);
        Self { to, filter }
    }
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(filter) = &mut self.filter else {
            return self.to.write(bytes);
        };
        let mut shown = Vec::with_capacity(bytes.len());
        filter.feed(bytes, &mut shown);
        self.to.write_all(&shown)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

impl<W: Write> Drop for Output<W> {
    fn drop(&mut self) {
        if let Some(filter) = &mut self.filter {
            let mut shown = Vec::new();
            filter.finish(&mut shown);
            // No place is left to report a failure.
            let _ = self.to.write_all(&shown).and_then(|()| self.to.flush());
        }
    }
}
