//! Where the program's own words go: stderr, a line each, with the time.
//!
//! The libraries' are not among them below `info`: there they show whole requests, passwords and
//! all. The master's loggers have names, those of 2008: `root.builders.x86` is about the builders of
//! that family.

use std::io::Write as _;

use log::{Level, Record};

/// Starts logging: `info` and worse, or what `RUST_LOG` says.
pub(crate) fn start() {
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into());
    env_logger::Builder::new()
        .parse_filters(&filter)
        .format(|out, record| {
            if record.level() > Level::Info && !is_ours(record) {
                return Ok(());
            }
            let time = out.timestamp_millis();
            let logger = match record.target() {
                named if named == "root" || named.starts_with("root.") => format!(" {named}"),
                _ => String::new(),
            };
            writeln!(out, "{time} {}{logger}: {}", record.level(), record.args())
        })
        .init();
}

fn is_ours(record: &Record<'_>) -> bool {
    let module = record.module_path().unwrap_or_default();
    module.split("::").next() == Some(env!("CARGO_CRATE_NAME"))
}
