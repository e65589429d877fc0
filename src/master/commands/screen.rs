//! How does a command show what it has found?
//!
//! Results go to stdout: as text, fitted to a terminal and unfolded for a pipe, or as JSON.
//! Everything else goes to stderr. A reader that has had enough is no error.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};

use serde_json::Value;

use super::Error;
use super::table::{Sheet, Table, printable};
use crate::sys::stderr;

/// Where results go, and in which form.
#[derive(Clone, Copy, Debug)]
pub(super) struct Screen {
    pub(super) json: bool,
    /// Of the terminal, if there is one.
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

    /// Tells whether a person reads along.
    pub(super) fn is_terminal(&self) -> bool {
        self.width.is_some() && !self.json
    }

    /// Shows rows; if there are none, people are told so.
    pub(super) fn table(&self, table: &Table, none: &str) -> Result<(), Error> {
        if self.json {
            return self.print_json(&table.json());
        }
        if table.is_empty() {
            stderr_line(none);
        }
        print(&table.text(self.width))
    }

    /// Shows what there is to say of one thing.
    pub(super) fn sheet(&self, sheet: &Sheet) -> Result<(), Error> {
        match self.json {
            true => self.print_json(&sheet.json()),
            false => print(&sheet.text(self.width)),
        }
    }

    /// Tells what was done: a sentence for people, an object for programs.
    pub(super) fn done(&self, sentence: impl Display, json: &Value) -> Result<(), Error> {
        match self.json {
            true => self.print_json(json),
            false => print(&format!("{}\n", printable(&sentence.to_string()))),
        }
    }

    /// Writes a line for people; programs are told everything at the end.
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
        print(&text)
    }
}

fn print(text: &str) -> Result<(), Error> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(Error::Output)
}

/// Writes a line to stderr; nothing is to be done when that fails.
pub(super) fn stderr_line(text: impl Display) {
    stderr::line(printable(&text.to_string()));
}
