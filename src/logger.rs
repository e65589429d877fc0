//! Logs to stderr, one line per message, with the time.
//!
//! Libraries are logged at `info` and above only, because their debug messages show whole requests
//! with passwords. The master's loggers have the names of 2008: `root.builders.x86` logs the
//! builders of that family.

use std::io::{IsTerminal as _, Write as _};

use log::{Level, Record};

use crate::sys::terminal_filter::filtered;

/// Starts logging at the level of `RUST_LOG`, by default `info`.
pub(crate) fn start() {
    let terminal = std::io::stderr().is_terminal();
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into());
    env_logger::Builder::new()
        .parse_filters(&filter)
        .format(move |out, record| {
            if record.level() > Level::Info && !is_own(record) {
                return Ok(());
            }
            let time = out.timestamp_millis();
            let logger = match record.target() {
                name if name == "root" || name.starts_with("root.") => format!(" {name}"),
                _ => String::new(),
            };
            let mut text = record.args().to_string();
            if terminal {
                text = filtered(&text);
            }
            writeln!(out, "{time} {}{logger}: {text}", record.level())
        })
        .init();
}

fn is_own(record: &Record<'_>) -> bool {
    let module = record.module_path().unwrap_or_default();
    module.split("::").next() == Some(env!("CARGO_CRATE_NAME"))
}
