//! Logs to stderr, one line per message, with the time.
//!
//! If stderr is the journal of systemd, a line has no time, since the journal adds it. It begins
//! with the level as a number in angle brackets, which the journal takes as its priority.
//!
//! Libraries are logged at `info` and above only, because their debug messages show whole requests
//! with passwords. The master's loggers have the names of 2008: `root.builders.x86` logs the
//! builders of that family.

use std::io::{IsTerminal as _, Write as _};

use log::{Level, Record};

use crate::sys;
use crate::sys::terminal_filter::filtered;

/// Starts logging at the level of `RUST_LOG`, by default `info`.
pub(crate) fn start() {
    let terminal = std::io::stderr().is_terminal();
    let journal = sys::stderr::is_journal();
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into());
    env_logger::Builder::new()
        .parse_filters(&filter)
        .format(move |out, record| {
            if record.level() > Level::Info && !is_own(record) {
                return Ok(());
            }
            let logger = match record.target() {
                name if name == "root" || name.starts_with("root.") => format!(" {name}"),
                _ => String::new(),
            };
            let mut text = record.args().to_string();
            if terminal {
                text = filtered(&text);
            }
            if journal {
                return write!(out, "{}", for_journal(record.level(), &logger, &text));
            }
            let time = out.timestamp_millis();
            writeln!(out, "{time} {}{logger}: {text}", record.level())
        })
        .init();
}

/// Returns a record as the journal takes it. Each line is an entry of its own, with a priority as
/// in syslog(3).
fn for_journal(level: Level, logger: &str, text: &str) -> String {
    let priority = match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    };
    let record = format!("{level}{logger}: {text}");
    let entries = record.lines().map(|line| format!("<{priority}>{line}\n"));
    entries.collect()
}

fn is_own(record: &Record<'_>) -> bool {
    let module = record.module_path().unwrap_or_default();
    module.split("::").next() == Some(env!("CARGO_CRATE_NAME"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_for_the_journal_has_its_priority_and_no_time() {
        assert_eq!(
            for_journal(Level::Warn, " root", "one\ntwo"),
            "<4>WARN root: one\n<4>two\n"
        );
        assert_eq!(for_journal(Level::Info, "", "ready"), "<6>INFO: ready\n");
    }
}
