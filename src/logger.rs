//! Logs to stderr, one line per message, with the time.
//!
//! Libraries are logged at `info` and above only, because their debug messages show whole requests
//! with passwords. The master's loggers have the names of 2008: `root.builders.x86` logs the
//! builders of that family.

use std::io::Write as _;

use log::{Level, Record};

/// Starts logging at the level of `RUST_LOG`, by default `info`.
pub(crate) fn start() {
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into());
    env_logger::Builder::new()
        .parse_filters(&filter)
        .format(|out, record| {
            if record.level() > Level::Info && !is_own(record) {
                return Ok(());
            }
            let time = out.timestamp_millis();
            let logger = match record.target() {
                name if name == "root" || name.starts_with("root.") => format!(" {name}"),
                _ => String::new(),
            };
            writeln!(out, "{time} {}{logger}: {}", record.level(), record.args())
        })
        .init();
}

fn is_own(record: &Record<'_>) -> bool {
    let module = record.module_path().unwrap_or_default();
    module.split("::").next() == Some(env!("CARGO_CRATE_NAME"))
}
