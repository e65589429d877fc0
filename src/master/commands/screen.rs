//! Prints the results of commands.
//!
//! Results go to stdout, as JSON or as text. Text is wrapped to the width of a terminal, and not
//! wrapped in a pipe. Everything else goes to stderr.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};

use serde_json::Value;

use super::Error;
use super::table::{Sheet, Table, printable};
use crate::sys::{output, stderr, terminal_filter};

/// The output format of results.
#[derive(Clone, Copy, Debug)]
pub(super) struct Screen {
    pub(super) json: bool,
    /// Width of the terminal; `None` if stdout is no terminal.
    width: Option<u16>,
}

impl Screen {
    pub(super) fn new(json: bool) -> Self {
        let width = io::stdout()
            .is_terminal()
            .then(|| comfy_table::Table::new().width())
            .flatten();
        Self { json, width }
    }

    /// Returns whether text goes to a terminal.
    pub(super) fn is_terminal(&self) -> bool {
        self.width.is_some() && !self.json
    }

    /// Prints a table. If it is empty, text output is the line `none` on stderr.
    pub(super) fn table(&self, table: &Table, none: &str) -> Result<(), Error> {
        if self.json {
            return self.print_json(&table.json());
        }
        if table.is_empty() {
            stderr_line(none);
        }
        print(&table.text(self.width))
    }

    /// Prints a sheet.
    pub(super) fn sheet(&self, sheet: &Sheet) -> Result<(), Error> {
        match self.json {
            true => self.print_json(&sheet.json()),
            false => print(&sheet.text(self.width)),
        }
    }

    /// Prints the result of a command: `sentence` as text, `json` as JSON.
    pub(super) fn done(&self, sentence: impl Display, json: &Value) -> Result<(), Error> {
        match self.json {
            true => self.print_json(json),
            false => print(&format!("{}\n", printable(&sentence.to_string()))),
        }
    }

    /// Prints a line of text; nothing in JSON output, which is one document.
    pub(super) fn line(&self, text: impl Display) -> Result<(), Error> {
        match self.json {
            true => Ok(()),
            false => print(&format!("{}\n", printable(&text.to_string()))),
        }
    }

    fn print_json(&self, json: &Value) -> Result<(), Error> {
        let text = match self.width {
            Some(_) => format!("{json:#}\n"),
            None => format!("{json}\n"),
        };
        print(&terminal_filter::escaped_json(&text))
    }
}

fn print(text: &str) -> Result<(), Error> {
    let mut stdout = output::stdout();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(Error::Output)
}

/// Writes a line to stderr, with control characters replaced.
pub(super) fn stderr_line(text: impl Display) {
    stderr::line(printable(&text.to_string()));
}
